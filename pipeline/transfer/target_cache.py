"""The cache of style targets: each is computed once, and shared by jobs and processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..errors import DiskError
from ..storage.files import make_private
from .losses import Moments
from .targets import StyleTargets
from .tensor_files import DamagedError, read_tensor_file, write_tensor_file

FORMAT_VERSION = "3"
# Targets take seconds; a process that holds a lock for longer hangs, and the others no longer wait for it.
LOCK_S = 120


@dataclass(frozen=True)
class ColorMatch:
    """The content whose colours a style gets before it is analysed, at the size (width, height) of the level.

    `method` is the recipe's `match_by`; empty for luminance, which is matched in one way only.
    """

    color: str
    method: str
    content_sha256: str
    content_size: tuple[int, int]


@dataclass(frozen=True)
class StyleKey:
    """Everything that the targets of a style depend on. `size` is (width, height)."""

    style_sha256: str
    size: tuple[int, int]
    weights_digest: str
    layers: tuple[str, ...]
    pooling: str
    padding: str
    color_match: ColorMatch | None = None

    def digest(self) -> str:
        """Return the sha256 that names the cache entry."""
        text = json.dumps({**asdict(self), "format": FORMAT_VERSION}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class TargetCache:
    """Style targets by the digest of their key: the most recent in memory, in front of a folder on disk.

    Any number of processes may share the folder: an entry is written to a temporary file and renamed into
    place, and an entry that is damaged or has other shapes is a miss. With `directory` None nothing is kept
    on disk. When the folder exceeds `disk_bytes`, the entries that were not used for longest are deleted.
    """

    def __init__(
        self, directory: Path | None, disk_bytes: int = 1 << 30, memory_bytes: int = 256 << 20
    ) -> None:
        self.directory = directory
        self.disk_bytes = disk_bytes
        self.memory_bytes = memory_bytes
        self._memory: OrderedDict[str, StyleTargets] = OrderedDict()

    def fetch(
        self,
        key: str,
        channels: Mapping[str, int],
        compute: Callable[[], StyleTargets],
        decomposed: bool = False,
    ) -> tuple[StyleTargets, bool]:
        """Return the targets under `key`, computed if they are missing, and whether they were there.

        `channels` are their layers, with the number of channels of each. With `decomposed` they have spectra,
        which are kept in memory only: to compute them takes little time beside the targets.
        """
        targets, found = self._memory.get(key) or self._read(key, channels), True
        if targets is None:
            with self._lock(key):
                targets = self._read(key, channels)  # another process may have computed them meanwhile
                if targets is None:
                    targets, found = compute(), False
                    self._write(key, targets)
        if decomposed:
            targets = targets.decomposed()
        self._remember(key, targets)
        return targets, found

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Let one process at a time compute an entry. Where locks do not work, several may."""
        if self.directory is None:
            yield
            return
        # A few locks for all entries: one for each would leave as many files behind.
        lock = FileLock(self.directory / f"{key[0]}.lock", timeout=LOCK_S)
        with ExitStack() as stack:
            with suppress(OSError, Timeout, NotImplementedError):  # NotImplementedError: older filelock
                make_private(self.directory)
                stack.enter_context(lock)
            yield

    def _remember(self, key: str, targets: StyleTargets) -> None:
        self._memory[key] = targets
        self._memory.move_to_end(key)
        while (
            len(self._memory) > 1 and sum(t.memory_bytes for t in self._memory.values()) > self.memory_bytes
        ):
            self._memory.popitem(last=False)

    def _read(self, key: str, channels: Mapping[str, int]) -> StyleTargets | None:
        if self.directory is None:
            return None
        path = self.directory / f"{key}.safetensors"
        try:
            tensors, metadata = read_tensor_file(path)
            if metadata != {"key": key, "format": FORMAT_VERSION} or not _are_moments(tensors, channels):
                return None
            os.utime(path)
        except (OSError, DiskError, DamagedError):
            return None
        return StyleTargets(
            {name: Moments(tensors[f"{name}.mean"], tensors[f"{name}.second"]) for name in channels}
        )

    def _write(self, key: str, targets: StyleTargets) -> None:
        """Write an entry. If the cache is full or read-only, the targets are computed again the next time."""
        if self.directory is None:
            return
        tensors = {f"{name}.mean": m.mean for name, m in targets.layers.items()}
        tensors |= {f"{name}.second": m.second for name, m in targets.layers.items()}
        metadata = {"key": key, "format": FORMAT_VERSION}
        with suppress(OSError):
            self._evict(sum(tensor.nbytes for tensor in tensors.values()))
            write_tensor_file(self.directory / f"{key}.safetensors", tensors, metadata)

    def _evict(self, needed: int) -> None:
        """Delete the oldest entries until `needed` bytes fit into the cache."""
        assert self.directory is not None
        entries = []
        for path in self.directory.glob("*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process deleted it
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in entries) + needed - self.disk_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def _are_moments(tensors: Mapping[str, Tensor], channels: Mapping[str, int]) -> bool:
    """Return whether these are the moments of one style, for layers with these numbers of channels."""
    wanted: dict[str, tuple[int, ...]] = {f"{name}.mean": (1, count) for name, count in channels.items()}
    wanted |= {f"{name}.second": (1, count, count) for name, count in channels.items()}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()} == wanted and all(
        tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in tensors.values()
    )
