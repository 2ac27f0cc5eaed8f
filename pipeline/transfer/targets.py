"""Style targets (what a style is, per layer) and the cache that computes them once.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..storage.files import make_private
from ..vgg.encoder import Encoder
from .losses import Moments, moments
from .tensor_files import DamagedError, TensorFile, read_tensor_file

FORMAT_VERSION = "3"
# Targets take seconds; a process that holds a lock longer hangs, and is not waited for.
LOCK_S = 120


@dataclass(frozen=True)
class StyleTargets:
    """Mean (BC) and second moment (BCC) of the style's features, per layer.

    With `masks` (BKHW, of the canvas's size) every picture has K styles, in a row along B, and `masks` says
    how much each pixel belongs to their regions; they add up to one.
    """

    layers: Mapping[str, Moments]
    masks: Tensor | None = None

    @property
    def regions(self) -> int:
        """The styles of each picture, which are regions of it; 0 without masks."""
        return 0 if self.masks is None else self.masks.shape[1]

    @property
    def memory_bytes(self) -> int:
        return sum(
            tensor.nbytes for m in self.layers.values() for tensor in (m.mean, m.second, *(m.spectrum or ()))
        )

    def to(self, device: torch.device) -> StyleTargets:
        return StyleTargets(
            {
                name: Moments(m.mean.to(device), m.second.to(device), m.spectrum)
                for name, m in self.layers.items()
            },
            None if self.masks is None else self.masks.to(device),
        )

    def decomposed(self) -> StyleTargets:
        """Return the same with the spectra that a `bures` style loss needs."""
        return StyleTargets({name: m.decomposed() for name, m in self.layers.items()})


@torch.no_grad()
def gram_targets(encoder: Encoder, style_image_BCHW: Tensor, layers: Sequence[str]) -> StyleTargets:
    """Compute the style targets of a picture; kept on the CPU."""
    features = encoder(style_image_BCHW)
    computed = {layer: moments(features[layer]) for layer in layers}
    return StyleTargets(computed).to(torch.device("cpu"))


def blend_targets(targets: Sequence[StyleTargets], weights: Sequence[float]) -> StyleTargets:
    """Return the weighted mean of several styles' targets; the weights need not add up to one."""
    if len(targets) == 1:
        return targets[0]
    shares = [(each, weight / sum(weights)) for each, weight in zip(targets, weights, strict=True)]
    blended = {}
    for layer in targets[0].layers:
        mean = sum((each.layers[layer].mean * share for each, share in shares), torch.zeros(()))
        second = sum((each.layers[layer].second * share for each, share in shares), torch.zeros(()))
        blended[layer] = Moments(mean, second)
    return StyleTargets(blended)


def stack_targets(targets: Sequence[StyleTargets]) -> StyleTargets:
    """Join the targets of several pictures, each with a style of its own, along B."""
    joined = {}
    for layer in targets[0].layers:
        parts = [each.layers[layer] for each in targets]
        spectra = [part.spectrum for part in parts if part.spectrum is not None]
        joined[layer] = Moments(
            torch.cat([part.mean for part in parts]),
            torch.cat([part.second for part in parts]),
            _joined_spectrum(spectra) if len(spectra) == len(parts) else None,
        )
    masks = [each.masks for each in targets if each.masks is not None]
    return StyleTargets(joined, torch.cat(masks) if masks else None)


def _joined_spectrum(spectra: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    values, vectors = zip(*spectra, strict=True)
    return torch.cat(values), torch.cat(vectors)


@dataclass(frozen=True)
class ColorMatch:
    """The content whose colours a style is given before it is analysed, at that level's size.

    `method` is the recipe's `match_by`; a match of luminance has only one.
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
    """Style targets by key: least recently used in memory, in front of a folder on disk.

    Any number of processes may share the folder: entries are written to a temporary file and renamed
    into place, and an entry that is damaged or of other shapes is a miss. `directory` None keeps to memory.
    Sizes are in bytes; when the folder outgrows `disk_bytes` the oldest entries go first.
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
        """Return the targets under `key`, computed if need be, and whether they were there.

        `channels` are the layers that they have, with the features of each. Spectra are kept in memory only:
        what they save is little beside computing a style.
        """
        targets, found = self._memory.get(key) or self._read(key, channels), True
        if targets is None:
            with self._lock(key):
                targets = self._read(key, channels)  # who held the lock may have computed it
                if targets is None:
                    targets, found = compute(), False
                    self._write(key, targets)
        if decomposed:
            targets = targets.decomposed()
        self._remember(key, targets)
        return targets, found

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Let one process at a time compute an entry; without a lock to be had, several may."""
        if self.directory is None:
            yield
            return
        # A few locks for all entries, so that no file stays behind for each.
        lock = FileLock(self.directory / f"{key[0]}.lock", timeout=LOCK_S)
        with ExitStack() as stack:
            with suppress(OSError, Timeout, NotImplementedError):  # the last: older versions of filelock
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
        except (OSError, DamagedError):
            return None
        return StyleTargets(
            {name: Moments(tensors[f"{name}.mean"], tensors[f"{name}.second"]) for name in channels}
        )

    def _write(self, key: str, targets: StyleTargets) -> None:
        """Publish an entry. A full or read-only cache costs time, not the job."""
        if self.directory is None:
            return
        tensors = {f"{name}.mean": m.mean for name, m in targets.layers.items()}
        tensors |= {f"{name}.second": m.second for name, m in targets.layers.items()}
        entry = TensorFile(tensors, {"key": key, "format": FORMAT_VERSION})
        # Without room for it the targets are computed again another time; the job goes on.
        with suppress(OSError):
            self._make_room(len(entry))
            entry.write(self.directory / f"{key}.safetensors")

    def _make_room(self, needed: int) -> None:
        assert self.directory is not None
        entries = []
        for path in self.directory.glob("*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process made room first
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in entries) + needed - self.disk_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def _are_moments(tensors: Mapping[str, Tensor], channels: Mapping[str, int]) -> bool:
    """Tell whether these are the moments of one style, of layers with so many features."""
    wanted: dict[str, tuple[int, ...]] = {f"{name}.mean": (1, count) for name, count in channels.items()}
    wanted |= {f"{name}.second": (1, count, count) for name, count in channels.items()}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()} == wanted and all(
        tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in tensors.values()
    )
