"""The outcome of a job, the summary of a batch, and the protocol of those who are notified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from ..errors import WorkerLost
from ..spec.jobs import EncoderInfo, Job, JobResult, StepProgress

# `postponed`: not begun, because the deadline would have come first.
Status = Literal["done", "failed", "skipped", "stopped", "postponed"]
# Why a run ended: nothing was left to do; it was asked to stop; the deadline came; too many jobs failed; the
# machine, or this program, has a fault.
Reason = Literal["finished", "stopped", "deadline", "max_failures", "fault"]
# The field of a summary that counts jobs of each status.
COUNTS: Mapping[Status, str] = {
    "done": "done",
    "failed": "failed",
    "skipped": "skipped",
    "postponed": "postponed",
    "stopped": "interrupted",
}


@dataclass(frozen=True)
class Finished:
    """The outcome of a job. `path` is that of its picture, if there is one.

    `missing`: the picture was made before and is not there any more; it is made again only on request.
    `restored`: it was made before, and came back from `older/`.
    """

    job: Job
    name: str
    status: Status
    key: str = ""
    path: Path | None = None
    seconds: float = 0.0
    error: str = ""
    next_step: str = ""
    notes: tuple[str, ...] = ()
    missing: bool = False
    restored: bool = False


class Observer(Protocol):
    """Is notified of what happens, in order."""

    def encoder_chosen(self, encoder: EncoderInfo) -> None: ...

    def job_started(self, job: Job, name: str) -> None: ...

    def job_step(self, name: str, progress: StepProgress) -> None: ...

    def worker_lost(self, job: Job, error: WorkerLost) -> None: ...

    def job_finished(self, finished: Finished) -> None: ...

    def batch_ended(self, summary: Summary, folder: Path) -> None: ...


@dataclass
class Summary:
    """The batch so far, as it is written to summary.json.

    Every job is in one count: `done`, `failed`, `skipped` (its picture is there), `missing` (it was made
    before and is not there any more), `postponed` (it would have run past the deadline), `interrupted`
    (begun, and to be resumed) or `not_begun`. `pictures` lists every job with its `status` among these,
    its `key` if it is known, and its `path` below the batch's folder if it is there.
    `restored` counts those of the skipped whose pictures came back from `older/` in this run.
    """

    batch: str
    jobs: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    restored: int = 0
    missing: int = 0
    postponed: int = 0
    interrupted: int = 0
    not_begun: int = 0
    stopped: bool = False
    reason: Reason = "finished"
    fault: str = ""
    seconds: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0
    started: str = ""
    finished: str = ""
    encoders: dict[str, str] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    pictures: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counted: Counter[str] = Counter()  # by the names that jobs ask for

    @property
    def remaining(self) -> int:
        return self.jobs - self.done - self.failed - self.skipped - self.missing

    def count(self, finished: Finished, folder: Path) -> None:
        """Count a job by its outcome, and list it."""
        status = "missing" if finished.missing else COUNTS[finished.status]
        setattr(self, status, getattr(self, status) + 1)
        self.restored += finished.restored
        if finished.status == "stopped":
            self.stop("stopped")
        picture = {"name": finished.name, "status": status}
        if finished.key:
            picture["key"] = finished.key
        # The picture of a drop may have been fetched already; the job is done all the same.
        gone = finished.missing or (finished.job.drop and finished.path and not finished.path.is_file())
        if finished.path is not None and not gone:
            picture["path"] = finished.path.relative_to(folder).as_posix()
        self.pictures.append(picture)
        self._counted[finished.job.name] += 1
        if finished.status == "failed":
            failure = {"name": finished.name, "key": finished.key}
            self.failures.append({**failure, "error": finished.error, "next_step": finished.next_step})

    def note(self, encoder: EncoderInfo, result: JobResult) -> None:
        """Note how a picture was made."""
        self.encoders[encoder.name] = encoder.digest
        self.cache_hits += result.cache_hits
        self.cache_misses += result.cache_misses

    def stop(self, reason: Reason) -> None:
        """Note that no other job begins, and why."""
        self.stopped, self.reason = True, reason

    def end_by(self, error: BaseException) -> None:
        """Note what ended the run: a fault, or an interrupt such as Ctrl-C."""
        if isinstance(error, Exception):
            self.stopped, self.reason = False, "fault"
            self.fault = str(error) or type(error).__name__
        else:
            self.stop("stopped")

    def close(self, names: Iterable[str]) -> None:
        """List those of all jobs, by their `names`, that were not begun, and say why the run ended."""
        counted = self._counted.copy()
        if sum(counted.values()) < self.jobs:
            for name in names:
                if counted[name]:
                    counted[name] -= 1
                else:
                    self.not_begun += 1
                    self.pictures.append({"name": name, "status": "not_begun"})
        self.stopped &= self.remaining > 0
        if not self.remaining and self.reason != "fault":
            self.reason = "finished"
        elif self.postponed and self.reason == "finished":
            self.reason = "deadline"
