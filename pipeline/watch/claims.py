"""Files taken from the inbox: claimed by a rename, then moved on to where an original stays.

A claimed file lies at `claimed/ID/` followed by its path in the inbox, so that nothing else need be
remembered: with the ledger gone, the folder itself says what was claimed and where it came from. Its bytes
are always in exactly one of inbox, claimed, archive and quarantine.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import DiskError, JobError
from ..storage.files import TEMPORARY_PREFIX, Disk, disk_errors, open_regular, same_bytes, walk
from ..storage.paths import claimed_folder
from ..storage.system import NAME_ERRORS
from .inbox import STYLES
from .markers import Markers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """A file taken from the inbox; `relative` is its path there."""

    id: str
    relative: Path
    path: Path

    @property
    def folder(self) -> Path:
        """The folder that takes the place of the inbox while the file is claimed."""
        return self.path.parents[len(self.relative.parts) - 1]

    def remove_empty_folders(self, disk: Disk) -> None:
        """Remove the folders that the file leaves empty when it has been moved away."""
        disk.remove_empty_folders(self.path.parent, self.folder.parent)


class Claims:
    """Moves files between the inbox, its claimed folder and the archive, durably.

    Every method raises DiskError where the system refuses; `recover` then completes what was interrupted.
    """

    def __init__(self, inbox: Path, archive: Path, disk: Disk) -> None:
        self.inbox = inbox
        self.archive_folder = archive
        self.claimed_folder = claimed_folder(inbox)
        self.markers = Markers(inbox, disk)
        self.disk = disk

    def make_folders(self) -> None:
        for folder in (self.claimed_folder, self.inbox / STYLES, self.archive_folder):
            with disk_errors(folder):
                self.disk.make_folder(folder)

    # From the inbox, and back

    def take(self, relative: Path, id: str) -> Claim | None:
        """Take a file from the inbox; None if another program moved or removed it first.

        Raises:
            JobError: this file cannot be read or moved; others may.
            DiskError: nothing can.
        """
        claim = Claim(id, relative, self.claimed_folder / id / relative)
        with disk_errors(self.inbox):
            try:
                open_regular(self.inbox / relative).close()  # else it might never leave the claimed folder
                self.disk.move(self.inbox / relative, claim.path)
            except FileNotFoundError:
                if not os.path.lexists(claim.path):  # else it was taken, and only its folder is gone
                    claim.remove_empty_folders(self.disk)
                    return None
            except OSError as error:
                denied = isinstance(error, PermissionError)
                if os.path.lexists(claim.path) or not (denied or error.errno in NAME_ERRORS):
                    raise  # if it is there, it was taken, and only what comes after that failed
                claim.remove_empty_folders(self.disk)
                raise JobError(
                    f"{self.inbox / relative}: cannot be taken ({error.strerror}).",
                    "Let this program read it, and write to the folder that it is in."
                    if denied
                    else "Put it under a shorter name in a folder nearer to the inbox.",
                ) from error
        logger.debug("%s: claimed as %s", relative, id)
        return claim

    def put_back(self, claim: Claim) -> bool:
        """Return a file to its place in the inbox; False where there is another by now."""
        with disk_errors(self.inbox):
            if not self._move(claim.path, self.inbox / claim.relative):
                return False
            claim.remove_empty_folders(self.disk)
        return True

    # After a crash

    def recover(self) -> list[Claim]:
        """Return every claimed file, in the order of their ids, and complete what was interrupted.

        Folders left empty are removed, and so is an original whose copy is claimed already.
        """
        with disk_errors(self.claimed_folder):
            self.disk.make_folder(self.claimed_folder)
            entries = sorted(self.disk.entries(self.claimed_folder), key=lambda entry: entry.name)
            roots = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
            return [claim for root in roots for claim in self._recover_below(root)]

    def _recover_below(self, root: Path) -> list[Claim]:
        files = sorted(Path(found.path) for found in walk(root) if not found.is_dir(follow_symlinks=False))
        unfinished = [path for path in files if path.name.startswith(TEMPORARY_PREFIX)]
        for copy in unfinished:  # of a file that never left its place
            self.disk.remove(copy)
        claims = [Claim(root.name, path.relative_to(root), path) for path in files if path not in unfinished]
        for claim in claims:
            self._remove_copied(self.inbox / claim.relative, claim.path)
        if not claims:
            self._remove_tree(root)
        return claims

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

    def _remove_tree(self, root: Path) -> None:
        """Remove a tree of nothing but folders."""
        for folder in sorted(walk(root), key=lambda found: -found.path.count(os.sep)):
            self.disk.rmdir(Path(folder.path))
        self.disk.rmdir(root)

    # When the jobs are done

    def archive(self, claim: Claim) -> Path:
        """Move a finished original to the archive, under its own path; where that is taken, with its id."""
        stem, suffix = claim.relative.stem, claim.relative.suffix
        with_id = claim.relative.with_name(f"{stem}-{claim.id}{suffix}")
        by_id = (Path(claim.id, claim.relative.name), Path(claim.id, f"original{suffix}"))
        for place in (claim.relative, with_id, *by_id):
            target = self.archive_folder / place
            with disk_errors(self.archive_folder):
                if self._move(claim.path, target):
                    claim.remove_empty_folders(self.disk)
                    return target
        raise DiskError(f"{target}: exists already.", "Move it elsewhere.")

    def delete(self, claim: Claim) -> None:
        """Delete a finished original."""
        with disk_errors(claim.path):
            self.disk.remove(claim.path)
            claim.remove_empty_folders(self.disk)

    def leave(self, claim: Claim) -> Path:
        """Return a finished original to the inbox with a marker beside it, so that it is not taken again.

        Where there is another file of its name by now, it goes to the archive.
        """
        home = self.inbox / claim.relative
        if os.path.lexists(home) and not (home.is_file() and same_bytes(home, claim.path)):
            return self.archive(claim)  # another file; the same bytes may be from a move that was interrupted
        if not self.markers.put(claim.relative, claim.path) or not self.put_back(claim):
            return self.archive(claim)
        if not self.markers.is_done(claim.relative):  # it went to another file system, and has a new inode
            self.markers.put(claim.relative, home)
        return home

    def _move(self, source: Path, target: Path) -> bool:
        """Move a file; False where the target's name is taken, or not allowed there."""
        try:
            self.disk.move(source, target)
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise
            return False
        return True


def new_id() -> str:
    """Return an id for a claim: sortable by time, unlike any other."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
