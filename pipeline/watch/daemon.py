"""The watched folder as a source of jobs: claim, run, publish, archive, each durable before the next."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..batch.deadline import Deadline
from ..batch.options import RunOptions
from ..batch.runner import Runner
from ..batch.summary import Summary
from ..errors import (
    DiskError,
    ImageError,
    JobError,
    LockedError,
    MachineError,
    PipelineError,
    UsageError,
    WorkerLost,
)
from ..execution.executors import Executor
from ..spec.config import Config
from ..spec.jobs import Job
from ..spec.manifest import Batch
from ..spec.text import counted, shortened
from ..storage.files import MACHINE_ERRORS, Disk, disk_errors, one_line
from ..storage.ledger import DropRow, Ledger, open_ledger
from ..storage.outbox import BatchFolder, batch_names
from .claims import Claim, Claims, new_id
from .events import Waker
from .folders import Folders, check_apart, check_unmoved
from .heartbeat import Display, Heartbeat, Queue
from .inbox import Identity, Seen, identity_of, is_being_written, is_network_file_system
from .owner import Owner
from .routes import Router, Waiting, manifest_jobs
from .service import ServiceManager
from .watcher import Watcher, notify_mode

T = TypeVar("T")

# Longest text in a report, and how many of a batch's failures it lists.
MAX_TEXT, MAX_FAILURES = 20_000, 100
MEND = "Mend it and drop it again."
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
LOCKED_S = 5.0
DAY_S = 86_400.0
# How long the ledger remembers what became of a drop.
REMEMBER_S = 30 * DAY_S

MakeExecutor = Callable[[Config, Callable[[], None]], Executor]


@dataclass(frozen=True)
class WatchOptions:
    """`once`: take what has settled, then end. `flags`: recipe fields that win over all others."""

    once: bool = False
    deadline: Deadline | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Tally:
    """What a daemon did with the drops it took; `left` were begun or ready, and are not finished.

    `out_of_time`: some of them because of the deadline.
    """

    done: int = 0
    quarantined: int = 0
    left: int = 0
    out_of_time: bool = False


# Faults that are no drop's own: the machine's, and a worker lost while it did nothing for a drop.
FAULTS = (MachineError, LockedError, WorkerLost)


class _NotYet(Exception):
    """A file cannot be taken yet."""


class _StopNow(BaseException):
    """Told to stop while the worker does something that it cannot be asked to end early."""


class Daemon:
    """Hands what is dropped into an inbox to the runner, one drop at a time, for ever.

    It works in one thread: while a job runs in its worker, the worker's ticks keep looking at the inbox.
    `make_executor` gets the configuration and the tick. `reread` returns a new configuration when one is
    asked for, and may raise UsageError.
    """

    def __init__(
        self,
        config: Config,
        options: WatchOptions,
        ledger: Ledger,
        make_executor: MakeExecutor,
        heartbeat: Heartbeat,
        waker: Waker,
        should_stop: Callable[[], bool] = lambda: False,
        reread: Callable[[], Config | None] = lambda: None,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.ledger = ledger
        self.make_executor = make_executor
        self.heartbeat = heartbeat
        self.waker = waker
        self.should_stop = should_stop
        self.reread = reread
        self.disk = disk or Disk()
        self.clock = clock
        self.tally = Tally()
        self._wanted: Config | None = None  # read, but not in use yet
        self._reload_fault = ""
        self._finished = False
        self._announced = False
        self._prepared = False
        self._cut_off = False
        self._stopping = False
        self._tidy_at = 0.0
        self._locked: LockedError | None = None
        self._not_before: dict[str, float] = {}  # claims that wait for another process, on our clock
        self._told: set[tuple[str, str]] = set()
        self._pending: list[Claim] = []
        self._read_well: set[Seen] = set()  # manifests without mistakes
        self._later: list[Claim] = []
        self._swept: set[str] = set()
        self._fault: PipelineError | None = None
        self.owner = Owner(config.watch.inbox, self.disk)
        self._configure(config)

    def run(self) -> Tally:
        """Work until told to stop, until the deadline, or with `once` until nothing is left to take.

        Raises:
            LockedError: another process watches this inbox.
            MachineError: a fault of the machine at the start, or with `once`; all others are waited out.
        """
        self.folders.check_known(self.ledger.read_daemon(self.inbox))
        with self.owner.held():
            try:
                with disk_errors():
                    self._prepare()
                self._say_hello(self.waker.start())
                self.heartbeat.ready()
                self._work()
            finally:
                self.heartbeat.stopping()
                self.waker.close()
                self.executor.close()
            self._say_goodbye()
        if self._locked is not None:
            raise self._locked
        return self.tally

    # Life

    def _configure(self, config: Config) -> None:
        self.config = config
        self.inbox = config.watch.inbox
        self.folders = Folders(config, self.owner, self.disk)
        self.router = Router(config, self.options.flags)
        self.claims = Claims(self.inbox, config.watch.archive_dir, config.watch.quarantine_dir, self.disk)
        self.watcher = Watcher(
            config.watch, self.claims, self.disk, self.waker, self.heartbeat.notify, self.clock, config.ignore
        )
        self.executor = self.make_executor(config, self._tick)
        self.heartbeat.configured(config)

    def _prepare(self) -> None:
        """Make the folders, and take up what an earlier process left claimed."""
        self.claims.make_folders()
        self.folders.mark_outbox()
        self._put_batches_right()
        self._take_up()
        self._prepared = True
        if self._pending:
            count = len(self._pending)
            self.heartbeat.notify(
                "recovered", f"{count} claimed before and not finished: going on", count=count
            )

    def _put_batches_right(self) -> None:
        """Publish what dead processes staged, and remove what they left half written, in every batch."""
        for name in batch_names(self.config.outbox):
            with suppress(LockedError), self._runner(name):  # one that is locked is in good hands
                pass

    def _take_up(self) -> None:
        """Go by what lies in the claimed folder, as after a crash: a step may have been cut off anywhere."""
        claimed = self.claims.recover()
        taken = {claim.id for claim in claimed}
        for row in self.ledger.claimed(self.inbox):
            if row.id not in taken:
                self._settle_row(row)
        for claim in claimed:
            self.ledger.claim(claim.id, self.inbox, claim.relative, time.time())
        self._pending = [claim for claim in claimed if claim not in self._later]
        self._cut_off = False

    def _say_hello(self, note: str) -> None:
        inbox, outbox = one_line(self.inbox), one_line(self.config.outbox)
        text = f"watching {inbox}; results go to {outbox}; a file settles in {self.watcher.settle_s:g} s"
        self.heartbeat.notify("watching", text, inbox=inbox, outbox=outbox, settle_s=self.watcher.settle_s)
        if note:
            self.heartbeat.notify("events", note)
        if is_network_file_system(self.config.state_dir):
            place = one_line(self.config.state_dir)
            self.heartbeat.notify(
                "state", f"{place}: is on a network share; a ledger is safe on a local disk only"
            )

    def _say_goodbye(self) -> None:
        tally = self.tally
        tally.left = len(self._pending) + len(self._later) + self.watcher.left_count
        deadline = self.options.deadline
        cut_short = deadline is not None and deadline.over and not self._finished and tally.left > 0
        tally.out_of_time |= cut_short
        text = (
            f"ended: {tally.done} done, {tally.quarantined} quarantined, {tally.left} left for the next time"
        )
        self.heartbeat.notify("ended", text, done=tally.done, quarantined=tally.quarantined, left=tally.left)
        self._beat(last=True)

    def _settle_row(self, drop: DropRow) -> None:
        """A drop that is claimed in the ledger only was never taken, or its last step was not noted."""
        if self.claims.report(drop.id):
            self.ledger.finish(drop.id, "quarantined", time.time())
        elif (self.inbox / drop.path).exists() and not self.claims.is_left(drop.path):
            self.ledger.unclaim(drop.id)
        else:
            self.ledger.finish(drop.id, "done", time.time())

    def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_over():
            try:
                with disk_errors():
                    self._step()
                pause_s = FIRST_PAUSE_S
                self.heartbeat.resumed()
            except _StopNow:
                return
            except FAULTS as error:
                if self.options.once:
                    raise
                self._cut_off = True
                self.heartbeat.paused(error)
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _step(self) -> None:
        """Do one thing: take up a new configuration, a drop, or wait for the next."""
        self._reload()
        self._tick()
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        if not self._prepared:
            self._prepare()
        self.folders.check_there()
        if self._cut_off:
            self._take_up()
        if self.clock() >= self._tidy_at:
            self._tidy_at = self.clock() + DAY_S
            self.ledger.forget_finished(time.time() - REMEMBER_S)
        if self.options.once and self.watcher.is_empty and not self._pending:
            self._finished = True  # nothing to do, so the worker need not start
            return
        if not self._announced:
            self._announce()
        self._judge_styles()
        self._judge_manifests()
        claim = self._next_claim()
        if claim is not None:
            self._process(claim)
        elif self.options.once and self.watcher.looked and not self.watcher.still_settling():
            self._finished = True
        elif not self._is_over():
            self.watcher.wait(self.heartbeat.every_s)

    def _tick(self) -> None:
        """Look at the inbox if it is time to, and give a sign of life. Called while the worker works."""
        if self.should_stop() and not self._stopping:
            self._stopping = True
            self.heartbeat.notify("stopping", "stopping after the current step; once more to stop at once")
        if self.should_stop() and self.heartbeat.running is None:
            raise _StopNow  # a running job is told by the runner, and leaves a checkpoint
        try:
            self.watcher.look_if_due()
        except MachineError as error:
            self._fault = error  # raised when the job is over
        self._beat()

    def _beat(self, last: bool = False) -> None:
        waiting = len(self._pending) + len(self._later) + self.watcher.settled_count
        queue = Queue(waiting, self.watcher.settling_count, self.tally.done, self.tally.quarantined)
        self.heartbeat.beat(queue, self.waker.alive, self.watcher.broken, last)

    def _is_over(self) -> bool:
        deadline = self.options.deadline
        return self._finished or self.should_stop() or (deadline is not None and deadline.over)

    def _sleep(self, seconds: float) -> None:
        """Wait out a fault, with signs of life."""
        until = self.clock() + seconds
        while not self._is_over() and (left := until - self.clock()) > 0:
            self.waker.wait(min(left, self.heartbeat.every_s))
            self._beat()
            if self._reload():
                return

    def _announce(self) -> None:
        """Say which encoder and device are used; this also warms the worker."""
        recipe = self.router.recipe({})
        self.heartbeat.encoder_chosen(self.executor.encoder_info(recipe.encoder))
        self.heartbeat.device_chosen(self.executor.device_name())
        self._announced = True

    def _reload(self) -> bool:
        """Take up a new configuration if there is one; say what is wrong with one that is refused.

        One that a fault of the machine keeps from being checked is tried again; the old one stays till then.
        """
        try:
            with disk_errors():
                self._wanted = self.reread() or self._wanted
                if self._wanted is None:
                    return False
                self._take_up_configuration(self._wanted)
        except UsageError as error:
            self._wanted = None
            self.heartbeat.notify("reload", f"the old configuration stays: {error}")
            return False
        except MachineError as error:
            if error.message != self._reload_fault:
                self.heartbeat.notify("reload", f"the old configuration stays for now: {error}")
            self._reload_fault = error.message
            return False
        self._wanted, self._reload_fault = None, ""
        return True

    def _take_up_configuration(self, config: Config) -> None:
        check_unmoved(self.config, config)
        check_apart(config)
        Router(config, self.options.flags)
        self.executor.close()
        self._announced = False
        self._prepared = False
        self._configure(config)
        self.heartbeat.notify("reload", "the configuration was read again")
        if note := self.waker.switch(notify_mode(config.watch)):
            self.heartbeat.notify("events", note)

    # Taking

    def _judge_styles(self) -> None:
        """Decode what has settled in the style library, so that a stray file there spoils no picture."""
        for seen in self.watcher.unjudged_styles():
            try:
                self.executor.check(self.inbox / seen.relative)
            except (ImageError, WorkerLost) as error:
                self.watcher.judge_style(seen, error.message.removeprefix(f"{self.inbox / seen.relative}: "))
            else:
                self.watcher.judge_style(seen, "")

    def _judge_manifests(self) -> None:
        """Quarantine manifests with mistakes at once, whatever was dropped before them."""
        for seen in self.watcher.ready:
            known = not self.router.is_manifest(seen.relative) or seen in self._read_well
            if known or not self._is_unchanged(seen):
                continue
            if (failure := self._examine(seen)) is not None:
                self._claim_to_quarantine(seen, failure)

    def _next_claim(self) -> Claim | None:
        """Return something to work on: first what was claimed before, then what has settled."""
        for claim in self._pending:
            if self.clock() >= self._not_before.get(claim.id, 0.0) and not self._claim_waits(claim):
                self._pending.remove(claim)
                self._not_before.pop(claim.id, None)
                return claim
        while not self._is_over() and (seen := self.watcher.next_ready()) is not None:
            if reason := self._waits_for(seen.relative):
                self.watcher.say_once(seen.relative, "waits", f"waits: {reason}")
            elif taken := self._take(seen):
                return taken
        return None

    def _claim_waits(self, claim: Claim) -> bool:
        if reason := self._waits_for(claim.relative):
            self._notify_once(claim, f"waits: {reason}")
        return bool(reason)

    def _notify_once(self, claim: Claim, text: str) -> None:
        """Say something of a file that is not in the inbox any more, where the watcher would forget it."""
        name = one_line(claim.relative)
        if (claim.id, text) not in self._told:
            self._told.add((claim.id, text))
            self.heartbeat.notify("waits", f"{name}: {text}", path=name)

    def _waits_for(self, relative: Path) -> str:
        """Return what a picture waits for, a style that has not settled, or ""."""
        if self.router.is_manifest(relative):
            return ""
        plan = self.router.plan(relative, self.watcher.library, self.watcher.known_styles)
        return plan.reason if isinstance(plan, Waiting) else ""

    def _take(self, seen: Seen) -> Claim | None:
        """Claim a settled file if it is a whole picture or a manifest; one past hope is quarantined."""
        if not self._is_unchanged(seen):
            return None
        try:
            failure = self._examine(seen)
        except _NotYet:
            return None
        if failure is not None:
            self._claim_to_quarantine(seen, failure)
            return None
        self._read_well.discard(seen)
        return self._claim(seen)

    def _is_unchanged(self, seen: Seen) -> bool:
        """Tell whether a file was neither taken nor changed since the look that saw it."""
        return identity_of(self.inbox / seen.relative) == seen.identity

    def _claim_to_quarantine(self, seen: Seen, failure: PipelineError) -> None:
        if (claim := self._claim(seen)) is not None:
            self._quarantine(claim, _report("; ".join(failure.lines), failure.next_step or MEND))
            self.watcher.file_moved_out()
            self.ledger.end(_reading_key(seen.identity))

    def _examine(self, seen: Seen) -> PipelineError | None:
        """Decode a picture or read a manifest in the worker; return what is wrong with it for good.

        Raises:
            _NotYet: a picture that may still become whole.
        """
        path = self.inbox / seen.relative
        if self.router.is_manifest(seen.relative):
            if seen in self._read_well:
                return None
            try:
                self._read_manifest(path, seen.relative, seen.identity)
            except FAULTS:
                raise
            except PipelineError as error:
                return error
            self._read_well.add(seen)
            return None
        try:
            self._read(seen.relative, seen.identity, partial(self.executor.check, path))
        except ImageError as error:
            if self.watcher.is_overdue(seen, by_age=self.options.once):
                return error
            reason = error.message.removeprefix(f"{path}: ")
            self.watcher.mark_unreadable(seen, reason)
            self.watcher.say_once(seen.relative, "waits", f"waits to become a whole picture: {reason}")
            raise _NotYet from error
        except JobError as error:
            return error
        return None

    def _read_manifest(self, path: Path, relative: Path, identity: Identity) -> Batch:
        ask = partial(self.executor.call, self.router.read_manifest, path, relative)
        return self._read(relative, identity, ask)

    def _read(self, relative: Path, identity: Identity, ask: Callable[[], T]) -> T:
        """Ask the worker for something that may crash it, and count the attempt.

        Raises:
            JobError: it ended the worker too often.
        """
        key, how, most = _reading_key(identity), "", self.config.max_attempts
        while self.ledger.attempts(key) < most:
            self.ledger.begin(key)
            try:
                answer = ask()
            except WorkerLost as lost:
                name, how = one_line(relative), f" {lost.message}"
                self.heartbeat.notify("worker", f"{name}: {lost.message}", path=name)
                continue
            except (MachineError, _StopNow):
                self.ledger.take_back(key)
                raise
            except PipelineError:
                self.ledger.end(key)
                raise
            self.ledger.end(key)
            return answer
        raise JobError(
            f"{self.inbox / relative}: reading it ended the worker {counted(most, 'time')}.{how}",
            "Copy or export it again.",
        )

    def _claim(self, seen: Seen) -> Claim | None:
        """Move a file out of the inbox, unless it changed at the last moment."""
        if not self._is_unchanged(seen):
            return None
        drop = new_id()
        self.ledger.claim(drop, self.inbox, seen.relative, time.time())
        try:
            claim = self.claims.take(seen.relative, drop)
        except JobError as refused:
            self.ledger.unclaim(drop)
            self.watcher.say_once(seen.relative, "refused", str(refused))
            return None
        self.watcher.forget(seen)
        if claim is None:
            self.ledger.unclaim(drop)
            return None
        before, now = seen.identity, identity_of(claim.path)
        # A move to another file system changes all else.
        same = now is not None and (now.size, now.mtime_ns) == (before.size, before.mtime_ns)
        changed = not same or is_being_written(claim.path)
        if changed and self.claims.put_back(claim):
            self.ledger.unclaim(drop)
            return None
        return claim

    # Working

    def _process(self, claim: Claim) -> None:
        """Run a claim's jobs, then bring its original to its last place."""
        try:
            outcome = self._outcome(claim)
        except _NotYet:
            self._pending.append(claim)
            return
        except _StopNow:
            self._pending.append(claim)  # so that it counts as left
            raise
        except LockedError as error:
            self._wait_for_lock(claim, error)
            return
        if isinstance(outcome, dict) or outcome.failed:
            self.folders.check_there()  # else it may have failed because they went away
        self._finish(claim, outcome)
        self.watcher.file_moved_out()

    def _wait_for_lock(self, claim: Claim, error: LockedError) -> None:
        """Another process works on the batch of this drop; the others need not wait."""
        self._notify_once(claim, f"waits: {error.message}")
        if self.options.once:
            self._later.append(claim)
            self._locked = error
        else:
            self._pending.append(claim)
            self._not_before[claim.id] = self.clock() + LOCKED_S

    def _outcome(self, claim: Claim) -> Summary | dict[str, Any]:
        """Return what came of a claim's jobs, or the report of why it is quarantined."""
        if report := self.claims.report(claim.id):
            return report  # decided before this process began
        try:
            return self._run_jobs(claim)
        except (*FAULTS, _NotYet):
            raise
        except PipelineError as error:
            return _report("; ".join(error.lines), error.next_step or MEND)
        except Exception as error:  # a fault of ours: the other drops still get their turn
            if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
                raise
            return _report(
                f"{self.inbox / claim.relative}: unexpected {type(error).__name__}: {error}",
                "This is a fault in style-pipeline; please report it with this file's error.json.",
                details=traceback.format_exc(),
            )

    def _run_jobs(self, claim: Claim) -> Summary:
        if self.router.is_manifest(claim.relative):
            identity = identity_of(claim.path)
            if identity is None:
                raise DiskError(f"{claim.path}: is gone.", "Mount its disk again.")
            batch = self._read_manifest(claim.path, claim.relative, identity)
            with self._runner(batch.name) as runner:
                return runner.run(partial(manifest_jobs, batch, claim), len(batch))
        plan = self.router.plan(claim.relative, self.watcher.library, self.watcher.known_styles)
        if isinstance(plan, Waiting):
            raise _NotYet
        summary = Summary(plan.batch, len(plan.styles))
        with self._runner(plan.batch) as runner:
            for job in plan.jobs(claim, self.inbox):
                if self._is_over():
                    summary.stopped = True
                    break
                self._check_styles(claim, job)
                if runner.run_job(job, summary).status == "failed":
                    self._check_styles(claim, job)  # one that is just being replaced is no picture's fault
        return summary

    def _check_styles(self, claim: Claim, job: Job) -> None:
        """Let a picture wait whose style is not the file any more that has settled."""
        if not all(self.watcher.is_settled_style(path) for path, _ in job.style.images):
            self.watcher.look()
            self._claim_waits(claim)  # to say so
            raise _NotYet

    @contextmanager
    def _runner(self, batch: str) -> Iterator[Runner]:
        folder = BatchFolder(self.config.outbox, batch, self.disk)
        config = self.config
        self.folders.check_outbox()
        for drop, key in folder.staged_drops():
            # They will now be published, and may be fetched before anyone could see that they were.
            self.ledger.note_staged(drop, key)
        options = RunOptions(False, config.max_failures, config.max_attempts, self.options.deadline)
        with folder.locked(sweep=batch not in self._swept):
            self.folders.check_outbox()  # again: a disk that went away just now left an empty folder
            self._notify_left_alone(folder)
            self._swept.add(batch)
            yield Runner(folder, self.ledger, self.executor, self.heartbeat, options, self._asked_to_stop)

    def _asked_to_stop(self) -> bool:
        """Tell whether to stop, with a sign of life: the runner asks while it reads inputs."""
        self._beat()
        return self.should_stop()

    def _notify_left_alone(self, folder: BatchFolder) -> None:
        for text in folder.left_alone:
            if ("", text) not in self._told:
                self._told.add(("", text))
                self.heartbeat.notify("ignored", one_line(text))

    def _finish(self, claim: Claim, outcome: Summary | dict[str, Any]) -> None:
        if isinstance(outcome, dict):
            self._quarantine(claim, outcome)
        elif outcome.stopped or outcome.postponed:
            self.tally.out_of_time |= outcome.postponed > 0
            self._later.append(claim)
        elif outcome.failed:
            self._quarantine(claim, _report_of(outcome))
        else:
            self._complete(claim)

    def _complete(self, claim: Claim) -> None:
        originals = self.config.watch.originals
        if originals == "archive":
            self.claims.archive(claim)
        elif originals == "leave":
            self.claims.leave(claim)
        else:
            self.claims.delete(claim)
        self.ledger.finish(claim.id, "done", time.time())
        self.tally.done += 1

    def _quarantine(self, claim: Claim, report: dict[str, Any]) -> None:
        identity = identity_of(claim.path)
        name, place = one_line(claim.relative), self.claims.quarantine(claim, report)
        self.ledger.finish(claim.id, "quarantined", time.time())
        if identity is not None:
            self.ledger.end(_reading_key(identity))
        self.tally.quarantined += 1
        reason = _sentence(report["error"].removeprefix(f"{self.inbox / claim.relative}: "))
        self.heartbeat.notify(
            "quarantined",
            f"quarantined {name}: {reason} It is in {one_line(place)}. {report['next_step']}",
            path=name,
            id=claim.id,
            error=report["error"],
            next_step=report["next_step"],
            where=one_line(place),
        )


