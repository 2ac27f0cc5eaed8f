"""Results that newer ones of the same name replaced, kept in `older/`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .files import Disk, same_bytes
from .paths import BatchPaths, is_done, json_bytes, name_without_id, older_names
from .stage import Stage


class OlderResults:
    """Pictures in `older/`, their logs and records in `logs/older/`. OSErrors pass through."""

    def __init__(self, paths: BatchPaths, disk: Disk, stage: Stage) -> None:
        self.paths = paths
        self.disk = disk
        self.stage = stage

    def name_for_replaced(self, name: str, key: str) -> str:
        """Return where another job's result of this name is to be moved; "" if there is none."""
        held = self.paths.read_record(name)
        if not is_done(held) or held.get("key") == key:
            return ""
        candidates = _older_names(name, held)
        suffix = suffix_of(held, name)
        return next((each for each in candidates if self._may_keep(each, suffix, held)), candidates[-1])

    def _may_keep(self, older: str, suffix: str, held: Mapping[str, Any]) -> bool:
        record = self.paths.read_record(older)
        same = record.get("key") == held.get("key")
        return same or not (record or os.path.lexists(self.paths.image(older, suffix)))

    def move_here(self, name: str, held: Mapping[str, Any], older: str) -> None:
        """Move a result that a staged one replaces, or what is left of it, to `older/`, record last.

        After an interruption the same call resumes. It does nothing if a staged record names a place that
        cannot be right, or if another file is there: the staged result then gets an id.
        """
        paths, suffix = self.paths, suffix_of(held, name)
        source, target = paths.image(name, suffix), paths.image(older, suffix)
        same = paths.read_record(older).get("key") == held.get("key")
        if older not in _older_names(name, held):
            return
        if os.path.lexists(source) and os.path.lexists(target) and not (same or same_bytes(source, target)):
            return
        self.stage.move_out(paths.log(name), paths.log(older), replace=True)
        self.stage.move_out(source, target, replace=os.path.lexists(target))
        self.disk.sync_folder(paths.logs)
        self.disk.sync_folder(source.parent)
        self.disk.put(paths.record(older), json_bytes({**held, "image": f"{older}{suffix}"}))
        self.disk.remove(paths.record(name))

    def read(self, older: str) -> tuple[str, bytes, bytes, dict[str, Any]]:
        """Return a result's suffix, image, log and record."""
        record, log = self.paths.read_record(older), self.paths.log(older)
        suffix = suffix_of(record, older)
        image = self.paths.image(older, suffix).read_bytes()
        return suffix, image, log.read_bytes() if log.exists() else b"", record

    def remove(self, older: str) -> None:
        """Remove a result, its record last."""
        suffix = suffix_of(self.paths.read_record(older), older)
        for path in (self.paths.image(older, suffix), self.paths.log(older), self.paths.record(older)):
            self.disk.remove(path)


def _older_names(name: str, held: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that the result of a record may get; one that has an id already keeps it."""
    key = str(held.get("key"))
    return older_names(name_without_id(name, key), key)


def suffix_of(record: Mapping[str, Any], name: str) -> str:
    """Return the suffix of a result's image; for a record that names another file, one that no image has."""
    stem, suffix = os.path.splitext(str(record.get("image")))
    return suffix if stem == name else ".none"
