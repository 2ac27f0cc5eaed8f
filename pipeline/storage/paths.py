"""Where the files of a batch are in the outbox, and what its records say."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PathError
from .files import disk_errors, read_json_object, walk
from .system import NAME_ERRORS

# Our own folder in a watched folder and in its outbox. It also tells them from an empty mount point.
HIDDEN = ".style-pipeline"
# What a staged result consists of, besides its image.
LOG, RECORD = "log.csv", "record.json"
# The folder for results replaced by newer ones of the same name.
OLDER = "older"
# What people read of a batch, beside its pictures.
SUMMARY, SHEET = "summary.json", "index.html"
LOCK = ".lock"
# How many characters of a job's key follow its name if that is taken.
ID_LENGTHS = (8, 16, 64)


def claimed_folder(inbox: Path) -> Path:
    """Return the folder of what was taken from an inbox: each file at its path there, below its id."""
    return inbox / HIDDEN / "claimed"


def control_folder(inbox: Path) -> Path:
    """Return the folder of requests to the daemon of an inbox."""
    return inbox / HIDDEN / "control"


@dataclass(frozen=True)
class BatchPaths:
    """The paths of a batch's files: pictures in its folder, logs and records in `logs/`.

    With `shard`, I-of-N, they are those that a process has which makes this shard of the batch.
    """

    folder: Path
    shard: str = ""

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def stage(self) -> Path:
        return self.shards / f"{self.shard}.staged" if self.shard else self.folder / ".staged"

    @property
    def shards(self) -> Path:
        return self.folder / ".shards"

    @property
    def lock(self) -> Path:
        return self.folder / LOCK

    @property
    def own_lock(self) -> Path:
        """The lock that a process holds while it works on the batch, or on its shard."""
        return self.shards / f"{self.shard}.lock" if self.shard else self.lock

    def image(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.csv"

    def record(self, name: str) -> Path:
        return self.logs / f"{name}.json"

    def read_record(self, name: str) -> dict[str, Any]:
        """Return a record; empty if there is none, or it is damaged. Its job is then not done.

        Raises:
            DiskError: there may be one, and it cannot be read now.
        """
        # Text, not Path: this is all that is done for most jobs of a finished batch, and Paths are slow.
        path = f"{self.folder}/logs/{name}.json"
        with disk_errors(path, "cannot be read", "Check the disk and its permissions."):
            return read_json_object(path)

    def recorded_names(self) -> Iterator[str]:
        """Yield the names that have a record."""
        suffix, start = ".json", len(os.path.join(self.logs, ""))  # `relpath` takes seconds for 100,000
        files = (entry.path for entry in walk(self.logs, strict=False) if entry.name.endswith(suffix))
        return (file[start : -len(suffix)].replace(os.sep, "/") for file in files)

    def recorded_with_ids(self) -> dict[str, set[str]]:
        """Return the recorded names that may end with an id, by what is before it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for name in self.recorded_names():
            plain, _, end = name.rpartition("-")
            if len(end) in ID_LENGTHS:
                found[plain].add(name)
        return found

    def has_image(self, record: Mapping[str, Any]) -> bool:
        return os.path.isfile(os.path.join(self.folder, str(record.get("image") or "")))

    @contextmanager
    def errors(self, path: Path | None = None, consequence: str = "") -> Iterator[None]:
        """Raise PathError for errors about one name in the outbox, DiskError for all others."""
        path = path or self.folder
        with disk_errors(path, "cannot be written"):
            try:
                yield
            except OSError as error:
                if error.errno not in NAME_ERRORS or not self.folder.parent.is_dir():
                    raise
                raise PathError(
                    f"{error.filename2 or error.filename or path}: cannot be written "
                    f"({error.strerror or error}){consequence}.",
                    "Move what is in its way, or choose another name, then try again.",
                ) from error


def is_done(record: Mapping[str, Any]) -> bool:
    return record.get("status") == "done"


def json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def names_with_ids(name: str, key: str) -> tuple[str, ...]:
    """Return the names that a job may get if its own is taken."""
    return tuple(f"{name}-{key[:length]}" for length in ID_LENGTHS)


def name_without_id(name: str, key: str) -> str:
    for length in reversed(ID_LENGTHS):
        name = name.removesuffix(f"-{key[:length]}")
    return name


def older_names(name: str, key: str) -> tuple[str, ...]:
    """Return the names that a result may get when a newer one replaces it."""
    return names_with_ids(f"{OLDER}/{name}", key)
