"""What lies in the watched folder, and when a file there has settled. It only looks; it changes nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DiskError
from ..spec.names import reason_beside_a_picture, reason_to_ignore
from ..storage.files import TEMPORARY_PREFIX, Disk, mount_field

HIDDEN = ".style-pipeline"  # our own folder in the inbox: lock, claimed files
STYLES = "styles"  # the style library in the inbox: names, not jobs
MARKER_SUFFIX = ".done"

OBSERVATIONS = 3  # a file needs so many, all alike, to have settled
SHORTEST_WAIT_S = 0.02

LONGEST_NAME = 255  # bytes; the usual limit

_NETWORK = """
    9p acfs afs beegfs ceph cifs coda davfs drvfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs
    prl_fs pvfs2 smb3 smbfs vboxsf virtiofs vmhgfs
"""
_NETWORK_FUSE = """
    beegfs ceph curlftpfs davfs davfs2 glusterfs goofys grpcfuse gvfs-fuse-daemon gvfsd-fuse osxfs rclone
    s3fs sshfs vmhgfs-fuse
"""
NETWORK_FILE_SYSTEMS = frozenset([*_NETWORK.split(), *(f"fuse.{name}" for name in _NETWORK_FUSE.split())])


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
    """The inbox at one look, each part in the order of its paths; all paths start at the inbox.

    `styles` are the files of the style library, `ignored` what is left alone, with the reason, and
    `markers` the files that `marker_path` names.
    """

    files: tuple[Seen, ...] = ()
    styles: tuple[Seen, ...] = ()
    ignored: tuple[tuple[Path, str], ...] = ()
    markers: frozenset[Path] = frozenset()


def marker_path(path: Path) -> Path:
    """Return the hidden file beside `path` that says it is done."""
    name = f".{path.name}{MARKER_SUFFIX}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{MARKER_SUFFIX}"
    return path.with_name(name)


def scan_inbox(folder: Path, disk: Disk, ignore: tuple[str, ...] = ()) -> Scan:
    """Look at everything below `folder`, but for names that fit a pattern of `ignore`, and the usual ones.

    What vanishes meanwhile is not there.

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
    folders: list[Path] = field(default_factory=lambda: [Path()])

    def scan(self) -> None:
        while self.folders:
            folder = self.folders.pop()
            for entry in self._entries(folder):
                self._look_at(entry, folder / entry.name)

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

    def _look_at(self, entry: os.DirEntry[str], path: Path) -> None:
        if entry.name.startswith(TEMPORARY_PREFIX) or path == Path(HIDDEN):
            return
        try:
            status = entry.stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self.ignored.append((path, f"cannot be looked at: {error.strerror or error}"))
            return
        if stat.S_ISREG(status.st_mode) and _is_marker(entry.name):
            self.markers.append(path)
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


def _is_marker(name: str) -> bool:
    return name.startswith(".") and name.endswith(MARKER_SUFFIX) and len(name) > len(MARKER_SUFFIX) + 1


@dataclass
class _Followed:
    """A file with one identity: since when it has it, and when it settled. Times of the clock."""

    seen: Seen
    since: float
    observations: int = 0
    settled: float | None = None
    unreadable: str = ""


