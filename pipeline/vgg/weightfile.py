"""Files of weights, which are safetensors.

A file holds `conv1_1.bias` and `conv1_1.weight`, and so on up to its last convolution. At 8 bits a
weight it holds `conv1_1.codes` and their values, `conv1_1.table`, instead of the weights. `mean` and `std`
are the network's own normalisation; without them it is ImageNet's. `style_factor` is described in `Encoder`.
Never imports torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from ..errors import WeightsError
from ..storage.files import make_private
from ..storage.temporary import published

Tensors = Mapping[str, NDArray[Any]]

# Files that this package writes: converted from a checkpoint of the user's, and imported.
CONVERTED_STEM, IMPORTED_NAME = "vgg19-converted", "vgg19-imported.safetensors"

# The data types of each kind of tensor in a file of ours.
TYPES = {"weight": ("F16", "F32"), "bias": ("F16", "F32"), "codes": ("U8",), "table": ("F32",)}
NORMALISATION = ("mean", "std")
# What a file may hold besides its convolutions.
OPTIONAL = (*NORMALISATION, "style_factor")
TABLE_LENGTH = 256

_safe_open: Any = safe_open  # Its stub has no types.


class WeightsFile:
    """An open safetensors file of ours. Its header is checked at once; tensors are read on demand."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self._keys: list[str] = sorted(file.keys())
        self.metadata: dict[str, str] = file.metadata() or {}
        self._check()
        # Alphabetical order is the network's order.
        self.convolutions = [key.removesuffix(".bias") for key in self._keys if key.endswith(".bias")]

    def digest(self) -> str:
        """Return the `weights_digest` of the tensors in the file."""
        return _digest((key, self._file.get_tensor(key)) for key in self._keys)

    def read(self, convolutions: Sequence[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield weights and biases of some convolutions as float32, and those of `OPTIONAL` that there are.

        Raises:
            WeightsError: a convolution is not in the file.
        """
        for name in convolutions:
            if name not in self.convolutions:
                raise not_vgg19(self.path, f"{name}.weight is missing")
            yield f"{name}.weight", self._weight(name)
            yield f"{name}.bias", self._float32(f"{name}.bias")
        for key in OPTIONAL:
            if key in self._keys:
                yield key, self._float32(key)

    def _weight(self, name: str) -> NDArray[np.float32]:
        if f"{name}.codes" not in self._keys:
            return self._float32(f"{name}.weight")
        return decode(self._file.get_tensor(f"{name}.codes"), self._float32(f"{name}.table"))

    def _float32(self, key: str) -> NDArray[np.float32]:
        return np.array(self._file.get_tensor(key), dtype=np.float32)

    def _check(self) -> None:
        slices = {key: self._file.get_slice(key) for key in self._keys}
        for key, tensor in slices.items():
            if not re.fullmatch(rf"conv[1-5]_[1-4]\.(weight|bias|codes|table)|{'|'.join(OPTIONAL)}", key):
                raise not_vgg19(self.path, f"{key} does not belong to it")
            types = TYPES.get(key.rpartition(".")[2], ("F32",))
            if tensor.get_dtype() not in types:
                raise not_vgg19(self.path, f"{key} is {tensor.get_dtype()}, not {' or '.join(types)}")
        shapes = {key: tuple(tensor.get_shape()) for key, tensor in slices.items()}
        convolutions = {key.partition(".")[0] for key in self._keys if "." in key}
        for name in sorted(convolutions):
            if f"{name}.codes" in shapes:
                self._check_shape(shapes, f"{name}.table", (TABLE_LENGTH,))
                shapes[f"{name}.weight"] = shapes[f"{name}.codes"]
        if any(key in shapes for key in NORMALISATION):
            for key in NORMALISATION:
                self._check_shape(shapes, key, (3,))
        if "style_factor" in shapes:
            self._check_shape(shapes, "style_factor", ())
        # A file may end before conv5_4.
        check_chain(self.path, shapes, sorted({"conv1_1", *convolutions}))

    def _check_shape(
        self, shapes: Mapping[str, tuple[int, ...]], key: str, expected: tuple[int, ...]
    ) -> None:
        if shapes.get(key) != expected:
            found = f"has the shape {shapes[key]}, not {expected}" if key in shapes else "is missing"
            raise not_vgg19(self.path, f"{key} {found}")


def decode(codes: NDArray[np.uint8], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights that codes stand for."""
    weight = np.empty(codes.shape, np.float32)
    # Channel by channel: indexing makes a temporary array of eight times the codes.
    for channel, its_codes in zip(weight, codes, strict=True):
        channel[...] = table[its_codes]
    return weight


@contextmanager
def open_weights(path: Path) -> Iterator[WeightsFile]:
    """Open a safetensors file of ours.

    Raises:
        WeightsError: it is damaged, or something else.
    """
    with open_safetensors(path, "numpy") as file:
        yield WeightsFile(path, file)


def weights_digest(tensors: Tensors) -> str:
    """Return the sha256 (hex) of names, dtypes, shapes and bytes: the same in any file, order or format."""
    return _digest((key, tensors[key]) for key in sorted(tensors))


def _digest(tensors: Iterable[tuple[str, NDArray[Any]]]) -> str:
    digest = hashlib.sha256()
    for key, tensor in tensors:
        array = np.ascontiguousarray(tensor)
        digest.update(f"{key} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def write_weights(tensors: Tensors, path: Path, stamp: str = "") -> str:
    """Write a file of ours and return its digest, which its header holds too, with the `stamp`.

    Raises:
        WeightsError: it cannot be written.
    """
    digest = weights_digest(tensors)
    try:
        make_private(path.parent)
        with published(path) as file:
            file.write(safetensors_bytes(dict(tensors), {"digest": digest, "source": stamp}))
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Free some space there, or name another folder in config.yaml.",
        ) from error
    return digest


def is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def check_chain(path: Path, shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> None:
    """Raise WeightsError unless every convolution is 3x3 and takes what the one before it gives."""
    channels = 3
    for name in names:
        for key in (f"{name}.weight", f"{name}.bias"):
            if key not in shapes:
                raise not_vgg19(path, f"{key} is missing")
        weight, bias = shapes[f"{name}.weight"], shapes[f"{name}.bias"]
        if len(weight) != 4 or weight[0] == 0 or weight[1:] != (channels, 3, 3):
            raise not_vgg19(path, f"{name}.weight has the shape {weight}, not (N, {channels}, 3, 3)")
        channels = weight[0]
        if bias != (channels,):
            raise not_vgg19(path, f"{name}.bias has the shape {bias}, not ({channels},)")


@contextmanager
def open_safetensors(path: Path, framework: str) -> Iterator[Any]:
    """Open any safetensors file.

    Raises:
        WeightsError: it is damaged, or cannot be read.
    """
    try:
        with _safe_open(path, framework=framework) as file:
            yield file
    except OSError as error:
        raise unreadable(path, error) from error
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is damaged or not a safetensors file: {error}.", next_step(path)
        ) from error


def next_step(path: Path) -> str:
    """Return what to do about a file that cannot be used."""
    if path.parent == Path(__file__).parent:
        return "Install style-pipeline again."
    if path.name.startswith(CONVERTED_STEM):
        return "Delete it and run again; it is then converted again from its source."
    if path.name == IMPORTED_NAME:
        return "Delete it to use the network that comes with the package, or import another."
    return "Give a VGG-19 in torchvision's format, such as its vgg19-dcbb9e9d.pth."


def not_vgg19(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"{path} is not a VGG-19: {reason}.", next_step(path))


def unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path} cannot be read: {error.strerror or error}.", next_step(path))
