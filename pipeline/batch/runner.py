"""The hall between folders and devices: skip, group, dispatch, publish, sum up."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any

from ..errors import DiskError, ImageError, JobError, PathError, WorkerLost
from ..execution.executors import Executor
from ..execution.lanes import Done, Lanes
from ..spec.jobs import (
    Color,
    Job,
    JobResult,
    Masks,
    StepProgress,
    Task,
    color_value,
    job_key,
    output_name,
    result_summary,
)
from ..spec.text import counted
from ..storage.ledger import Ledger
from ..storage.outbox import BatchFolder, Place, log_bytes
from .digests import Digests, ReadingStopped
from .estimate import ENOUGH_WORK, megapixel_steps
from .options import DEFAULTS, RunOptions
from .summary import Finished, Observer, Summary

# Jobs looked ahead to put those of one style and size in a row.
GROUP_WINDOW = 1024


@dataclass(frozen=True)
class Ready:
    """A job that has to run, its key and where its picture goes."""

    job: Job
    key: str
    place: Place


class Runner:
    """Runs the jobs of one batch and publishes what comes of them.

    `executor` resolves encoders, and without `workers`, called when the first job has to run, it runs them
    too. Ledger, outbox and observer are used by the caller's thread alone.
    """

    def __init__(
        self,
        folder: BatchFolder,
        ledger: Ledger,
        executor: Executor,
        observer: Observer,
        options: RunOptions = DEFAULTS,
        should_stop: Callable[[], bool] = lambda: False,
        workers: Callable[[], Sequence[Executor]] | None = None,
    ) -> None:
        self.folder = folder
        self.ledger = ledger
        self.executor = executor
        self.workers = workers or (lambda: [executor])
        self.observer = observer
        self.options = options
        self.should_stop = should_stop
        self._digests = Digests(self._should_stop)
        self._announced: set[str] = set()
        self._all_jobs: Callable[[], Iterable[Job]] = tuple
        self._is_batch = False
        self._wanted_twice: set[str] | None = None
        self._contested: set[str] | None = None
        self._unkept: dict[str, str] = {}  # jobs whose snapshots have names that cannot be used
        self._width: Callable[[], int] = lambda: 1

    def run(self, jobs: Callable[[], Iterable[Job]], total: int) -> Summary:
        """Run every job that is not done; a failure stops nothing but itself.

        `jobs` is asked anew where the jobs are looked at once more.

        Raises:
            MachineError: the machine's fault; what is done is done, the rest runs another time.
        """
        summary = Summary(self.folder.folder.name, total, started=_now())
        started = time.monotonic()
        self.take_names(jobs)
        try:
            for _ in self._run_jobs(self._while_few_fail(group_jobs(jobs()), summary), summary):
                pass
        except BaseException as error:
            summary.stopped = not isinstance(error, Exception)
            summary.reason = "stopped" if summary.stopped else "fault"
            summary.fault = "" if summary.stopped else str(error) or type(error).__name__
            with suppress(DiskError, PathError):  # the error that ended the run matters more
                self._write_summary(summary, jobs, started)
            raise
        self._write_summary(summary, jobs, started)
        return summary

    def _write_summary(self, summary: Summary, jobs: Callable[[], Iterable[Job]], started: float) -> None:
        """Write what became of every job; a run that made something, or tried to, is kept among the runs."""
        summary.finished, summary.seconds = _now(), round(time.monotonic() - started, 3)
        summary.close(job.name for job in jobs())
        whole = asdict(summary)
        if summary.done + summary.failed + summary.interrupted:
            pictures = [picture for picture in summary.pictures if picture["status"] != "skipped"]
            self.folder.add_run({**whole, "pictures": pictures})
        self.folder.write_summary(whole)

    def run_job(self, job: Job, summary: Summary) -> Finished:
        """Run one job unless it is done, count it, and tell the observer.

        Raises:
            MachineError: as `run`.
        """
        for finished in self._run_jobs([job], summary):
            return finished
        return Finished(job, job.name, "stopped")

    def _while_few_fail(self, jobs: Iterable[Job], summary: Summary) -> Iterator[Job]:
        for job in jobs:
            if 0 < self.options.max_failures <= summary.failed:
                summary.reason = "max_failures"
                return
            yield job

    def _run_jobs(self, jobs: Iterable[Job], summary: Summary) -> Iterator[Finished]:
        """Keep every lane at work; give each job as it ends, counted and told of."""
        running: dict[str, Ready] = {}
        # Jobs that get their turn when nothing else runs.
        later: list[Job] = []
        with Lanes(self.workers, partial(self._on_step, running), self._should_stop) as lanes:
            self._width = lambda: lanes.width
            groups = self._groups(jobs, running, later, lambda: -(-max(summary.jobs, 1) // lanes.width))
            try:
                while True:
                    group = self._next(groups, summary) if lanes.idle and self._may_begin(summary) else None
                    again = group is None and bool(later) and not lanes.busy and self._may_begin(summary)
                    if again:
                        ready = self._prepare(later.pop(0))
                        group = ready if isinstance(ready, Finished) else [ready]
                    if isinstance(group, Finished):
                        yield self._count(summary, group)
                    elif group:
                        alone = again or lanes.width == 1
                        lanes.submit([self._begin(ready, running, alone) for ready in group])
                    elif lanes.busy:
                        for finished in self._end(lanes.wait(), running, later, summary):
                            yield self._count(summary, finished)
                    else:
                        return
            except BaseException:
                for key, ready in running.items():
                    summary.count(Finished(ready.job, ready.place.name, "stopped", key), self.folder.folder)
                with suppress(DiskError):  # the ledger retries it, and the other error matters more
                    self.ledger.take_back(*running)
                raise

    def _next(
        self, groups: Iterator[Finished | list[Ready]], summary: Summary
    ) -> Finished | list[Ready] | None:
        try:
            return next(groups, None)
        except ReadingStopped:
            self._may_begin(summary)  # notes the reason
            return None

    def _may_begin(self, summary: Summary) -> bool:
        deadline = self.options.deadline
        if self.should_stop():
            summary.stopped, summary.reason = True, "stopped"
        elif deadline is not None and deadline.over:
            summary.stopped, summary.reason = True, "deadline"
        return not summary.stopped

    def _groups(
        self, jobs: Iterable[Job], running: Mapping[str, Ready], later: list[Job], most: Callable[[], int]
    ) -> Iterator[Finished | list[Ready]]:
        """Give jobs to run, at `most()` so many to share a tensor, and those that need not run."""
        group: dict[str, Ready] = {}
        for job in jobs:
            ready = self._prepare(job)
            if isinstance(ready, Finished):
                yield ready
            elif ready.key in running or ready.key in group:
                later.append(job)  # the same picture once more: when the first is there
            else:
                first = next(iter(group.values()), ready)
                if first.job.recipe.batch_key() != job.recipe.batch_key():
                    yield list(group.values())
                    group = {}
                group[ready.key] = ready
                if len(group) >= min(most(), self.executor.micro_batch(job.recipe)):
                    yield list(group.values())
                    group = {}
        if group:
            yield list(group.values())

    def _prepare(self, job: Job) -> Ready | Finished:
        """Find out whether a job has to run."""
        try:
            key = self.key(job)
        except ImageError as error:
            place = self.folder.place(
                job.name, job.recipe.suffix, hashlib.sha256(os.fsencode(job.content)).hexdigest()
            )
            return self._fail(job, place, "", _failed(error))
        place = self.place(job, key)
        try:
            return self._decide(job, key, place)
        except PathError as error:
            return self._fail(job, place, key, _failed(error))

    def _decide(self, job: Job, key: str, place: Place) -> Ready | Finished:
        """Find out whether a job has to run whose place is known.

        Raises:
            PathError: its result could not be published.
        """
        published = not self.options.force and self._was_published(job, key)
        if published or self.need_not_run(place):
            if self.ledger.attempts(key):  # published, and not noted
                self.ledger.end(key)
            path = self.folder.image_path(place.name, job.recipe.suffix)
            if place.older and not published:
                path = self._bring_back(job, place, key)
            return Finished(job, place.name, "skipped", key, path, missing=place.missing)
        if self.is_quarantined(key) and not self.options.force:
            return self._fail(job, place, key, _quarantined(job, self.options.max_attempts))
        if self.folder.is_staged(key):  # made before, when its name could not be used
            path = self.folder.publish_staged(self.folder.stage_folder / key)
            return Finished(job, place.name, "skipped", key, path)
        self.folder.check_name(place.name, job.recipe.suffix)
        if would_take := self._would_overrun(job):
            return Finished(job, place.name, "postponed", key, seconds=would_take)
        return Ready(job, key, place)

    def _begin(self, ready: Ready, running: dict[str, Ready], alone: bool) -> Task:
        """Note the attempt on disk, before the job runs: it stays there if a process dies of it."""
        job = ready.job
        self._announce(job.recipe.encoder)
        self.observer.job_started(job, ready.place.name)
        self.ledger.begin(ready.key, self.executor.progress(ready.key))
        running[ready.key] = ready
        # A worker could choose another encoder for `auto` than the key was made with.
        encoder = self.executor.encoder_info(job.recipe.encoder).name
        named = replace(job, recipe=job.recipe.model_copy(update={"encoder": encoder}))
        return Task(named, ready.key, {path: self._digests[path] for path in job.input_paths}, alone)

    def _on_step(self, running: Mapping[str, Ready], progress: StepProgress) -> None:
        job, place = running[progress.key].job, running[progress.key].place
        if progress.snapshot is not None:
            try:
                self._write_snapshot(job, place, progress.step, progress.snapshot)
            except PathError as error:
                self._unkept[progress.key] = f"a snapshot was not kept: {error}"
        self.observer.job_step(place.name, progress)

    def _end(
        self, done: Done, running: dict[str, Ready], later: list[Job], summary: Summary
    ) -> Iterator[Finished]:
        """Publish results; what may have failed for the company it was in runs later, without."""
        if isinstance(done.error, WorkerLost):
            for task in done.tasks:
                by_itself = task.alone and len(done.tasks) == 1
                yield from self._lose(running.pop(task.key), done.error, by_itself, later)
            return
        if done.error is not None:
            raise done.error
        for task, result in zip(done.tasks, done.results, strict=True):
            ready = running.pop(task.key)
            if result.out_of_memory and not task.alone:
                self.ledger.take_back(ready.key)
                later.append(ready.job)
            else:
                yield self._settle(ready, result, summary, 1 if task.alone else self._width())

    def _lose(self, ready: Ready, lost: WorkerLost, by_itself: bool, later: list[Job]) -> Iterator[Finished]:
        """Let a job that lost its worker run again, unless it did so too often when it was by itself."""
        self.observer.worker_lost(ready.job, lost)
        if not by_itself:
            self.ledger.take_back(ready.key)
        if self.is_quarantined(ready.key):
            result = _quarantined(ready.job, self.options.max_attempts, lost)
            yield self._fail(ready.job, ready.place, ready.key, result)
        else:
            later.append(ready.job)

    def _settle(self, ready: Ready, result: JobResult, summary: Summary, at_once: int) -> Finished:
        """Publish a result of a job that ran while so many did `at_once`."""
        job, key, place = ready.job, ready.key, ready.place
        if result.status == "stopped":
            self.ledger.take_back(key)
            return Finished(job, place.name, "stopped", key)
        try:  # publish first: a picture that took long must not depend on the ledger
            failed = result.status == "failed"
            finished = (self._fail if failed else self._publish)(job, place, key, result)
        finally:
            self.ledger.end(key)
        if finished.status == "done":
            self._note(job, result, summary, at_once)
        return finished

    def _should_stop(self) -> bool:
        deadline = self.options.deadline
        return self.should_stop() or (deadline is not None and deadline.over)

    def _would_overrun(self, job: Job) -> float:
        """Return how long a job would take, in seconds, if that is beyond the deadline; else 0."""
        if self.options.deadline is None:
            return 0.0
        speed = self.ledger.speed(self.executor.encoder_info(job.recipe.encoder).name)
        # A square picture is the largest of its size; better to finish early than late.
        seconds = speed[1] * megapixel_steps(job.recipe, 1.0) * self._width() if speed else 0.0
        return seconds if seconds > self.options.deadline.left_s else 0.0

    def _was_published(self, job: Job, key: str) -> bool:
        """Tell whether a drop's result left the stage, whatever became of its files since."""
        return bool(job.drop) and self.ledger.was_staged(job.drop, key) and not self.folder.is_staged(key)

    def _note(self, job: Job, result: JobResult, summary: Summary, at_once: int) -> None:
        summary.cache_hits += result.cache_hits
        summary.cache_misses += result.cache_misses
        encoder = self.executor.encoder_info(job.recipe.encoder)
        summary.encoders[encoder.name] = encoder.digest
        work = megapixel_steps(job.recipe, result.width / result.height)
        if work >= ENOUGH_WORK:
            # What a job costs the machine, which makes several at once.
            seconds = result.step_seconds / result.micro_batch / at_once
            self.ledger.note_speed(encoder.name, result.device, seconds / work)

    def _fail(self, job: Job, place: Place, key: str, result: JobResult) -> Finished:
        if job.origin is not None:  # people know it by where they put it
            result = replace(result, error=result.error.replace(str(job.content), str(job.origin)))
        if self.folder.has_result(place.name, key):  # of another job: it keeps its name, and its record
            place = self.folder.place_beside(place, job.recipe.suffix, key)
        if not self.folder.has_done(place.name, key):  # a picture that was made once keeps its record
            with suppress(PathError):  # where a name cannot be used, this is why it failed
                self.folder.write_record(place.name, self.record_of(job, key, result))
        return Finished(job, place.name, "failed", key, error=result.error, next_step=result.next_step)

    def _publish(self, job: Job, place: Place, key: str, result: JobResult) -> Finished:
        if unkept := self._unkept.pop(key, ""):
            result = replace(result, notes=(*result.notes, unkept))
        log, record = log_bytes(result.log_header, result.log_rows), self.record_of(job, key, result)
        try:
            staged = self.folder.stage(place.name, job.recipe.suffix, result.image, log, record)
            if job.drop:
                self.ledger.note_staged(job.drop, key)
            path = self.folder.publish_staged(staged)
        except PathError as error:
            return self._fail(job, place, key, _failed(error))
        self.executor.forget(key)
        return Finished(job, place.name, "done", key, path, result.seconds, notes=result.notes)

    def _bring_back(self, job: Job, place: Place, key: str) -> Path:
        """Publish an older result again, as a new one is."""
        staged = self.folder.stage_older(place, job.drop)
        if job.drop:
            self.ledger.note_staged(job.drop, key)
        path = self.folder.publish_staged(staged)
        self.folder.remove_older(place)
        return path

    def record_of(self, job: Job, key: str, result: JobResult) -> dict[str, Any]:
        """Return the record of a job and what came of it."""
        record = result_summary(result)
        encoder = self.executor.encoder_info(job.recipe.encoder) if key else None
        return {
            "status": record.pop("status"),
            "key": key,
            **({"drop": job.drop} if job.drop else {}),
            "content": {"path": str(job.origin or job.content), "sha256": self._digests.get(job.content, "")},
            "style": {
                "name": job.style.name,
                "images": [
                    {"path": str(path), "sha256": self._digests.get(path, ""), "share": share}
                    for path, share in job.style.images
                ],
            },
            "init": (
                {"path": str(job.init_path), "sha256": self._digests.get(job.init_path, "")}
                if job.init_path
                else None
            ),
            "masks": self._masks_record(job.masks, job.regions) if job.masks else None,
            "recipe": job.recipe.model_dump(mode="json"),
            "encoder": {"name": encoder.name, "digest": encoder.digest} if encoder else None,
            **record,
            "finished": _now(),
        }

    def _masks_record(self, masks: Masks, regions: Mapping[Path, Color]) -> dict[str, Any]:
        return {
            "content": {"path": str(masks.content), "sha256": self._digests.get(masks.content, "")},
            "styles": {str(path): color_value(color) for path, color in regions.items()},
        }

    def _write_snapshot(self, job: Job, place: Place, step: int, image: bytes) -> None:
        if any(field == "step" for _, field, _, _ in Formatter().parse(job.recipe.name)):
            style, recipe = job.style.name, job.recipe
            name = output_name(recipe.name, job.content.stem, style, recipe, job.sweep, step)
            name += place.name.removeprefix(job.name)  # the short id, where there is one
            if name == place.name:
                return  # the last step's is the result itself, which comes next
            if not self.folder.is_untaken(name):
                name = f"{place.name}-step{step:05d}"
        else:
            name = f"{place.name}-step{step:05d}"
        self.folder.write_snapshot(name, job.recipe.suffix, image)

    def _announce(self, encoder: str) -> None:
        if encoder not in self._announced:
            self._announced.add(encoder)
            self.observer.encoder_chosen(self.executor.encoder_info(encoder))

    def key(self, job: Job) -> str:
        """Return a job's key.

        Raises:
            ImageError: an input cannot be read.
            ReadingStopped: told to stop before all were read.
        """
        for path in job.input_paths:
            self._digests[path]
        return job_key(job, self._digests, self.executor.encoder_info(job.recipe.encoder))

    def take_names(self, jobs: Callable[[], Iterable[Job]]) -> None:
        """Remember the jobs of the whole batch, which are needed to tell which results are old."""
        self._all_jobs, self._is_batch = jobs, True
        self._wanted_twice = self._contested = None

    def place(self, job: Job, key: str) -> Place:
        """Return where a job's files go; see `BatchFolder.place`."""
        return self.folder.place(job.name, job.recipe.suffix, key, job.drop, partial(self._replaces, job))

    def _replaces(self, job: Job, record: Mapping[str, Any]) -> bool:
        """Tell whether a record is of the same pair as a job, and no other job of the batch wants its name.

        A single job of a watched folder replaces nothing: whose results the others are, nobody can say.
        """
        return (
            self._is_batch
            and _pair_of(record) == (str(job.origin or job.content), [str(p) for p, _ in job.style.images])
            and job.name.casefold() not in self._contested_names()
        )

    def names_wanted_twice(self) -> set[str]:
        """Return the names, in lower case, that several jobs of the batch want, or one that is repeated."""
        if self._wanted_twice is None:
            seen: set[str] = set()
            self._wanted_twice = set()
            for name in (job.name.casefold() for job in self._all_jobs()):
                (self._wanted_twice if name in seen else seen).add(name)
        return self._wanted_twice

    def _contested_names(self) -> set[str]:
        """Return those of `names_wanted_twice` that different jobs want."""
        if self._contested is None:
            first: dict[str, Job] = {}
            twice = self.names_wanted_twice()
            named = ((job.name.casefold(), job) for job in self._all_jobs())
            jobs = ((name, job) for name, job in named if name in twice)
            self._contested = {name for name, job in jobs if first.setdefault(name, job) != job}
        return self._contested

    def need_not_run(self, place: Place) -> bool:
        """Tell whether a job's picture exists, or existed and is not asked for again."""
        if self.options.force:
            return False
        return place.done or bool(place.older) or (place.missing and not self.options.missing)

    def is_quarantined(self, key: str) -> bool:
        """Tell whether a job ended the process too often without coming further.

        Its steps are finite, so one that comes further each time comes to an end.
        """
        attempts = self.ledger.attempts(key)
        if attempts and self.executor.progress(key) > self.ledger.progress(key):
            self.ledger.end(key)
            return False
        return attempts >= self.options.max_attempts

    def any_quarantined(self) -> bool:
        return self.ledger.any_attempts(self.options.max_attempts)

    def _count(self, summary: Summary, finished: Finished) -> Finished:
        summary.count(finished, self.folder.folder)
        self.observer.job_finished(finished)
        return finished