class Settling:
    """Follows files until they stop changing.

    A file has settled when it had the same identity in at least three observations, the last of them at
    least `settle_s` seconds after the first, and nobody had it open for writing. `clock` gives seconds that
    never jump (time.monotonic). `is_written` is asked about paths as they stand in `Seen`, and only when
    all else is fulfilled.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        settle_s: float,
        settle_max_s: float,
        is_written: Callable[[Path], bool] = lambda relative: False,
    ) -> None:
        self._clock = clock
        self._settle_s = settle_s
        self._settle_max_s = settle_max_s
        self._is_written = is_written
        self._followed: dict[Path, _Followed] = {}
        self._observed = 0.0

    def observe(self, files: Iterable[Seen]) -> None:
        """Take in one scan. Files that are gone are forgotten, changed ones start again."""
        self._observed = self._clock()
        self._followed = {seen.relative: self._follow(seen) for seen in files}

    def _follow(self, seen: Seen) -> _Followed:
        file = self._followed.get(seen.relative)
        if file is None or file.seen.identity != seen.identity:
            file = _Followed(seen, self._observed)
        file.observations += 1
        if file.settled is None and self._has_been_still(file) and not self._is_written(seen.relative):
            file.settled = self._observed
        return file

    def _has_been_still(self, file: _Followed) -> bool:
        return file.observations >= OBSERVATIONS and self._age(file) >= self._settle_s

    @property
    def quiet(self) -> list[Seen]:
        """The files that have settled and are not set back by `mark_unreadable`, first settled first."""
        settled = [(file.settled, file) for file in self._followed.values() if file.settled is not None]
        settled.sort(key=lambda pair: (pair[0], pair[1].since))
        return [file.seen for _, file in settled if self._is_quiet(file)]

    @property
    def waiting(self) -> int:
        """The number of files that are followed and not quiet."""
        return sum(not self._is_quiet(file) for file in self._followed.values())

    @property
    def unreadable(self) -> dict[Path, str]:
        """The files that were marked unreadable as they are now, with the reasons."""
        return {path: file.unreadable for path, file in self._followed.items() if file.unreadable}

    def next_due_s(self) -> float | None:
        """Seconds until a scan is worth its while: until some file could become quiet, and so often before
        that changes are not missed. None: nothing is waiting."""
        waits = [self._wait(file) for file in self._followed.values() if not self._is_quiet(file)]
        if not waits:
            return None
        return max(SHORTEST_WAIT_S, self._observed + min(waits) - self._clock())

    def _wait(self, file: _Followed) -> float:
        """Seconds from the last observation to the next that matters for this file."""
        if file.settled is not None:
            return self._settle_max_s - self._age(file)
        left = self._settle_s - self._age(file)
        return min(left, self._settle_s / 4) if left > 0 else self._settle_s / 4

    def mark_unreadable(self, seen: Seen, reason: str) -> None:
        """Take a file that is no whole picture out of `quiet`, until it changes or is overdue."""
        if file := self._current(seen):
            file.unreadable = reason

    def overdue(self, seen: Seen) -> bool:
        """Tell whether a file is unchanged for `settle_max_s`: it will not become a whole picture."""
        file = self._current(seen)
        return file is not None and self._age(file) >= self._settle_max_s

    def forget(self, seen: Seen) -> None:
        """Follow a file no longer; if a scan finds it again, it starts again."""
        if self._current(seen):
            del self._followed[seen.relative]

    def _current(self, seen: Seen) -> _Followed | None:
        file = self._followed.get(seen.relative)
        return file if file is not None and file.seen == seen else None

    def _is_quiet(self, file: _Followed) -> bool:
        return file.settled is not None and (not file.unreadable or self._age(file) >= self._settle_max_s)

    def _age(self, file: _Followed) -> float:
        return self._observed - file.since


def is_being_written(path: Path) -> bool:
    """Tell whether some process has a file open for writing. False also where the system cannot tell.

    Linux tells the owner of a file, on local file systems: it grants a read lease where nobody writes. A
    program that opens the file in the microseconds of the lease waits for its end, which comes by itself.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except BlockingIOError:
        return True  # another holds a lease for writing: a file server, for its client
    except OSError:
        return False
    try:
        # The kernel announces a waiting writer by SIGIO, which ends a process, and blocking it here would
        # leave it to our other threads. SIGURG does nothing unless it is asked for.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # not ours, or a file system without leases
    finally:
        os.close(descriptor)
    return False


def is_network_file_system(path: Path) -> bool:
    """Tell whether other machines may change this folder without a word to ours. Only Linux can tell."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.is_file():
        return False
    return file_system_type(path.resolve(), os.fsdecode(mounts.read_bytes())) in NETWORK_FILE_SYSTEMS


def file_system_type(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that an absolute path is on, from Linux' mountinfo; "" if none."""
    best, longest = "", -1
    for line in mountinfo.split("\n"):
        mount, separator, source = line.partition(" - ")
        fields = mount.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(mount_field(fields[4]))
        # Of two mounts on one folder, the later one is seen.
        if path.is_relative_to(point) and len(point.parts) >= longest:
            best, longest = source.split(" ")[0], len(point.parts)
    return best
