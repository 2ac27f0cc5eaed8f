"""The live pictures of running jobs: small files that their processes write, only while someone looks.

Whoever looks touches one file now and then; as soon as that is old, nothing is written any more. The files of
a process lie in a folder of its own beside a lock, which tells whether the process is alive however it ends.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import filelock

from .files import TEMPORARY_PREFIX, disk_errors, make_private, read_json_object
from .locks import is_locked

# How long a look lasts: viewers look again before that.
LOOK_S = 10.0
# A folder without a lock is left alone for this long: its process may be about to lock it.
NEW_S = 60.0
LOCK = "lock"
# The columns of `Live.losses`.
COLUMNS = ("step", "size", "total", "content", "style")


@dataclass(frozen=True)
class Live:
    """A running job as it was a moment ago.

    `name` is the name that it asks for in its batch, and `drop` the id of its claim, if it has one. Levels
    count from 1, `width` and `height` are those of the level. `losses` has a series for each of COLUMNS, with
    the last step at its end. Within a step that takes long, `tile` of its `tiles` are computed. `updated` is
    the `time()` at which this was written. `picture` is the file of the canvas, a JPEG, and `version` changes
    with it.
    """

    key: str
    batch: str
    name: str
    drop: str
    content: Path
    style: str
    styles: tuple[tuple[Path, float], ...]
    level: int
    levels: int
    width: int
    height: int
    step: int
    steps: int
    seconds: float
    left_s: float | None
    losses: Mapping[str, tuple[float, ...]]
    tile: int = 0
    tiles: int = 0
    updated: float = field(default_factory=time.time)
    picture: Path | None = None
    version: int = 0


WRITTEN = {one.name for one in fields(Live)} - {"picture", "version"}


def look(state_dir: Path) -> None:
    """Ask for live pictures for the next LOOK_S seconds.

    Raises:
        DiskError: the folder cannot be written.
    """
    path = _folder(state_dir) / "looked-at"
    with disk_errors(path, "cannot be written", "Run this as the user who makes the pictures."):
        make_private(path.parent)
        path.touch()


def is_looked_at(state_dir: Path) -> bool:
    """Tell whether someone looks now."""
    try:
        looked = (_folder(state_dir) / "looked-at").stat().st_mtime
    except OSError:
        return False
    return abs(time.time() - looked) < LOOK_S


def read_live(state_dir: Path) -> list[Live]:
    """Return the running jobs, as far as they were written while someone looked, by batch and name.

    Raises:
        DiskError: they cannot be read.
    """
    folder = _folder(state_dir)
    with disk_errors(folder, "cannot be read", "Run this as the user who makes the pictures."):
        found = [live for path in _processes(folder) for live in _read_process(path)]
    return sorted(found, key=lambda live: (live.batch, live.name))


class LiveFolder:
    """The live pictures of this process; the folder is made with the first. Errors are those of the disk.

    They are not flushed to the disk: after a crash nobody needs them.
    """

    def __init__(self, state_dir: Path) -> None:
        self.parent = _folder(state_dir)
        self.folder = self.parent / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = filelock.FileLock(self.folder / LOCK)

    def write(self, live: Live, picture: bytes | None) -> None:
        """Replace what is known of a job, and its picture unless that is None."""
        self._open()
        facts = {name: getattr(live, name) for name in WRITTEN}
        facts |= {"content": str(live.content), "losses": dict(live.losses)}
        facts["styles"] = [(str(path), share) for path, share in live.styles]
        if picture is not None:
            self._replace(f"{live.key}.jpg", picture)
        self._replace(f"{live.key}.json", json.dumps(facts).encode())  # ASCII: paths need not be valid UTF-8

    def remove(self, key: str) -> None:
        """Remove a job that has ended."""
        for suffix in (".json", ".jpg"):
            (self.folder / f"{key}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        if self._lock.is_locked:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.release(force=True)

    def _open(self) -> None:
        if self._lock.is_locked:
            return
        make_private(self.folder)
        self._lock.acquire()
        for other in _processes(self.parent):
            _remove_if_left(other)

    def _replace(self, name: str, data: bytes) -> None:
        temporary = self.folder / f"{TEMPORARY_PREFIX}{name}"
        temporary.write_bytes(data)
        os.replace(temporary, self.folder / name)


def _folder(state_dir: Path) -> Path:
    return state_dir / "live"


def _processes(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if path.is_dir()]
    return []


def _read_process(folder: Path) -> Iterator[Live]:
    if not is_locked(folder / LOCK):
        return
    for path in folder.glob("[!.]*.json"):
        facts = read_json_object(path)
        if facts.keys() == WRITTEN:  # else the job has ended just now, or another version of this wrote it
            yield _live(facts, path.with_suffix(".jpg"))


def _remove_if_left(folder: Path) -> None:
    """Remove what a process that was killed left."""
    with suppress(OSError):  # it costs only a little space
        if not is_locked(folder / LOCK) and time.time() - folder.stat().st_mtime > NEW_S:
            shutil.rmtree(folder)


def _live(facts: dict[str, Any], picture: Path) -> Live:
    facts["content"] = Path(facts["content"])
    facts["styles"] = tuple((Path(path), float(share)) for path, share in facts["styles"])
    facts["losses"] = {name: tuple(series) for name, series in facts["losses"].items()}
    try:
        version = picture.stat().st_mtime_ns
    except FileNotFoundError:
        return Live(**facts)
    return Live(**facts, picture=picture, version=version)
