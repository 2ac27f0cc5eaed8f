"""Quarantine: originals that failed, each in a folder of its own with a report of the reason."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..spec.config import WatchConfig
from ..spec.names import composed
from ..storage.control import Control
from ..storage.files import Disk, disk_errors, is_inside, read_json_object
from ..storage.ledger import Ledger
from ..storage.paths import HIDDEN
from ..storage.system import NAME_ERRORS
from .claims import Claim

ERROR_NAME = "error.json"


@dataclass(frozen=True)
class Quarantined:
    """A quarantined file; its error.json has `path` in the inbox, `error`, `next_step`, `keys`."""

    id: str
    file: Path
    report: Mapping[str, Any]

    def is_called(self, name: str) -> bool:
        """Tell whether this file has a name: its id or the beginning of it, its file name or its path."""
        names = {composed(self.file.name), composed(str(self.report["path"]))}
        return bool(name) and (self.id.startswith(name) or composed(name) in names)


@dataclass(frozen=True)
class Quarantine:
    """The quarantine folder, which several inboxes may share. Raises DiskError where the system refuses."""

    inbox: Path
    folder: Path
    disk: Disk

    @classmethod
    def of(cls, watch: WatchConfig, disk: Disk | None = None) -> Quarantine:
        """Return the quarantine of a watched folder."""
        return cls(watch.inbox, watch.quarantine_dir, disk or Disk())

    def make_folder(self) -> None:
        with disk_errors(self.folder):
            self.disk.make_folder(self.folder)

    def add(self, claim: Claim, report: Mapping[str, Any]) -> Path:
        """Quarantine an original under its own name, with a report; return its path.

        The report is written first: from then on the decision stands, whatever happens.
        """
        folder, name = self.folder / claim.id, claim.relative.name
        plain = f"original{claim.relative.suffix}"
        with disk_errors(folder):
            for target in (folder / (f"original-{name}" if name == ERROR_NAME else name), folder / plain):
                full = {**report, "id": claim.id, "inbox": self._path_to_inbox()}
                full |= {"path": str(claim.relative), "file": target.name}
                # ASCII: names need not be valid UTF-8.
                self.disk.put(folder / ERROR_NAME, (json.dumps(full, indent=2) + "\n").encode())
                try:
                    self.disk.move(claim.path, target)
                    break
                except OSError as error:  # the quarantine's disk may not allow this name
                    if error.errno not in NAME_ERRORS or target.name == plain:
                        raise
            claim.remove_empty_folders(self.disk)
        return target

    def report(self, id: str) -> dict[str, Any]:
        """Return the report on a claim; empty if there is none."""
        return _read_report(self.folder / id / ERROR_NAME)

    def remove_report(self, id: str) -> None:
        """Remove the report on a claim that was to be quarantined and succeeded after all."""
        report = self.folder / id / ERROR_NAME
        if report.exists():
            with disk_errors(report):
                self.disk.remove(report)
                self.disk.remove_empty_folders(report.parent, self.folder)

    def files(self) -> list[Quarantined]:
        """Return every quarantined file of this inbox, oldest first."""
        advice = "Run this as the user that the daemon runs as, and check that its disk is there."
        with disk_errors(self.folder, "cannot be read", advice):
            folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        found, here = [], self._path_to_inbox()
        for folder in folders:
            report = _read_report(folder / ERROR_NAME)
            file = folder / str(report.get("file", ""))
            if report and report.get("inbox", here) == here and _is_regular_file(file):
                found.append(Quarantined(folder.name, file, report))
        return found

    def retry(self, quarantined: Quarantined) -> Path:
        """Return a quarantined file to its place in the inbox.

        Raises:
            UsageError: there is another file of its name, its report leads elsewhere, or no daemon has
                watched the inbox, as when it is not mounted.
        """
        home, control = self.inbox / str(quarantined.report["path"]), Control(self.inbox, self.disk)
        control.check_watched()
        self._check_stays_inside(quarantined, home)
        # Else a cancel that the daemon obeyed, and died before it could note that, would be obeyed again.
        control.withdraw(str(quarantined.report["path"]))
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
            self.disk.remove_empty_folders(quarantined.file.parent, self.folder)
        return home

    def _check_stays_inside(self, quarantined: Quarantined, home: Path) -> None:
        """Refuse a report that would move another file than its own, or move it out of the inbox."""
        report = quarantined.file.with_name(ERROR_NAME)
        own = self.folder / quarantined.id
        if quarantined.file.parent != own or not is_inside(quarantined.file, self.folder):
            raise UsageError(
                f"{own / ERROR_NAME}: its 'file' ({quarantined.report.get('file')}) is not in that folder.",
                f"Move the picture to the inbox yourself, then delete {own}.",
            )
        if not is_inside(home, self.inbox) or is_inside(home, self.inbox / HIDDEN):
            raise UsageError(
                f"{report}: its 'path' ({quarantined.report['path']}) leads out of the inbox.",
                f"Correct it, or move {quarantined.file} to the inbox yourself, then delete {own}.",
            )

    def _path_to_inbox(self) -> str:
        """Return the inbox as seen from the quarantine: both may be moved or mounted elsewhere together."""
        try:
            return os.path.relpath(self.inbox, self.folder)
        except ValueError:  # on another drive of Windows
            return str(self.inbox)


def try_again(quarantine: Quarantine, quarantined: Quarantined, ledger: Ledger) -> Path:
    """Return a quarantined file to the inbox, and forget the attempts of its jobs; return its path.

    Raises:
        UsageError: as for `Quarantine.retry`.
        DiskError: the system refuses.
    """
    path = quarantine.retry(quarantined)
    for key in quarantined.report.get("keys", []):
        ledger.end(key)
    return path


def _is_regular_file(path: Path) -> bool:
    """Tell whether this is a regular file. Links are not followed."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):  # a NUL
        return False


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report = read_json_object(path) if _is_regular_file(path) else {}
    except OSError:
        return {}
    if not isinstance(report.get("path"), str):
        return {}
    return {"error": "quarantined", "next_step": "", **report}
