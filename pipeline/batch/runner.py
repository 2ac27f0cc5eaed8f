"""Runs the jobs of a batch: which of them share a tensor, on which lane, until when."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from ..errors import DiskError, LockedError, PathError, WorkerLost
from ..execution.executors import Executor
from ..execution.lanes import Done, Lanes, OpenDispatch
from ..spec.jobs import Job, JobResult, StepProgress, Task
from ..spec.recipe import Recipe
from ..storage.ledger import Ledger
from ..storage.outbox import BatchFolder
from .digests import Digests, ReadingStopped
from .estimate import ENOUGH_WORK, megapixel_steps
from .planner import DEFAULTS, Decision, Planner, RunOptions, group_jobs, quarantined_error
from .publisher import Publisher
from .records import now
from .summary import Finished, Observer, Summary

logger = logging.getLogger(__name__)


class Runner:
    """Runs the jobs of one batch and publishes their results.

    `executor` resolves encoders and keeps checkpoints. `open_lanes` opens what runs jobs; without it
    `executor` runs them. `merge` makes the summary of the batch from that of the run. Ledger, outbox and
    observer are used by the caller's thread alone.
    """

    def __init__(
        self,
        folder: BatchFolder,
        ledger: Ledger,
        executor: Executor,
        observer: Observer,
        options: RunOptions = DEFAULTS,
        should_stop: Callable[[], bool] = lambda: False,
        open_lanes: OpenDispatch | None = None,
        merge: Callable[[dict[str, Any]], dict[str, Any]] = lambda summary: summary,
    ) -> None:
        self.folder = folder
        self.ledger = ledger
        self.executor = executor
        self.open_lanes = open_lanes or partial(Lanes, lambda: [executor])
        self.observer = observer
        self.options = options
        self.should_stop = should_stop
        self.merge = merge
        self.digests = Digests(self.must_stop)
        self.publisher = Publisher(folder, ledger, executor, self.digests, options.keep_times)
        self._announced: set[str] = set()

    def run(self, jobs: Callable[[], Iterable[Job]], total: int) -> Summary:
        """Run every job that is not done. One that fails does not stop the others.

        `jobs` is called for every iteration over the jobs.

        Raises:
            MachineError: the machine's fault; finished jobs stay finished, the next run does the rest.
        """
        summary = Summary(self.folder.path.name, total, started=now())
        started = time.monotonic()
        run = BatchRun(self, self._planner(jobs), summary)
        try:
            run.work_through(self._until_too_many_fail(group_jobs(jobs()), summary))
        except BaseException as error:
            summary.end_by(error)
            with suppress(DiskError, PathError, LockedError):  # the error that ended the run matters more
                self._write_summary(summary, jobs, started)
            self.observer.batch_ended(summary, self.folder.path)
            raise
        self._write_summary(summary, jobs, started)
        self.observer.batch_ended(summary, self.folder.path)
        return summary

    def run_job(self, job: Job, summary: Summary) -> Finished:
        """Run one job unless it is done; count it in a summary of the caller.

        Raises:
            MachineError: as `run`.
        """
        run = BatchRun(self, self._planner(), summary)
        run.work_through([job])
        return run.last or Finished(job, job.name, "stopped")

    def must_stop(self) -> bool:
        """Tell whether running jobs have to stop."""
        return self.should_stop() or self.is_over()

    def is_over(self) -> bool:
        """Tell whether the deadline has passed."""
        return self.options.deadline is not None and self.options.deadline.over

    def announce(self, encoder: str) -> None:
        """Notify the observer of an encoder, once."""
        if encoder not in self._announced:
            self._announced.add(encoder)
            self.observer.encoder_chosen(self.executor.encoder_info(encoder))

    def _planner(self, jobs: Callable[[], Iterable[Job]] | None = None) -> Planner:
        return Planner(self.folder, self.ledger, self.executor, self.digests, self.options, jobs)

    def _until_too_many_fail(self, jobs: Iterable[Job], summary: Summary) -> Iterator[Job]:
        for job in jobs:
            if 0 < self.options.max_failures <= summary.failed:
                summary.reason = "max_failures"
                return
            yield job

    def _write_summary(self, summary: Summary, jobs: Callable[[], Iterable[Job]], started: float) -> None:
        """Write the outcome of every job. A run that made something, or tried to, is kept among the runs."""
        summary.finished, summary.seconds = now(), round(time.monotonic() - started, 3)
        summary.close(job.name for job in jobs())
        run = asdict(summary)
        with self.folder.shards.merging():
            if summary.done + summary.failed + summary.interrupted:
                pictures = [picture for picture in summary.pictures if picture["status"] != "skipped"]
                self.folder.add_run({**run, "pictures": pictures})
            self.folder.write_summary(self.merge(run))


class BatchRun:
    """The jobs that run now, and those that wait until they can run by themselves, after all others.

    `last` is the last that ended.
    """

    def __init__(self, runner: Runner, planner: Planner, summary: Summary) -> None:
        self.runner = runner
        self.ledger, self.executor = runner.ledger, runner.executor
        self.observer, self.publisher = runner.observer, runner.publisher
        self.planner = planner
        self.summary = summary
        self.last: Finished | None = None
        self._running: dict[str, Decision] = {}
        self._waiting: list[Job] = []
        self._lanes = runner.open_lanes(self._on_step, runner.must_stop)

    def work_through(self, jobs: Iterable[Job]) -> None:
        """Keep every lane at work until all jobs have ended, or it is time to stop."""
        groups = self._groups(jobs)
        with self._lanes:
            try:
                while True:
                    if self._lanes.idle and (group := next(groups, None)):
                        self._submit(group, alone=self._lanes.at_once == 1)
                    elif self._lanes.idle and (group := self._next_waiting()):
                        self._submit(group, alone=True)
                    elif not self._lanes.busy:
                        return
                    elif done := self._lanes.wait():
                        self._end(done)
            except BaseException:
                for decision in self._running.values():
                    self.summary.count(decision.finished("stopped"), self.runner.folder.path)
                with suppress(DiskError):  # the ledger retries it, and the other error matters more
                    self.ledger.take_back(*self._running)
                raise

    # Before they run

    def _next_waiting(self) -> list[Decision] | None:
        """Return a waiting job that can run by itself now, as a group of its own; None if there is none."""
        if self._lanes.busy and self._lanes.at_once > 1:
            return None
        for _ in range(len(self._waiting)):  # a duplicate of a running job goes back to the end of the queue
            if group := next(self._groups([self._waiting.pop(0)]), None):
                return group
        return None

    def _groups(self, jobs: Iterable[Job]) -> Iterator[list[Decision]]:
        """Yield the jobs that have to run, in groups that share a tensor."""
        group: list[Decision] = []
        for decision in self._to_run(jobs):
            job = decision.job
            if decision.key in self._running or decision.key in (each.key for each in group):
                self._waiting.append(job)  # the same picture once more: when the first is there
                continue
            if group and group[0].job.recipe.batch_key() != job.recipe.batch_key():
                yield group
                group = []
            group.append(decision)
            if len(group) >= self._micro_batch(job.recipe):
                yield group
                group = []
        if group and self._may_begin():
            yield group

    def _to_run(self, jobs: Iterable[Job]) -> Iterator[Decision]:
        """Yield the jobs that have to run now; settle the others."""
        for job in jobs:
            if not self._may_begin():
                return
            try:
                decision = self.planner.decide(job)
            except ReadingStopped:
                self._may_begin()  # notes why
                return
            logger.debug("%s: %s, %s", decision.name, decision.action, decision.reason)
            if not decision.run:
                self._count(self.publisher.settle(decision))
            elif seconds := self._overrun_s(decision):
                self._count(decision.finished("postponed", seconds=seconds))
            else:
                yield decision

    def _may_begin(self) -> bool:
        """Tell whether another job may begin; note in the summary why not."""
        if self.runner.should_stop():
            self.summary.stop("stopped")
        elif self.runner.is_over():
            self.summary.stop("deadline")
        return not self.summary.stopped

    def _micro_batch(self, recipe: Recipe) -> int:
        """Return how many jobs of a recipe share a tensor, so that every lane has some."""
        share = -(-max(self.summary.jobs, 1) // self._lanes.width)
        return min(share, self.executor.micro_batch(recipe))

    def _overrun_s(self, decision: Decision) -> float:
        """Return how many seconds a job still takes, if that is beyond the deadline; else 0."""
        deadline, recipe = self.runner.options.deadline, decision.job.recipe
        if deadline is None:
            return 0.0
        found = self.ledger.speed(self.executor.encoder_info(recipe.encoder).name)
        # The speed of a CPU says nothing about that of a GPU.
        if not found or _kind(found[0]) != _kind(self.executor.device_name()):
            return 0.0
        # A square picture is the largest of its size; better to finish early than late.
        work = megapixel_steps(recipe, 1.0, decision.steps_taken) * self.executor.work_factor(recipe)
        seconds = found[1] * work * self._lanes.at_once
        return seconds if seconds > deadline.left_s else 0.0

    def _submit(self, group: Sequence[Decision], alone: bool) -> None:
        self._lanes.submit([self._begin(decision, alone) for decision in group])

    def _begin(self, decision: Decision, alone: bool) -> Task:
        """Record the attempt on disk, before the job runs: it stays there if a process dies of it."""
        job, key = decision.job, decision.key
        self.runner.announce(job.recipe.encoder)
        self.observer.job_started(job, decision.name)
        if self.planner.has_advanced(key):
            self.ledger.end(key)  # earlier attempts do not count against it
        self.ledger.begin(key, decision.steps_taken)
        self._running[key] = decision
        # A worker could choose another encoder for `auto` than the key was made with.
        encoder = self.executor.encoder_info(job.recipe.encoder).name
        named = replace(job, recipe=job.recipe.model_copy(update={"encoder": encoder}))
        return Task(named, key, {path: self.planner.digests[path] for path in job.input_paths}, alone)

    # While they run, and after

    def _on_step(self, progress: StepProgress) -> None:
        decision = self._running[progress.key]
        if progress.snapshot is not None:
            self.publisher.write_snapshot(decision, progress.step, progress.snapshot)
        self.observer.job_step(decision.name, progress)

    def _end(self, done: Done) -> None:
        """Publish results. A job that may have failed because of the others runs again without them."""
        if isinstance(done.error, WorkerLost):
            for task in done.tasks:
                self._lose(task, done.error, by_itself=task.alone and len(done.tasks) == 1)
        elif done.error is not None:
            raise done.error
        else:
            for task, result in zip(done.tasks, done.results, strict=True):
                decision = self._running.pop(task.key)
                if result.out_of_memory and not task.alone:
                    self.ledger.take_back(task.key)
                    self._waiting.append(decision.job)
                else:
                    self._finish(decision, result, at_once=1 if task.alone else self._lanes.at_once)

    def _lose(self, task: Task, lost: WorkerLost, by_itself: bool) -> None:
        """Let a job that lost its worker run again, unless it did so too often when it ran by itself."""
        decision = self._running.pop(task.key)
        self.observer.worker_lost(decision.job, lost)
        if not by_itself:
            self.ledger.take_back(task.key)
        if self.planner.is_quarantined(task.key):
            error = quarantined_error(decision.job, self.runner.options.max_attempts, lost.message)
            self._count(self.publisher.fail(decision, JobResult.failure(error)))
        else:
            self._waiting.append(decision.job)

    def _finish(self, decision: Decision, result: JobResult, at_once: int) -> None:
        """Publish the result of a job that was one of `at_once` jobs side by side."""
        if result.status == "stopped":
            self.ledger.take_back(decision.key)
            self._count(decision.finished("stopped"))
            return
        try:  # publish first: a picture that took long must not depend on the ledger
            publish = self.publisher.fail if result.status == "failed" else self.publisher.publish
            finished = publish(decision, result)
        finally:
            self.ledger.end(decision.key)
        if finished.status == "done":
            self._note(decision.job, result, at_once)
        self._count(finished)

    def _note(self, job: Job, result: JobResult, at_once: int) -> None:
        encoder = self.executor.encoder_info(job.recipe.encoder)
        self.summary.note(encoder, result)
        work = megapixel_steps(job.recipe, result.width / result.height) * result.work_factor
        if work >= ENOUGH_WORK:
            # The machine's time for one job, of several at once.
            seconds = result.step_seconds / result.micro_batch / at_once
            self.ledger.note_speed(encoder.name, result.device, seconds / work)

    def _count(self, finished: Finished) -> None:
        self.last = finished
        self.summary.count(finished, self.runner.folder.path)
        self.observer.job_finished(finished)


def _kind(device: str) -> str:
    """Return the kind of a device: `cuda` for `cuda:1`."""
    return device.split(":")[0]
