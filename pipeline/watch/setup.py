"""What a daemon works with: what it is given for its whole life, and what a configuration makes of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from ..batch.deadline import Deadline
from ..batch.planner import RunOptions
from ..execution.executors import Executor
from ..spec.config import Config
from ..spec.text import counted
from ..storage.control import Control
from ..storage.files import Disk
from ..storage.ledger import Ledger
from .backlog import Backlog
from .claims import Claims
from .events import Waker
from .folders import Folders
from .heartbeat import Heartbeat
from .intake import Intake
from .originals import Originals
from .owner import Owner
from .processor import Batches, Processor
from .quarantine import Quarantine
from .reading import Reader
from .requests import Requests
from .routes import Router
from .sheets import Sheets
from .watcher import Watcher

MakeExecutor = Callable[[Config, Callable[[], None]], Executor]
Beside = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class WatchOptions:
    """`once`: take what has settled, then end. `flags`: recipe fields that win over all others."""

    once: bool = False
    deadline: Deadline | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What stays the same while a daemon lives.

    `make_executor` gets a configuration, and a function that is called all the time while a job runs.
    `beside` is entered once drops can be taken, and left at the end.
    """

    options: WatchOptions
    ledger: Ledger
    heartbeat: Heartbeat
    waker: Waker
    make_executor: MakeExecutor
    should_stop: Callable[[], bool] = lambda: False
    disk: Disk = field(default_factory=Disk)
    clock: Callable[[], float] = time.monotonic
    sheets: Sheets = field(default_factory=Sheets)
    beside: Beside = nullcontext

    def is_over(self) -> bool:
        """Whether to begin nothing any more."""
        deadline = self.options.deadline
        return self.should_stop() or (deadline is not None and deadline.over)


class Setup:
    """The parts of a daemon that depend on its configuration.

    `tick` is called while the worker works, `beat` while the inputs of jobs are read.
    """

    def __init__(
        self,
        config: Config,
        context: Context,
        owner: Owner,
        backlog: Backlog,
        tick: Callable[[], None],
        beat: Callable[[], None],
    ) -> None:
        watch, options, disk, ledger = config.watch, context.options, context.disk, context.ledger
        heartbeat, notify = context.heartbeat, context.heartbeat.notify

        def should_stop() -> bool:
            beat()
            return context.should_stop() or self.requests.must_stop

        def is_over() -> bool:
            return context.is_over() or self.requests.must_stop

        run_options = RunOptions.of(config, deadline=options.deadline)
        claims = Claims(watch.inbox, watch.archive_dir, disk)
        quarantine = Quarantine.of(watch, disk)
        self.config = config
        self.heartbeat = heartbeat
        self.ledger = ledger
        self.backlog = backlog
        self.router = router = Router(config, options.flags)
        self.folders = Folders(config, owner, disk)
        self.watcher = watcher = Watcher(config, disk, context.waker, notify, context.clock)
        self.executor = executor = context.make_executor(config, tick)
        reader = Reader(watch.inbox, executor, router, ledger, notify, config.max_attempts)
        self.batches = Batches(self.folders, ledger, executor, heartbeat, run_options, should_stop, disk)
        self.originals = Originals(claims, quarantine, ledger, reader, notify, watch.originals)
        control = Control(watch.inbox, disk)
        self.requests = Requests(control, watcher, self.originals, backlog, heartbeat)
        self.intake = Intake(
            watcher, router, reader, self.originals, backlog, self.requests, heartbeat, is_over, options.once
        )
        self.processor = Processor(
            watcher, router, reader, self.batches, self.originals, self.requests, is_over, context.sheets
        )
        self.was_interrupted = False  # by a fault, so that a claim may be anywhere
        self._is_prepared = self._is_announced = False

    def prepare(self) -> None:
        """Make the folders, and resume what an earlier process left claimed."""
        # With a new configuration, a disk may have been unmounted since the last one was used.
        self.folders.check_known(self.ledger.read_daemon(self.config.watch.inbox))
        self.originals.make_folders()
        self.requests.control.make_folder()
        self.folders.mark_outbox()
        self.heartbeat.outbox_marked(self.config.outbox)
        self.batches.repair()
        self._recover()
        self._is_prepared = True
        if count := len(self.backlog.pending):
            text = f"resuming {counted(count, 'file')} claimed before and not finished"
            self.heartbeat.notify("recovered", text, count=count)

    def ensure_ready(self) -> None:
        """Prepare if that was not done; make sure that the folders are there; recover from a fault."""
        if not self._is_prepared:
            self.prepare()
        self.folders.check_there()
        if self.was_interrupted:
            self._recover()

    def _recover(self) -> None:
        left = self.backlog.left
        self.backlog.pending = [claim for claim in self.originals.recover() if claim not in left]
        self.was_interrupted = False

    def announce(self) -> None:
        """Say, once, which encoder and device are used; this also starts the worker."""
        if not self._is_announced:
            self.heartbeat.encoder_chosen(self.executor.encoder_info(self.router.recipe({}).encoder))
            self.heartbeat.device_chosen(self.executor.device_name())
            self._is_announced = True
