"""What `doctor` and `weights show` report about this machine."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceError, DiskError, MachineError, WeightsError
from ..execution.encoders import choose_encoder, own_vgg19, resolve_encoder
from ..spec.config import Config
from ..spec.text import counted
from ..storage.files import Disk
from ..version import VERSION
from ..watch.status import Check

if TYPE_CHECKING:
    from ..execution.ray.survey import NodeReport
    from ..transfer.devices import DevicePlan

ENOUGH_FREE_BYTES = 1 << 30


def examine(config: Config) -> list[Check]:
    """Check everything that a run depends on."""
    import torch

    return [
        Check("version", f"style-pipeline {VERSION}, Python {platform.python_version()}"),
        Check("torch", torch.__version__),
        *_devices(config),
        *_weights(config),
        *(_folder(name, getattr(config, name)) for name in ("outbox", "state_dir", "cache_dir")),
    ]


def examine_cluster(config: Config) -> list[Check]:
    """Check a Ray cluster and each of its nodes."""
    from ..execution.ray.survey import survey

    try:
        found = survey(config)
    except MachineError as error:
        return [Check("ray", str(error), ok=False)]
    places = sum(len(report.places) for report in found.reports)
    offer = f"{counted(len(found.reports), 'node')}, {counted(places, 'job')} at a time on {found.kind}"
    return [
        Check("ray", f"Ray {found.version} at {found.address}: {offer}", ok=places > 0),
        Check("ray", _authentication(found.token)),
        *map(_node, found.reports),
    ]


def _authentication(token: bool) -> str:
    if token:
        return "token authentication is on"
    return "token authentication is off: whoever reaches its ports can run code; see docs/clusters.md"


def _node(report: NodeReport) -> Check:
    node, label = report.node, "node"
    has = f"{node.host}: {node.cpus} CPU, {node.gpus} GPU"
    if not report.places:
        return Check(label, f"{has}; runs no jobs")
    if report.fault:
        return Check(label, f"{has}; {report.fault}", ok=False)
    here = report.version == VERSION
    wrong = "" if here else f", and {VERSION} is here: install the same version on all nodes"
    return Check(
        label,
        f"{has}; {counted(len(report.places), 'job')} at a time; style-pipeline {report.version}{wrong}",
        ok=here,
    )


def weights_lines(config: Config) -> list[str]:
    """Return which weights are used, and what `auto` takes."""
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
    return [*checks, Check("chosen", f"{chosen.device}, {chosen.dtype}"), _memory(config, chosen)]


def _memory(config: Config, plan: DevicePlan) -> Check:
    from ..transfer.memory import free_bytes

    free = free_bytes(plan)
    text = "not known" if free is None else f"{free / 2**30:.1f} GiB free on {plan.device}"
    if config.memory_bytes is not None:
        text += f"; memory_mb allows {config.memory_bytes / 2**30:.1f} GiB"
    return Check("memory", text)


def _weights(config: Config) -> list[Check]:
    checks = [_network(config, name) for name in ("vgg19", "vgg19-slim")]
    return [*checks, Check("weights", f"auto takes {choose_encoder(config.device)}")]


def _network(config: Config, name: str) -> Check:
    try:
        weights, _ = resolve_encoder(config, name)
    except WeightsError as error:
        return Check("weights", f"{name}: {error}", ok=False)
    own = own_vgg19(config) if name == "vgg19" else None
    if own is None:
        where = "comes with the package"
    elif own == config.weights:
        where = f"{own}, from `weights` in config.yaml"
    else:
        where = f"{own}, imported; delete it to use the one that comes with the package"
    return Check("weights", f"{name} {weights.digest[:8]}: {where}")


def _folder(label: str, folder: Path) -> Check:
    """Check that a folder can be written, or created, and has free space."""
    existing = folder
    try:
        while not existing.exists():
            existing = existing.parent
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(label, f"{folder}: cannot be written ({error.strerror or error})", ok=False)
    try:
        free = Disk().require_free(existing, ENOUGH_FREE_BYTES)
    except DiskError as error:
        return Check(label, str(error), ok=False)
    return Check(label, f"{folder}: writable, {free / 2**30:.1f} GiB free")
