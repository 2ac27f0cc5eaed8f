"""Files taken from the inbox: claimed by a rename, then moved to the archive or to quarantine.

A claimed file lies at `claimed/ID/` followed by its path in the inbox, so that nothing else need be
remembered: with the ledger gone, the folder itself says what was claimed and where it came from. Its bytes
are always in exactly one of inbox, claimed, archive and quarantine.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import DiskError, JobError, UsageError
from ..spec.names import composed
from ..storage.files import (
    NAME_ERRORS,
    TEMPORARY_PREFIX,
    Disk,
    disk_errors,
    is_inside,
    read_json_object,
    same_bytes,
    walk,
)
from .inbox import HIDDEN, STYLES, Identity, marker_path

ERROR_NAME = "error.json"


@dataclass(frozen=True)
class Claim:
    """A file taken from the inbox; `relative` is its path there."""

    id: str
    relative: Path
    path: Path

    @property
    def folder(self) -> Path:
        """What stands for the inbox while the file is claimed."""
        return self.path.parents[len(self.relative.parts) - 1]


@dataclass(frozen=True)
class Quarantined:
    """A quarantined file; its error.json has `path` in the inbox, `error`, `next_step`, `keys`."""

    id: str
    file: Path
    report: Mapping[str, Any]

    def answers_to(self, name: str) -> bool:
        """Tell whether a name means this file: its id or the beginning of that, its name or its path."""
        names = {composed(self.file.name), composed(str(self.report["path"]))}
        return bool(name) and (self.id.startswith(name) or composed(name) in names)


class Claims:
    """Moves files between the inbox, its claimed folder, the archive and quarantine, durably.

    Every method raises DiskError where the system refuses; `recover` then tells how far it came.
    """

    def __init__(self, inbox: Path, archive: Path, quarantine: Path, disk: Disk) -> None:
        self.inbox = inbox
        self.archive_folder = archive
        self.quarantine_folder = quarantine
        self.claimed_folder = inbox / HIDDEN / "claimed"
        self.disk = disk

    def make_folders(self) -> None:
        library = self.inbox / STYLES
        for folder in (self.claimed_folder, library, self.archive_folder, self.quarantine_folder):
            with disk_errors(folder):
                self.disk.make_folder(folder)

    def take(self, relative: Path, id: str) -> Claim | None:
        """Take a file from the inbox; None where someone else was quicker.

        Raises:
            JobError: this file cannot be moved; others may.
            DiskError: nothing can.
        """
        claim = Claim(id, relative, self.claimed_folder / id / relative)
        with disk_errors(self.inbox):
            try:
                self.disk.move(self.inbox / relative, claim.path)
            except FileNotFoundError:
                self._clean(claim)
                return None
            except PermissionError as error:
                self._clean(claim)
                if os.path.lexists(claim.path):
                    raise  # it was taken; only what comes after that failed
                raise JobError(
                    f"{self.inbox / relative}: cannot be taken ({error.strerror}).",
                    "Let this program write to the folder that it is in.",
                ) from error
            except OSError as error:
                if error.errno not in NAME_ERRORS or os.path.lexists(claim.path):
                    raise
                self._clean(claim)
                raise JobError(
                    f"{self.inbox / relative}: cannot be taken ({error.strerror}).",
                    "Put it under a shorter name in a folder nearer to the inbox.",
                ) from error
        return claim

    def put_back(self, claim: Claim) -> bool:
        """Return a file to its place in the inbox; False where there is another by now."""
        with disk_errors(self.inbox):
            try:
                self.disk.move(claim.path, self.inbox / claim.relative)
            except OSError as error:
                if error.errno not in NAME_ERRORS:
                    raise
                return False
            self._clean(claim)
        return True

    def recover(self) -> list[Claim]:
        """Return every claimed file, in the order of their ids, and end what was cut off.

        Folders left empty are removed, and so is an original whose copy is claimed already.
        """
        claims = []
        with disk_errors(self.claimed_folder):
            self.disk.make_folder(self.claimed_folder)
            entries = sorted(self.disk.entries(self.claimed_folder), key=lambda entry: entry.name)
            for root in (Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)):
                below = [Path(found.path) for found in walk(root) if not found.is_dir(follow_symlinks=False)]
                files = sorted(below)
                for copy in [path for path in files if path.name.startswith(TEMPORARY_PREFIX)]:
                    self.disk.remove(copy)  # of a file that never left its place
                    files.remove(copy)
                claims += [Claim(root.name, path.relative_to(root), path) for path in files]
                for path in files:
                    self._remove_copied(self.inbox / path.relative_to(root), path)
                if not files:
                    self._remove_tree(root)
        return claims

    def archive(self, claim: Claim) -> Path:
        """Move a finished original to the archive, under its own path; where that is taken, with its id."""
        stem, suffix = claim.relative.stem, claim.relative.suffix
        with_id = claim.relative.with_name(f"{stem}-{claim.id}{suffix}")
        by_id = (Path(claim.id, claim.relative.name), Path(claim.id, f"original{suffix}"))
        for place in (claim.relative, with_id, *by_id):
            target = self.archive_folder / place
            with disk_errors(self.archive_folder):
                try:
                    self.disk.move(claim.path, target)
                except OSError as error:
                    if error.errno not in NAME_ERRORS:
                        raise
                    continue
                self._clean(claim)
                self._drop_report(claim)
                return target
        raise DiskError(f"{target}: exists already.", "Move it elsewhere.")

    def delete(self, claim: Claim) -> None:
        """Delete a finished original."""
        with disk_errors(claim.path):
            self.disk.remove(claim.path)
            self._clean(claim)
            self._drop_report(claim)

    def leave(self, claim: Claim) -> Path:
        """Return a finished original to the inbox with a marker beside it, so that it is not taken again.

        Where there is another file of its name by now, it goes to the archive.
        """
        home = self.inbox / claim.relative
        if os.path.lexists(home) and not (home.is_file() and same_bytes(home, claim.path)):
            return self.archive(claim)  # another file; the same bytes may be a move that was cut off
        if not self._put_marker(home, claim.path) or not self.put_back(claim):
            return self.archive(claim)
        if not self.is_left(claim.relative):  # it went to another file system, where it is another inode
            self._put_marker(home, home)
        return home

    def _put_marker(self, home: Path, original: Path) -> bool:
        """Write a marker; False where there is no place for one."""
        with disk_errors(home):
            try:
                self.disk.put(marker_path(home), json.dumps(_mark(original)).encode())
            except OSError as error:
                if error.errno not in NAME_ERRORS:
                    raise
                return False
        return True

    def is_left(self, relative: Path) -> bool:
        """Tell whether a file in the inbox is the one that its marker speaks of."""
        home = self.inbox / relative
        try:
            return read_json_object(marker_path(home)) == _mark(home)
        except OSError:
            return False

    def remove_marker(self, relative: Path) -> None:
        with disk_errors(self.inbox):
            self.disk.remove(self.inbox / relative)

    def quarantine(self, claim: Claim, report: Mapping[str, Any]) -> Path:
        """Quarantine an original under its own name, with a report; return its path.

        The report is written first: from then on the decision stands, whatever happens.
        """
        folder, name = self.quarantine_folder / claim.id, claim.relative.name
        plain = f"original{claim.relative.suffix}"
        with disk_errors(folder):
            for target in (folder / (f"original-{name}" if name == ERROR_NAME else name), folder / plain):
                full = {**report, "id": claim.id, "inbox": self._inbox_from_quarantine()}
                full |= {"path": str(claim.relative), "file": target.name}
                # ASCII: names need not be valid UTF-8.
                self.disk.put(folder / ERROR_NAME, (json.dumps(full, indent=2) + "\n").encode())
                try:
                    self.disk.move(claim.path, target)
                    break
                except OSError as error:  # the quarantine's disk may not allow this name
                    if error.errno not in NAME_ERRORS or target.name == plain:
                        raise
            self._clean(claim)
        return target

    def report(self, id: str) -> dict[str, Any]:
        """Return what was decided of a claim, empty if nothing was."""
        return _read_report(self.quarantine_folder / id / ERROR_NAME)

    def quarantined(self) -> list[Quarantined]:
        """Return every file of this inbox that was quarantined, oldest first."""
        if not self.quarantine_folder.is_dir():
            return []
        found, here = [], self._inbox_from_quarantine()
        for folder in sorted(self.quarantine_folder.iterdir()):
            report = _read_report(folder / ERROR_NAME)
            file = folder / str(report.get("file", ""))
            if report and report.get("inbox", here) == here and _is_file(file):
                found.append(Quarantined(folder.name, file, report))
        return found

    def _inbox_from_quarantine(self) -> str:
        """Name the inbox by the way to it: both may be moved, or seen from elsewhere, together."""
        try:
            return os.path.relpath(self.inbox, self.quarantine_folder)
        except ValueError:  # on another drive of Windows
            return str(self.inbox)

    def retry(self, quarantined: Quarantined) -> Path:
        """Return a quarantined file to its place in the inbox.

        Raises:
            UsageError: there is another file of its name, or its report leads elsewhere.
        """
        home = self.inbox / str(quarantined.report["path"])
        self._check_stays_inside(quarantined, home)
        with disk_errors(home):
            try:
                self.disk.move(quarantined.file, home)
            except OSError as error:
                if error.errno not in NAME_ERRORS:
                    raise
                there = error.errno in {errno.EEXIST, errno.ENOTDIR}
                raise UsageError(
                    f"{home}: {'exists already' if there else error.strerror}.",
                    "Move it elsewhere, then retry.",
                ) from error
            self.disk.remove(quarantined.file.with_name(ERROR_NAME))
            self.disk.remove_empty_folders(quarantined.file.parent, self.quarantine_folder)
        return home

    def _check_stays_inside(self, quarantined: Quarantined, home: Path) -> None:
        """Refuse a report that would move another file than its own, or move it out of the inbox."""
        report = quarantined.file.with_name(ERROR_NAME)
        own = self.quarantine_folder / quarantined.id
        if quarantined.file.parent != own or not is_inside(quarantined.file, self.quarantine_folder):
            raise UsageError(
                f"{own / ERROR_NAME}: its 'file' ({quarantined.report.get('file')}) is not in that folder.",
                f"Move the picture to the inbox yourself, then delete {own}.",
            )
        if not is_inside(home, self.inbox) or is_inside(home, self.inbox / HIDDEN):
            raise UsageError(
                f"{report}: its 'path' ({quarantined.report['path']}) leads out of the inbox.",
                f"Correct it, or move {quarantined.file} to the inbox yourself, then delete {own}.",
            )

    def _remove_copied(self, original: Path, claimed: Path) -> None:
        """Remove the original of a copy across file systems; what was dropped after the claim is newer."""
        try:
            before, after = original.lstat(), claimed.lstat()
        except OSError as error:
            if error.errno not in {*NAME_ERRORS, errno.ENOENT}:
                raise
            return
        older = before.st_ctime_ns < after.st_ctime_ns
        if older and before.st_size == after.st_size and same_bytes(original, claimed):
            self.disk.remove(original)

    def _clean(self, claim: Claim) -> None:
        self.disk.remove_empty_folders(claim.path.parent, self.claimed_folder)

    def _drop_report(self, claim: Claim) -> None:
        """A claim that was to be quarantined and succeeded after all leaves no report behind."""
        folder = self.quarantine_folder / claim.id
        if (folder / ERROR_NAME).exists():
            self.disk.remove(folder / ERROR_NAME)
            self.disk.remove_empty_folders(folder, self.quarantine_folder)

    def _remove_tree(self, root: Path) -> None:
        """Remove a tree of nothing but folders."""
        for folder in sorted(walk(root), key=lambda found: -found.path.count(os.sep)):
            self.disk.rmdir(Path(folder.path))
        self.disk.rmdir(root)


def new_id() -> str:
    """Return an id for a claim: sortable by time, unlike any other."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def _mark(path: Path) -> dict[str, int]:
    """What stays the same when a file is moved to and fro; its ctime does not."""
    identity = Identity.of(path.stat())
    return {"inode": identity.inode, "size": identity.size, "mtime_ns": identity.mtime_ns}


def _is_file(path: Path) -> bool:
    """Tell whether this is a regular file. Links are not followed."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):  # a NUL
        return False


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report = read_json_object(path) if _is_file(path) else {}
    except OSError:
        return {}
    if not isinstance(report.get("path"), str):
        return {}
    return {"error": "quarantined", "next_step": "", **report}
