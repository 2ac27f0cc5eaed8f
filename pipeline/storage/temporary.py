"""Files that are written under a temporary name beside their place, by any number of processes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .files import TEMPORARY_PREFIX, disk_errors
from .system import sync_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_RENAME_OPEN_FILES = fcntl is not None  # Windows cannot


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; see `published`.

    Raises:
        DiskError: it cannot be written.
    """
    with disk_errors(path, "cannot be written"), published(path) as file:
        file.write(data)


def check_writable(path: Path) -> None:
    """Check that a file can be written, before anything is computed for it; its folder is made.

    Raises:
        DiskError: it cannot be written.
    """
    with disk_errors(path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.lstat()  # its name may be too long
        with unfinished_file(path.parent):
            pass


@contextmanager
def published(path: Path) -> Iterator[BinaryIO]:
    """Yield a hidden file beside `path`; if the block succeeds, flush it to the disk and rename it.

    Whatever happens, `path` holds its old content or the new, and nothing is left beside it.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_file(path.parent) as (temporary, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        if not CAN_RENAME_OPEN_FILES:
            file.close()
        os.replace(temporary, path)
    sync_folder(path.parent)


@contextmanager
def unfinished_file(folder: Path, prefix: str = TEMPORARY_PREFIX) -> Iterator[tuple[Path, BinaryIO]]:
    """Yield the path of a new hidden file, and the file; whatever is still there at the end is removed.

    It is locked while it is open, so that no sweep takes it for abandoned: rename it before it is closed,
    where the system can.

    Raises:
        OSError: it cannot be made.
    """
    path, file = _create_temporary(folder, prefix)
    try:
        with file:
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def _create_temporary(folder: Path, prefix: str) -> tuple[Path, BinaryIO]:
    while True:
        temporary = folder / f"{prefix}{secrets.token_hex(8)}"
        file = temporary.open("xb")
        with suppress(OSError):  # a file system without locks
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if temporary.exists():
            return temporary, file
        file.close()  # a sweep removed it before it was locked


def sweep_unfinished(folder: Path) -> None:
    """Remove what dead processes left unfinished in a folder that several processes may share."""
    with suppress(OSError):  # the folder cannot be read; what uses it says why
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            remove_unlocked(path)


def remove_unlocked(path: Path) -> None:
    """Remove a file, unless a process holds a lock on it or the system refuses."""
    with suppress(OSError):  # a leftover file only costs space
        _remove_unless_locked(path)


def _remove_unless_locked(path: Path) -> None:
    if not fcntl or path.is_symlink():
        path.unlink(missing_ok=True)  # Windows removes no file that is open
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer holds it
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
