"""The results of an outbox, newest first. Each record is read once, and again only when it changed."""

from __future__ import annotations

import bisect
import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..storage.files import disk_errors
from ..storage.paths import OLDER, BatchPaths
from .records import MOST_PICTURES, Picture, read_picture

# A folder that changed within this many seconds may change again without another time of modification.
UNSURE_S = 3.0

# When a file was written, its size and its inode: another file has others.
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Result:
    """A job that is done or failed: what a list of pictures shows of it.

    `id` tells it from all others of the outbox. `version` changes with its record, and orders results.
    """

    id: str
    batch: str
    name: str
    is_done: bool
    version: int
    image: str
    content: str
    style: str
    styles: int
    width: int
    height: int
    seconds: float
    finished: str
    drop: str
    error: str
    next_step: str

    @property
    def place(self) -> tuple[int, str]:
        """Where it comes in the order from old to new."""
        return self.version, self.id


def result_of(batch: str, picture: Picture, version: int) -> Result:
    """Return what a list shows of a job."""
    content = Path(picture.content.path).name if picture.content else ""
    return Result(
        id=result_id(batch, picture.name),
        batch=batch,
        name=picture.name,
        is_done=picture.status != "failed",
        version=version,
        image=picture.image,
        content=content,
        style=picture.style,
        styles=len(picture.styles),
        width=picture.width,
        height=picture.height,
        seconds=picture.seconds,
        finished=picture.finished,
        drop=picture.drop,
        error=picture.error,
        next_step=picture.next_step,
    )


def result_id(batch: str, name: str) -> str:
    """Return the id of a result; it says nothing about where the result lies."""
    return hashlib.sha256(f"{batch}/{name}".encode(errors="surrogateescape")).hexdigest()[:24]


class Results:
    """An index of the results in an outbox. Used by one thread at a time."""

    def __init__(self, outbox: Path, most: int = MOST_PICTURES) -> None:
        self.outbox = outbox
        self.most = most
        self._batches: dict[str, _BatchIndex] = {}
        self._by_id: dict[str, Result] = {}
        self._done: list[Result] = []  # from old to new, as are those that failed
        self._failed: list[Result] = []
        self._is_stale = True  # some batch has changed since the last time

    def refresh(self) -> None:
        """Read what has changed.

        Raises:
            DiskError: the outbox cannot be read. What was read counts the next time.
        """
        with disk_errors(self.outbox, "cannot be read"):
            names = _batch_folders(self.outbox)
            for gone in self._batches.keys() - set(names):
                del self._batches[gone]
                self._is_stale = True
            for name in names:
                batch = self._batches.setdefault(name, _BatchIndex(self.outbox / name))
                self._is_stale |= batch.refresh(self.most)
        if self._is_stale:
            self._sort()

    def _sort(self) -> None:
        found = (result for batch in self._batches.values() for result in batch.results.values())
        newest = sorted(found, key=lambda result: result.place)[-self.most :]
        self._by_id = {result.id: result for result in newest}
        self._done = [result for result in newest if result.is_done]
        self._failed = [result for result in newest if not result.is_done]
        self._is_stale = False

    def get(self, id: str) -> Result | None:
        return self._by_id.get(id)

    @property
    def done_count(self) -> int:
        return len(self._done)

    @property
    def failed(self) -> list[Result]:
        """The results that failed, newest first."""
        return self._failed[::-1]

    def done(self, most: int, before: str = "") -> tuple[list[Result], str]:
        """Return the newest results that are done, or those `before` a mark, and the mark of the next ones.

        Raises:
            ValueError: `before` is no mark.
        """
        end = len(self._done)
        if before:
            version, _, id = before.partition("-")
            end = bisect.bisect_left(self._done, (int(version), id), key=lambda result: result.place)
        page = list(islice(reversed(self._done[:end]), most))
        more = end > len(page) and bool(page)
        return page, f"{page[-1].version}-{page[-1].id}" if more else ""

    def read(self, result: Result) -> Picture | None:
        """Read all about a result; None if it is not there any more.

        Raises:
            DiskError: it cannot be read.
        """
        paths = self.paths(result)
        with disk_errors(paths.folder, "cannot be read"), suppress(FileNotFoundError, ValueError):
            return read_picture(paths, result.name)
        return None

    def paths(self, result: Result) -> BatchPaths:
        return BatchPaths(self.outbox / result.batch)


