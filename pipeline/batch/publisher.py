"""Writes the results of jobs into the batch's folder: pictures, logs, records and snapshots."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import PathError
from ..execution.executors import Executor
from ..spec.jobs import JobResult, output_name
from ..spec.output_names import fields_of
from ..storage.ledger import Ledger
from ..storage.outbox import BatchFolder, log_bytes
from .digests import Digests
from .planner import Decision
from .records import job_record
from .summary import Finished


class Publisher:
    """Publishes results, failures and snapshots of one batch. Used by one thread alone.

    Where something cannot be written it raises DiskError; a name that cannot be used fails its own job.
    """

    def __init__(
        self,
        folder: BatchFolder,
        ledger: Ledger,
        executor: Executor,
        digests: Digests,
        keep_times: bool = False,
    ) -> None:
        self.folder = folder
        self.ledger = ledger
        self.executor = executor
        self.digests = digests
        self.keep_times = keep_times
        # Notes on snapshots whose names could not be used, by the keys of their jobs.
        self._lost_snapshots: dict[str, str] = {}

    def settle(self, decision: Decision) -> Finished:
        """Carry out the decision about a job that does not run."""
        if decision.error is not None:
            return self.fail(decision, JobResult.failure(decision.error))
        if self.ledger.attempts(decision.key):  # it was published, and the process ended before it was noted
            self.ledger.end(decision.key)
            self.executor.forget(decision.key)
        place, path = decision.place, self.folder.paths.image(decision.name, decision.job.recipe.suffix)
        try:
            if decision.action == "publish":
                path = self.folder.publish_staged(self.folder.stage.folder / decision.key)
            elif decision.action == "restore":
                modified_ns = self._modified_ns(decision)
                path = self._publish(decision, self.folder.stage_older(place, decision.job.drop, modified_ns))
                self.folder.remove_older(place)
        except PathError as error:
            return self.fail(decision, JobResult.failure(error))
        self.folder.remove_failures(place.outdated)
        restored = decision.action == "restore"
        return decision.finished("skipped", path=path, missing=place.missing, restored=restored)

    def publish(self, decision: Decision, result: JobResult) -> Finished:
        """Publish a picture, then delete its checkpoint."""
        if note := self._lost_snapshots.pop(decision.key, ""):
            result = replace(result, notes=(*result.notes, note))
        suffix, log = decision.job.recipe.suffix, log_bytes(result.log_header, result.log_rows)
        record, modified_ns = self._record(decision, result), self._modified_ns(decision)
        name, outdated = decision.name, decision.place.outdated
        try:
            path = self._publish(
                decision,
                self.folder.stage_result(name, suffix, result.image, log, record, modified_ns, outdated),
            )
        except PathError as error:
            return self.fail(decision, JobResult.failure(error))
        self.folder.remove_failures(outdated)
        self.executor.forget(decision.key)
        return decision.finished("done", path=path, seconds=result.seconds, notes=result.notes)

    def fail(self, decision: Decision, result: JobResult) -> Finished:
        """Record why a job failed, unless its record says that its picture was made."""
        job, place, key = decision.job, decision.place, decision.key
        if job.origin is not None:  # people know the picture by where they dropped it
            result = replace(result, error=result.error.replace(str(job.content), str(job.origin)))
        if self.folder.places.has_result(place.name, key):  # another job's, which keeps its name and record
            place = self.folder.places.choose_beside(place, job.recipe.suffix, key)
        self.folder.remove_failures(name for name in decision.place.outdated if name != place.name)
        decision = replace(decision, place=place)
        if not self.folder.places.has_done(place.name, key):
            with suppress(PathError):  # where a name cannot be used, this is why it failed
                self.folder.write_record(place.name, self._record(decision, result))
        return decision.finished("failed", error=result.error, next_step=result.next_step)

    def write_snapshot(self, decision: Decision, step: int, image: bytes) -> None:
        """Write a snapshot. If its name cannot be used, the result gets a note."""
        name = self._snapshot_name(decision, step)
        if name == decision.name:
            return  # the last step's is the result itself, which comes next
        try:
            self.folder.write_snapshot(name, decision.job.recipe.suffix, image)
        except PathError as error:
            self._lost_snapshots[decision.key] = f"a snapshot was not kept: {error}"

    def _snapshot_name(self, decision: Decision, step: int) -> str:
        job, name = decision.job, decision.name
        if "step" in fields_of(job.recipe.name):
            filled = output_name(job.recipe, job.content.stem, job.style.name, job.sweep, step)
            filled += name.removeprefix(job.name)  # the short id, where there is one
            if filled == name or self.folder.places.is_untaken(filled):
                return filled
        return f"{name}-step{step:05d}"

    def _modified_ns(self, decision: Decision) -> int | None:
        """Return when a result counts as modified: with its content, or now."""
        return self.digests.modified_ns[decision.job.content] if self.keep_times else None

    def _publish(self, decision: Decision, staged: Path) -> Path:
        if decision.job.drop:
            self.ledger.note_staged(decision.job.drop, decision.key)
        return self.folder.publish_staged(staged)

    def _record(self, decision: Decision, result: JobResult) -> dict[str, object]:
        key, encoder = decision.key, decision.job.recipe.encoder
        info = self.executor.encoder_info(encoder) if key else None
        return job_record(decision.job, key, self.digests, info, result)
