"""Which network an encoder's name stands for on this machine."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..spec.config import Config

if TYPE_CHECKING:
    from ..vgg.weights import EncoderName, EncoderWeights


def choose_encoder(device: str) -> EncoderName:
    """Return what `auto` is on a device of the configuration; it depends on nothing else."""
    if device == "auto" and _may_have_gpu():
        from ..transfer.devices import plan_device

        device = plan_device("auto").device
    return "vgg19-slim" if device in {"auto", "cpu"} else "vgg19"


def resolve_encoder(config: Config, name: str) -> tuple[EncoderWeights, str]:
    """Return the weights of the encoder a recipe names, and a line for the user, which may be empty.

    Raises:
        WeightsError: the weights are damaged, or no VGG-19.
    """
    from ..vgg.weights import bundled_weights, own_weights

    if name == "auto":
        chosen = choose_encoder(config.device)
        return resolve_encoder(config, chosen)[0], _auto_note(config, chosen)
    if name == "vgg19" and (own := own_vgg19(config)):
        return own_weights(own, converted_dir(config)), ""
    return bundled_weights(name), ""


def _auto_note(config: Config, name: EncoderName) -> str:
    """Return a line that says what `auto` took, and how to have the other."""
    if name == "vgg19":
        return "Using vgg19, as `auto` does on a GPU. For the smaller, faster network: `encoder: vgg19-slim`."
    ignored = f" Only then is {config.weights} used." if config.weights else ""
    return (
        "Using vgg19-slim, as `auto` does on a CPU. It is several times faster there than vgg19, and its "
        f"pictures are nearly the same. For the full network: `encoder: vgg19`.{ignored}"
    )


def own_vgg19(config: Config) -> Path | None:
    """Return the file that replaces the bundled VGG-19: the one configured, or else the one imported."""
    imported = imported_path(config)
    return config.weights or (imported if os.path.exists(imported) else None)


def imported_path(config: Config) -> Path:
    from ..vgg.weightfile import IMPORTED_NAME

    return config.state_dir / IMPORTED_NAME


def converted_dir(config: Config) -> Path:
    return config.cache_dir / "weights"


def _may_have_gpu() -> bool:
    """Tell whether torch may find a GPU. Asking torch itself takes seconds, even when nothing has to run."""
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL("libcuda.so.1")  # torch finds no NVIDIA GPU without it
    except OSError:
        return Path("/dev/kfd").exists()  # nor an AMD GPU without this
    return True
