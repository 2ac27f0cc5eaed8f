"""What the operating system does: renames that replace nothing, synced folders, kinds of errors, mounts."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

# Errors about one name (taken, too long, not allowed), not about its disk.
NAME_ERRORS = frozenset(
    {
        errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
        errno.ENOTDIR, errno.ENOTEMPTY,
    }
)  # fmt: skip
# Errors about a disk or the system, never about a single file.
MACHINE_ERRORS = frozenset(
    {
        errno.EDQUOT, errno.EHOSTDOWN, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENOMEM,
        errno.ENOSPC, errno.ENOTCONN, errno.ENXIO, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT,
    }
)  # fmt: skip


def rename_without_replacing(source: Path, target: Path) -> None:
    """Rename in one step that fails where `target` exists; see `Disk.rename`.

    On file systems without such a step the target is checked before the rename; only what another program
    puts there in between can then be replaced.
    """
    rename = _exclusive_rename()
    if rename is not None:
        number = rename(os.fsencode(source), os.fsencode(target))
        if number == 0:
            return
        if number not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
            raise OSError(number, os.strerror(number), str(source), None, str(target))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(source), None, str(target))
    os.rename(source, target)


@cache
def _exclusive_rename() -> Callable[[bytes, bytes], int] | None:
    """Find the C library's rename that replaces nothing, as a function that returns an errno."""
    if sys.platform not in {"linux", "darwin"}:
        return None
    library = ctypes.CDLL(None, use_errno=True)
    name = "renameat2" if sys.platform == "linux" else "renamex_np"
    function = getattr(library, name, None)
    if function is None:
        return None
    at_cwd, no_replace, exclusive = -100, 1, 4  # AT_FDCWD, RENAME_NOREPLACE; RENAME_EXCL

    def rename(source: bytes, target: bytes) -> int:
        if sys.platform == "linux":
            failed = function(at_cwd, source, at_cwd, target, no_replace)
        else:
            failed = function(source, target, exclusive)
        return ctypes.get_errno() if failed else 0

    return rename


def sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows cannot open a folder, and needs no such thing."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # a file system without such a thing
            raise
    finally:
        os.close(descriptor)


def mount_field(text: str) -> str:
    """Return a field of Linux' mountinfo with its octal escapes decoded; see proc_pid_mountinfo(5)."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
