"""Markers: hidden files beside originals that stay in the inbox, so that no original is taken twice."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..storage.files import Disk, disk_errors, open_regular, parse_json_object, read_json_object
from ..storage.system import NAME_ERRORS

MARKER_SUFFIX = ".done"
LONGEST_NAME = 255  # bytes; the usual limit
LONGEST_MARKER = 1024  # bytes; more than any has


def marker_path(path: Path) -> Path:
    """Return the hidden file beside `path` that says it is done."""
    return path.with_name(marker_name(path.name))


def marker_name(name: str) -> str:
    marker = f".{name}{MARKER_SUFFIX}"
    if len(os.fsencode(marker)) > LONGEST_NAME:
        marker = f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{MARKER_SUFFIX}"
    return marker


def may_be_marker(name: str) -> bool:
    return name.startswith(".") and name.endswith(MARKER_SUFFIX) and len(name) > len(MARKER_SUFFIX) + 1


def is_marker(path: Path) -> bool:
    """Tell whether a file holds what a marker does; people have hidden files of such names, too."""
    try:
        with open_regular(path) as file:
            return parse_json_object(file.read(LONGEST_MARKER)).keys() == {"inode", "size", "mtime_ns"}
    except OSError:
        return False


@dataclass(frozen=True)
class Markers:
    """The markers of an inbox. Paths are relative to it."""

    inbox: Path
    disk: Disk

    def put(self, relative: Path, original: Path) -> bool:
        """Mark `relative` as done, for the file that lies at `original` now.

        False if no marker fits there, or another file has its name.

        Raises:
            DiskError: the system refuses.
        """
        home = self.inbox / relative
        marker = marker_path(home)
        if os.path.lexists(marker) and not is_marker(marker):
            return False
        with disk_errors(home):
            try:
                self.disk.put(marker, json.dumps(_fingerprint(original)).encode())
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
        """Remove a marker, given by its own path.

        Raises:
            OSError: the system refuses.
        """
        self.disk.remove(self.inbox / marker)


def _fingerprint(path: Path) -> dict[str, int]:
    """Return what stays the same when a file is moved away and back; its ctime does not."""
    status = path.stat()
    return {"inode": status.st_ino, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
