"""Markers: hidden files beside originals that stay in the inbox, so that no original is taken twice."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..storage.files import Disk, disk_errors, read_json_object
from ..storage.system import NAME_ERRORS

MARKER_SUFFIX = ".done"
LONGEST_NAME = 255  # bytes; the usual limit


def marker_path(path: Path) -> Path:
    """Return the hidden file beside `path` that says it is done."""
    name = f".{path.name}{MARKER_SUFFIX}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{MARKER_SUFFIX}"
    return path.with_name(name)


def is_marker(name: str) -> bool:
    return name.startswith(".") and name.endswith(MARKER_SUFFIX) and len(name) > len(MARKER_SUFFIX) + 1


@dataclass(frozen=True)
class Markers:
    """The markers of an inbox. Paths are relative to it."""

    inbox: Path
    disk: Disk

    def put(self, relative: Path, original: Path) -> bool:
        """Mark `relative` as done, for the file that lies at `original` now; False if no marker fits there.

        Raises:
            DiskError: the system refuses.
        """
        home = self.inbox / relative
        with disk_errors(home):
            try:
                self.disk.put(marker_path(home), json.dumps(_fingerprint(original)).encode())
            except OSError as error:
                if error.errno not in NAME_ERRORS:
                    raise
                return False
        return True

    def is_done(self, relative: Path) -> bool:
        """Tell whether a file in the inbox is the one that its marker describes."""
        home = self.inbox / relative
        try:
            return read_json_object(marker_path(home)) == _fingerprint(home)
        except OSError:
            return False

    def remove(self, marker: Path) -> None:
        """Remove a marker, given by its own path. Errors as for `put`."""
        with disk_errors(self.inbox):
            self.disk.remove(self.inbox / marker)


def _fingerprint(path: Path) -> dict[str, int]:
    """Return what stays the same when a file is moved away and back; its ctime does not."""
    status = path.stat()
    return {"inode": status.st_ino, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
