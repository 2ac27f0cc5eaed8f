"""DevicePlan: where a job runs and in which precision."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ..errors import DeviceError


@dataclass(frozen=True)
class DevicePlan:
    """A device torch can use, its dtype for the encoder, and its memory in bytes (0: unknown)."""

    device: str
    label: str
    dtype: str
    memory_bytes: int


def list_devices() -> list[DevicePlan]:
    """List every usable device, best first; the CPU is always last."""
    plans = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        plans.append(DevicePlan(f"cuda:{index}", properties.name, "float32", properties.total_memory))
    if torch.backends.mps.is_available():
        plans.append(DevicePlan("mps", "Apple GPU", "float32", torch.mps.recommended_max_memory()))
    threads = f"{torch.get_num_threads()} threads"
    return [*plans, DevicePlan("cpu", f"CPU, {threads}", "float32", _system_memory_bytes())]


def plan_device(request: str) -> DevicePlan:
    """Choose the device for `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: there is no such device here.
    """
    devices = list_devices()
    if request == "auto":
        return devices[0]
    for plan in devices:
        if plan.device == request or plan.device.partition(":")[0] == request:
            return plan
    raise DeviceError(
        f"There is no device '{request}' here.",
        f"Use --device with one of: auto, {', '.join(plan.device for plan in devices)}.",
    )


def _system_memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return 0
