"""Reads drops in the worker, which may die of one: attempts are counted on disk, and limited."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..errors import JobError, LockedError, MachineError, PipelineError, WorkerLost
from ..execution.executors import Executor
from ..spec.batches import Batch
from ..spec.text import counted, one_line
from ..storage.ledger import Ledger
from .heartbeat import Notify
from .inbox import Identity
from .routes import Router

T = TypeVar("T")

# Faults that are no drop's own: the machine's, and a worker lost while it did nothing for a drop.
FAULTS = (MachineError, LockedError, WorkerLost)


class StopNow(BaseException):
    """Asked to stop while the worker does something that it cannot be asked to end early."""


@dataclass(frozen=True)
class Reader:
    """Decodes pictures and reads manifests in the worker. A drop that ends it too often is given up."""

    inbox: Path
    executor: Executor
    router: Router
    ledger: Ledger
    notify: Notify
    max_attempts: int

    def style_fault(self, relative: Path, identity: Identity) -> str:
        """Return what is wrong with a picture of the style library, "" if nothing is."""
        try:
            self.check_picture(relative, identity)
        except JobError as error:
            return str(error).removeprefix(f"{self.inbox / relative}: ")
        return ""

    def check_picture(self, relative: Path, identity: Identity) -> None:
        """Decode a picture.

        Raises:
            ImageError: it is no whole picture, or not yet.
            JobError: it ended the worker too often.
        """
        self._read(relative, identity, partial(self.executor.check, self.inbox / relative))

    def read_manifest(self, path: Path, relative: Path, identity: Identity) -> Batch:
        """Read a manifest that lies at `path` and was dropped at `relative`.

        Raises:
            UsageError: there is a mistake in it.
            JobError: it ended the worker too often.
        """
        read = partial(self.executor.call, self.router.read_manifest, path, relative)
        return self._read(relative, identity, read)

    def forget_attempts(self, identity: Identity) -> None:
        """Forget how often reading a file ended the worker."""
        self.ledger.end(_attempts_key(identity))

    def _read(self, relative: Path, identity: Identity, read: Callable[[], T]) -> T:
        key, reason = _attempts_key(identity), ""
        while self.ledger.attempts(key) < self.max_attempts:
            self.ledger.begin(key)
            try:
                found = read()
            except WorkerLost as lost:
                name, reason = one_line(relative), f" {lost.message}"
                self.notify("worker", f"{name}: {lost.message}", path=name)
                continue
            except (MachineError, StopNow):
                self.ledger.take_back(key)
                raise
            except PipelineError:
                self.ledger.end(key)
                raise
            self.ledger.end(key)
            return found
        raise JobError(
            f"{self.inbox / relative}: reading it ended the worker"
            f" {counted(self.max_attempts, 'time')}.{reason}",
            "Copy or export it again.",
        )


def _attempts_key(identity: Identity) -> str:
    """Name a file as it is now, to count attempts at reading it."""
    text = f"read {identity.device} {identity.inode} {identity.size} {identity.mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()
