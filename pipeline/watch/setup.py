"""What a daemon works with: what it is given for its whole life, and what a configuration makes of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..batch.deadline import Deadline
from ..execution.executors import Executor
from ..spec.config import Config
from ..spec.text import counted
from ..storage.files import Disk
from ..storage.ledger import Ledger
from .batches import Batches
from .claims import Claims
from .events import Waker
from .folders import Folders
from .heartbeat import Heartbeat
from .intake import Backlog, Intake
from .originals import Originals
from .owner import Owner
from .processor import Processor
from .quarantine import Quarantine
from .reading import Reader
from .recovery import recover_claims
from .routes import Router
from .watcher import Watcher

MakeExecutor = Callable[[Config, Callable[[], None]], Executor]


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
    """

    options: WatchOptions
    ledger: Ledger
    heartbeat: Heartbeat
    waker: Waker
    make_executor: MakeExecutor
    should_stop: Callable[[], bool] = lambda: False
    disk: Disk = field(default_factory=Disk)
    clock: Callable[[], float] = time.monotonic

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
            return context.should_stop()

        self.config = config
        self.ledger = ledger
        self.heartbeat = heartbeat
        self.backlog = backlog
        self.folders = Folders(config, owner, disk)
        self.claims = Claims(watch.inbox, watch.archive_dir, disk)
        self.quarantine = Quarantine(watch.inbox, watch.quarantine_dir, disk)
        self.router = router = Router(config, options.flags)
        self.watcher = watcher = Watcher(config, disk, context.waker, notify, context.clock)
        self.executor = executor = context.make_executor(config, tick)
        self.batches = Batches(
            config, self.folders, ledger, executor, heartbeat, options.deadline, should_stop, disk
        )
        reader = Reader(executor, router, ledger, notify, config.max_attempts)
        originals = Originals(self.claims, self.quarantine, ledger, reader, notify, watch.originals)
        self.intake = Intake(
            watcher, router, reader, self.claims, ledger, backlog, context.is_over, by_age=options.once
        )
        self.processor = Processor(
            router, reader, watcher, self.batches, originals, self.folders, context.is_over
        )
        self.was_interrupted = False  # by a fault, so that a claim may be anywhere
        self._is_prepared = self._is_announced = False

    def prepare(self) -> None:
        """Make the folders, and resume what an earlier process left claimed."""
        self.claims.make_folders()
        self.quarantine.make_folder()
        self.folders.mark_outbox()
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
        claimed = recover_claims(self.config.watch.inbox, self.claims, self.quarantine, self.ledger)
        self.backlog.pending = [claim for claim in claimed if claim not in self.backlog.left]
        self.was_interrupted = False

    def announce(self) -> None:
        """Say, once, which encoder and device are used; this also starts the worker."""
        if not self._is_announced:
            self.heartbeat.encoder_chosen(self.executor.encoder_info(self.router.recipe({}).encoder))
            self.heartbeat.device_chosen(self.executor.device_name())
            self._is_announced = True
