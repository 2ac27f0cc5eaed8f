"""The daemon: it waits for drops, processes one after another, pauses on a fault, and stops when asked to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass

from ..errors import LockedError, MachineError, UsageError
from ..spec.config import Config
from ..spec.text import one_line
from ..storage.files import Disk, disk_errors
from ..storage.ledger import open_ledger
from .backlog import Backlog
from .claims import Claim
from .events import Waker
from .folders import check_apart, check_unmoved
from .heartbeat import BEAT_S, Display, Heartbeat, Notify, Queue
from .intake import Rejected
from .owner import Owner
from .processor import Blocked, Cancelled, Done, Failed, Unfinished
from .reading import FAULTS, StopNow
from .service import ServiceManager
from .setup import Beside, Context, MakeExecutor, Setup, WatchOptions
from .sheets import Renew, Sheets
from .system import is_network_file_system
from .watcher import notify_mode

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
# How long a drop waits for another process that works on its batch.
LOCKED_S = 5.0
DAY_S = 86_400.0
# How long the ledger remembers finished drops.
REMEMBER_S = 30 * DAY_S

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """What a daemon did with the drops it took; `left` were begun or ready, and are not finished.

    `out_of_time`: some of them because of the deadline.
    """

    done: int = 0
    quarantined: int = 0
    left: int = 0
    out_of_time: bool = False
    cancelled: int = 0


@dataclass
class Reload:
    """Passes a new configuration to `use`. `reread` returns one when there is one, and may raise UsageError.

    One that a fault of the machine keeps from being checked is tried again; the old one stays until then.
    """

    reread: Callable[[], Config | None]
    use: Callable[[Config], None]
    notify: Notify
    _wanted: Config | None = None  # read, but not in use yet
    _fault: str = ""

    def if_asked(self) -> bool:
        """Use a new configuration if there is one, and tell whether one is in use now."""
        try:
            with disk_errors():
                self._wanted = self.reread() or self._wanted
                if self._wanted is None:
                    return False
                logger.debug("a new configuration was read")
                self.use(self._wanted)
        except UsageError as error:
            self._wanted = None
            self.notify("reload", f"the old configuration stays: {error}", error=error.message)
            return False
        except MachineError as error:
            if error.message != self._fault:
                text = f"the old configuration stays for now: {error}"
                self.notify("reload", text, error=error.message)
            self._fault = error.message
            return False
        self._wanted, self._fault = None, ""
        return True


class Daemon:
    """The loop. `reread` returns a new configuration when one is asked for, and may raise UsageError.

    It works in one thread: while a job runs in its worker, the worker's ticks keep scanning the inbox.
    """

    def __init__(
        self, config: Config, context: Context, reread: Callable[[], Config | None] = lambda: None
    ) -> None:
        self.context = context
        self.heartbeat = context.heartbeat
        self.waker = context.waker
        self.clock = context.clock
        self.tally = Tally()
        self.backlog = Backlog()
        self.owner = Owner(config.watch.inbox, context.disk)
        self.reload = Reload(reread, self._reconfigure, self.heartbeat.notify)
        self._is_finished = False
        self._is_stopping = False
        self._scan_fault: MachineError | None = None
        self._locked: LockedError | None = None
        self._tidy_at = 0.0
        self.setup = self._set_up(config)

    def run(self) -> Tally:
        """Work until asked to stop, until the deadline, or with `once` until nothing is left to take.

        Raises:
            LockedError: another process watches this inbox.
            MachineError: a fault of the machine at the start, or with `once`; all others are waited out.
        """
        self.setup.folders.check_known(self.context.ledger.read_daemon(self.owner.inbox))
        with self.owner.held():
            try:
                with disk_errors():
                    self.setup.prepare()
                if not self.context.options.once:
                    self._check_sheets()
                with self.context.beside():
                    self._notify_start(self.waker.start())
                    self.heartbeat.service.ready()
                    self._work()
                    self._renew_sheets()
            finally:
                self.heartbeat.service.stopping()
                self.waker.close()
                self.setup.executor.close()
            self._notify_end()
        if self._locked is not None:
            raise self._locked
        return self.tally

    # The loop

    def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_over():
            try:
                with disk_errors():
                    self._step()
                pause_s = FIRST_PAUSE_S
                self.heartbeat.resumed()
            except StopNow:
                return
            except FAULTS as error:
                if self.context.options.once:
                    raise
                self.setup.was_interrupted = True
                self.heartbeat.paused(error)
                logger.debug("the next attempt is in %g s", pause_s)
                self._pause(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _is_over(self) -> bool:
        return self._is_finished or self.context.is_over()

    def _pause(self, seconds: float) -> None:
        """Wait out a fault, with heartbeats; a new configuration ends the pause."""
        until = self.clock() + seconds
        while not self._is_over() and (left := until - self.clock()) > 0:
            self.waker.wait(min(left, BEAT_S))
            self._beat()
            if self.reload.if_asked():
                return

    def _step(self) -> None:
        """Do one thing: use a new configuration, process a drop, or wait for the next."""
        self.reload.if_asked()
        self._tick()
        self._raise_scan_fault()
        setup, once = self.setup, self.context.options.once
        setup.ensure_ready()
        self._forget_old_drops()
        if once and setup.watcher.is_empty and not self.backlog.pending:
            self._is_finished = True  # nothing to do, so the worker need not start
            return
        is_paused = setup.requests.is_paused
        if not once and not is_paused:
            setup.announce()
        self.context.sheets.renew_if_due(setup.executor, setup.config)
        if is_paused:
            setup.executor.close()  # its memory is free meanwhile
        elif (drop := setup.intake.next()) is not None:
            self._process(drop)
            return
        if once and setup.watcher.has_scanned and not setup.watcher.is_still_settling():
            self._is_finished = True
        elif not self._is_over():
            setup.watcher.schedule.wait(BEAT_S)

    def _check_sheets(self) -> None:
        """Let the sheets be renewed that a daemon before this one, which was killed, may have left behind."""
        for name in self.setup.router.batches:
            folder = self.setup.config.outbox / name
            if folder.is_dir():
                self.context.sheets.note_change(folder)

    def _renew_sheets(self) -> None:
        """Renew the sheets of what has changed, before an end that nobody waits for."""
        with suppress(StopNow):
            self._tick()
            self.context.sheets.renew_all(self.setup.executor, self.setup.config)

    def _tick(self) -> None:
        """Scan the inbox if that is due, obey requests, and give a heartbeat; while the worker works, too."""
        if self.context.should_stop():
            if not self._is_stopping:
                self._is_stopping = True
                text = "stopping; what is done is kept; once more to stop at once"
                self.heartbeat.notify("stopping", text)
            if self.heartbeat.running is None:
                raise StopNow  # a running job is stopped by the runner, and leaves a checkpoint
        try:
            self.setup.watcher.scan_if_due()
            self.setup.requests.read()
            self.tally.cancelled += self.setup.requests.obey()
        except MachineError as error:
            self._scan_fault = error  # raised when the job is over
        self._beat()

    def _raise_scan_fault(self) -> None:
        if self._scan_fault is not None:
            fault, self._scan_fault = self._scan_fault, None
            raise fault

    def _beat(self, last: bool = False) -> None:
        watcher, tally = self.setup.watcher, self.tally
        waiting = len(self.backlog) + watcher.settled_count
        queue = Queue(waiting, watcher.settling_count, tally.done, tally.quarantined)
        self.heartbeat.beat(queue, self.waker.alive, watcher.broken, last)

    def _forget_old_drops(self) -> None:
        if self.clock() >= self._tidy_at:
            self._tidy_at = self.clock() + DAY_S
            self.context.ledger.forget_finished(time.time() - REMEMBER_S)

    # One drop

    def _process(self, drop: Claim | Rejected) -> None:
        """Process a drop, and count its outcome."""
        claim = drop.claim if isinstance(drop, Rejected) else drop
        self.heartbeat.working_on(str(claim.relative), claim.id)
        try:
            self.setup.announce()  # with `once` not before: drops that wait for a style need no encoder
            with self.setup.requests.working_on(claim):
                outcome = self.setup.processor.process(drop)
        except StopNow:
            self.backlog.add(claim)  # so that it counts as left
            raise
        match outcome:
            case Blocked(reason, lock):
                self._put_off(claim, reason, lock)
                return
            case Done():
                self.tally.done += 1
            case Failed():
                self.tally.quarantined += 1
            case Cancelled():
                self.tally.cancelled += 1
            case Unfinished(out_of_time):
                self.tally.out_of_time |= out_of_time
                is_paused, once = self.setup.requests.is_paused, self.context.options.once
                if out_of_time or self.context.is_over() or (once and not is_paused):
                    self.backlog.left.append(claim)
                else:
                    self.backlog.pending.insert(0, claim)  # stopped by a pause, which may be over already
        self.setup.watcher.schedule.file_moved_out()

    def _put_off(self, claim: Claim, reason: str, lock: LockedError | None) -> None:
        """Let a claim wait for a style, or for the process that works on its batch; others need not wait."""
        if reason:
            self.setup.intake.notify_waits(claim, reason)
        if lock is None:
            self.backlog.add(claim)
        elif self.context.options.once:
            self.backlog.left.append(claim)
            self._locked = lock
        else:
            self.backlog.add(claim, not_before=self.clock() + LOCKED_S)

    # Configuration

    def _set_up(self, config: Config) -> Setup:
        setup = Setup(config, self.context, self.owner, self.backlog, self._tick, self._beat)
        self.heartbeat.configured(config)
        return setup

    def _reconfigure(self, config: Config) -> None:
        """Use another configuration.

        Raises:
            UsageError: it cannot be used; the one before stays.
        """
        check_unmoved(self.setup.config, config)
        check_apart(config)
        setup = self._set_up(config)
        self.setup.executor.close()
        self.setup = setup
        self.heartbeat.notify("reload", "the configuration was read again")
        if note := self.waker.switch(notify_mode(config.watch)):
            self.heartbeat.notify("events", note)

    # Start and end

    def _notify_start(self, note: str) -> None:
        config, settle_s = self.setup.config, self.setup.watcher.settle_s
        inbox, outbox = one_line(config.watch.inbox), one_line(config.outbox)
        text = f"watching {inbox}; results go to {outbox}; a file settles in {settle_s:g} s"
        self.heartbeat.notify("watching", text, inbox=inbox, outbox=outbox, settle_s=settle_s)
        if note:
            self.heartbeat.notify("events", note)
        if is_network_file_system(config.state_dir):
            place = one_line(config.state_dir)
            text = f"{place}: is on a network share; a ledger is safe on a local disk only"
            self.heartbeat.notify("state", text)

    def _notify_end(self) -> None:
        tally, deadline = self.tally, self.context.options.deadline
        tally.left = len(self.backlog) + self.setup.watcher.left_count
        if deadline is not None and deadline.over and not self._is_finished and tally.left:
            tally.out_of_time = True
        ended = f"{tally.done} done, {tally.quarantined} quarantined"
        ended += f", {tally.cancelled} cancelled" if tally.cancelled else ""
        self.heartbeat.notify(
            "ended", f"ended: {ended}, {tally.left} left for the next time", **asdict(tally)
        )
        self._beat(last=True)


def watch_inbox(
    config: Config,
    options: WatchOptions,
    display: Display,
    make_executor: MakeExecutor,
    waker: Waker,
    should_stop: Callable[[], bool] = lambda: False,
    reread: Callable[[], Config | None] = lambda: None,
    renew_sheet: Renew | None = None,
    beside: Beside = nullcontext,
) -> Tally:
    """Run a daemon with a ledger and a heartbeat of its own. Parameters as for `Context` and `Daemon`.

    Raises:
        UsageError: a folder of the configuration contains another.
        LockedError, MachineError: as `Daemon.run` raises them.
    """
    with disk_errors():
        check_apart(config)
        ledger, note = open_ledger(config.state_dir)
    with closing(ledger), disk_errors():
        heartbeat = Heartbeat(ledger, config, display, ServiceManager())
        if note:
            heartbeat.notify("ledger", note)
        sheets = Sheets(renew_sheet)
        context = Context(
            options,
            ledger,
            heartbeat,
            waker,
            make_executor,
            should_stop,
            Disk(),
            sheets=sheets,
            beside=beside,
        )
        return Daemon(config, context, reread).run()
