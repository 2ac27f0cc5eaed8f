"""What processes take of the system's memory. See proc(5)."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from pathlib import Path

SYSTEM = Path("/")
PROC = "proc"
# Fields of statm, counted in pages.
SIZE, RESIDENT, SHARED = 0, 1, 2


def own_bytes(pid: int | str = "self", system: Path = SYSTEM) -> int:
    """Return how much of the memory is a process's own: without the program files that it shares.

    It is 0 if the process is gone, and where this is not known, as outside of Linux.
    """
    fields = _statm(pid, system)
    return fields[RESIDENT] - fields[SHARED] if fields else 0


def address_limit() -> int | None:
    """Return how many bytes of addresses this process may use, as by `ulimit -v`; None is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def used_addresses(system: Path = SYSTEM) -> int:
    """Return how many bytes of addresses this process uses; 0 where this is not known."""
    fields = _statm("self", system)
    return fields[SIZE] if fields else 0


def others_bytes(system: Path = SYSTEM) -> int:
    """Return how much memory the other processes of this run have: the first one, and all that it started."""
    parent = multiprocessing.parent_process()
    root = os.getpid() if parent is None or parent.pid is None else parent.pid
    family = {root, *_children(root, system)} - {os.getpid()}
    return sum(own_bytes(pid, system) for pid in family)


def _children(pid: int, system: Path) -> set[int]:
    found: set[int] = set()
    for tasks in (system / PROC / str(pid) / "task").glob("*/children"):
        with suppress(OSError, ValueError):  # the thread has ended
            found |= set(map(int, tasks.read_text().split()))
    return found


def _statm(pid: int | str, system: Path) -> list[int] | None:
    """Return the fields of a process's statm in bytes."""
    try:
        pages = (system / PROC / str(pid) / "statm").read_text().split()
    except OSError:
        return None
    return [int(field) * os.sysconf("SC_PAGE_SIZE") for field in pages] or None
