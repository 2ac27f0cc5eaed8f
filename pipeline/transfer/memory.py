"""What a picture costs in memory, and what a device has free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..spec.layers import poolings_before
from ..spec.recipe import Recipe
from ..vgg.encoder import convolution_of
from .cgroups import memory_left
from .devices import DevicePlan
from .segments import segments
from .usage import address_limit, others_bytes, own_bytes, used_addresses

# Bytes of a canvas per pixel.
CANVAS_BYTES = 3 * 4
# Tensors as large as the canvas, beside the history of L-BFGS: best, gradient, direction, pixel losses.
CANVASES = 12
# Temporary buffers of a pass, each as large as the largest feature map.
BUFFERS = 7
# Styles larger than that are analysed in tiles of so many pixels, whose windows are somewhat larger.
STYLE_TILE, STYLE_BORDER = 512, 64
# Bytes of a style's pixel beside its features: as float32, normalised, and while its palette is matched.
STYLE_PIXEL_BYTES = 60
# What libraries allocate in a process when it makes its first picture, beside that. Measured: 30 to 115 MB.
LIBRARY_BYTES = 100 << 20
# Addresses that they take beside that for a first picture: generated code, stacks of threads, gaps.
LIBRARY_ADDRESSES = 128 << 20
# What a process takes with its libraries, its network and a small picture. Measured: 350 to 520 MB.
PROCESS_BYTES = 512 << 20
# The usable part of what is free; the rest is for fragmentation and for what other programs do meanwhile.
USABLE = 0.9
# The part of the free memory that is planned for tiles. Pieces of many sizes leave gaps in the heap: up to a
# fifth more was measured than estimated.
TILES_USABLE = 0.8
# What tiles may take where the free memory of a device is not known.
FREE_IF_UNKNOWN = 4 << 30
# What the errors of torch's other allocators say.
OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "could not create a primitive",  # oneDNN, which has no memory for the code that it generates
    "could not create a memory",
)


def picture_bytes(recipe: Recipe, channels: Mapping[str, int], width: int, height: int, itemsize: int) -> int:
    """Estimate what one picture of a batch needs at a level: feature maps, buffers, optimiser.

    `channels` maps the convolutions of the network to their widths; `itemsize` is that of its dtype in bytes.
    """
    pixels = (width + 2 * recipe.margin) * (height + 2 * recipe.margin)
    features = feature_bytes(channels, itemsize)
    return round(pixels * (features + history_bytes(recipe) + CANVAS_BYTES * CANVASES))


def feature_bytes(channels: Mapping[str, int], itemsize: int) -> float:
    """Estimate what the feature maps of some convolutions, and the buffers of a pass, need per pixel."""
    maps = [map_size(name, count) for name, count in channels.items()]
    # Moments are taken of a float32 copy; the indices of max pooling take eight bytes each.
    return itemsize * (sum(maps) + BUFFERS * max(maps)) + 4 * max(maps) + 8 * sum(maps) / 8


def history_bytes(recipe: Recipe) -> int:
    """Return what the optimiser remembers, per pixel."""
    return CANVAS_BYTES * (2 * recipe.history if recipe.optimizer == "lbfgs" else 2)


def style_bytes(channels: Mapping[str, int], layers: Iterable[str], size: tuple[int, int]) -> int:
    """Estimate what the analysis of one style of (width, height) pixels needs: feature maps in float32."""
    largest = max(map_size(name, count) for name, count in channels.items())
    kept = sum(map_size(layer, channels[convolution_of(layer)]) for layer in layers)
    # A segment's input and output are kept whole; the first pair is the largest.
    ends = [each for each in segments(tuple(channels)) if each.following][:2]
    whole = sum(map_size(each.following, channels[each.convolutions[-1]]) for each in ends)
    window = min(size[0], STYLE_TILE + STYLE_BORDER) * min(size[1], STYLE_TILE + STYLE_BORDER)
    in_window = 4 * max(3 * largest, kept + 2 * largest)
    return round(window * in_window + size[0] * size[1] * (4 * whole + STYLE_PIXEL_BYTES))


def map_size(layer: str, channels: int) -> float:
    """Return the values of a feature map per pixel: each block has a quarter of the positions before it."""
    return float(channels * 0.25 ** poolings_before(layer))


@dataclass(frozen=True)
class LargeStyle:
    """Which style of a request does not fit, and at what size (width, height) it is analysed."""

    index: int
    size: tuple[int, int]


class OutOfMemory(Exception):
    """The pictures do not fit the device's memory; fewer or smaller ones may.

    `style` is set if it is a style that does not fit: another optimiser or batch would not change that.
    `foreseen`: they were not tried, as the estimate says that not even the smallest tiles would fit.
    """

    def __init__(self, style: LargeStyle | None = None, foreseen: bool = False) -> None:
        super().__init__()
        self.style = style
        self.foreseen = foreseen


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch or Python says that an allocation failed."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # Only CUDA has an exception class for this.
    return any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


class MemoryModel:
    """Predicts what fits a device: estimates against free memory, corrected by what was measured."""

    def __init__(
        self, plan: DevicePlan, share_bytes: int | None = None, limit_bytes: int | None = None
    ) -> None:
        self.plan = plan
        # What this process may take while others of ours run beside it; None if there are none.
        self.share_bytes = share_bytes
        # What it and those others may take together; None is all that is free.
        self.limit_bytes = limit_bytes
        # What it takes beside pictures: the least that was seen.
        self._base_bytes: int | None = None
        # What pictures really took, as a multiple of their estimate; measured on GPUs only.
        self.factor = 1.0

    def fits(self, bytes_per_picture: int, pictures: int, alone: bool = True) -> bool:
        """Return whether this many pictures fit: into our share, or if `alone` into all that is free.

        A single picture on a GPU without a limit is always tried, since a failed allocation does no harm
        there. The system's memory is overcommitted: a process that takes too much of it is killed.
        """
        free = self.free_bytes(alone)
        if free is None or (pictures == 1 and self.plan.device != "cpu" and self.limit_bytes is None):
            return True
        usable = free if pictures == 1 else USABLE * free
        return bytes_per_picture * pictures <= usable

    def free_bytes(self, alone: bool = True) -> int | None:
        """Return how large an estimate may be: what is free, or if not `alone` our share; None: unknown."""
        known = [b for b in (free_bytes(self.plan), self._left(alone)) if b is not None]
        return round(min(known) / self.factor) if known else None

    def _left(self, alone: bool) -> int | None:
        """Return what our limit leaves to pictures if `alone`, else our share; None is no limit."""
        if self.plan.device != "cpu":
            # Nobody sees what the others take of a GPU, so with a limit each keeps to its share.
            share = self.limit_bytes if self.share_bytes is None else self.share_bytes
            return None if alone and self.limit_bytes is None else share
        whole = self.limit_bytes if alone else self.share_bytes
        if whole is None:
            return None
        # Later it also has memory that it keeps for the next pictures, which is not taken.
        taken = own_bytes()
        self._base_bytes = taken if self._base_bytes is None else min(self._base_bytes, taken)
        base = self._base_bytes + LIBRARY_BYTES
        return max(0, whole - base - (others_bytes() if alone else 0))

    def needs_tiles(self, bytes_per_picture: int, pictures: int, alone: bool = True) -> bool:
        """Tell whether pictures should not be computed untiled; see `fits`."""
        addresses = self.address_bytes()
        has_few = addresses is not None and bytes_per_picture * pictures > addresses
        return has_few or not self.fits(bytes_per_picture, pictures, alone)

    def bytes_for_tiles(self, alone: bool = True) -> int:
        """Return how large an estimate in tiles may be, by memory and addresses."""
        known = (self.free_bytes(alone), self.address_bytes())
        free = min((each for each in known if each is not None), default=FREE_IF_UNKNOWN)
        return round(TILES_USABLE * free)

    def most_bytes(self, alone: bool = True) -> int:
        """Return how much memory of its own this process may have with a picture in tiles, gaps included.

        A limit of ours may be reached; of what is free, other programs need some meanwhile.
        """
        own, free = own_bytes(), free_bytes(self.plan)
        left, addresses = self._left(alone), self.address_bytes()
        known = (
            None if free is None else own + round(USABLE * free),
            None if left is None else (self._base_bytes or 0) + left,
            None if addresses is None else own + addresses,
        )
        return min((each for each in known if each is not None), default=own + FREE_IF_UNKNOWN)

    def address_bytes(self) -> int | None:
        """Return how large an estimate may be by the addresses that `ulimit -v` leaves; None is no limit.

        Larger pictures may be tried: an allocation beyond this limit fails, which does no harm.
        """
        limit = address_limit() if self.plan.device == "cpu" else None
        return None if limit is None else max(0, limit - used_addresses() - LIBRARY_ADDRESSES)

    @contextmanager
    def learning(self, estimate: int) -> Iterator[None]:
        """Compare what the block takes with its estimate in bytes, and correct later estimates."""
        if not self.plan.device.startswith("cuda"):
            yield
            return
        torch.cuda.reset_peak_memory_stats(self.plan.device)
        before = torch.cuda.memory_allocated(self.plan.device)
        try:
            yield
        except torch.OutOfMemoryError:
            self.factor *= 1.5
            raise
        taken = torch.cuda.max_memory_allocated(self.plan.device) - before
        self.factor = max(1.0, taken / estimate, 0.9 * self.factor)


def free_bytes(plan: DevicePlan) -> int | None:
    """Return the free memory of a device, or None where it is not known."""
    if plan.device.startswith("cuda"):
        # Without torch's cached blocks: those of CUDA graphs cannot be used for anything else.
        return torch.cuda.mem_get_info(plan.device)[0]
    return _system_bytes() if plan.device == "cpu" else None


def _system_bytes() -> int | None:
    """Return what the system and the control groups leave of its memory."""
    return min((b for b in (_available_bytes(), memory_left()) if b is not None), default=None)


def processes_that_fit(limit_bytes: int | None = None) -> int | None:
    """Return how many processes with small pictures fit the system's memory, at least 1; None: any number."""
    known = [b for b in (_system_bytes(), limit_bytes) if b is not None]
    return max(1, min(known) // PROCESS_BYTES) if known else None


def share_bytes(plan: DevicePlan, processes: int, limit_bytes: int | None = None) -> int | None:
    """Return what each of several processes may take of a device's memory; None is all that is free.

    All together keep to a limit, if there is one. Call it before they start: it divides the memory that is
    free now, without what this process has.
    """
    if processes == 1:
        return None
    # A query for a GPU's free memory would create a context, which takes some of it.
    whole = free_bytes(plan) if plan.device == "cpu" else plan.memory_bytes or None
    if limit_bytes is not None:
        left = limit_bytes - own_bytes() if plan.device == "cpu" else limit_bytes
        whole = max(0, left if whole is None else min(whole, left))
    return None if whole is None else whole // processes


def _available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the available memory on Linux."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    values = dict(line.split(":", 1) for line in lines)
    return int(values["MemAvailable"].split()[0]) * 1024
