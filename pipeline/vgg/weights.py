"""The weights of the encoders. Finding them imports torch only to convert a checkpoint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import WeightsError
from .weightfile import (
    CONVERTED_STEM,
    Tensors,
    is_safetensors,
    next_step,
    open_weights,
    unreadable,
    write_weights,
)

if TYPE_CHECKING:
    from torch import Tensor

EncoderName = Literal["vgg19", "vgg19-slim"]


@dataclass(frozen=True)
class EncoderWeights:
    """An encoder's weights: a safetensors file of ours, and the `weights_digest` of what it holds."""

    name: EncoderName
    path: Path
    digest: str


def bundled_path(name: EncoderName) -> Path:
    """Return the file that comes with the package."""
    return Path(__file__).with_name(f"{name}.safetensors")


@cache
def bundled_weights(name: EncoderName) -> EncoderWeights:
    """Return the weights that come with the package.

    Raises:
        WeightsError: it is damaged.
    """
    path = bundled_path(name)
    with open_weights(path) as file:
        # The header's digest is checked when the weights are read.
        return EncoderWeights(name, path, file.metadata.get("digest") or file.digest())


def own_weights(source: Path, converted_dir: Path) -> EncoderWeights:
    """Return a VGG-19 of the user's: safetensors of ours, or a checkpoint in torchvision's format.

    A checkpoint is converted into a file below `converted_dir`, once.

    Raises:
        WeightsError: it is neither, or the conversion cannot be written.
    """
    if is_safetensors(source):
        with open_weights(source) as file:
            return EncoderWeights("vgg19", source, file.digest())
    try:
        status = source.stat()
    except OSError as error:
        raise unreadable(source, error) from error
    # One file per source, and a stamp inside it: neither stale nor left behind when the source changes.
    stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    key = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]
    path = converted_dir / f"{CONVERTED_STEM}-{key}.safetensors"
    digest = _converted_digest(path, stamp) or write_weights(_read_whole(source), path, stamp)
    return EncoderWeights("vgg19", path, digest)


def import_weights(source: Path, path: Path) -> EncoderWeights:
    """Convert a VGG-19 of the user's, with all sixteen convolutions, into a file of ours.

    Raises:
        WeightsError: it is none, or the file cannot be written.
    """
    return EncoderWeights("vgg19", path, write_weights(_read_whole(source), path))


def read_weights(weights: EncoderWeights, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Read the convolutions up to the deepest of `layers` (all by default) as float32 tensors.

    Raises:
        WeightsError: the file is damaged, lacks a convolution, or is no longer what `weights.digest` says.
    """
    import torch

    from .encoder import convolutions_up_to

    with open_weights(weights.path) as file:
        # 80 MB take 0.1 s, and a record must not name a digest that was not used.
        if file.digest() != weights.digest:
            raise WeightsError(
                f"{weights.path} is damaged, or was replaced since it was found.", next_step(weights.path)
            )
        names = file.convolutions if layers is None else convolutions_up_to(layers)
        return {key: torch.from_numpy(array) for key, array in file.read(names)}


def _converted_digest(path: Path, stamp: str) -> str | None:
    """Return the digest in a converted file's header; None where it is absent, damaged, foreign or stale."""
    try:
        with open_weights(path) as file:
            return file.metadata.get("digest") if file.metadata.get("source") == stamp else None
    except WeightsError:
        return None


def _read_whole(source: Path) -> Tensors:
    """Read all sixteen convolutions as float32."""
    from .conversion import read_convolutions
    from .encoder import CONVOLUTIONS

    if is_safetensors(source):
        with open_weights(source) as file:
            return dict(file.read(CONVOLUTIONS))
    return {key: tensor.numpy() for key, tensor in read_convolutions(source, CONVOLUTIONS[-1:]).items()}
