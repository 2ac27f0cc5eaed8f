"""Outbox: publication that is whole or not there. Log first, image next, record last."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from .errors import DiskError, LockedError
from .files import TEMPORARY_PREFIX, write_atomically

SHORT_ID = 8


@dataclass(frozen=True)
class Place:
    """Where a job's files go. `done` says that they are there, with a record that names its key."""

    name: str
    done: bool


class BatchFolder:
    """One batch's folder in the outbox: pictures in it, logs and records in `logs/`."""

    def __init__(self, outbox: Path, batch: str) -> None:
        self.folder = outbox / batch
        self.logs = self.folder / "logs"
        self._taken: dict[str, str] = {}

    def image_path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"

    def log_path(self, name: str) -> Path:
        return self.logs / f"{name}.csv"

    def record_path(self, name: str) -> Path:
        return self.logs / f"{name}.json"

    def is_untaken(self, name: str) -> bool:
        """Tell whether no job has this name, so that a snapshot may."""
        return _folded(name) not in self._taken and not self.record_path(name).exists()

    def has_record(self, name: str, suffix: str) -> bool:
        """Tell whether a name is in use; if not, no key is needed to know that its job is to be run."""
        return (
            _folded(name) in self._taken
            or self.record_path(name).exists()
            or self.image_path(name, suffix).exists()
        )

    def reserve(self, name: str) -> None:
        """Note that a name is in use by a job whose key was not needed."""
        self._taken[_folded(name)] = ""

    def place(self, name: str, suffix: str, key: str) -> Place:
        """Choose a job's name: the one wanted, or with a short id where another job has that.

        Stateless across runs: the answer depends on the records in the folder and the names given out
        since, never on the order of a manifest.
        """
        candidates = (name, *(f"{name}-{key[:length]}" for length in (SHORT_ID, 2 * SHORT_ID, 64)))
        for candidate in candidates:
            record = read_record(self.record_path(candidate))
            if record.get("key") == key and record.get("status") == "done":
                self._taken[_folded(candidate)] = key
                return Place(candidate, done=_is_file(self.folder / str(record.get("image") or "")))
        chosen = next((c for c in candidates if self._is_free(c, suffix, key)), candidates[-1])
        self._taken[_folded(chosen)] = key
        return Place(chosen, done=False)

    def _is_free(self, name: str, suffix: str, key: str) -> bool:
        if self._taken.get(_folded(name), key) != key:
            return False
        record = read_record(self.record_path(name))
        # A failed job published nothing, so its name may be used again.
        if record.get("status") == "done" and record.get("key") != key:
            return False
        # The log is written first: an image without one was put there by someone else.
        return self.log_path(name).exists() or not self.image_path(name, suffix).exists()

    def publish(self, name: str, suffix: str, image: bytes, log: bytes, record: Mapping[str, Any]) -> Path:
        """Write log, image and record, in this order, each at once; return the image's path.

        Raises:
            DiskError: something cannot be written; nothing partial is left.
        """
        path = self.image_path(name, suffix)
        write_file(self.log_path(name), log)
        write_file(path, image)
        self.write_record(name, {**record, "image": path.relative_to(self.folder).as_posix()})
        return path

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        write_file(self.record_path(name), _json_bytes(record))

    def write_snapshot(self, name: str, suffix: str, image: bytes) -> None:
        write_file(self.image_path(name, suffix), image)

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        path = self.folder / "summary.json"
        write_file(path, _json_bytes(summary))
        return path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go when the process ends, however it ends.

        Raises:
            LockedError: another process holds it.
            DiskError: the folder cannot be made.
        """
        lock = filelock.FileLock(self.folder / ".lock", timeout=0)
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout as error:
            raise LockedError(
                f"{self.folder}: another process is working on this batch.",
                "Wait for it, or give this one another batch name.",
            ) from error
        except OSError as error:
            raise _disk_error(self.folder, error) from error
        try:
            try:
                self._remove_leftovers()
            except OSError as error:
                raise _disk_error(self.folder, error) from error
            yield
        finally:
            lock.release()

    def _remove_leftovers(self) -> None:
        """Only the holder of the lock writes here, so what is unfinished belongs to a dead process."""
        for path in self.folder.rglob(f"{TEMPORARY_PREFIX}*"):
            if not path.is_dir():
                path.unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """Return a record, or an empty one where there is none or it cannot be read: not done, then."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def log_bytes(header: Sequence[str], rows: Sequence[Sequence[float]]) -> bytes:
    """Return the loss log as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.6g}" for value in row] for row in rows)
    return text.getvalue().encode()


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise _disk_error(path, error) from error


def _disk_error(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{path}: cannot be written ({error.strerror or error}).",
        "Check free space and permissions, then run the same command again.",
    )


def _folded(name: str) -> str:
    """Names that differ in case only are one name on many disks."""
    return name.casefold()


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
