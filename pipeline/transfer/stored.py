"""Tensors in files, read and written in parts: what does not fit the memory.

They are read and written, not mapped: mapped pages count as memory of the process.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from ..errors import DiskError, ScratchFull
from ..storage.files import disk_errors, make_private

logger = logging.getLogger(__name__)

# What can be computed again takes at most this part of a disk's free space: one part in eight.
SPARE = 8
# Numbers that are in memory at once.
PART = 1 << 22
# The disk, the user's quota or the largest file is too small.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OpenFile:
    """A file without a buffer, which is closed when nothing refers to it any more. Threads may share it."""

    def __init__(self, file: FileIO, name: str) -> None:
        self.name = name
        self._file = file
        self._lock = threading.Lock()
        # Not `__del__`: in a cycle of references, Python may finalize the file first, and warn of it.
        weakref.finalize(self, file.close)

    def close(self) -> None:
        """Close it now, although something may refer to it; nobody reads it any more."""
        self._file.close()

    def read(self, start: int, into: memoryview) -> None:
        """Read as many bytes as `into` has.

        Raises:
            DiskError: there are fewer, or they cannot be read.
        """
        with disk_errors(self.name, "cannot be read"), self._lock:
            self._file.seek(start)
            while into:
                if not (got := self._file.readinto(into)):
                    raise OSError("it is cut short")
                into = into[got:]

    def write(self, start: int, data: memoryview) -> None:
        """Write bytes.

        Raises:
            DiskError: they cannot be written.
        """
        with disk_errors(self.name, "cannot be written"), self._lock:
            self._file.seek(start)
            while data:
                data = data[self._file.write(data) :]


class FileTensor:
    """A tensor in an open file, from the byte `start` on."""

    def __init__(self, file: OpenFile, shape: Sequence[int], dtype: torch.dtype, start: int = 0) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self._file = file
        self._start = start

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def close(self) -> None:
        """Close the file: this tensor and others in it cannot be read any more."""
        self._file.close()

    def view(self, shape: Sequence[int]) -> FileTensor:
        """Return the same numbers in another shape."""
        return FileTensor(self._file, shape, self.dtype, self._start)

    def at(self, start: int, shape: Sequence[int], dtype: torch.dtype) -> FileTensor:
        """Return a tensor in the same file, so many bytes after the beginning of this one."""
        return FileTensor(self._file, shape, dtype, self._start + start)

    def read(self, first: int, numbers: int) -> Tensor:
        """Return some of its numbers, in the order of a contiguous tensor.

        Raises:
            DiskError: they cannot be read.
        """
        values = torch.empty(numbers, dtype=self.dtype)
        self._file.read(self._start + first * self.dtype.itemsize, bytes_of(values))
        return values

    def write(self, first: int, values: Tensor) -> None:
        """Overwrite some of its numbers, rounded to its type.

        Raises:
            DiskError: they cannot be written.
        """
        values = values.detach().to("cpu", self.dtype).contiguous()
        self._file.write(self._start + first * self.dtype.itemsize, bytes_of(values))


Stored: TypeAlias = Tensor | FileTensor


def temporary_tensor(
    folder: Path, shape: Sequence[int], dtype: torch.dtype, what: str = "the history of L-BFGS"
) -> FileTensor:
    """Return a tensor of zeros in a file without a name, which is gone with this process, however that ends.

    The folder should not be one that is kept in memory, as /tmp may be. Errors say `what` it is for.

    Raises:
        ScratchFull: the disk has less free space.
        DiskError: the folder cannot be written.
    """
    size = math.prod(shape) * dtype.itemsize
    failure = f"{size / 1e9:.3g} GB are needed there for {what}"
    advice = "Free some space, set state_dir in config.yaml to another disk, or lower history or size."
    with disk_errors(folder, failure, advice):
        make_private(folder)
        raw = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        file = OpenFile(raw, f"a temporary file in {folder}")
        try:
            _reserve(raw, size)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise ScratchFull(f"{folder}: {failure} ({error.strerror}).", advice) from error
    return FileTensor(file, shape, dtype)


def spare_tensor(folder: Path, shape: Sequence[int], dtype: torch.dtype, what: str) -> FileTensor | None:
    """Return a tensor as `temporary_tensor` does, for what can be computed again instead.

    It is None, and the log says so, where it would take more than a `SPARE`th of the free space: checkpoints
    and other files need some, too.
    """
    needed = SPARE * math.prod(shape) * dtype.itemsize
    try:
        with disk_errors(folder, "its free space cannot be read"):
            make_private(folder)
            free = shutil.disk_usage(folder).free
        if free >= needed:
            return temporary_tensor(folder, shape, dtype, what)
        reason = f"{free / 1e9:.3g} GB are free, and {needed / 1e9:.3g} would have to be"
    except DiskError as error:
        reason = error.message
    logger.info("%s are not kept in %s but computed again: %s", what, folder, reason)
    return None


def _reserve(file: FileIO, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # so that a full disk is noticed now
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def parts_of(stored: Stored, numbers: int = PART) -> Iterator[Tensor]:
    """Return the numbers of a tensor in flat parts on the CPU, in the order of a contiguous tensor."""
    if isinstance(stored, FileTensor):
        total = math.prod(stored.shape)
        for first in range(0, total, numbers):
            yield stored.read(first, min(numbers, total - first))
    else:
        flat = stored.detach().reshape(-1)
        for first in range(0, len(flat), numbers):
            yield flat[first : first + numbers].cpu()


def copy_stored(source: Stored, target: Stored) -> None:
    """Copy numbers from one tensor to another of the same shape.

    Raises:
        DiskError: they cannot be read or written.
    """
    if isinstance(source, Tensor) and isinstance(target, Tensor):
        target.copy_(source)
        return
    into = None if isinstance(target, FileTensor) else target.view(-1)
    first = 0
    for part in parts_of(source):
        if isinstance(target, FileTensor):
            target.write(first, part)
        elif into is not None:
            into[first : first + len(part)] = part.to(into)
        first += len(part)


def loaded(stored: Stored) -> Tensor:
    """Return a tensor in memory: itself, or a copy of what is in a file."""
    if isinstance(stored, FileTensor):
        return stored.read(0, math.prod(stored.shape)).view(stored.shape)
    return stored


def joined(all_stored: Sequence[Stored]) -> Stored:
    """Join tensors along their first dimension; one alone is not copied."""
    return all_stored[0] if len(all_stored) == 1 else torch.cat([loaded(each) for each in all_stored])


def row_of(stored: Stored, index: int) -> Stored:
    """Return one row of a tensor, still with its first dimension: a view. In a file there is but one."""
    if isinstance(stored, FileTensor):
        assert stored.shape[0] == 1
        return stored
    return stored[index : index + 1]


def bytes_of(values: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU; they are its own."""
    return values.view(-1).view(torch.uint8).numpy().data if values.numel() else memoryview(b"")
