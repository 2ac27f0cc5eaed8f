"""Disks that report what is done to them, fail, or end the process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.errors import DiskError
from pipeline.storage.files import Disk, walk

When = Literal["before", "after"]
# Called before and after every operation: when, which, and the paths it was given.
Hook = Callable[[When, str, tuple[Path, ...]], None]

OPERATIONS = (
    "mkdir", "write", "copy", "set_modified", "sync", "sync_folder", "rename", "replace", "unlink", "rmdir",
    "entries", "free_bytes",
)  # fmt: skip


class HookedDisk(Disk):
    """A real disk with a hook around each of the system's operations."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def mkdir(self, path: Path) -> None:
        self._call("mkdir", path)

    def write(self, path: Path, data: bytes) -> None:
        self._call("write", path, data)

    def copy(self, source: Path, target: Path) -> None:
        self._call("copy", source, target)

    def set_modified(self, path: Path, modified_ns: int) -> None:
        self._call("set_modified", path, modified_ns)

    def sync(self, path: Path) -> None:
        self._call("sync", path)

    def sync_folder(self, path: Path) -> None:
        self._call("sync_folder", path)

    def rename(self, source: Path, target: Path) -> None:
        self._call("rename", source, target)

    def replace(self, source: Path, target: Path) -> None:
        self._call("replace", source, target)

    def unlink(self, path: Path) -> None:
        self._call("unlink", path)

    def rmdir(self, path: Path) -> None:
        self._call("rmdir", path)

    def entries(self, folder: Path) -> list[os.DirEntry[str]]:
        found: list[os.DirEntry[str]] = self._call("entries", folder)
        return found

    def free_bytes(self, folder: Path) -> int:
        return int(self._call("free_bytes", folder))

    def _call(self, operation: str, *arguments: Any) -> Any:
        paths = tuple(argument for argument in arguments if isinstance(argument, Path))
        self.hook("before", operation, paths)
        result = getattr(Disk, operation)(self, *arguments)
        self.hook("after", operation, paths)
        return result


@dataclass
class Points:
    """A hook that counts the points it passes, before and after each operation, and acts at one.

    `at` is the number of the point (from 0), or None to count only; `act` is what happens there.
    """

    at: int | None = None
    act: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    passed: list[str] = field(default_factory=list)

    def __call__(self, when: When, operation: str, paths: tuple[Path, ...]) -> None:
        self.reach(f"{when} {operation} {' '.join(path.name for path in paths)}")

    def reach(self, point: str) -> None:
        self.passed.append(point)
        if len(self.passed) - 1 == self.at:
            self.act()


def failing(
    operation: str, number: int = errno.ENOSPC, matches: Callable[[Path], bool] = lambda path: True
) -> Hook:
    """Return a hook that fails every `operation` on a path that `matches`, with the errno `number`."""

    def hook(when: When, name: str, paths: tuple[Path, ...]) -> None:
        if when == "before" and name == operation and any(matches(path) for path in paths):
            raise OSError(number, os.strerror(number), str(paths[0]))

    return hook


@contextmanager
def deep_folders(folder: Path) -> Iterator[Path]:
    """Give a path a thousand folders below one, and remove what is there after: pytest's own way recurses."""
    try:
        yield folder.joinpath(*["d"] * 1_000)
    finally:
        for entry in reversed(list(walk(folder))):
            is_folder = entry.is_dir(follow_symlinks=False)
            (os.rmdir if is_folder else os.unlink)(entry.path)


def fail_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tensors in files be unreadable, as on a disk with a bad sector."""

    def fail(*arguments: object) -> None:
        raise DiskError("a file: cannot be read (Input/output error).")

    monkeypatch.setattr("pipeline.transfer.stored.OpenFile.read", fail)
