"""One owner for an inbox: a kernel lock that ends with the process, however it ends."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from ..errors import DiskError, LockedError
from ..storage.files import Disk, disk_errors, inode_of, read_json_object
from ..storage.locks import is_locked
from ..storage.paths import HIDDEN

# `status` holds the lock for a moment to test it; an owner that starts just then waits for that.
PATIENCE_S = 0.5


class Owner:
    """Holds an inbox. Its lock file also distinguishes the watched folder from an empty mount point."""

    def __init__(self, inbox: Path, disk: Disk) -> None:
        self.inbox = inbox
        self.disk = disk
        self.lock_path = inbox / HIDDEN / "lock"
        self._lock = filelock.FileLock(self.lock_path, timeout=PATIENCE_S)
        self._inode = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the inbox for this process.

        Raises:
            LockedError: another process does.
            DiskError: the folder cannot be used.
        """
        self.take()
        try:
            yield
        finally:
            self._lock.release(force=True)

    def take(self) -> None:
        """Take the lock, again if need be: the folder may have been replaced. Errors as for `held`."""
        self._lock.release(force=True)
        with disk_errors(self.inbox, next_step="Check the path, or mount it."):
            self.disk.make_folder(self.lock_path.parent)
            try:
                self._lock.acquire()
            except filelock.Timeout as error:
                raise LockedError(
                    f"{self.inbox}: {_named(self.holder())} is watching it.",
                    "You need not do anything: that process takes what is dropped there.",
                ) from error
            self._inode = inode_of(self.lock_path)
            self.disk.put(self.lock_path.with_name("holder.json"), json.dumps(_holder()).encode())

    def check(self) -> None:
        """Make sure that the folder is still the one that was taken; take it again if it is one of ours.

        Raises:
            DiskError: it was unmounted, removed or recreated.
            LockedError: another process took it meanwhile.
        """
        if inode_of(self.lock_path) == self._inode:
            return
        if self.lock_path.parent.is_dir():
            return self.take()
        raise replaced_error(self.inbox)

    def holder(self) -> dict[str, Any]:
        """Return what the present or last holder wrote about itself: pid, host, since."""
        with suppress(OSError):
            return read_json_object(self.lock_path.with_name("holder.json"))
        return {}

    def is_held(self) -> bool:
        """Tell whether any process holds the inbox now."""
        advice = "Run this as the user that the daemon runs as."
        with disk_errors(self.lock_path, "its holder cannot be determined", advice):
            return is_locked(self.lock_path)


def replaced_error(folder: Path) -> DiskError:
    """Return the error of an inbox or outbox that lacks the folder with which it was marked."""
    return DiskError(
        f"{folder}: is not the folder used before (unmounted, emptied or replaced).",
        f"Mount it again; if it was recreated on purpose, `mkdir -p {folder / HIDDEN}`.",
    )


def _holder() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"