def group_jobs(jobs: Iterable[Job], window: int = GROUP_WINDOW) -> Iterator[Job]:
    """Put jobs of one recipe in a row, and of one style within, looking `window` jobs ahead."""
    iterator = iter(jobs)
    while chunk := list(itertools.islice(iterator, window)):
        recipes: dict[str, dict[object, list[Job]]] = {}
        families: dict[int, str] = {}  # by id: many jobs share a recipe, and `chunk` keeps it alive
        for job in chunk:
            if (recipe := id(job.recipe)) not in families:
                families[recipe] = job.recipe.batch_key()
            styles = recipes.setdefault(families[recipe], {})
            styles.setdefault(job.style.images, []).append(job)
        for styles in recipes.values():
            yield from itertools.chain.from_iterable(styles.values())


def _pair_of(record: Mapping[str, Any]) -> object:
    """Return the paths of a record's content and styles; None if it names none."""
    try:
        return record["content"]["path"], [image["path"] for image in record["style"]["images"]]
    except (KeyError, TypeError):
        return None


def _failed(error: JobError) -> JobResult:
    return JobResult("failed", error=error.message, next_step=error.next_step)


def _quarantined(job: Job, attempts: int, lost: WorkerLost | None = None) -> JobResult:
    reason = f" {lost.message}" if lost else ""
    again = f"with `style-pipeline retry {job.drop}`" if job.drop else "with --force"
    return JobResult(
        "failed",
        error=f"{job.content}: quarantined; this job ended the process {counted(attempts, 'time')}.{reason}",
        next_step=f"Try a smaller size, or try again {again}.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
