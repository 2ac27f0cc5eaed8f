"""Who works on a batch: one process, or the shards of one division of it, which share its folder.

In `.shards/` of the batch each shard `I-of-N` has its lock, its stage and the summary of its last run. All of
them take two more locks for a moment: `gate` to begin, and `merge` to write what they share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from ..errors import LockedError
from .files import Disk, read_json_object
from .locks import is_locked
from .paths import BatchPaths, json_bytes

# How many seconds a shard waits for another that begins, and may have much to sweep, or that writes what they
# share.
PATIENCE_S = 600.0
_LABEL = re.compile(r"(\d+)-of-(\d+)")


class Shards:
    """The processes that work on a batch. This one is the shard that its paths name, or the only one."""

    def __init__(self, paths: BatchPaths, disk: Disk) -> None:
        self.paths = paths
        self.disk = disk

    def acquire(self, prepare: Callable[[bool], None]) -> filelock.BaseFileLock:
        """Take this process' lock, complete what dead processes left, and return the lock.

        `prepare` does the second. It is told whether this process is alone; if it is not, others may have
        unfinished files, and what is another shard's is left to that shard.

        Raises:
            LockedError: another process works on the batch, or on this shard of it.
        """
        return self._acquire_shard(prepare) if self.paths.shard else self._acquire_whole(prepare)

    def _acquire_whole(self, prepare: Callable[[bool], None]) -> filelock.BaseFileLock:
        lock = self._lock(self.paths.lock, "another process is working on this batch")
        with _released_on_error(lock):
            if self.paths.shards.is_dir():
                with self._briefly("gate"):
                    self._refuse_beside(self._running())
                for part in self.paths.shards.glob("*.json"):
                    self.disk.remove(part)
            prepare(True)
        return lock

    def _acquire_shard(self, prepare: Callable[[bool], None]) -> filelock.BaseFileLock:
        self.disk.make_folder(self.paths.shards)
        with self._briefly("gate"):
            whole = self._lock(self.paths.lock, "another process is working on this batch")
            try:
                own = self._lock(self.paths.own_lock, "another process is working on this shard")
            finally:
                whole.release()
            with _released_on_error(own):
                running = self._running()
                self._refuse_beside([each for each in running if _count(each) != _count(self.paths.shard)])
                self.disk.remove(self._part(self.paths.shard))
                prepare(not running)
        return own

    def _lock(self, path: Path, why_not: str) -> filelock.BaseFileLock:
        lock = filelock.FileLock(path, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise LockedError(
                f"{self.paths.folder}: {why_not}.", "Wait for it, or give this one another batch name."
            ) from error
        return lock

    def _refuse_beside(self, running: list[str]) -> None:
        """Refuse to begin beside shards that share nothing with this process but the folder."""
        if running:
            first = running[0].replace("-of-", " of ")
            raise LockedError(
                f"{self.paths.folder}: shard {first} of this batch is being made.",
                "Wait until all shards have ended, or run a shard of the same division.",
            )

    def _running(self) -> list[str]:
        """Return the other shards at work. Only in the gate, as asking for a lock takes it for a moment."""
        locks = (path for path in sorted(self.paths.shards.glob("*.lock")) if path != self.paths.own_lock)
        return [path.stem for path in locks if _LABEL.fullmatch(path.stem) and is_locked(path)]

    @contextmanager
    def _briefly(self, name: str) -> Iterator[None]:
        """Hold a lock that every shard takes for a moment."""
        try:
            with filelock.FileLock(self.paths.shards / f"{name}.lock", timeout=PATIENCE_S):
                yield
        except filelock.Timeout as error:
            raise LockedError(
                f"{self.paths.folder}: another shard of it has been busy for {PATIENCE_S:.0f} seconds.",
                "Run the same command again when that one has ended.",
            ) from error

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Write what shards share: `summary.json`, the file of runs, the sheet."""
        if not self.paths.shard:
            yield
            return
        with self._briefly("merge"):
            yield

    def write_part(self, summary: Mapping[str, Any]) -> None:
        """Keep the summary of this shard's run until its next one begins."""
        self.disk.put(self._part(self.paths.shard), json_bytes(summary))

    def not_ended(self) -> list[int]:
        """Return the numbers of the shards that have not ended; none for a batch that is not divided."""
        return [each for each in range(1, _count(self.paths.shard) + 1) if not self._part_of(each).is_file()]

    def read_parts(self) -> dict[int, dict[str, Any]]:
        """Return the summaries of the shards that have ended, by their numbers."""
        found = {
            number: read_json_object(self._part_of(number))
            for number in range(1, _count(self.paths.shard) + 1)
        }
        return {number: part for number, part in found.items() if part}

    def stages(self) -> list[BatchPaths]:
        """Return the paths of all shards that have a stage."""
        labels = sorted(path.stem for path in self.paths.shards.glob("*.staged"))
        return [BatchPaths(self.paths.folder, label) for label in labels]

    def _part(self, label: str) -> Path:
        return self.paths.shards / f"{label}.json"

    def _part_of(self, number: int) -> Path:
        return self._part(f"{number}-of-{_count(self.paths.shard)}")


def _count(label: str) -> int:
    """Return the number of shards that a shard is one of."""
    found = _LABEL.fullmatch(label)
    return int(found[2]) if found else 0


@contextmanager
def _released_on_error(lock: filelock.BaseFileLock) -> Iterator[None]:
    try:
        yield
    except BaseException:
        lock.release()
        raise
