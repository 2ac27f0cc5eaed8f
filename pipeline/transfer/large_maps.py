"""Memory for tensors as large as a large picture.

A process that computes keeps its freed memory (see `allocator`). Among the blocks of tiles, the few tensors
that are as large as the picture, and live longer than a tile, would leave gaps that nothing fits in. So they
get mappings of their own, outside of the heap.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from .allocator import release_freed_memory
from .usage import own_bytes

# Smaller tensors leave no gaps that matter.
LARGE_BYTES = 16 << 20


def empty_map(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, channels_last: bool = False
) -> Tensor:
    """Return memory for a map (BCHW) of a whole picture, as `torch.empty` does."""
    B, C, H, W = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < LARGE_BYTES:
        return torch.empty((B, C, H, W), dtype=dtype, device=device, memory_format=layout)
    try:
        mapped = _mapping(size)  # it ends with its last tensor
    except OSError as error:
        raise MemoryError from error
    flat = torch.frombuffer(mapped, dtype=dtype)
    return flat.view(B, H, W, C).permute(0, 3, 1, 2) if channels_last else flat.view(B, C, H, W)


def _mapping(size: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    # By default it is shared memory, which does not count as the process's own (see `usage`).
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def close_gaps(map_BCHW: Tensor, release_above_bytes: int = 0) -> None:
    """Return freed memory to the system where the map of a large picture is computed.

    To be called between tiles of different kinds: in the gaps that those of one kind leave, those of the next
    may not fit. As the kernel clears what is taken again, which takes up to a quarter of a step, it is done
    only if the process has more memory of its own than `release_above_bytes`.
    """
    if map_BCHW.device.type == "cpu" and map_BCHW.nbytes >= LARGE_BYTES and own_bytes() > release_above_bytes:
        release_freed_memory()
