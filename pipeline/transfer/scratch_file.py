"""Objects with large tensors in a temporary file, until they are needed again."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .stored import FileTensor, spare_tensor

T = TypeVar("T")


class ScratchFile:
    """A file without a name, below a folder, for objects whose tensors take at most `size` bytes together."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._end = 0
        self._is_asked = False
        self._space: FileTensor | None = None

    def open(self) -> bool:
        """Reserve the space, if that is not done, and forget all objects. Return whether there is space."""
        if not self._is_asked:
            self._is_asked = True
            self._space = spare_tensor(self._folder, (self._size,), torch.uint8, "activations")
        self._end = 0
        return self._space is not None

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

    def _write(self, x: Tensor) -> tuple[object, ...]:
        """Write a tensor after those before, and return what `_read` needs."""
        values = (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).contiguous()
        start, self._end = self._end, self._end + values.nbytes
        assert self._space is not None
        assert self._end <= self._size
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
    """Undoes that: `read` returns the tensors."""

    def __init__(self, file: io.BytesIO, read: Callable[..., Tensor]) -> None:
        super().__init__(file)
        self._read = read

    def persistent_load(self, pid: Any) -> Any:
        return self._read(*pid)
