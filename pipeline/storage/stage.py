"""The stage, where a whole result waits until it is moved to its place."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import TEMPORARY_PREFIX, Disk, parse_json_object
from .paths import LOG, RECORD, BatchPaths, json_bytes

NO_TIME = "the modification time of the content could not be set ({})."


class Stage:
    """Results below `.staged/KEY`, each with log, image and record. OSErrors pass through.

    They are put there in one step, and leave by renames in the order log, image, record. A result with a
    record is still to be published; the result of a folder without one was published.
    """

    def __init__(self, paths: BatchPaths, disk: Disk) -> None:
        self.folder = paths.stage
        self.disk = disk

    def put(
        self,
        key: str,
        suffix: str,
        image: bytes,
        log: bytes,
        record: Mapping[str, Any],
        modified_ns: int | None = None,
    ) -> Path:
        """Put a whole result on the stage, durably, and its image with a modification time if one is given.

        If that time cannot be set, the record gets a note.
        """
        unfinished = self.folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        staged = self.folder / key
        self.disk.make_folder(unfinished)
        self._write(unfinished / LOG, log)
        note = self._write(unfinished / f"image{suffix}", image, modified_ns)
        full = {**record, "notes": [*record.get("notes", ()), note]} if note else record
        self._write(unfinished / RECORD, json_bytes(full))
        self.disk.sync_folder(unfinished)
        self.disk.rename(unfinished, staged)
        self.disk.sync_folder(self.folder)
        return staged

    def _write(self, path: Path, data: bytes, modified_ns: int | None = None) -> str:
        """Write a file durably, and return a note if it cannot get its modification time."""
        note = ""
        self.disk.write(path, data)
        if modified_ns is not None:
            try:
                self.disk.set_modified(path, modified_ns)
            except OSError as error:  # a disk that is at fault fails the sync as well
                note = NO_TIME.format(error.strerror or error)
        self.disk.sync(path)
        return note

    def move_out(self, source: Path, target: Path, replace: bool) -> None:
        """Move a file to its place; one that is gone was moved before a crash."""
        if not source.exists():
            return
        self.disk.make_folder(target.parent)
        (self.disk.replace if replace else self.disk.rename)(source, target)
        self.disk.sync_folder(target.parent)

    def holds(self, key: str) -> bool:
        return (self.folder / key / RECORD).is_file()

    def scan(self) -> tuple[list[Path], list[Path]]:
        """Return the results, and what is not ours: files, links, folders that are not results."""
        results: list[Path] = []
        foreign: list[Path] = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(TEMPORARY_PREFIX):
                    continue
                ours = entry.is_dir(follow_symlinks=False) and _is_key(entry.name)
                (results if ours and _has_plain_record(entry.path) else foreign).append(Path(entry.path))
        return sorted(results), sorted(foreign)

    def empty(self, staged: Path) -> None:
        """Remove what is left of a result whose record, the last file to leave, is gone."""
        for path in (staged / LOG, staged / RECORD, *staged.glob("image.*")):
            self.disk.remove(path)

    def remove(self, staged: Path) -> bool:
        """Remove a published result's folder; False if it holds a file that is not ours."""
        try:
            self.disk.rmdir(staged)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
        return True


def staged_record(staged: Path) -> dict[str, Any]:
    """Return the record of a staged result; empty if it was moved to its place already, or is damaged.

    Raises:
        OSError: it cannot be read now.
    """
    try:  # no other error may look like this one: the image would be removed
        record = parse_json_object((staged / RECORD).read_bytes())
    except FileNotFoundError:
        return {}
    return record if "image" in record and record.get("key") == staged.name else {}


def _is_key(name: str) -> bool:
    return len(name) == 64 and all(digit in "0123456789abcdef" for digit in name)


def _has_plain_record(staged: str) -> bool:
    """Return whether the record of a result is a regular file, or was moved to its place already."""
    try:
        return stat.S_ISREG(os.lstat(os.path.join(staged, RECORD)).st_mode)
    except FileNotFoundError:
        return True
