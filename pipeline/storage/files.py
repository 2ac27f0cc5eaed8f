"""Operations on files and folders that survive a crash: a file is there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DiskError
from .system import MACHINE_ERRORS, NAME_ERRORS, rename_without_replacing, sync_folder

TEMPORARY_PREFIX = ".unfinished-"
# How much of a file is read at a time to hash it.
HASH_BYTES = 1 << 20


class Disk:
    """Every operation that changes a folder in which files must not be lost.

    The first ones, up to `free_bytes`, are the system's own, and not durable before a `sync`. The others are
    built on them, and durable when they return. Tests use a disk that fails, kills the process or records.
    """

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def write(self, path: Path, data: bytes) -> None:
        """Make a new file."""
        with path.open("xb") as file:
            file.write(data)

    def copy(self, source: Path, target: Path) -> None:
        """Make a new file with another's bytes, and with its times and mode if the disk keeps them."""
        with source.open("rb") as read, target.open("xb") as written:
            shutil.copyfileobj(read, written, 1 << 20)
        with suppress(OSError):  # an extended attribute may be too large, which ends this before the mode
            shutil.copystat(source, target)
        with suppress(OSError):
            shutil.copymode(source, target)

    def set_modified(self, path: Path, modified_ns: int) -> None:
        """Set when a file was last modified, in nanoseconds since 1970; many disks keep less of it."""
        os.utime(path, ns=(path.stat().st_atime_ns, modified_ns))

    def sync(self, path: Path) -> None:
        # Windows syncs only what may be written; elsewhere the file may well be read-only.
        with path.open("r+b" if os.name == "nt" else "rb") as file:
            os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        sync_folder(path)

    def rename(self, source: Path, target: Path) -> None:
        """Move within a file system, in one step.

        Raises:
            FileExistsError: there is something at `target`; it is never replaced.
        """
        rename_without_replacing(source, target)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        with os.scandir(folder) as found:
            return list(found)

    def free_bytes(self, folder: Path) -> int:
        return shutil.disk_usage(folder).free

    def require_free(self, folder: Path, needed: int) -> int:
        """Return how many bytes are free on a folder's disk.

        Raises:
            DiskError: fewer than `needed` are, or the disk is not there.
        """
        with disk_errors(folder):
            free = self.free_bytes(folder)
        if free < needed:
            raise DiskError(
                f"{folder}: {free >> 20} MB free, {needed >> 20} MB needed.", "Free some space on its disk."
            )
        return free

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it."""
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            try:
                self.mkdir(folder)
            except FileExistsError:
                if not folder.is_dir():
                    raise
            self.sync_folder(folder.parent)

    def put(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all; what was there is replaced. For one writer at a time."""
        self.make_folder(path.parent)
        temporary = self._fresh_temporary(path)
        try:
            self.write(temporary, data)
            self.sync(temporary)
            self.replace(temporary, path)
        except Exception:
            self._discard(temporary)
            raise
        self.sync_folder(path.parent)

    def move(self, source: Path, target: Path) -> None:
        """Move a file, from one file system to another if need be: copy, sync, compare, then unlink.

        The same call completes a move that was interrupted once the copy was in place.

        Raises:
            FileExistsError: another file is at `target`.
        """
        source.lstat()  # where a disk was unmounted, no folder is made in its place
        self.make_folder(target.parent)
        try:
            self.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._move_across(source, target)
        self.sync_folder(target.parent)
        self.sync_folder(source.parent)

    def _move_across(self, source: Path, target: Path) -> None:
        if not os.path.lexists(target):
            temporary = self._fresh_temporary(target)
            try:
                self.copy(source, temporary)
                self.sync(temporary)
                if not same_bytes(source, temporary):
                    source.lstat()  # unless it is gone, which is no fault of the disk
                    raise OSError(errno.EIO, "the copy differs from the original", str(temporary))
                self.rename(temporary, target)
            except Exception:
                self._discard(temporary)
                raise
            self.sync_folder(target.parent)
        elif not same_bytes(source, target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        self.unlink(source)

    def remove(self, path: Path) -> None:
        """Delete a file; one that is gone already is fine."""
        with suppress(FileNotFoundError):
            self.unlink(path)
            self.sync_folder(path.parent)

    def remove_empty_folders(self, path: Path, above: Path) -> None:
        """Remove a folder and those above it, up to but not including `above`, while they are empty."""
        if above not in path.parents:
            return
        while path != above:
            try:
                self.rmdir(path)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENAMETOOLONG}:
                    return  # not empty
            path = path.parent

    def _fresh_temporary(self, path: Path) -> Path:
        """Return a free temporary name, the same at every attempt: the next one removes what a crash left."""
        token = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{token}")
        if temporary.exists():
            self.unlink(temporary)
        return temporary

    def _discard(self, temporary: Path) -> None:
        """Clean up after a failure. A file that cannot be removed is harmless: its name is temporary."""
        with suppress(OSError):
            self.unlink(temporary)


