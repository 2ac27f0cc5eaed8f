"""Objects with large tensors in a temporary file, until they are needed again."""

from __future__ import annotations

import io
import logging
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..errors import DiskError
from .stored import FileTensor, temporary_tensor

T = TypeVar("T")

logger = logging.getLogger(__name__)

# The file is used only where so many times its size stays free on the disk, for checkpoints above all.
SPARE = 4


class ScratchFile:
    """A file without a name, below a folder, for objects whose tensors take at most `size` bytes together.

    It is made when it is first asked for.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._end = 0
        self._space: FileTensor | None = None
        self._is_refused = False

    def is_usable(self) -> bool:
        """Return whether there is, or can be, a file; if the disk has too little space there is none."""
        if self._space is None and not self._is_refused:
            self._space = self._reserved()
            self._is_refused = self._space is None
        return not self._is_refused

    def clear(self) -> None:
        """Forget all objects."""
        self._end = 0

    def put(self, value: T) -> Callable[[], T]:
        """Write an object's tensors, and return a function that returns an equal object.

        Four-dimensional tensors (BCHW) come back as channels last, others as contiguous ones.

        Raises:
            DiskError: they cannot be written.
        """
        without_tensors = io.BytesIO()
        _Pickler(without_tensors, self._write).dump(value)
        data = without_tensors.getvalue()
        return lambda: cast(T, _Unpickler(io.BytesIO(data), self._read).load())

    def _reserved(self) -> FileTensor | None:
        try:
            space = temporary_tensor(self._folder, (self._size,), torch.uint8, "a file of activations")
        except DiskError as error:
            logger.debug("activations are computed again: %s", error)
            return None
        if shutil.disk_usage(self._folder).free < SPARE * self._size:
            logger.debug("activations are computed again: %s has little space", self._folder)
            space.close()
            return None
        return space

    def _write(self, x: Tensor) -> tuple[object, ...]:
        """Write a tensor after those before, and return what `_read` needs."""
        assert self._space is not None
        values = (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).contiguous()
        start, self._end = self._end, self._end + values.nbytes
        self._space.at(start, values.shape, values.dtype).write(0, values.flatten())
        return start, tuple(values.shape), values.dtype, x.device

    def _read(self, start: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        assert self._space is not None
        values = self._space.at(start, shape, dtype).read(0, math.prod(shape)).view(shape).to(device)
        return values.permute(0, 3, 1, 2) if values.dim() == 4 else values


class _Pickler(pickle.Pickler):
    """Pickles an object, but for its tensors: `write` keeps them and returns where."""

    def __init__(self, file: io.BytesIO, write: Callable[[Tensor], tuple[object, ...]]) -> None:
        super().__init__(file)
        self._write = write

    def persistent_id(self, obj: Any) -> Any:
        return self._write(obj) if isinstance(obj, Tensor) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, read: Callable[..., Tensor]) -> None:
        super().__init__(file)
        self._read = read

    def persistent_load(self, pid: Any) -> Any:
        return self._read(*pid)
