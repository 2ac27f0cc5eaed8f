"""Outbox: publication that is whole or not there. Log first, image next, record last."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from ..errors import LockedError, PathError
from .files import (
    NAME_ERRORS,
    TEMPORARY_PREFIX,
    Disk,
    disk_errors,
    inode_of,
    is_inside,
    read_json_object,
    remove_unlocked,
    same_bytes,
    sweep_unfinished,
    walk,
)

# How much of a job's key tells it from others of the same name.
ID_LENGTHS = (8, 16, 64)

# What a staged result consists of, besides its image. They leave the stage in the order log, image, record.
LOG, RECORD = "log.csv", "record.json"
LOCK = ".lock"
# The folder for results replaced by newer ones of the same name, and the file with earlier runs.
OLDER, RUNS = "older", "runs.jsonl"
# Limits of that file, which is read and rewritten at the end of every run.
RUNS_KEPT, RUNS_BYTES = 100, 64 << 20

# Tells whether a job's result replaces the one that a record is of.
Replaces = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Place:
    """Where a job's files go. `done` says that they are there, with a record that names its key.

    Not done, it may be `missing`: the record is there and the image is not any more; or its result is kept
    under the name `older`.
    """

    name: str
    done: bool
    missing: bool = False
    older: str = ""


class BatchFolder:
    """One batch's folder in the outbox: pictures in it, logs and records in `logs/`.

    A result is staged whole under `.staged/KEY` and leaves it by renames, the record last. What is staged
    will be published, by the next owner of the lock if need be; what has left the stage was published. Where
    it takes the name of an older result, that one moves out of its way then, into `older/`, log and record
    below `logs/older/`.
    """

    def __init__(self, outbox: Path, batch: str, disk: Disk | None = None) -> None:
        self.folder = outbox / batch
        self.logs = self.folder / "logs"
        self.stage_folder = self.folder / ".staged"
        self.disk = disk or Disk()
        self._taken: dict[str, str] = {}
        self._lock_inode = 0
        # A sentence about each thing on the stage that was neither published nor removed.
        self.left_alone: tuple[str, ...] = ()

    def image_path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"

    def log_path(self, name: str) -> Path:
        return self.logs / f"{name}.csv"

    def record_path(self, name: str) -> Path:
        return self.logs / f"{name}.json"

    def is_untaken(self, name: str) -> bool:
        """Tell whether no job has this name, so that a snapshot may."""
        return _folded(name) not in self._taken and not os.path.exists(self.record_path(name))

    def has_record(self, name: str, suffix: str) -> bool:
        """Tell whether a name is in use; if not, no key is needed to know that its job is to be run."""
        # Text, not Path: this is all that is done for most jobs of a plan, and each Path interns its parts.
        return (
            _folded(name) in self._taken
            or os.path.exists(f"{self.logs}/{name}.json")
            or os.path.exists(f"{self.folder}/{name}{suffix}")
        )

    def has_older(self) -> bool:
        """Tell whether there are older results; which jobs they belong to can only be told from keys."""
        return os.path.isdir(self.logs / OLDER)

    def has_done(self, name: str, key: str) -> bool:
        """Tell whether a job's record says that its picture was made, be it there still or not."""
        record = read_record(self.record_path(name))
        return bool(record.get("status") == "done" and record.get("key") == key)

    def has_result(self, name: str, key: str) -> bool:
        """Tell whether a name is that of a result of another job."""
        record = read_record(self.record_path(name))
        return bool(record.get("status") == "done" and record.get("key") != key)

    def place(
        self,
        name: str,
        suffix: str,
        key: str,
        drop: str = "",
        replaces: Replaces = lambda record: False,
    ) -> Place:
        """Choose a job's name: the one wanted, or with a short id where another job has that.

        Stateless across runs: the answer depends on the records in the folder and the names given out
        since, never on the order of a manifest. A job is done if its record and its image are there; one
        that the record ascribes to this same `drop` is done even if someone has fetched the image. A result
        that the job `replaces` does not stand in its way.
        """
        for candidate in self._candidates(name, key):
            # Text, not Path: this is all that is done for most jobs of a batch that is gone on with.
            record = read_record(f"{self.logs}/{candidate}.json")
            if record.get("key") == key and record.get("status") == "done":
                self._taken[_folded(candidate)] = key
                done = self._has_image(record) or (bool(drop) and record.get("drop") == drop)
                named = os.path.splitext(str(record.get("image") or ""))[0] == candidate
                return Place(candidate, done, missing=not done and not drop and named)
        free = self._free_name(name, suffix, key, replaces)
        return Place(free, done=False, older=self._find_older(name, key))

    def place_beside(self, place: Place, suffix: str, key: str) -> Place:
        """Choose a name for a job that failed, beside the result that it would have replaced."""
        return Place(self._free_name(place.name, suffix, key), done=False)

    def _has_image(self, record: Mapping[str, Any]) -> bool:
        return os.path.isfile(os.path.join(self.folder, str(record.get("image") or "")))

    def _candidates(self, name: str, key: str) -> Iterator[str]:
        yield name
        yield from _with_ids(name, key)

    def _free_name(self, name: str, suffix: str, key: str, replaces: Replaces = lambda record: False) -> str:
        candidates = tuple(self._candidates(name, key))
        chosen = next((c for c in candidates if self._is_free(c, suffix, key, replaces)), candidates[-1])
        self._taken[_folded(chosen)] = key
        return chosen

    def _is_free(self, name: str, suffix: str, key: str, replaces: Replaces) -> bool:
        if self._taken.get(_folded(name), key) != key:
            return False
        record = read_record(self.record_path(name))
        # A failed job published nothing, so its name may be used again.
        if record.get("status") == "done":
            return bool(record.get("key") == key) or replaces(record)
        if os.path.isdir(self.record_path(name)) or os.path.isdir(self.log_path(name)):
            return False
        return not os.path.lexists(self.image_path(name, suffix))  # else someone put it there

    def check_name(self, name: str, suffix: str) -> None:
        """Check that a name can be used before anything is computed for it.

        Raises:
            PathError: the name is too long, or a file is where a folder should be.
            DiskError: the folder cannot be read.
        """
        for path in (self.image_path(name, suffix), self.log_path(name), self.record_path(name)):
            with self._disk_errors(path), suppress(FileNotFoundError):
                path.lstat()

    def _find_older(self, name: str, key: str) -> str:
        """Return the name under `older/` that holds a job's whole result, or ""."""
        if not self.has_older():
            return ""
        kept = ((each, read_record(self.record_path(each))) for each in _older_names(name, key))
        return next((each for each, r in kept if r.get("key") == key and self._has_image(r)), "")

    def publish(self, name: str, suffix: str, image: bytes, log: bytes, record: Mapping[str, Any]) -> Path:
        """Stage a result and publish it; return the image's path.

        Raises:
            DiskError: something cannot be written; nothing partial is visible.
        """
        return self.publish_staged(self.stage(name, suffix, image, log, record))

    def stage(self, name: str, suffix: str, image: bytes, log: bytes, record: Mapping[str, Any]) -> Path:
        """Put a whole result on the stage, durably; from now on it need not be computed again.

        Raises:
            PathError, DiskError: it cannot be written.
        """
        full = {**record, "image": f"{name}{suffix}"}
        full.pop("replaced", None)
        if older := self._older_name(name, str(record["key"])):
            full["replaced"] = older
        unfinished = self.stage_folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        staged = self.stage_folder / str(record["key"])
        disk = self.disk
        with self._disk_errors(self.folder):
            self._check_same_folder()
            disk.make_folder(unfinished)
            for file, data in ((LOG, log), (f"image{suffix}", image), (RECORD, _json_bytes(full))):
                disk.write(unfinished / file, data)
                disk.sync(unfinished / file)
            disk.sync_folder(unfinished)
            disk.rename(unfinished, staged)
            disk.sync_folder(self.stage_folder)
        return staged

    def _older_name(self, name: str, key: str) -> str:
        """Return where another job's result of this name has to move; "" if there is none."""
        held = read_record(self.record_path(name))
        if held.get("status") != "done" or held.get("key") == key:
            return ""
        candidates = _older_names(name, str(held.get("key")))
        suffix = _suffix_of(held, name)
        return next((each for each in candidates if self._may_keep(each, suffix, held)), candidates[-1])

    def _may_keep(self, older: str, suffix: str, held: Mapping[str, Any]) -> bool:
        record = read_record(self.record_path(older))
        same = record.get("key") == held.get("key")
        return same or not (record or os.path.lexists(self.image_path(older, suffix)))

    def _check_same_folder(self) -> None:
        """Never make a folder anew that was unmounted while a job ran."""
        if self._lock_inode and inode_of(self.folder / LOCK) != self._lock_inode:
            raise FileNotFoundError(errno.ENOENT, "the folder went away since the job began")

    def staged_drops(self) -> list[tuple[str, str]]:
        """Return the drops and keys of the results on the stage.

        Raises:
            DiskError: they cannot be read.
        """
        with self._disk_errors(self.folder):
            records = [_staged_record(staged) for staged in self._on_stage()[0]]
        return [(str(record["drop"]), str(record["key"])) for record in records if record.get("drop")]

    def _on_stage(self) -> tuple[list[Path], list[Path]]:
        """Return the whole results, and what is not ours: files, links, folders that are no result."""
        results: list[Path] = []
        foreign: list[Path] = []
        with suppress(FileNotFoundError), os.scandir(self.stage_folder) as entries:
            for entry in entries:
                if entry.name.startswith(TEMPORARY_PREFIX):
                    continue
                ours = entry.is_dir(follow_symlinks=False) and _is_key(entry.name)
                (results if ours and _has_plain_record(entry.path) else foreign).append(Path(entry.path))
        return sorted(results), sorted(foreign)

    def is_staged(self, key: str) -> bool:
        return (self.stage_folder / key / RECORD).is_file()

    def publish_staged(self, staged: Path) -> Path:
        """Move a result, or what is left of it, from the stage to its place; return the image's path.

        Raises:
            PathError: its name cannot be used; it stays staged, and the same call goes on from there.
            DiskError: it cannot be moved; likewise.
        """
        with self._disk_errors(self.folder, f"; the finished picture waits in {staged}"):
            record = _staged_record(staged)
            if not record:
                raise FileNotFoundError(errno.ENOENT, "its result is not on the stage")
            key, (name, suffix) = str(record["key"]), os.path.splitext(str(record["image"]))
            if not is_inside(self.image_path(name, suffix), self.folder):
                raise OSError(errno.EINVAL, "it leads out of the folder", str(self.image_path(name, suffix)))
            image = staged / f"image{suffix}"
            held = read_record(self.record_path(name))
            ours = held.get("key") == key
            if held.get("status") == "done" and not ours:
                self._move_to_older(name, held, str(record.get("replaced")))
            if image.exists() and os.path.lexists(self.image_path(name, suffix)) and not ours:
                # Someone put a file of this name there since the job got it.
                name = self._free_name(_without_id(name, key), suffix, key)
                self.disk.put(staged / RECORD, _json_bytes({**record, "image": f"{name}{suffix}"}))
            path = self.image_path(name, suffix)
            self._leave_stage(staged / LOG, self.log_path(name), replace=True)
            self._leave_stage(image, path, replace=ours)
            self.disk.sync_folder(staged)
            self._leave_stage(staged / RECORD, self.record_path(name), replace=True)
            self._remove_staged(staged)
        return path

    def _remove_staged(self, staged: Path) -> None:
        """Remove a published result's folder on the stage, unless it holds a file that is not ours."""
        try:
            self.disk.rmdir(staged)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            self.left_alone += (f"{staged}: is not empty, and left alone.",)

    def _leave_stage(self, source: Path, target: Path, replace: bool) -> None:
        if not source.exists():
            return  # it left before a crash
        self.disk.make_folder(target.parent)
        (self.disk.replace if replace else self.disk.rename)(source, target)
        self.disk.sync_folder(target.parent)

    def _move_to_older(self, name: str, held: Mapping[str, Any], older: str) -> None:
        """Move the result whose name the staged one takes, or what is left of it, to `older/`, record last.

        Cut off anywhere, the same call goes on from there. Nothing happens where a staged record names
        another place than it can have, or another file came there: the staged result then gets an id.
        """
        suffix = _suffix_of(held, name)
        source, target = self.image_path(name, suffix), self.image_path(older, suffix)
        same = read_record(self.record_path(older)).get("key") == held.get("key")
        if older not in _older_names(name, str(held.get("key"))):
            return
        if os.path.lexists(source) and os.path.lexists(target) and not (same or same_bytes(source, target)):
            return
        self._leave_stage(self.log_path(name), self.log_path(older), replace=True)
        self._leave_stage(source, target, replace=os.path.lexists(target))
        self.disk.sync_folder(self.logs)
        self.disk.sync_folder(source.parent)
        self.disk.put(self.record_path(older), _json_bytes({**held, "image": f"{older}{suffix}"}))
        self.disk.remove(self.record_path(name))

    def stage_older(self, place: Place, drop: str = "") -> Path:
        """Put a copy of an older result on the stage, under a place's name and for a drop if there is one.

        Raises:
            DiskError: it cannot be read or written.
        """
        with self._disk_errors(self.folder):
            record = read_record(self.record_path(place.older))
            suffix = _suffix_of(record, place.older)
            image, log = self.image_path(place.older, suffix), self.log_path(place.older)
            log_data = log.read_bytes() if log.exists() else b""
            asked = {"drop": drop} if drop else {}
            return self.stage(place.name, suffix, image.read_bytes(), log_data, {**record, **asked})

    def remove_older(self, place: Place) -> None:
        """Remove an older result that was published again, its record last.

        Raises:
            DiskError: it cannot be removed; what is left of it harms nobody.
        """
        with self._disk_errors(self.folder):
            suffix = _suffix_of(read_record(self.record_path(place.older)), place.older)
            image = self.image_path(place.older, suffix)
            for each in (image, self.log_path(place.older), self.record_path(place.older)):
                self.disk.remove(each)

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        self._put(self.record_path(name), _json_bytes(record))

    def write_snapshot(self, name: str, suffix: str, image: bytes) -> None:
        self._put(self.image_path(name, suffix), image)

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        path = self.folder / "summary.json"
        self._put(path, _json_bytes(summary))
        return path

    def add_run(self, summary: Mapping[str, Any]) -> None:
        """Add a line about a run to those of the runs before it, of which the last are kept."""
        path = self.logs / RUNS
        with self._disk_errors(path):
            lines = path.read_bytes().splitlines() if path.is_file() else []
        lines.append(json.dumps(summary, ensure_ascii=False).encode(errors="backslashreplace"))
        del lines[:-RUNS_KEPT]
        while len(lines) > 1 and sum(map(len, lines)) > RUNS_BYTES:
            del lines[0]
        self._put(path, b"".join(line + b"\n" for line in lines))

    def _put(self, path: Path, data: bytes) -> None:
        with self._disk_errors(path):
            self._check_same_folder()
            self.disk.put(path, data)

    @contextmanager
    def locked(self, sweep: bool = True) -> Iterator[None]:
        """Hold the folder for this process; the system lets go when the process ends, however it ends.

        What a dead process left is put right first: staged results are published, and with `sweep`
        unfinished files are removed.

        Raises:
            LockedError: another process holds it.
            PathError: the folder's name cannot be used.
            DiskError: the folder cannot be made or put right.
        """
        lock = filelock.FileLock(self.folder / LOCK, timeout=0)
        with self._disk_errors(self.folder):
            self.disk.make_folder(self.logs)
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise LockedError(
                    f"{self.folder}: another process is working on this batch.",
                    "Wait for it, or give this one another batch name.",
                ) from error
        self._lock_inode = inode_of(self.folder / LOCK)
        try:
            self._put_right(sweep)
            yield
        finally:
            self._lock_inode = 0
            lock.release()

    def _put_right(self, sweep: bool) -> None:
        """Only the holder of the lock writes here, so what is unfinished belongs to a dead process."""
        with self._disk_errors(self.folder):
            results, foreign = self._on_stage()
            self.left_alone = tuple(f"{path}: is no result, and left alone." for path in foreign)
            for staged in results:
                self._end_staged(staged)
            unfinished = list(self.stage_folder.glob(f"{TEMPORARY_PREFIX}*"))
            for path in (*unfinished, *(_unfinished(self.folder) if sweep else ())):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    remove_unlocked(path)
            sweep_unfinished(self.folder.parent)

    def _end_staged(self, staged: Path) -> None:
        """Publish a staged result; one whose name cannot be used stays there, and the others go on."""
        if not _staged_record(staged):  # its record, the last file to move, is gone
            for path in (staged / LOG, staged / RECORD, *staged.glob("image.*")):
                self.disk.remove(path)
            return self._remove_staged(staged)
        try:
            self.publish_staged(staged)
        except PathError as error:
            self.left_alone += (str(error),)

    @contextmanager
    def _disk_errors(self, path: Path, consequence: str = "") -> Iterator[None]:
        """Raise PathError for errors about one name in the outbox, DiskError for all others."""
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


