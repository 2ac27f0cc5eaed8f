"""Works on one claimed drop: runs its jobs, and brings its original to its last place."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..batch.summary import Summary
from ..errors import DiskError, LockedError, PipelineError
from ..spec.jobs import Job
from ..storage.files import MACHINE_ERRORS
from .batches import Batches
from .claims import Claim
from .folders import Folders
from .inbox import identity_of
from .intake import Rejected
from .originals import Originals, new_report, report_of_error, report_of_summary
from .reading import FAULTS, Reader
from .routes import Router, Waiting, manifest_jobs
from .watcher import Watcher


@dataclass(frozen=True)
class Done:
    """Every job of a drop is done, and its original is where it stays."""


@dataclass(frozen=True)
class Failed:
    """A drop is quarantined, for the reason in its report."""

    report: dict[str, Any]


@dataclass(frozen=True)
class Unfinished:
    """Some jobs of a drop were stopped, or not begun because of the deadline: the next run resumes it."""

    out_of_time: bool = False


@dataclass(frozen=True)
class Blocked:
    """A drop waits for a style, or for the process that holds the `lock` on its batch."""

    reason: str
    lock: LockedError | None = None


Outcome = Done | Failed | Unfinished | Blocked


class _StyleMissing(Exception):
    """A style of a claimed picture is not there now; the text says which."""


class Processor:
    """Works on claimed drops, one at a time."""

    def __init__(
        self,
        router: Router,
        reader: Reader,
        watcher: Watcher,
        batches: Batches,
        originals: Originals,
        folders: Folders,
        is_over: Callable[[], bool],
    ) -> None:
        self.router = router
        self.reader = reader
        self.watcher = watcher
        self.batches = batches
        self.originals = originals
        self.folders = folders
        self.is_over = is_over

    def process(self, drop: Claim | Rejected) -> Outcome:
        """Run the jobs of a drop, then bring its original to its last place.

        Raises:
            MachineError, LockedError, WorkerLost: a fault that is not the drop's; it stays claimed.
            StopNow: asked to stop; it stays claimed.
        """
        if isinstance(drop, Rejected):
            report = report_of_error(drop.error)
            self.originals.reject(drop.claim, report, drop.identity)
            return Failed(report)
        outcome = self._run(drop)
        if isinstance(outcome, Failed):
            self.folders.check_there()  # else it may have failed because they went away
            self.originals.reject(drop, outcome.report)
        elif isinstance(outcome, Done):
            self.originals.finish(drop)
        return outcome

    def _run(self, claim: Claim) -> Outcome:
        """Run a claim's jobs, and say what is to become of it."""
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
        except Exception as error:  # a fault of ours: the other drops still get their turn
            if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
                raise
            return Failed(self._report_of_bug(claim, error))

    def _run_jobs(self, claim: Claim) -> Summary:
        if self.router.is_manifest(claim.relative):
            return self._run_manifest(claim)
        return self._run_picture(claim)

    def _run_manifest(self, claim: Claim) -> Summary:
        identity = identity_of(claim.path)
        if identity is None:
            raise DiskError(f"{claim.path}: is gone.", "Mount its disk again.")
        batch = self.reader.read_manifest(claim.path, claim.relative, identity)
        with self.batches.runner(batch.name) as runner:
            return runner.run(partial(manifest_jobs, batch, claim), len(batch))

    def _run_picture(self, claim: Claim) -> Summary:
        """Run the jobs of a picture, one for every style that it asks for."""
        library = self.watcher.library
        plan = self.router.plan(claim.relative, library.paths, library.known)
        if isinstance(plan, Waiting):
            raise _StyleMissing(plan.reason)
        summary = Summary(plan.batch, len(plan.styles))
        with self.batches.runner(plan.batch) as runner:
            for job in plan.jobs(claim, self.watcher.inbox):
                if self.is_over():
                    summary.stopped = True
                    break
                self._check_styles(claim, job)
                if runner.run_job(job, summary).status == "failed":
                    self._check_styles(claim, job)  # one that is just being replaced is no picture's fault
        return summary

    def _check_styles(self, claim: Claim, job: Job) -> None:
        """Make sure that the styles of a job are still the files that were checked.

        Raises:
            _StyleMissing: one was changed or removed.
        """
        library = self.watcher.library
        if all(library.is_current(path) for path, _ in job.style.images):
            return
        self.watcher.scan()
        plan = self.router.plan(claim.relative, library.paths, library.known)
        raise _StyleMissing(plan.reason if isinstance(plan, Waiting) else "")

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
