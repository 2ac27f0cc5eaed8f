"""safetensors files with a checksum in their header, so that a flipped bit is never read as a number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..storage.files import make_private
from ..storage.temporary import published

# The key, in a file's metadata, of the sha256 over everything else.
_CHECKSUM = "sha256"


class DamagedError(Exception):
    """A file is not as it was written. The message continues a sentence that begins with the file's name."""


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a file's bytes, for tensors on the CPU that share no memory."""
    return save(dict(tensors), metadata={**metadata, _CHECKSUM: _checksum(tensors, metadata)})


def write_tensor_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all. A missing folder is created with access for its owner only.

    Raises:
        OSError: it cannot be written.
    """
    make_private(path.parent)
    with published(path) as file:
        file.write(data)


def read_tensor_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Raises:
        OSError: it does not exist, or cannot be read.
        DamagedError: it is not as it was written.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = dict(stored.metadata() or {})
            # Cloned: tensors mapped from a file have another alignment, which changes how sums round.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError("is damaged") from error
    if metadata.pop(_CHECKSUM, "") != _checksum(tensors, metadata):
        raise DamagedError("is damaged")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
