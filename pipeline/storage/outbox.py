"""Outbox: results are published whole or not at all. Log first, image next, record last."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import PathError
from .files import TEMPORARY_PREFIX, Disk, inode_of, is_inside, walk
from .older import OlderResults
from .paths import LOCK, LOG, RECORD, SUMMARY, BatchPaths, is_done, json_bytes, name_without_id
from .places import Place, Places
from .shards import Shards
from .stage import Stage, staged_record
from .temporary import remove_unlocked, sweep_unfinished

# The file with earlier runs, and its limits: it is read and rewritten at the end of every run.
RUNS = "runs.jsonl"
RUNS_KEPT, RUNS_BYTES = 100, 64 << 20


class BatchFolder:
    """One batch's folder in the outbox, which one process at a time writes to, or several shards of it.

    A result is staged whole and leaves the stage by renames. A staged result will be published, by the next
    owner of the lock if need be. The results that it replaces are moved to `older/`.
    """

    def __init__(self, outbox: Path, batch: str, disk: Disk | None = None, shard: str = "") -> None:
        self.paths = BatchPaths(outbox / batch, shard)
        self.disk = disk or Disk()
        self.shards = Shards(self.paths, self.disk)
        self.places = Places(self.paths)
        self.stage = Stage(self.paths, self.disk)
        self._older = OlderResults(self.paths, self.disk, self.stage)
        self._lock_inode = 0
        # A sentence about each thing on the stage that was neither published nor removed.
        self.left_alone: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.paths.folder

    def stage_result(
        self,
        name: str,
        suffix: str,
        image: bytes,
        log: bytes,
        record: Mapping[str, Any],
        modified_ns: int | None = None,
        outdated: Sequence[str] = (),
    ) -> Path:
        """Put a whole result on the stage, durably; from now on it need not be computed again.

        The image gets the modification time `modified_ns`, in nanoseconds since 1970; None is now. When it is
        published, it replaces the result of its name and those of the names `outdated`.

        Raises:
            PathError, DiskError: it cannot be written.
        """
        key = str(record["key"])
        full = {**record, "image": f"{name}{suffix}"}
        full.pop("replaced", None)
        older = {each: self._older.name_for_replaced(each, key) for each in (name, *outdated)}
        if replaced := {each: to for each, to in older.items() if to}:
            full["replaced"] = replaced
        with self.paths.errors():
            self._check_same_folder()
            return self.stage.put(key, suffix, image, log, full, modified_ns)

    def publish_staged(self, staged: Path) -> Path:
        """Move a result, or what is left of it, from the stage to its place; return the image's path.

        Raises:
            PathError: its name cannot be used; it stays staged, and the same call resumes.
            DiskError: it cannot be moved; likewise.
        """
        with self.paths.errors(consequence=f"; the finished picture waits in {staged}"):
            record = staged_record(staged)
            if not record:
                raise FileNotFoundError(errno.ENOENT, "its result is not on the stage")
            name, suffix = os.path.splitext(str(record["image"]))
            path = self.paths.image(name, suffix)
            if not is_inside(path, self.path):
                raise OSError(errno.EINVAL, "it leads out of the folder", str(path))
            return self._move_to_place(staged, record, name, suffix)

    def _move_to_place(self, staged: Path, record: Mapping[str, Any], name: str, suffix: str) -> Path:
        key, image = str(record["key"]), staged / f"image{suffix}"
        ours = self.paths.read_record(name).get("key") == key
        self._move_replaced(record, name, key)
        if image.exists() and os.path.lexists(self.paths.image(name, suffix)) and not ours:
            # Someone put a file of this name there since the job got it.
            name = self.places.give_free(name_without_id(name, key), suffix, key)
            self.disk.put(staged / RECORD, json_bytes({**record, "image": f"{name}{suffix}"}))
        path = self.paths.image(name, suffix)
        self.stage.move_out(staged / LOG, self.paths.log(name), replace=True)
        self.stage.move_out(image, path, replace=ours)
        self.disk.sync_folder(staged)
        self.stage.move_out(staged / RECORD, self.paths.record(name), replace=True)
        self._remove_staged(staged)
        return path

    def _move_replaced(self, record: Mapping[str, Any], name: str, key: str) -> None:
        """Move what a staged result replaces to `older/`: results of its own name, or of that with an id."""
        replaced, own = record.get("replaced"), {name, name_without_id(name, key)}
        for source, older in replaced.items() if isinstance(replaced, dict) else ():
            held = self.paths.read_record(source)
            held_key = str(held.get("key"))
            if is_done(held) and held_key != key and name_without_id(source, held_key) in own:
                self._older.move_here(source, held, str(older))

    def _remove_staged(self, staged: Path) -> None:
        if not self.stage.remove(staged):
            self.left_alone += (f"{staged}: is not empty, and is left alone.",)

    def staged_drops(self) -> list[tuple[str, str]]:
        """Return the drops and keys of the results on the stage.

        Raises:
            DiskError: they cannot be read.
        """
        with self.paths.errors():
            records = [staged_record(staged) for staged in self.stage.scan()[0]]
        return [(str(record["drop"]), str(record["key"])) for record in records if record.get("drop")]

    def stage_older(self, place: Place, drop: str = "", modified_ns: int | None = None) -> Path:
        """Put a copy of an older result on the stage, under a place's name and for a drop if there is one.

        `modified_ns` as in `stage_result`.

        Raises:
            PathError, DiskError: it cannot be read or written.
        """
        with self.paths.errors():
            suffix, image, log, record = self._older.read(place.older)
            record |= {"drop": drop} if drop else {}
            return self.stage_result(place.name, suffix, image, log, record, modified_ns, place.outdated)

    def remove_older(self, place: Place) -> None:
        """Remove an older result that was published again.

        Raises:
            DiskError: it cannot be removed; what is left of it is harmless.
        """
        with self.paths.errors():
            self._older.remove(place.older)

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        self._put(self.paths.record(name), json_bytes(record))

    def remove_failures(self, names: Iterable[str]) -> None:
        """Remove those of these records that say why a job failed.

        Raises:
            DiskError: one cannot be removed.
        """
        with self.paths.errors():
            for name in names:
                if self.paths.read_record(name).get("status") == "failed":
                    self.disk.remove(self.paths.record(name))

    def write_snapshot(self, name: str, suffix: str, image: bytes) -> None:
        self._put(self.paths.image(name, suffix), image)

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        path = self.path / SUMMARY
        self._put(path, json_bytes(summary))
        return path

    def add_run(self, summary: Mapping[str, Any]) -> None:
        """Add a line about a run to the file of runs, which keeps the last ones."""
        path = self.paths.logs / RUNS
        with self.paths.errors(path):
            lines = path.read_bytes().splitlines() if path.is_file() else []
        lines.append(json.dumps(summary, ensure_ascii=False).encode(errors="backslashreplace"))
        del lines[:-RUNS_KEPT]
        while len(lines) > 1 and sum(map(len, lines)) > RUNS_BYTES:
            del lines[0]
        self._put(path, b"".join(line + b"\n" for line in lines))

    def _put(self, path: Path, data: bytes) -> None:
        with self.paths.errors(path):
            self._check_same_folder()
            self.disk.put(path, data)

    def _check_same_folder(self) -> None:
        """Never make a new folder in place of one that was unmounted while a job ran."""
        if self._lock_inode and inode_of(self.paths.own_lock) != self._lock_inode:
            raise FileNotFoundError(errno.ENOENT, "the folder went away since the job began")

    @contextmanager
    def locked(self, sweep: bool = True) -> Iterator[None]:
        """Hold the folder's lock, which the system releases however the process ends.

        What a dead process left is completed first: staged results are published, and with `sweep`
        unfinished files are removed.

        Raises:
            LockedError: another process holds it, or works on the same shard.
            PathError: the folder's name cannot be used.
            DiskError: the folder cannot be made or repaired.
        """
        with self.paths.errors():
            self.disk.make_folder(self.paths.logs)
            lock = self.shards.acquire(lambda is_alone: self._repair(sweep, is_alone))
        self._lock_inode = inode_of(self.paths.own_lock)
        try:
            yield
        finally:
            self._lock_inode = 0
            lock.release()

    def _repair(self, sweep: bool, is_alone: bool) -> None:
        """Where only the holder of the lock writes, what is unfinished belongs to a dead process."""
        stages = [self.stage]
        if is_alone:
            stages += [
                Stage(each, self.disk)
                for each in (BatchPaths(self.path), *self.shards.stages())
                if each.stage != self.paths.stage
            ]
        with self.paths.errors():
            self.left_alone = ()
            for stage in stages:
                results, foreign = stage.scan()
                self.left_alone += tuple(f"{path}: is not a result, and is left alone." for path in foreign)
                for staged in results:
                    self._end_staged(staged)
            for folder in [self.path] if sweep and is_alone else [stage.folder for stage in stages]:
                _remove_unfinished(folder)
            sweep_unfinished(self.path.parent)

    def _end_staged(self, staged: Path) -> None:
        """Publish a staged result; one whose name cannot be used stays, and does not hold up the others."""
        if not staged_record(staged):
            self.stage.empty(staged)
            return self._remove_staged(staged)
        try:
            self.publish_staged(staged)
        except PathError as error:
            self.left_alone += (str(error),)


def batch_names(outbox: Path) -> list[str]:
    """Return the names of the batches that were ever worked on in an outbox."""
    return sorted(path.parent.name for path in outbox.glob(f"*/{LOCK}"))


def _remove_unfinished(folder: Path) -> None:
    """Remove unfinished files and folders at any depth. `rglob` takes twice as long among 100,000 results."""
    for entry in walk(folder, strict=False):
        if not entry.name.startswith(TEMPORARY_PREFIX):
            continue
        path = Path(entry.path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            remove_unlocked(path)


def log_bytes(header: Sequence[str], rows: Sequence[Sequence[float]]) -> bytes:
    """Return the loss log as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.6g}" for value in row] for row in rows)
    return text.getvalue().encode()
