"""The devices that jobs can run on, and the precision that is fastest on each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import DeviceError
from ..spec.text import counted


@dataclass(frozen=True)
class DevicePlan:
    """A device that torch can use, its fastest dtype, and its memory in bytes (0 if unknown)."""

    device: str
    label: str
    dtype: str
    memory_bytes: int

    @property
    def threads(self) -> int:
        """How many threads of a CPU compute; 0 on a GPU."""
        return torch.get_num_threads() if self.device == "cpu" else 0

    def network_dtype(self, precision: str) -> torch.dtype:
        """Return the type that the network of a recipe with this `precision` computes in."""
        name = {"auto": self.dtype, "reference": "float32"}.get(precision, precision)
        dtype: torch.dtype = getattr(torch, name)
        return dtype


def list_devices() -> list[DevicePlan]:
    """List every usable device, best first; the CPU is always last."""
    plans = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        dtype = "bfloat16" if properties.major >= 8 else "float32"
        plans.append(DevicePlan(f"cuda:{index}", properties.name, dtype, properties.total_memory))
    if torch.backends.mps.is_available():
        plans.append(DevicePlan("mps", "Apple GPU", "float32", torch.mps.recommended_max_memory()))
    threads = counted(torch.get_num_threads(), "thread")
    return [*plans, DevicePlan("cpu", f"CPU, {threads}", cpu_dtype(_cpuinfo()), _system_memory_bytes())]


def same_devices(plan: DevicePlan) -> list[DevicePlan]:
    """List the devices of the same kind: all GPUs if `plan` is one of them."""
    kind = plan.device.partition(":")[0]
    return [each for each in list_devices() if each.device.partition(":")[0] == kind]


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


def cpu_dtype(cpuinfo: str) -> str:
    """Return the fastest dtype of a CPU: bfloat16 if Linux's cpuinfo lists instructions for it."""
    return "bfloat16" if re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo) else "float32"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _system_memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # this system does not say
        return 0
