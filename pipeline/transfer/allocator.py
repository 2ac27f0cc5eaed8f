"""Memory that stays with the process between the steps.

A step allocates and frees hundreds of megabytes. glibc hands blocks of that size back to the kernel at once,
so every step has them mapped, zeroed and faulted in anew: a third of its time. With other C libraries and on
other systems nothing is done.
"""

from __future__ import annotations

import ctypes
import os

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for the whole process; call it before threads are started.

    The process then stays as large as it ever was, until `release_freed_memory`.
    """
    if (libc := _glibc()) is None:
        return
    libc.mallopt(_MMAP_MAX, 0)  # no mapping of its own for a large block
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never give back the heap's end
    libc.mallopt(_TOP_PAD, _TOP_PAD_BYTES)  # grow in large pieces
    libc.mallopt(_ARENA_MAX, 1)  # the heaps of other arenas, which threads would get, are too small


def release_freed_memory() -> None:
    """Give freed memory back to the system: for a process that now waits."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(ctypes.c_size_t(0))


def _glibc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None) if os.confstr("CS_GNU_LIBC_VERSION") else None
    except (AttributeError, ValueError, OSError):  # another system, or another C library
        return None
