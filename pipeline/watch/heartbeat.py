"""The events and the state of a daemon, for people, its service manager, and the command `status`."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from ..batch.summary import Finished, Observer, Summary
from ..errors import DiskError, PipelineError, WorkerLost
from ..spec.config import Config
from ..spec.jobs import EncoderInfo, Job, StepProgress
from ..spec.schedule import total_steps
from ..storage.ledger import Ledger
from ..version import VERSION
from .service import ServiceManager

# Seconds between two heartbeats.
BEAT_S = 1.0


@dataclass(frozen=True)
class Queue:
    """Drops by where they are: ready or begun, still settling, and what this daemon has finished."""

    waiting: int
    settling: int
    done: int
    quarantined: int

    def __str__(self) -> str:
        ended = f"{self.done} done, {self.quarantined} quarantined"
        return f"{self.waiting} waiting, {self.settling} settling, {ended}"

    @property
    def short(self) -> str:
        """The same for a row of 80 columns; counts of nothing are left out where they can be."""
        settling = f"{self.settling} settling, " if self.settling else ""
        quarantined = f", {self.quarantined} quarantined" if self.quarantined else ""
        return f"{self.waiting} waiting, {settling}{self.done} done{quarantined}"


class Notify(Protocol):
    """Reports an event: its kind and facts for programs, and a text for people."""

    def __call__(self, kind: str, text: str, **facts: object) -> None: ...


class Display(Observer, Protocol):
    """Shows what a daemon does."""

    def notify(self, kind: str, text: str, **facts: object) -> None: ...

    def queue(self, queue: Queue) -> None: ...

    def configured(self, config: Config) -> None: ...


class Heartbeat:
    """Passes events on to a display, and keeps the state that `status` reads in the ledger.

    It also notifies the service manager, which restarts a daemon that stops doing so.
    """

    def __init__(
        self,
        ledger: Ledger,
        config: Config,
        display: Display,
        service: ServiceManager,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self.inbox = config.watch.inbox
        self.display = display
        self.service = service
        self.clock = clock
        self._next = 0.0
        self._job_began = clock()
        self._unwritten = ""
        self._is_paused_by_user = False
        self._drop = {"path": "", "id": ""}
        self._notified: set[tuple[str, str]] = set()
        self._encoder = EncoderInfo("", "")
        self.state: dict[str, Any] = {
            "version": VERSION,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.time(),
            "encoder": "",
            "device": "",
            "paused": "",
            "running": None,
        }
        self.configured(config)

    @property
    def running(self) -> dict[str, Any] | None:
        """The job that runs now, as `status` shows it."""
        return cast("dict[str, Any] | None", self.state["running"])

    def configured(self, config: Config) -> None:
        self.display.configured(config)

    def outbox_marked(self, outbox: Path) -> None:
        """Note where results go, so that from now on that folder must be there."""
        self.state["outbox"] = str(outbox)

    # From the runner

    def encoder_chosen(self, encoder: EncoderInfo) -> None:
        if encoder != self._encoder:
            self._encoder = encoder
            self.state["encoder"] = encoder.name
            self.display.encoder_chosen(encoder)

    def device_chosen(self, device: str) -> None:
        if device != self.state["device"]:
            self.state["device"] = device
            self.notify("device", f"device {device}", device=device)

    def job_started(self, job: Job, name: str) -> None:
        self._job_began = self.clock()
        progress = {"step": 0, "steps": total_steps(job.recipe), "seconds": 0.0}
        self.state["running"] = {"name": name, **self._drop, **progress}
        self._next = 0.0  # so that whoever asks now learns of it
        self.display.job_started(job, name)

    def job_step(self, name: str, progress: StepProgress) -> None:
        before = self.state["running"]
        self.state["running"] = {
            **{fact: before[fact] for fact in before if fact not in {"tile", "tiles"}},
            **({"tile": progress.tile, "tiles": progress.tiles} if progress.tiles else {}),
            "step": progress.step,
            "steps": progress.steps,
            "seconds": round(self.clock() - self._job_began, 1),
        }
        if progress.left_s is not None:
            self.state["running"]["left_s"] = round(progress.left_s, 1)
        self.display.job_step(name, progress)

    def worker_lost(self, job: Job, error: WorkerLost) -> None:
        self.display.worker_lost(job, error)

    def job_finished(self, finished: Finished) -> None:
        if self.running is not None:
            self._next = 0.0
        self.state["running"] = None
        self.display.job_finished(finished)

    def batch_ended(self, summary: Summary, folder: Path) -> None:
        self.display.batch_ended(summary, folder)

    # From the daemon

    def notify(self, kind: str, text: str, **facts: object) -> None:
        self.display.notify(kind, text, **facts)

    def notify_once(self, kind: str, text: str, about: str = "", **facts: object) -> None:
        """Notify once in the life of the daemon; `about` distinguishes equal texts."""
        if (about, text) not in self._notified:
            self._notified.add((about, text))
            self.notify(kind, text, **facts)

    def paused(self, error: PipelineError) -> None:
        """Note a fault of the machine, which has ended the running job. The same fault is reported once."""
        self.state["running"] = None
        before, self.state["paused"] = self.state["paused"], error.message
        if _without_space(error.message) != _without_space(before):
            self.notify("paused", f"paused: {error}", error=error.message, next_step=error.next_step)

    def resumed(self) -> None:
        if self.state["paused"]:
            self.state["paused"] = ""
            self.notify("resumed", "resumed")

    def working_on(self, path: str, id: str) -> None:
        """Note which drop the jobs that begin now are made of."""
        self._drop = {"path": path, "id": id}

    def paused_by_user(self, paused: bool) -> None:
        """Note that a person paused the daemon, or ended that pause."""
        if paused == self._is_paused_by_user:
            return
        self._is_paused_by_user = paused
        if paused:
            text = "paused by a user; nothing is begun until `style-pipeline resume`"
            self.notify("paused_by_user", text)
        else:
            self.notify("resumed_by_user", "resumed by a user")

    def beat(self, queue: Queue, watching: bool, broken: Mapping[str, str], last: bool = False) -> None:
        """Give a heartbeat, about once a second however often this is called, and the `last` in any case.

        The beginning and the end of a job are told at once.
        """
        if self.clock() < self._next and not last:
            return
        self._next = self.clock() + BEAT_S
        self.display.queue(queue)
        self.service.alive(str(queue))
        self.state |= {"beat": time.time(), "watching": watching, "broken": dict(broken), **asdict(queue)}
        try:
            self.ledger.write_daemon(self.inbox, self.state)
        except DiskError as error:
            if error.message != self._unwritten:  # once; a step that needs the ledger pauses the daemon
                self.notify("ledger", str(error), error=error.message, next_step=error.next_step)
            self._unwritten = error.message
        else:
            self._unwritten = ""


def _without_space(fault: str) -> str:
    """Return what stays the same of a fault; a disk that is nearly full has more or less free each time."""
    return re.sub(r"\d+ MB", "0 MB", fault)
