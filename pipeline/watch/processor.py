"""Processes one claimed drop: runs its jobs, then archives, leaves, deletes or quarantines its original."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..batch.planner import RunOptions
from ..batch.runner import Runner
from ..batch.summary import Summary
from ..errors import DiskError, LockedError, PathError, PipelineError
from ..execution.executors import Executor
from ..spec.jobs import Job
from ..spec.text import one_line
from ..storage.files import Disk
from ..storage.ledger import Ledger
from ..storage.outbox import BatchFolder, batch_names
from ..storage.system import MACHINE_ERRORS
from .claims import Claim
from .folders import Folders
from .heartbeat import Heartbeat
from .inbox import identity_of
from .intake import Rejected
from .originals import Originals, new_report, report_of_error, report_of_summary
from .reading import FAULTS, Reader
from .requests import Requests
from .routes import Plan, Router, Waiting, manifest_jobs
from .sheets import Sheets
from .watcher import Watcher


@dataclass(frozen=True)
class Done:
    """Every job of a drop is done, and its original is archived, left or deleted."""


@dataclass(frozen=True)
class Failed:
    """A drop is quarantined, for the reason in its report."""

    report: dict[str, Any]


@dataclass(frozen=True)
class Cancelled:
    """A person cancelled a drop, and it is quarantined. What was made of it stays."""


@dataclass(frozen=True)
class Unfinished:
    """Some jobs of a drop were stopped, or not begun because of the deadline: it is to be resumed."""

    out_of_time: bool = False


@dataclass(frozen=True)
class Blocked:
    """A drop waits for a style, or for the process that holds the `lock` on its batch."""

    reason: str
    lock: LockedError | None = None


Outcome = Done | Failed | Cancelled | Unfinished | Blocked


@dataclass(frozen=True)
class Batches:
    """The batches of an outbox. `should_stop` is asked while jobs run, and while their inputs are read."""

    folders: Folders
    ledger: Ledger
    executor: Executor
    heartbeat: Heartbeat
    options: RunOptions
    should_stop: Callable[[], bool]
    disk: Disk
    _swept: set[str] = field(default_factory=set, init=False)

    def repair(self) -> None:
        """Publish what dead processes staged, and remove what they left half written, in every batch.

        A batch of which the name or the permissions keep it from being used is left as it is, as nothing in
        the inbox may need it.
        """
        for name in batch_names(self.folders.outbox):
            try:
                with suppress(LockedError), self.runner(name):  # the process that holds the lock does it
                    pass
            except (PathError, DiskError) as error:
                if isinstance(error, DiskError) and not isinstance(error.__cause__, PermissionError):
                    raise
                self.heartbeat.notify_once("ignored", one_line(f"the batch {name} is left as it is: {error}"))

    @contextmanager
    def runner(self, batch: str) -> Iterator[Runner]:
        """Give a runner for a batch while its lock is held.

        Raises:
            LockedError: another process works on it.
            DiskError: its folder cannot be used.
        """
        folder = BatchFolder(self.folders.outbox, batch, self.disk)
        self.folders.check_outbox()
        for drop, key in folder.staged_drops():
            # They will now be published, and may be fetched before anyone could see that they were.
            self.ledger.note_staged(drop, key)
        with folder.locked(sweep=batch not in self._swept):
            self.folders.check_outbox()  # again: a disk that went away just now left an empty folder
            for text in folder.left_alone:
                self.heartbeat.notify_once("ignored", one_line(text))
            self._swept.add(batch)
            yield Runner(folder, self.ledger, self.executor, self.heartbeat, self.options, self.should_stop)


class _StyleMissing(Exception):
    """A style of a claimed picture is not there now; the text says which."""


@dataclass(frozen=True)
class Processor:
    """Works on claimed drops, one at a time."""

    watcher: Watcher
    router: Router
    reader: Reader
    batches: Batches
    originals: Originals
    requests: Requests
    is_over: Callable[[], bool]
    sheets: Sheets

    def process(self, drop: Claim | Rejected) -> Outcome:
        """Run the jobs of a drop, then archive, leave, delete or quarantine its original.

        One that is stopped because it was cancelled is quarantined, too.

        Raises:
            MachineError, LockedError, WorkerLost: a fault that is not the drop's; it stays claimed.
            StopNow: asked to stop; it stays claimed.
        """
        if isinstance(drop, Rejected):
            report = report_of_error(drop.error)
            self.originals.reject(drop.claim, report, drop.identity)
            return Failed(report)
        outcome = self._run(drop)
        if isinstance(outcome, Unfinished | Blocked) and self.requests.is_cancelled(drop):
            self.batches.folders.check_there()
            self.requests.give_up(drop)
            return Cancelled()
        if isinstance(outcome, Failed):
            self.batches.folders.check_there()  # it may have failed because a folder went away
            self.originals.reject(drop, outcome.report)
        elif isinstance(outcome, Done):
            self.originals.finish(drop)
        return outcome

    def _run(self, claim: Claim) -> Outcome:
        """Run a claim's jobs, and return their outcome."""
        if report := self.originals.quarantine.report(claim.id):
            return Failed(report)  # decided before this process began
        try:
            return _outcome(self._run_jobs(claim))
        except _StyleMissing as reason:
            return Blocked(str(reason))
        except LockedError as error:
            return Blocked(error.message, error)
        except FAULTS:
            raise
        except PipelineError as error:
            return Failed(report_of_error(error))
        except Exception as error:  # a bug: the other drops are still processed
            if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
                raise
            return Failed(self._report_of_bug(claim, error))

    def _run_jobs(self, claim: Claim) -> Summary:
        is_manifest = self.router.is_manifest(claim.relative)
        summary = self._run_manifest(claim) if is_manifest else self._run_picture(claim)
        self.sheets.note_change(self.batches.folders.outbox / summary.batch)
        return summary

    def _run_manifest(self, claim: Claim) -> Summary:
        identity = identity_of(claim.path)
        if identity is None:
            raise DiskError(f"{claim.path}: is gone.", "Mount its disk again.")
        batch = self.reader.read_manifest(claim.path, claim.relative, identity)
        with self.batches.runner(batch.name) as runner:
            return runner.run(partial(manifest_jobs, batch, claim), len(batch))

    def _run_picture(self, claim: Claim) -> Summary:
        """Run the jobs of a picture, one for every style."""
        plan = self._plan(claim)
        summary = Summary(plan.batch, len(plan.styles))
        with self.batches.runner(plan.batch) as runner:
            for job in plan.jobs(claim, self.watcher.inbox):
                if self.is_over():
                    summary.stopped = True
                    break
                self._check_styles(claim, job)
                if runner.run_job(job, summary).status == "failed":
                    # If a style is being replaced, that is no fault of the picture.
                    self._check_styles(claim, job)
        return summary

    def _plan(self, claim: Claim) -> Plan:
        """Return what a picture asks for, or raise _StyleMissing."""
        library = self.watcher.library
        plan = self.router.plan(claim.relative, library.paths, library.known)
        if isinstance(plan, Waiting):
            raise _StyleMissing(plan.reason)
        return plan

    def _check_styles(self, claim: Claim, job: Job) -> None:
        """Raise _StyleMissing if a style of a job is no longer the file that was checked."""
        if not all(self.watcher.library.is_current(path) for path, _ in job.style.images):
            self.watcher.scan()
            self._plan(claim)
            raise _StyleMissing

    def _report_of_bug(self, claim: Claim, error: Exception) -> dict[str, Any]:
        return new_report(
            f"{self.watcher.inbox / claim.relative}: unexpected {type(error).__name__}: {error}",
            "This is a fault in style-pipeline; please report it with this file's error.json.",
            details=traceback.format_exc(),
        )


def _outcome(summary: Summary) -> Outcome:
    if summary.stopped or summary.postponed:
        return Unfinished(summary.postponed > 0)
    return Failed(report_of_summary(summary)) if summary.failed else Done()
