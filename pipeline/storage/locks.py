"""Lock files, which the system releases however their process ends."""

from __future__ import annotations

from pathlib import Path

import filelock


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock on a file; False if there is no file, or the disk has no locks.

    Raises:
        OSError: the system refuses to say.
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
