"""What `doctor` and `weights show` tell of this machine."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

from ..errors import DeviceError, DiskError, WeightsError
from ..execution.executors import InProcessExecutor, weights_dir
from ..spec.config import Config
from ..storage.files import Disk
from ..version import VERSION
from ..watch.status import Check

ENOUGH_FREE_BYTES = 1 << 30


def examine(config: Config) -> list[Check]:
    """Look at everything a run depends on; nothing is downloaded."""
    import torch
    import torchvision

    return [
        Check("version", f"style-pipeline {VERSION}, Python {platform.python_version()}"),
        Check("torch", f"{torch.__version__}, torchvision {torchvision.__version__}"),
        *_devices(config),
        *_weights(config),
        *(_folder(name, getattr(config, name)) for name in ("outbox", "state_dir", "cache_dir")),
    ]


def weights_lines(config: Config) -> list[str]:
    """Say which weights are here, and what `auto` takes; nothing is downloaded."""
    return [check.text for check in _weights(config)]


def _devices(config: Config) -> list[Check]:
    from ..transfer.devices import list_devices, plan_device

    checks = [
        Check("device", f"{plan.device}: {plan.label}, {plan.memory_bytes / 2**30:.1f} GiB")
        for plan in list_devices()
    ]
    try:
        chosen = plan_device(config.device)
    except DeviceError as error:
        return [*checks, Check("chosen", str(error), ok=False)]
    return [*checks, Check("chosen", f"{chosen.device}, {chosen.dtype}")]


def _weights(config: Config) -> list[Check]:
    from ..vgg.weights import SLIM_PATH, find_vgg19

    try:
        found = find_vgg19(weights_dir(config), config.weights)
        executor = InProcessExecutor(config, allow_download=False)
        auto = executor.resolve("auto")
    except WeightsError as error:
        return [Check("weights", str(error), ok=False)]
    where = found or "not here; `style-pipeline weights fetch` downloads it"
    checks = [
        Check("weights", f"vgg19-slim: {SLIM_PATH}"),
        Check("weights", f"vgg19: {where}"),
    ]
    if executor.would_download("auto"):
        text = f"auto tries to download vgg19 (548 MB), and takes {auto.name} if that fails"
    else:
        text = f"auto takes {auto.name} ({auto.digest[:8]})"
    return [*checks, Check("weights", text)]


def _folder(label: str, folder: Path) -> Check:
    """Tell whether a folder can be written, or made where it is to be, and has free space."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(label, f"{folder}: cannot be written ({error.strerror or error})", ok=False)
    try:
        free = Disk().require_free(existing, ENOUGH_FREE_BYTES)
    except DiskError as error:
        return Check(label, str(error), ok=False)
    return Check(label, f"{folder}: writable, {free / 2**30:.1f} GiB free")