def batch_names(outbox: Path) -> list[str]:
    """Return the names of the batches that were ever worked on in an outbox."""
    return sorted(path.parent.name for path in outbox.glob(f"*/{LOCK}"))


def _unfinished(folder: Path) -> Iterator[Path]:
    """Find unfinished files and folders at any depth. `rglob` takes twice as long among 100,000 results."""
    for entry in walk(folder, strict=False):
        if entry.name.startswith(TEMPORARY_PREFIX):
            yield Path(entry.path)


def _is_key(name: str) -> bool:
    return len(name) == 64 and all(digit in "0123456789abcdef" for digit in name)


def _has_plain_record(staged: str) -> bool:
    """Tell whether the record of a result is a file, or has left."""
    try:
        return stat.S_ISREG(os.lstat(os.path.join(staged, RECORD)).st_mode)
    except FileNotFoundError:
        return True


def read_record(path: Path | str) -> dict[str, Any]:
    """Return a record; empty where there is none, or it is damaged. Its job is then not done.

    Raises:
        DiskError: there may be one, and it cannot be read now.
    """
    with disk_errors(path, "cannot be read", "Check the disk and its permissions."):
        return read_json_object(path)


def _staged_record(staged: Path) -> dict[str, Any]:
    """Return the record of a result on the stage; empty where it has left, or is damaged beyond use.

    Raises:
        OSError: it cannot be read now.
    """
    record = read_json_object(staged / RECORD)
    return record if "image" in record and record.get("key") == staged.name else {}


def log_bytes(header: Sequence[str], rows: Sequence[Sequence[float]]) -> bytes:
    """Return the loss log as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.6g}" for value in row] for row in rows)
    return text.getvalue().encode()


def _with_ids(name: str, key: str) -> tuple[str, ...]:
    return tuple(f"{name}-{key[:length]}" for length in ID_LENGTHS)


def _older_names(name: str, key: str) -> tuple[str, ...]:
    """Return the names that a result may get when a newer one takes its name."""
    return _with_ids(f"{OLDER}/{name}", key)


def _suffix_of(record: Mapping[str, Any], name: str) -> str:
    """Return the suffix of a result's image; for a record that names another file, one that no image has."""
    stem, suffix = os.path.splitext(str(record.get("image")))
    return suffix if stem == name else ".none"


def _without_id(name: str, key: str) -> str:
    for length in reversed(ID_LENGTHS):
        name = name.removesuffix(f"-{key[:length]}")
    return name


def _folded(name: str) -> str:
    """Names that differ in case only are one name on many disks."""
    return name.casefold()


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
