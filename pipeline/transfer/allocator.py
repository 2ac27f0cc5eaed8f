"""Keeping freed memory in the process between steps.

A step allocates and frees hundreds of megabytes. glibc returns blocks of that size to the kernel at once, so
that every step maps, zeroes and faults them in again, which takes a third of its time. With other C libraries
and on other systems nothing is changed.
"""

from __future__ import annotations

import ctypes
import os

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8
_TOP_PAD_BYTES = 64 << 20
_MMAP_THRESHOLD_BYTES = 1 << 20


def keep_freed_memory() -> None:
    """Let malloc keep freed memory, in the whole process; call it before threads are started.

    The process then keeps its largest size until `release_freed_memory`.
    """
    if (libc := _glibc()) is None:
        return
    libc.mallopt(_MMAP_MAX, 0)  # large blocks get no mapping of their own
    libc.mallopt(_TRIM_THRESHOLD, -1)  # the end of the heap is never returned
    libc.mallopt(_TOP_PAD, _TOP_PAD_BYTES)  # the heap grows in large pieces
    libc.mallopt(_ARENA_MAX, 1)  # threads would get arenas of their own, whose heaps are too small


def keep_few_addresses() -> None:
    """Let malloc and oneDNN keep few addresses, in a process that may have only so many, as by `ulimit -v`.

    Call it before oneDNN is used, which reads its settings then; those of the user hold.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "16")  # there would be code for every size of a tile
    if (libc := _glibc()) is None:
        return
    # Tensors get mappings of their own, which end when they are freed: in the heap they would leave gaps.
    libc.mallopt(_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    libc.mallopt(_ARENA_MAX, 1)  # each has 64 MB of addresses


def release_freed_memory() -> None:
    """Return freed memory to the system; for a process that is going to wait."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(ctypes.c_size_t(0))


def _glibc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None) if os.confstr("CS_GNU_LIBC_VERSION") else None
    except (AttributeError, ValueError, OSError):  # another system, or another C library
        return None