def _batch_folders(outbox: Path) -> list[str]:
    """Return the names of the folders in an outbox that have records."""
    if not outbox.is_dir():
        return []
    with os.scandir(outbox) as found:
        names = [entry.name for entry in found if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(name for name in names if (outbox / name / "logs").is_dir())


class _BatchIndex:
    """The results of one batch, by their names."""

    def __init__(self, folder: Path) -> None:
        self.paths = BatchPaths(folder)
        self.results: dict[str, Result] = {}
        self._records = _Tree(self.paths.logs, ".json")
        self._images = _Tree(folder)
        # What was read of each record, by the names of the jobs; None: it is not a record.
        self._read: dict[str, tuple[Stamp, Result | None]] = {}
        self._is_stale = True  # a file has changed since the last time

    def refresh(self, most: int) -> bool:
        """Read what has changed; return whether anything has."""
        for tree in (self._records, self._images):
            self._is_stale |= tree.refresh()
        if not self._is_stale:
            return False
        stamps = {path.removesuffix(".json"): stamp for path, stamp in self._records.files.items()}
        newest = sorted(stamps, key=lambda name: stamps[name])[-most:]
        self._read = {name: self._read_if_changed(name, stamps[name]) for name in newest}
        images = self._images.files
        self.results = {
            name: result
            for name, (_, result) in self._read.items()
            if result is not None and (result.image in images or not result.is_done)
        }
        self._is_stale = False
        return True

    def _read_if_changed(self, name: str, stamp: Stamp) -> tuple[Stamp, Result | None]:
        known_stamp, known = self._read.get(name, (None, None))
        if known_stamp == stamp and (known is None or known.image or not known.is_done):
            return stamp, known
        try:  # one whose picture was away is read again, too
            picture = read_picture(self.paths, name, with_curves=False)
        except (ValueError, FileNotFoundError):
            return stamp, None
        return stamp, result_of(self.paths.folder.name, picture, stamp[0])


class _Tree:
    """The files of a suffix below a folder. Folders that did not change are not read again."""

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.folder = folder
        self.suffix = suffix
        self.files: dict[str, Stamp] = {}  # by their paths below the folder
        self._folders: dict[str, _Listing] = {}

    def refresh(self) -> bool:
        """Read what has changed; return whether anything has."""
        folders: dict[str, _Listing] = {}
        todo = [""]
        while todo:
            path = todo.pop()
            if (listing := self._list(path)) is not None:
                folders[path] = listing
                todo += [f"{path}{name}/" for name in listing.folders]
        if folders == self._folders:
            return False
        self._folders = folders
        self.files = {
            f"{path}{name}": stamp
            for path, listing in folders.items()
            for name, stamp in listing.files.items()
        }
        return True

    def _list(self, path: str) -> _Listing | None:
        """List a folder of the tree; None if it is not there any more."""
        folder, known = f"{self.folder}/{path}", self._folders.get(path)
        try:
            modified = os.stat(folder).st_mtime_ns
            if known is not None and known.modified == modified and not known.is_unsure:
                return known
            is_unsure = abs(time.time() - modified / 1e9) < UNSURE_S
            listing = _Listing(modified, is_unsure)
            with os.scandir(folder) as found:
                for entry in found:
                    self._sort(entry, path, listing)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return listing

    def _sort(self, entry: os.DirEntry[str], path: str, listing: _Listing) -> None:
        if entry.name.startswith("."):
            return
        if entry.is_dir(follow_symlinks=False):
            if path or entry.name not in {OLDER, "logs"}:
                listing.folders.append(entry.name)
        elif entry.name.endswith(self.suffix):
            with suppress(FileNotFoundError):  # gone again, or a link to nothing
                status = entry.stat()
                listing.files[entry.name] = (status.st_mtime_ns, status.st_size, status.st_ino)


@dataclass
class _Listing:
    """What is in a folder. `is_unsure`: it had just changed, and the next change may leave the same time."""

    modified: int = field(compare=False)
    is_unsure: bool = field(compare=False)
    files: dict[str, Stamp] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
