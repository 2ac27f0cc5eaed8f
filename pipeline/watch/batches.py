"""Opens the batches that drops belong to, each for as long as its lock is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..batch.deadline import Deadline
from ..batch.options import RunOptions
from ..batch.runner import Runner
from ..errors import LockedError
from ..execution.executors import Executor
from ..spec.config import Config
from ..storage.files import Disk, one_line
from ..storage.ledger import Ledger
from ..storage.outbox import BatchFolder, batch_names
from .folders import Folders
from .heartbeat import Heartbeat


class Batches:
    """The batches of an outbox. `should_stop` is asked while jobs run, and while their inputs are read."""

    def __init__(
        self,
        config: Config,
        folders: Folders,
        ledger: Ledger,
        executor: Executor,
        heartbeat: Heartbeat,
        deadline: Deadline | None,
        should_stop: Callable[[], bool],
        disk: Disk,
    ) -> None:
        self.outbox = config.outbox
        self.options = RunOptions(
            max_failures=config.max_failures, max_attempts=config.max_attempts, deadline=deadline
        )
        self.folders = folders
        self.ledger = ledger
        self.executor = executor
        self.heartbeat = heartbeat
        self.should_stop = should_stop
        self.disk = disk
        self._swept: set[str] = set()
        self._notified: set[str] = set()

    def repair(self) -> None:
        """Publish what dead processes staged, and remove what they left half written, in every batch."""
        for name in batch_names(self.outbox):
            with suppress(LockedError), self.runner(name):  # whoever holds the lock does it
                pass

    @contextmanager
    def runner(self, batch: str) -> Iterator[Runner]:
        """Give a runner for a batch while its lock is held.

        Raises:
            LockedError: another process works on it.
            DiskError: its folder cannot be used.
        """
        folder = BatchFolder(self.outbox, batch, self.disk)
        self.folders.check_outbox()
        for drop, key in folder.staged_drops():
            # They will now be published, and may be fetched before anyone could see that they were.
            self.ledger.note_staged(drop, key)
        with folder.locked(sweep=batch not in self._swept):
            self.folders.check_outbox()  # again: a disk that went away just now left an empty folder
            self._notify_left_alone(folder)
            self._swept.add(batch)
            yield Runner(folder, self.ledger, self.executor, self.heartbeat, self.options, self.should_stop)

    def _notify_left_alone(self, folder: BatchFolder) -> None:
        for text in folder.left_alone:
            if text not in self._notified:
                self._notified.add(text)
                self.heartbeat.notify("ignored", one_line(text))
