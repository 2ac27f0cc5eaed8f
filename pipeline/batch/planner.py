"""What has to run, and why. Nothing on the disk is changed."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from ..errors import ImageError, JobError, PathError
from ..execution.executors import Executor
from ..execution.inputs import plan_result, read_size
from ..spec.config import DEFAULT_MEGAPIXELS, Config
from ..spec.jobs import Job, JobResult, job_key
from ..spec.schedule import total_steps
from ..spec.text import counted
from ..storage.ledger import Ledger
from ..storage.outbox import BatchFolder
from ..storage.paths import is_done
from ..storage.places import Place
from .deadline import Deadline
from .digests import Digests
from .outdated import Outdated
from .records import job_record, key_of_unread, what_changed
from .summary import Finished, Status

# `skip`: the picture was made; `restore`: it comes back from `older/`; `publish`: it waits on the stage;
# `fail`: the job cannot run as things are.
Action = Literal["run", "skip", "restore", "publish", "fail"]

# Jobs looked ahead to put those of one style and size in a row.
GROUP_WINDOW = 1024


@dataclass(frozen=True)
class RunOptions:
    """`force` runs finished jobs again, `missing` only those whose pictures are gone.

    `max_failures` 0 is no limit. `keep_times` gives results the modification times of their contents.
    """

    force: bool = False
    max_failures: int = 0
    max_attempts: int = 3
    deadline: Deadline | None = None
    missing: bool = False
    keep_times: bool = False

    @classmethod
    def of(cls, config: Config, **more: Any) -> RunOptions:
        """Return what a configuration says, and what it does not say in `more`."""
        return cls(
            max_failures=config.max_failures,
            max_attempts=config.max_attempts,
            keep_times=config.keep_times,
            **more,
        )


DEFAULTS = RunOptions()


@dataclass(frozen=True)
class Decision:
    """What to do with a job, under which name, and why.

    A job that is resumed has taken some steps already, the last perhaps in part. A job that fails has an
    error, and no key if its inputs cannot be read.
    """

    job: Job
    action: Action
    place: Place
    reason: str
    key: str = ""
    steps_taken: float = 0.0
    error: JobError | None = None

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def run(self) -> bool:
        return self.action == "run"

    @property
    def fails(self) -> bool:
        return self.action == "fail"

    def finished(self, status: Status, **more: Any) -> Finished:
        return Finished(self.job, self.name, status, self.key, **more)


class BatchNames:
    """The output names of a batch, in lower case: many file systems ignore case."""

    def __init__(self, jobs: Callable[[], Iterable[Job]]) -> None:
        self._jobs = jobs

    @cached_property
    def repeated(self) -> set[str]:
        """The names that occur more than once, in several jobs or in one that is repeated."""
        seen: set[str] = set()
        repeated: set[str] = set()
        for job in self._jobs():
            name = job.name.casefold()
            (repeated if name in seen else seen).add(name)
        return repeated

    def sharing(self, name: str) -> Sequence[Job]:
        """Return the jobs of a name that occurs more than once; none for other names."""
        return self._sharing.get(name, ())

    @cached_property
    def _sharing(self) -> dict[str, list[Job]]:
        found: defaultdict[str, list[Job]] = defaultdict(list)
        for job in self._jobs() if self.repeated else ():
            if (name := job.name.casefold()) in self.repeated:
                found[name].append(job)
        return found


class Planner:
    """Decides what to do with jobs, for a run, a dry run and the daemon alike.

    `jobs` returns all jobs of the batch; it is None for a picture from a watched folder. Such a picture
    replaces no result, because an older result of its name may belong to any picture.
    """

    def __init__(
        self,
        folder: BatchFolder,
        ledger: Ledger,
        executor: Executor,
        digests: Digests,
        options: RunOptions = DEFAULTS,
        jobs: Callable[[], Iterable[Job]] | None = None,
    ) -> None:
        self.folder = folder
        self.ledger = ledger
        self.executor = executor
        self.digests = digests
        self.options = options
        self.names = None if jobs is None else BatchNames(jobs)
        self.outdated = None if self.names is None else Outdated(folder.paths, self.names.sharing, self._key)

    def decide(self, job: Job) -> Decision:
        """Decide what to do with a job.

        Raises:
            ReadingStopped: asked to stop before its inputs were read.
            MachineError: weights are missing, or a folder cannot be read.
        """
        try:
            key = self._key(job)
        except ImageError as error:
            stand_in = key_of_unread(str(job.content))
            return _failing(job, self.folder.places.choose(job.name, job.recipe.suffix, stand_in), "", error)
        place = self._choose(job, key)
        try:
            return self._decide(job, key, place)
        except PathError as error:
            return _failing(job, place, key, error)

    def _decide(self, job: Job, key: str, place: Place) -> Decision:
        options = self.options
        if not options.force:
            if place.done or self._was_published(job, key):
                return Decision(job, "skip", place, "done already", key)
            if place.older:
                return Decision(job, "restore", place, "made before; comes back from older/", key)
            if place.missing and not options.missing:
                reason = "made before, and its picture is not there any more; --missing makes it again"
                return Decision(job, "skip", place, reason, key)
            if self.is_quarantined(key):
                ended = f"ended the process {counted(options.max_attempts, 'time')}"
                error = quarantined_error(job, options.max_attempts)
                return Decision(job, "fail", place, f"{ended}; --force tries it again", key, error=error)
        if self.folder.stage.holds(key):
            return Decision(job, "publish", place, "made before, when its name could not be used", key)
        self.folder.places.check(place.name, job.recipe.suffix)
        steps = self.executor.progress(key)
        return Decision(job, "run", place, self._why(job, key, place, steps), key, steps)

    def _choose(self, job: Job, key: str) -> Place:
        """Choose a job's name, and the results and failures that it replaces."""
        places, outdated = self.folder.places, self.outdated
        if outdated is None:
            return places.choose(job.name, job.recipe.suffix, key, job.drop)
        place = places.choose(
            job.name, job.recipe.suffix, key, job.drop, lambda record: outdated.includes(record, job)
        )
        beside = (name for name in outdated.beside(job, key) if name != place.name)
        return replace(place, outdated=tuple(beside))

    def _key(self, job: Job) -> str:
        return job_key(job, self.digests, self.executor.encoder_info(job.recipe.encoder))

    def _was_published(self, job: Job, key: str) -> bool:
        """Tell whether a drop's result was published, even if its files were removed since."""
        return bool(job.drop) and self.ledger.was_staged(job.drop, key) and not self.folder.stage.holds(key)

    def is_quarantined(self, key: str) -> bool:
        """Tell whether a job ended the process too often without coming further.

        One that comes further each time comes to an end, as its steps are finite.
        """
        return self.ledger.attempts(key) >= self.options.max_attempts and not self.has_advanced(key)

    def has_advanced(self, key: str) -> bool:
        """Tell whether a job whose last attempt ended the process came further than before."""
        return self.ledger.attempts(key) > 0 and self.executor.progress(key) > self.ledger.progress(key)

    def _why(self, job: Job, key: str, place: Place, steps: float) -> str:
        """Say why a job has to run."""
        if steps:
            where = f"from step {int(steps)}" if steps == int(steps) else f"within step {int(steps) + 1}"
            return f"resumes {where} of {total_steps(job.recipe)}"
        if place.done or place.older:
            return "forced"
        if place.missing:
            return "its picture is not there any more"
        records = [self.folder.paths.read_record(name) for name in (place.name, *place.outdated)]
        if records[0].get("status") == "failed":
            return "failed before"
        if older := [record for record in records if is_done(record) and record.get("key") != key]:
            encoder = self.executor.encoder_info(job.recipe.encoder)
            new = job_record(job, key, self.digests, encoder, JobResult("done"))
            # Of jobs that share a pair and a name, that which is most alike.
            changed = min((what_changed(record, new) for record in older), key=len)
            return f"{changed} changed; the older result goes to older/"
        return "new"