def make_private(folder: Path) -> None:
    """Make a folder and missing ones above it for their owner alone; existing ones stay as they are.

    State and cache reveal what someone's pictures look like, and where they are.
    """
    if folder.is_dir():
        return
    make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def disk_errors(
    path: Path | str | None = None, failure: str = "cannot be used", next_step: str = ""
) -> Iterator[None]:
    """Raise a DiskError about `path` for any OSError; without a path, about the file that the error names."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError):
            check = "Check that no file is where a folder should be."
        else:
            check = "Check that the disk is there, writable and not full."
        place = path or error.filename or "A folder"
        raise DiskError(f"{place}: {failure} ({error.strerror or error}).", next_step or check) from error


def parse_json_object(data: bytes | str) -> dict[str, Any]:
    """Return a JSON object; empty if the data is damaged, or something else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_json_object(path: Path | str) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is no such file, or no such object in it.

    Raises:
        OSError: there may be one, and it cannot be read now.
    """
    try:
        with open(path, "rb") as file:
            return parse_json_object(file.read())
    except OSError as error:
        if error.errno in NAME_ERRORS or isinstance(error, FileNotFoundError):
            return {}
        raise


def walk(folder: Path, strict: bool = True) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder, however deep; links are not followed.

    Raises:
        OSError: a folder cannot be read; without `strict` it is skipped.
    """
    todo = [os.fspath(folder)]
    while todo:
        try:
            with os.scandir(todo.pop()) as found:
                entries = list(found)
        except OSError:
            if strict:
                raise
            continue
        todo += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield from entries


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is below a folder once `..` and links are resolved, except in its last part."""
    if path.name in {"", ".."} or "\0" in str(path):
        return False
    try:
        return path.parent.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read it.

    Raises:
        OSError: it cannot be read, or is not a regular file: opening a pipe would wait for its writer.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def sha256_of(path: Path, tick: Callable[[], None]) -> str:
    """Return a regular file's sha256; `tick` is called between reads, and may raise.

    Raises:
        OSError: it cannot be read, or holds more than its size: it grows, or a kernel makes it up.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        left = os.fstat(file.fileno()).st_size
        while data := file.read(HASH_BYTES):
            left -= len(data)
            if left < 0:
                raise OSError(errno.EINVAL, "more than the size of the file", str(path))
            digest.update(data)
            tick()
    return digest.hexdigest()


def inode_of(path: Path) -> int:
    """Return a file's inode, or -1 if it cannot be read."""
    try:
        return path.stat().st_ino
    except OSError:
        return -1


def same_bytes(one: Path, other: Path) -> bool:
    """Return whether two files hold the same bytes; one that cannot be read is no copy.

    Raises:
        OSError: the disk or the system fails.
    """
    try:
        return _sha256(one) == _sha256(other)
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            raise
        return False


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
