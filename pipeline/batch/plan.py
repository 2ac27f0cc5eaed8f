"""What a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageError, WeightsError
from ..execution.inputs import check_header
from ..spec.jobs import Job, JobResult
from ..spec.removed import without_removed
from ..spec.text import counted
from ..storage.outbox import Place, read_record
from .digests import ReadingStopped
from .runner import Runner

# Fields of a recipe that a job's key leaves out.
NAMES = frozenset({"name", "preset", "encoder"})


@dataclass(frozen=True)
class Planned:
    """What would become of a job, and why. One to be resumed has steps behind it.

    `fails`: it cannot be made, as things are.
    """

    job: Job
    name: str
    run: bool
    reason: str
    steps_taken: int = 0
    fails: bool = False


def plan_jobs(
    runner: Runner, jobs: Callable[[], Iterable[Job]], steps_taken: Callable[[str], int] | None = None
) -> Iterator[Planned]:
    """Say of every job whether it would run, without running or writing anything.

    `steps_taken` returns how far a job's checkpoint is, by its key; None: there are no checkpoints.
    """
    runner.take_names(jobs)
    planner = _Planner(runner, steps_taken)
    for job in jobs():
        yield planner.planned(job)


def is_finished(runner: Runner, jobs: Callable[[], Iterable[Job]]) -> bool:
    """Tell whether a run would make nothing, so that nothing need be loaded or downloaded for it."""
    runner.take_names(jobs)
    try:
        return all(runner.need_not_run(runner.place(job, runner.key(job))) for job in jobs())
    except (ImageError, WeightsError, ReadingStopped):
        return False


class _Planner:
    """Plans jobs one by one, and is quick because it computes a key only where one is needed."""

    def __init__(self, runner: Runner, steps_taken: Callable[[str], int] | None) -> None:
        self.runner = runner
        self.steps_taken = steps_taken
        # A job that killed the process has left no record yet, only attempts.
        self.needs_keys = steps_taken is not None or runner.any_quarantined() or runner.folder.has_older()
        self._planned: set[tuple[str, str]] = set()
        self._faults: dict[Path, str] = {}

    def planned(self, job: Job) -> Planned:
        if not self._needs_key(job):
            return self._to_run(job, job.name, "new")
        try:
            key = self.runner.key(job)
        except ImageError as error:
            return Planned(job, job.name, False, f"will fail: {error.message}", fails=True)
        place = self.runner.place(job, key)
        if (place.name, key) in self._planned:
            return Planned(job, place.name, False, "the same as another one of this batch")
        self._planned.add((place.name, key))
        return self._with_key(job, key, place)

    def _needs_key(self, job: Job) -> bool:
        """Tell whether a job's key has to be known: not if nothing has its name."""
        return (
            self.needs_keys
            or job.name.casefold() in self.runner.names_wanted_twice()
            or self.runner.folder.has_record(job.name, job.recipe.suffix)
        )

    def _with_key(self, job: Job, key: str, place: Place) -> Planned:
        options = self.runner.options
        if self.runner.need_not_run(place):
            reason = "done already"
            if place.missing:
                reason = "made before, and its picture is not there any more; --missing makes it again"
            elif place.older:
                reason = "made before; comes back from older/"
            return Planned(job, place.name, False, reason)
        if self.runner.is_quarantined(key) and not options.force:
            reason = f"ended the process {counted(options.max_attempts, 'time')}; --force tries it again"
            return Planned(job, place.name, False, reason, fails=True)
        steps = self.steps_taken(key) if self.steps_taken else 0
        return self._to_run(job, place.name, self._why(job, key, place, steps), steps)

    def _why(self, job: Job, key: str, place: Place, steps: int) -> str:
        """Say why a job has to run."""
        record = read_record(self.runner.folder.record_path(place.name))
        if steps:
            return f"goes on from step {steps} of {job.recipe.total_steps}"
        if place.done or (place.older and self.runner.options.force):
            return "forced"
        if place.missing:
            return "its picture is not there any more"
        if record.get("status") == "failed":
            return "failed before"
        if record.get("status") == "done" and record.get("key") != key:
            changed = what_changed(record, self.runner.record_of(job, key, JobResult("done")))
            return f"{changed} changed; the older result goes to older/"
        return "new"

    def _to_run(self, job: Job, name: str, reason: str, steps: int = 0) -> Planned:
        for path in job.input_paths:
            if path not in self._faults:
                self._faults[path] = ""
                try:
                    check_header(path)
                except ImageError as error:
                    self._faults[path] = error.message
            if fault := self._faults[path]:
                return Planned(job, name, False, f"will fail: {fault}", fails=True)
        return Planned(job, name, True, reason, steps)


def what_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name what differs in the records of two results of one pair."""
    parts = (
        ("the content", lambda record: record["content"]["sha256"]),
        ("the style", lambda record: [(i["sha256"], i["share"]) for i in record["style"]["images"]]),
        ("the picture to start from", lambda record: (record["init"] or {}).get("sha256")),
        ("the mask", lambda record: record["masks"]),
        ("the recipe", lambda record: _looks(record["recipe"])),
        ("the encoder", lambda record: record["encoder"]["digest"]),
    )
    names = []
    for name, part in parts:
        with suppress(KeyError, TypeError, AttributeError):  # of an older version, or damaged
            if part(old) != part(new):
                names.append(name)
    return " and ".join(names) or "the program"


def _looks(recipe: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return what decides how a picture looks, from the recipe of a record of this or an earlier version."""
    return without_removed({name: value for name, value in recipe.items() if name not in NAMES})
