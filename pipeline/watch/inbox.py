"""What lies in the watched folder. A scan only reads; it changes nothing."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DiskError
from ..spec.names import reason_beside_a_picture, reason_to_ignore
from ..storage.files import TEMPORARY_PREFIX, Disk
from ..storage.paths import HIDDEN
from .markers import is_marker, marker_name, may_be_marker

STYLES = "styles"  # the style library in the inbox: names, not jobs


@dataclass(frozen=True)
class Identity:
    """What changes when a file does. Times only count as equal or not equal."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def identity_of(path: Path) -> Identity | None:
    """Return a file's identity, or None where there is no such file."""
    try:
        return Identity.of(path.lstat())
    except OSError:
        return None


@dataclass(frozen=True)
class Seen:
    """A regular file. `relative` starts at the inbox and is spelt exactly as on the disk."""

    relative: Path
    identity: Identity


@dataclass(frozen=True)
class Scan:
    """What one scan found, each part in the order of its paths; all paths start at the inbox.

    `styles` are the files of the style library, `ignored` is what is left alone, with the reason,
    `markers` are the files that `marker_path` names, and `stray` are markers whose files are gone.
    """

    files: tuple[Seen, ...] = ()
    styles: tuple[Seen, ...] = ()
    ignored: tuple[tuple[Path, str], ...] = ()
    markers: frozenset[Path] = frozenset()
    stray: frozenset[Path] = frozenset()


def scan_inbox(folder: Path, disk: Disk, ignore: tuple[str, ...] = ()) -> Scan:
    """List everything below `folder`.

    Names that match a pattern of `ignore` are left alone, as are the usual ones. What vanishes during the
    scan is left out.

    Raises:
        DiskError: `folder` itself cannot be read.
    """
    scanner = _Scanner(folder, disk, ignore)
    scanner.scan()
    return Scan(
        tuple(sorted(scanner.files, key=lambda seen: os.fsencode(seen.relative))),
        tuple(sorted(scanner.styles, key=lambda seen: os.fsencode(seen.relative))),
        tuple(sorted(scanner.ignored, key=lambda one: os.fsencode(one[0]))),
        frozenset(scanner.markers),
        frozenset(scanner.stray),
    )


@dataclass
class _Scanner:
    """A walk through the inbox, with what it has found."""

    inbox: Path
    disk: Disk
    ignore: tuple[str, ...]
    files: list[Seen] = field(default_factory=list)
    styles: list[Seen] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)
    markers: list[Path] = field(default_factory=list)
    stray: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=lambda: [Path()])

    def scan(self) -> None:
        while self.folders:
            folder = self.folders.pop()
            entries = self._entries(folder)
            # Those of files that are ignored, or whose status cannot be read now, are in use, too.
            markers = {marker_name(entry.name) for entry in entries}
            for entry in entries:
                self._sort(entry, folder / entry.name, markers)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            return self.disk.entries(self.inbox / folder)
        except OSError as error:
            if folder == Path():
                raise DiskError(
                    f"{self.inbox}: the inbox cannot be read: {error.strerror or error}.",
                    "Make it, mount its disk, or name another folder under 'watch' in config.yaml.",
                ) from error
            if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                self.ignored.append((folder, f"cannot be read: {error.strerror or error}"))
            return []

    def _sort(self, entry: os.DirEntry[str], path: Path, markers: set[str]) -> None:
        """Sort an entry; `markers` are the names of the markers of all files in its folder."""
        if entry.name.startswith(TEMPORARY_PREFIX) or path == Path(HIDDEN):
            return
        try:
            status = entry.stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self.ignored.append((path, f"cannot be read: {error.strerror or error}"))
            return
        if stat.S_ISREG(status.st_mode) and entry.name in markers:
            self.markers.append(path)
        elif stat.S_ISREG(status.st_mode) and may_be_marker(entry.name) and is_marker(self.inbox / path):
            self.stray.append(path)
        elif reason := self._reason_to_ignore(path, status.st_mode):
            self.ignored.append((path, reason))
        elif stat.S_ISDIR(status.st_mode):
            self.folders.append(path)
        else:
            found = self.styles if path.parent == Path(STYLES) else self.files
            found.append(Seen(path, Identity.of(status)))

    def _reason_to_ignore(self, path: Path, mode: int) -> str:
        if stat.S_ISLNK(mode):
            return "a symbolic link"
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return "neither a file nor a folder"
        ignore = () if path == Path(STYLES) else self.ignore
        if reason := reason_to_ignore(path.name, ignore):
            return reason
        if stat.S_ISREG(mode):
            return reason_beside_a_picture(path.name)
        inside = path.parent == Path(STYLES)
        return f"a folder inside {STYLES}: pictures lie directly in {STYLES}" if inside else ""