def watch_inbox(
    config: Config,
    options: WatchOptions,
    display: Display,
    make_executor: MakeExecutor,
    waker: Waker,
    should_stop: Callable[[], bool] = lambda: False,
    reread: Callable[[], Config | None] = lambda: None,
    disk: Disk | None = None,
) -> Tally:
    """Run a daemon with a ledger and a heartbeat of its own. Parameters and errors as for `Daemon`."""
    with disk_errors():
        check_apart(config)
        ledger, note = open_ledger(config.state_dir)
    with closing(ledger), disk_errors():
        heartbeat = Heartbeat(ledger, config, display, ServiceManager())
        if note:
            heartbeat.notify("ledger", note)
        daemon = Daemon(config, options, ledger, make_executor, heartbeat, waker, should_stop, reread, disk)
        return daemon.run()


def _reading_key(identity: Identity) -> str:
    """Name a file as it is now, to count how often reading it ended the worker."""
    text = f"read {identity.device} {identity.inode} {identity.size} {identity.mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()


def _report(error: str, next_step: str, **more: Any) -> dict[str, Any]:
    report = {"error": error, "next_step": next_step, "keys": [], **more}
    return {key: shortened(text, MAX_TEXT) if isinstance(text, str) else text for key, text in report.items()}


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _report_of(summary: Summary) -> dict[str, Any]:
    """Tell of the jobs that failed; `retry` lets those with these keys be tried again."""
    first = summary.failures[0]
    more = f" (and {summary.failed - 1} more)" if summary.failed > 1 else ""
    keys = [failure["key"] for failure in summary.failures if failure["key"]]
    report = _report(first["error"] + more, first["next_step"])
    return {**report, "keys": keys, "failures": summary.failures[:MAX_FAILURES]}
