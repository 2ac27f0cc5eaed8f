"""Convolutions from any file that holds them: a checkpoint or safetensors, torchvision's names or ours."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from .encoder import IMAGENET_MEAN, IMAGENET_STD, TORCHVISION_INDEX, convolutions_up_to
from .weightfile import (
    check_chain,
    decode,
    is_safetensors,
    next_step,
    not_vgg19,
    open_safetensors,
    unreadable,
)

# What torch.load raises for damaged bytes (OSError: a seek beyond the file) and for pickles that it refuses.
UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)


def read_convolutions(path: Path, layers: Sequence[str]) -> dict[str, Tensor]:
    """Read the convolutions up to the deepest of `layers` as float32, for ImageNet's normalisation.

    Anything else in the file is ignored.

    Raises:
        WeightsError: it cannot be read, or a convolution is missing or does not fit the one before it.
    """
    state = _load_safetensors(path) if is_safetensors(path) else _load_checkpoint(path)
    convolutions = convolutions_up_to(layers)
    for name in convolutions:
        if f"{name}.codes" in state:
            codes, table = state[f"{name}.codes"].numpy(), state[f"{name}.table"].numpy()
            state[f"{name}.weight"] = torch.from_numpy(decode(codes, table))
    sources = {name: name for name in convolutions}
    if "conv1_1.weight" not in state:
        sources = {name: f"features.{TORCHVISION_INDEX[name]}" for name in convolutions}
    check_chain(path, {key: tuple(value.shape) for key, value in state.items()}, tuple(sources.values()))
    found = {
        f"{name}.{part}": state[f"{source}.{part}"].detach().float().contiguous()
        for name, source in sources.items()
        for part in ("weight", "bias")
    }
    if "mean" in state and "std" in state:
        found |= _for_imagenet(found["conv1_1.weight"], found["conv1_1.bias"], state["mean"], state["std"])
    return found


def _for_imagenet(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """Fold a network's own normalisation into conv1_1, which then takes ImageNet's.

    Exact except beside a border padded with zeros, which stand for the other mean there.
    """
    scale = torch.tensor(IMAGENET_STD).double() / std
    shift = (torch.tensor(IMAGENET_MEAN).double() - mean) / std
    folded = bias + weight.sum((2, 3)).double() @ shift
    return {
        "conv1_1.weight": (weight * scale[:, None, None]).float(),
        "conv1_1.bias": folded.float(),
    }


def _load_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        open(path, "rb").close()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        state = _torch_load(path)
    except UNREADABLE as error:
        # torch's own text advises to switch weights_only off, so it is not passed on.
        raise WeightsError(
            f"{path} cannot be read as a checkpoint: it is damaged, cut short, or holds more than tensors.",
            next_step(path),
        ) from error
    if not isinstance(state, Mapping):
        raise not_vgg19(path, f"it holds a {type(state).__name__}, not tensors by name")
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except RuntimeError:
        # Checkpoints from before torch 1.6, and files on some file systems, cannot be mapped.
        return torch.load(path, weights_only=True, map_location="cpu")


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    with open_safetensors(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