def group_jobs(jobs: Iterable[Job], window: int = GROUP_WINDOW) -> Iterator[Job]:
    """Put jobs of one recipe in a row, and of one style within, looking `window` jobs ahead."""
    iterator = iter(jobs)
    while chunk := list(itertools.islice(iterator, window)):
        recipes: dict[str, dict[object, list[Job]]] = {}
        batch_keys: dict[int, str] = {}  # by id: many jobs share a recipe, and `chunk` keeps it alive
        for job in chunk:
            if (recipe := id(job.recipe)) not in batch_keys:
                batch_keys[recipe] = job.recipe.batch_key()
            styles = recipes.setdefault(batch_keys[recipe], {})
            styles.setdefault(job.style.images, []).append(job)
        for styles in recipes.values():
            yield from itertools.chain.from_iterable(styles.values())


def plan_jobs(
    planner: Planner,
    jobs: Callable[[], Iterable[Job]],
    any_checkpoints: bool = False,
    max_megapixels: int = DEFAULT_MEGAPIXELS,
) -> Iterator[Decision]:
    """Decide about every job of a batch as a run does, without running or writing anything.

    The order is that of the run, in which jobs that share a name get theirs.

    A key is computed only where an earlier run may have left something. Some of that is known by keys alone:
    jobs that ended the process have no record, nor have those that were stopped (`any_checkpoints`). The
    headers of pictures are checked, too, as a run fails on a broken one and on a result that is too small or
    too large.
    """
    places, names = planner.folder.places, planner.names or BatchNames(jobs)
    any_attempts = planner.ledger.any_attempts(planner.options.max_attempts)
    needs_keys = any_checkpoints or any_attempts or places.has_older()
    with_id = set() if needs_keys else set(map(str.casefold, planner.folder.paths.recorded_with_ids()))
    seen: set[tuple[str, str]] = set()
    header = cache(_read_header)
    for job in group_jobs(jobs()):
        name = job.name.casefold()
        needs_key = needs_keys or name in names.repeated or name in with_id
        if needs_key or places.has_record(job.name, job.recipe.suffix):
            decision = planner.decide(job)
        else:
            decision = Decision(job, "run", Place(job.name, done=False), "new")
        if (decision.name, decision.key) in seen:
            decision = replace(decision, action="skip", reason="the same as another one of this batch")
        elif decision.key:
            seen.add((decision.name, decision.key))
        if decision.run and (error := _input_error(job, header, max_megapixels)):
            decision = _failing(job, decision.place, decision.key, error)
        yield decision


