"""safetensors files with a checksum in their header, so that a flipped bit is never read as a number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..storage.files import make_private
from ..storage.temporary import published

# The sha256 of the whole file, computed with zeros in place of the sha256 itself.
_NAME = b'"sha256":"'
_ZEROS = b"0" * 64
# The limit of safetensors, in bytes.
_LONGEST_HEADER = 100_000_000
_CHUNK = 1 << 20


class DamagedError(Exception):
    """A file is not as it was written. The message continues a sentence that begins with the file's name."""


class TensorFile:
    """Tensors and metadata as the bytes of a file. The checksum is inserted without copying the tensors."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        data = save(dict(tensors), metadata={**metadata, "sha256": _ZEROS.decode()})
        end = 8 + int.from_bytes(data[:8], "little")
        place = data.index(_NAME + _ZEROS, 0, end) + len(_NAME)
        digest = hashlib.sha256(data).hexdigest().encode()
        self._head = data[:place] + digest + data[place + len(_ZEROS) : end]
        self._tensors = memoryview(data)[end:]

    def __len__(self) -> int:
        return len(self._head) + len(self._tensors)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. A missing folder is created with access for its owner only.

        Raises:
            OSError: it cannot be written.
        """
        make_private(path.parent)
        with published(path) as file:
            file.write(self._head)
            file.write(self._tensors)


def read_tensor_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Raises:
        OSError: it does not exist, or cannot be read.
        DamagedError: it is not as it was written.
    """
    try:
        with path.open("rb") as file:
            _check(file)
        with safe_open(path, framework="pt") as stored:
            metadata = dict(stored.metadata() or {})
            # Cloned: tensors mapped from a file have another alignment, which changes how sums round.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError("is damaged") from error
    del metadata["sha256"]
    return tensors, metadata


def _check(file: BinaryIO) -> None:
    length = file.read(8)
    size = int.from_bytes(length, "little")
    header = file.read(min(size, _LONGEST_HEADER))
    place = header.find(_NAME) + len(_NAME)
    if len(length) < 8 or len(header) < size or place < len(_NAME):
        raise DamagedError("is damaged, or of another version")
    expected = header[place : place + len(_ZEROS)]
    digest = hashlib.sha256(length + header[:place] + _ZEROS + header[place + len(_ZEROS) :])
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    if digest.hexdigest().encode() != expected:
        raise DamagedError("is damaged")
