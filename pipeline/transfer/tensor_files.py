"""safetensors files with a checksum in their header, so that a flipped bit is never read as a number."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..storage.files import make_private
from ..storage.temporary import published
from .stored import FileTensor, OpenFile, Stored, bytes_of, loaded, parts_of

# How safetensors calls the types of numbers.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
# The key, in a file's metadata, of the sha256 over everything else.
_CHECKSUM = "sha256"


class DamagedError(Exception):
    """A file is not as it was written. The message continues a sentence that begins with the file's name."""


def write_tensor_file(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all. A missing folder is created with access for its owner only.

    The tensors are not copied: those of a large picture would need as much memory again.

    Raises:
        OSError: it cannot be written.
    """
    make_private(path.parent)
    with published(path) as file:
        file.write(_header(tensors, {**metadata, _CHECKSUM: _checksum(tensors, metadata)}))
        for name in _order(tensors):
            for part in parts_of(tensors[name]):
                file.write(bytes_of(part))


def _header(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> bytes:
    """Return what precedes the tensors, as the format of safetensors says."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name in _order(tensors):
        tensor = tensors[name]
        end = start + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _order(tensors: Mapping[str, Stored]) -> list[str]:
    """Return the names of the tensors, those of the widest numbers first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def read_tensor_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Raises:
        OSError: it does not exist, or cannot be opened.
        DiskError: its tensors cannot be read.
        DamagedError: it is not as it was written.
    """
    stored, metadata = open_tensor_file(path)
    return {name: loaded(tensor) for name, tensor in stored.items()}, metadata


def open_tensor_file(path: Path) -> tuple[dict[str, FileTensor], dict[str, str]]:
    """Return the tensors of a file, still in it, and its metadata; all of it is read once and checked.

    The file stays open as long as one of the tensors is referred to.

    Raises:
        OSError: it does not exist, or cannot be opened.
        DiskError: its tensors cannot be read.
        DamagedError: it is not as it was written.
    """
    try:
        with safe_open(path, framework="pt") as checked:  # which maps the file, and reads its header only
            metadata = dict(checked.metadata() or {})
    except SafetensorError as error:
        raise DamagedError("is damaged") from error
    file = path.open("rb", buffering=0)
    opened = OpenFile(file, str(path))
    (length,) = struct.unpack("<Q", file.read(8))
    entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    if any(entry["dtype"] not in _TYPES for entry in entries.values()):
        raise DamagedError("holds numbers of an unknown type")
    stored = {
        name: FileTensor(
            opened, entry["shape"], _TYPES[entry["dtype"]], 8 + length + entry["data_offsets"][0]
        )
        for name, entry in entries.items()
    }
    if metadata.pop(_CHECKSUM, "") != _checksum(stored, metadata):
        raise DamagedError("is damaged")
    return stored, metadata


def _checksum(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for part in parts_of(tensor):
            digest.update(bytes_of(part))
    return digest.hexdigest()
