"""Displays of a run or of a watched folder. Each form is a class of its own; JSON lines are here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from ..batch.summary import Finished, Summary
from ..errors import WorkerLost
from ..spec.config import Config
from ..spec.jobs import EncoderInfo, Job, StepProgress
from ..watch.heartbeat import Queue
from .sentences import finished_object

STOPPING = "Stopping; what is done is kept. Once more to stop at once."
PAUSED = "Paused by a user; `style-pipeline resume` ends the pause."


class Display:
    """Passes every event of `run` and `watch` on to the displays it is made of.

    A subclass shows events in one form. It is made of no others, and overrides the methods that it needs.
    """

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def encoder_chosen(self, encoder: EncoderInfo) -> None:
        for display in self._displays:
            display.encoder_chosen(encoder)

    def job_started(self, job: Job, name: str) -> None:
        for display in self._displays:
            display.job_started(job, name)

    def job_step(self, name: str, progress: StepProgress) -> None:
        for display in self._displays:
            display.job_step(name, progress)

    def worker_lost(self, job: Job, error: WorkerLost) -> None:
        for display in self._displays:
            display.worker_lost(job, error)

    def job_finished(self, finished: Finished) -> None:
        for display in self._displays:
            display.job_finished(finished)

    def batch_ended(self, summary: Summary, folder: Path) -> None:
        for display in self._displays:
            display.batch_ended(summary, folder)

    def configured(self, config: Config) -> None:
        """Show what follows as a configuration says, which may be read again while a daemon runs."""
        for display in self._displays:
            display.configured(config)

    def notify(self, kind: str, text: str, **facts: object) -> None:
        for display in self._displays:
            display.notify(kind, text, **facts)

    def queue(self, queue: Queue) -> None:
        for display in self._displays:
            display.queue(queue)

    def stopping(self) -> None:
        """Show that a signal came. Called in its handler, perhaps in the middle of another event."""
        self.notify("stopping", STOPPING)


class JsonLines(Display):
    """Writes one JSON object per finished job to `stream`."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self.stream = stream

    def job_finished(self, finished: Finished) -> None:
        self.stream.write(json.dumps(finished_object(finished)) + "\n")
        self.stream.flush()
