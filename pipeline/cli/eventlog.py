"""Events as records of the log."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ..batch.summary import Finished
from ..errors import WorkerLost
from ..spec.jobs import EncoderInfo, Job, StepProgress
from ..spec.schedule import total_steps
from ..spec.text import counted
from ..storage.files import make_private
from .display import Display
from .sentences import finished_line, finished_object, losses

logger = logging.getLogger(__name__)
# Seconds between two lines about the steps of a job.
STEP_EVERY_S = 30.0
# Kinds of events that need attention; one with an error is an error.
WARNINGS = frozenset({"events", "ledger", "refused", "resumed", "state", "stopping", "worker"})
# Kinds of events that a live display shows by itself.
SHOWN_LIVE = frozenset({"started", "step", "stopping"})


class EventLog(Display):
    """Records every event. A note about the encoder is left out unless it `is_news`.

    `for_programs` includes failed jobs of dropped pictures. People need no line about them: the daemon says
    why it quarantines such a picture.
    """

    def __init__(
        self, is_news: Callable[[str], bool] = lambda note: True, for_programs: bool = False
    ) -> None:
        super().__init__()
        self.is_news = is_news
        self.for_programs = for_programs
        self._logged_at = time.monotonic()

    def notify(self, kind: str, text: str, **facts: object) -> None:
        self._log(_level(kind, facts), kind, text, facts)

    def encoder_chosen(self, encoder: EncoderInfo) -> None:
        text = f"encoder {encoder.name} ({encoder.digest[:8]})"
        self.notify("encoder", text, encoder=encoder.name, digest=encoder.digest)
        if encoder.note and self.is_news(encoder.note):
            self.notify("encoder", encoder.note)

    def job_started(self, job: Job, name: str) -> None:
        steps = total_steps(job.recipe)
        text = f"started {name} ({job.recipe.size} px, {counted(steps, 'step')})"
        self.notify("started", text, name=name, steps=steps)

    def job_step(self, name: str, progress: StepProgress) -> None:
        due = time.monotonic() - self._logged_at >= STEP_EVERY_S or progress.snapshot is not None
        facts: dict[str, object] = {"name": name, "step": progress.step, "steps": progress.steps}
        if progress.tiles:
            what = progress.tile_text
            facts |= {"tile": progress.tile, "tiles": progress.tiles}
        else:
            total, parts = losses(progress)
            what = f"{total} ({parts})"
            facts["loss"] = progress.loss
        size = f"{progress.width} x {progress.height}"
        text = f"step {progress.step}/{progress.steps} of {name}  {what}  {size}"
        self._log(logging.INFO if due else logging.DEBUG, "step", text, facts)

    def worker_lost(self, job: Job, error: WorkerLost) -> None:
        self.notify("worker", f"{job.content.name}: {error.message}")

    def job_finished(self, finished: Finished) -> None:
        quarantined = finished.status == "failed" and finished.job.origin is not None
        if quarantined and not self.for_programs:
            return
        self.notify(finished.status, self._finished_text(finished), **finished_object(finished))
        for note in finished.notes:
            self.notify("note", f"note: {note}", name=finished.name)

    def _finished_text(self, finished: Finished) -> str:
        return finished_line(finished)

    def _log(self, level: int, kind: str, text: str, facts: Mapping[str, object]) -> None:
        if level >= logging.INFO:
            self._logged_at = time.monotonic()
        logger.log(level, "%s", text, extra={"event": kind, "facts": facts})


class RunLog(EventLog):
    """Records the events of a run of `total` jobs: numbers those that end, and only counts those skipped."""

    def __init__(self, total: int, is_news: Callable[[str], bool] = lambda note: True) -> None:
        super().__init__(is_news)
        self.total = total
        self.finished = 0
        self._skipped: Counter[str] = Counter()

    def job_finished(self, finished: Finished) -> None:
        self.finished += finished.status not in {"stopped", "postponed"}
        if finished.status == "skipped":  # there may be 100,000 of them
            self._skipped["deleted or renamed since" if finished.missing else "done already"] += 1
        else:
            super().job_finished(finished)

    def _finished_text(self, finished: Finished) -> str:
        return f"[{self.finished}/{self.total}] {finished_line(finished)}"

    def _log(self, level: int, kind: str, text: str, facts: Mapping[str, object]) -> None:
        skipped, self._skipped = self._skipped, Counter()
        for what, count in skipped.items():
            super()._log(logging.INFO, "skipped", f"skipped {count}, {what}", {})
        super()._log(level, kind, text, facts)


def is_not_shown_live(record: logging.LogRecord) -> bool:
    """Leave out the records of events that a live display shows by itself."""
    return getattr(record, "event", "") not in SHOWN_LIVE


def first_time(folder: Path) -> Callable[[str], bool]:
    """Return a function that says whether a text is new; marks in a folder outlive the process."""

    def is_news(text: str) -> bool:
        mark = folder / "said" / hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
        with suppress(OSError):  # the text then counts as new again
            if mark.exists():
                return False
            make_private(mark.parent)
            mark.touch()
        return True

    return is_news


def _level(kind: str, facts: Mapping[str, object]) -> int:
    if facts.get("error"):
        return logging.ERROR
    return logging.WARNING if kind in WARNINGS else logging.INFO
