"""The folders a daemon works in: they must be apart, the same as before, and have free space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..spec.config import Config
from ..storage.files import Disk, disk_errors
from ..storage.paths import HIDDEN
from .owner import Owner, replaced_error


@dataclass(frozen=True)
class Folders:
    """Distinguishes an empty folder from an unmounted one by a hidden folder in inbox and outbox.

    Every method raises DiskError.
    """

    config: Config
    owner: Owner
    disk: Disk

    @property
    def outbox(self) -> Path:
        return self.config.outbox

    def check_known(self, known: Mapping[str, Any]) -> None:
        """Make sure that folders marked by an earlier daemon still are; `known` is its last state."""
        inbox = self.config.watch.inbox
        if known and not (inbox / HIDDEN).exists():
            raise replaced_error(inbox)
        if known.get("outbox") == str(self.outbox):
            self.check_outbox()

    def mark_outbox(self) -> None:
        with disk_errors(self.outbox, "cannot be written", "Check the path."):
            self.disk.make_folder(self.outbox / HIDDEN)

    def check_there(self) -> None:
        """Make sure of both folders, and of free space, before anything is taken or made."""
        self.owner.check()
        self.check_outbox()
        for folder in (self.config.watch.inbox, self.outbox, self.config.state_dir):
            self.disk.require_free(folder, self.config.watch.min_free_mb << 20)

    def check_outbox(self) -> None:
        if not (self.outbox / HIDDEN).exists():
            raise replaced_error(self.outbox)


def check_apart(config: Config) -> None:
    """Refuse folders of which one contains another, also through symbolic links and mounts.

    Raises:
        UsageError: one does, or two are the same.
    """
    watch = config.watch
    places = {
        "watch.inbox": watch.inbox,
        "outbox": config.outbox,
        "watch.archive": watch.archive_dir,
        "watch.quarantine": watch.quarantine_dir,
    }
    private = {"state_dir": config.state_dir, "cache_dir": config.cache_dir}
    pairs = [
        *combinations(places.items(), 2),
        *((("watch.inbox", watch.inbox), item) for item in private.items()),
    ]
    for (name, folder), (other_name, other) in pairs:
        if _is_within(folder, other) or _is_within(other, folder):
            raise UsageError(
                f"{name} ({folder}) and {other_name} ({other}) must not contain one another.",
                "Give each a folder of its own in config.yaml.",
            )


def check_unmoved(old: Config, new: Config) -> None:
    """Refuse to move what a running daemon depends on.

    Raises:
        UsageError: the inbox or state_dir changed.
    """
    if (old.watch.inbox, old.state_dir) != (new.watch.inbox, new.state_dir):
        raise UsageError("another inbox or state_dir takes effect only after a restart.")


def _is_within(path: Path, folder: Path) -> bool:
    """Tell whether `path` is `folder` or below it on the disk, whatever their names are."""
    path, folder = path.resolve(), folder.resolve()
    if path.is_relative_to(folder):
        return True
    return any(step.exists() and folder.exists() and step.samefile(folder) for step in (path, *path.parents))
