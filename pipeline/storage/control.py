"""What people ask of the daemon of an inbox: to pause, to give up a drop, to take one first.

Each request is a file in a hidden folder of the inbox. Any process may write one, whether a daemon runs or
not; the daemon obeys it and removes it. A pause lasts as long as its file is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from ..errors import UsageError
from .files import Disk, disk_errors, inode_of, is_inside, read_json_object, walk
from .paths import HIDDEN, claimed_folder, control_folder
from .temporary import published, sweep_unfinished

PAUSED = "paused.json"

RequestKind: TypeAlias = Literal["cancel", "first"]
# The names of a folder's files, with their inodes: equal as long as no request came, went or changed.
Listing: TypeAlias = frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Drop:
    """A dropped picture or manifest that is not finished; `path` is its path in the inbox.

    Once it was taken it has the `id` of its claim, which is enough to name it. `making` is the name of the
    picture that is being made of it now.
    """

    path: str
    id: str = ""
    making: str = ""


@dataclass(frozen=True)
class Request:
    """A request about one drop, by the inode of its file, as another file may get its path. `asked`: when."""

    kind: RequestKind
    path: str
    id: str
    inode: int
    asked: int
    file: Path

    def is_about(self, path: Path, id: str, inode: int) -> bool:
        """Tell whether this is about a file; `id` is that of its claim, "" if it has none."""
        if self.id:
            return self.id == id
        return (self.path, self.inode) == (str(path), inode)


class Control:
    """The requests to the daemon of an inbox, which need not run now. Any number of processes may write them.

    Every method raises DiskError where the system refuses. Those that write raise UsageError in a folder
    that no daemon has watched, as an empty mount point is.
    """

    def __init__(self, inbox: Path, disk: Disk | None = None) -> None:
        self.inbox = inbox
        self.folder = control_folder(inbox)
        self.disk = disk or Disk()

    # The pause

    def pause(self) -> bool:
        """Let the daemon start nothing until `resume`; False if it is paused already."""
        if self.paused_since() is not None:
            return False
        self._put(PAUSED, {"since": time.time()})
        return True

    def resume(self) -> bool:
        """End the pause; False if there is none."""
        if self.paused_since() is None:
            return False
        with self._disk_errors():
            self.disk.remove(self.folder / PAUSED)
        return True

    def paused_since(self) -> float | None:
        """Return when someone paused the daemon, as `time()` has it; None if nobody did."""
        path = self.folder / PAUSED
        with self._disk_errors(), suppress(FileNotFoundError):
            written = path.stat().st_mtime
            since = read_json_object(path).get("since")
            return since if isinstance(since, float) else written
        return None

    # Requests about a drop

    def cancel(self, drop: Drop) -> None:
        """Let the daemon give up a drop and quarantine its original.

        Raises:
            UsageError: there is no such drop any more.
        """
        self._request("cancel", drop)

    def put_first(self, drop: Drop) -> None:
        """Let the daemon take a drop next. The last one asked for comes first.

        Raises:
            UsageError: it is being made already, or there is no such drop any more.
        """
        if drop.making:
            raise UsageError(
                f"{drop.path}: is being made already, as {drop.making}.", "Name a picture that waits."
            )
        self._request("first", drop)

    def withdraw(self, path: str) -> None:
        """Remove every request about a path."""
        for request in self.requests():
            if request.path == path:
                self.remove(request)

    def _request(self, kind: RequestKind, drop: Drop) -> None:
        self.check_watched()
        with self._disk_errors():
            found = _find(self.inbox, drop)
        if found is None:
            raise UsageError(
                f"{drop.path or drop.id}: neither waits nor is being made.", "See `style-pipeline status`."
            )
        digest = hashlib.sha256(os.fsencode(found.id or found.path)).hexdigest()
        facts = {"path": found.path, "id": found.id, "inode": found.inode, "asked": time.time_ns()}
        self._put(f"{kind}-{digest[:16]}.json", facts)

    # For the daemon

    def make_folder(self) -> None:
        """Make the folder, and remove what was left half written in it."""
        with self._disk_errors():
            self.disk.make_folder(self.folder)
            sweep_unfinished(self.folder)

    def listing(self) -> Listing:
        """Return what tells whether anything changed, which is quick."""
        with self._disk_errors(), suppress(FileNotFoundError):
            return frozenset((entry.name, entry.inode()) for entry in self.disk.entries(self.folder))
        return frozenset()

    def requests(self) -> list[Request]:
        """Return every request about a drop, those asked for last first."""
        found = [request for name, _ in self.listing() if (request := self._read(self.folder / name))]
        return sorted(found, key=lambda request: (-request.asked, request.path))

    def is_claimed(self, request: Request) -> bool:
        """Tell whether a request is about a file that was taken and is not finished."""
        with self._disk_errors(), suppress(FileNotFoundError):
            found = _claimed(self.inbox, strict=True)
            return any(request.is_about(Path(one.path), one.id, one.inode) for one in found)
        return False

    def remove(self, request: Request) -> None:
        """Remove a request that was obeyed, or that means nothing any more."""
        with self._disk_errors():
            self.disk.remove(request.file)

    def _read(self, file: Path) -> Request | None:
        """Read a request; None if it was withdrawn just now, or is none."""
        kind = file.name.partition("-")[0]
        if kind not in get_args(RequestKind) or file.suffix != ".json":
            return None
        with self._disk_errors():
            facts = read_json_object(file)
        path, id, inode, asked = (facts.get(key) for key in ("path", "id", "inode", "asked"))
        if not (isinstance(path, str) and _may_be_a_path(path) and isinstance(id, str)):
            return None
        if not (isinstance(inode, int) and isinstance(asked, int)):
            return None
        return Request(cast("RequestKind", kind), path, id, inode, asked, file)

    def _put(self, name: str, facts: dict[str, Any]) -> None:
        self.check_watched()
        with self._disk_errors(), published(self.folder / name) as file:
            file.write((json.dumps(facts) + "\n").encode())  # ASCII: names need not be valid UTF-8

    def check_watched(self) -> None:
        """Refuse to put anything into an inbox that no daemon would recognise."""
        if not (self.inbox / HIDDEN).is_dir():
            raise UsageError(
                f"{self.inbox}: no daemon has watched this folder, or its disk is not mounted.",
                "Start one with `style-pipeline watch`.",
            )

    def _disk_errors(self) -> AbstractContextManager[None]:
        advice = "Run this as the user that the daemon runs as, and check that its disk is not full."
        return disk_errors(self.folder, next_step=advice)


@dataclass(frozen=True)
class _Found:
    """The file of a drop."""

    path: str
    id: str
    inode: int


def _find(inbox: Path, drop: Drop) -> _Found | None:
    """Find the file of a drop. Without an id, one in the inbox comes before one that was taken."""
    if drop.id:
        claimed = (found for found in _claimed(inbox) if found.id == drop.id)
        return next((found for found in claimed if drop.path in {"", found.path}), None)
    claimed = (found for found in _claimed(inbox) if found.path == drop.path)
    return _in_inbox(inbox, drop.path) or next(claimed, None)


def _in_inbox(inbox: Path, path: str) -> _Found | None:
    file = inbox / path
    if not is_inside(file, inbox) or is_inside(file, inbox / HIDDEN):
        return None
    try:
        status = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _Found(path, "", status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _may_be_a_path(text: str) -> bool:
    """Tell whether a file can have this path; for another the system is not even asked (ValueError)."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and bool(Path(text).name)


def _claimed(inbox: Path, strict: bool = False) -> Iterator[_Found]:
    """Find what was taken and is not finished; `strict` and errors as for `walk`."""
    for entry in walk(claimed_folder(inbox), strict):
        file = Path(entry.path)
        id, *parts = file.relative_to(claimed_folder(inbox)).parts
        if parts and entry.is_file(follow_symlinks=False):
            yield _Found(str(Path(*parts)), id, inode_of(file))
