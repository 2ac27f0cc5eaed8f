"""Lock files, which end with their process, however it ends."""

from __future__ import annotations

from pathlib import Path

import filelock


def is_locked(path: Path) -> bool:
    """Tell whether some process holds the lock on a file; without a file, or on a disk without locks, none.

    Raises:
        OSError: it cannot be asked.
    """
    if not path.is_file():
        return False
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except NotImplementedError:
        return False
    lock.release()
    return False