def quarantined_error(job: Job, attempts: int, last_end: str = "") -> JobError:
    """Return the error of a job that ended the process too often, the last time as `last_end` says."""
    again = f"with `style-pipeline retry {job.drop}`" if job.drop else "with --force"
    ended = f"quarantined; this job ended the process {counted(attempts, 'time')}."
    return JobError(
        f"{job.content}: {ended} {last_end}".rstrip(), f"Try a smaller size, or try again {again}."
    )


def _failing(job: Job, place: Place, key: str, error: JobError) -> Decision:
    return Decision(job, "fail", place, f"will fail: {error.message}", key, error=error)


def _input_error(
    job: Job, header: Callable[[Path], tuple[int, int] | ImageError], max_megapixels: int
) -> ImageError | None:
    """Return what is wrong with the pictures of a job, as far as their headers say."""
    found = {path: header(path) for path in job.input_paths}
    if error := next((each for each in found.values() if isinstance(each, ImageError)), None):
        return error
    size = found[job.content]
    assert not isinstance(size, ImageError)
    try:
        plan_result(job, size, max_megapixels)
    except ImageError as error:
        return error
    return None


def _read_header(path: Path) -> tuple[int, int] | ImageError:
    try:
        return read_size(path)
    except ImageError as error:
        return error
