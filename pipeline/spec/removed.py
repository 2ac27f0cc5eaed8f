"""Recipe fields and settings of earlier versions that are constants now.

A document that names one is refused with an explanation, and `inspect` leaves them out. A job's key still
counts the fields, so that pictures finished by an earlier version stay finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# How much pixels outside black and white count. Only a canvas in RGB has a range to keep; the programs that
# the source presets reproduce optimise the network's input and do not limit it.
RANGE_WEIGHTS = MappingProxyType({"rgb": 10.0, "imagenet": 0.0})

# What happens now.
REMOVED: Mapping[str, str] = MappingProxyType(
    {
        "allow_download": "vgg19 comes with the package, and nothing is downloaded",
        "bures_epsilon": "it is always 0.1",
        "match_when": "palettes are always matched before the run",
        "range_weight": "it is 10 with `canvas: rgb` and 0 with `canvas: imagenet`",
        "stop_tolerance": "every level takes all of its steps",
    }
)
MIXED = "mixed is no longer a precision; remove it, or choose float32 for the lowest loss"


def values_now(canvas: str) -> dict[str, Any]:
    """Return what the removed fields would hold in a recipe with this `canvas`."""
    return {
        "bures_epsilon": 0.1,
        "match_when": "before",
        "range_weight": RANGE_WEIGHTS[canvas],
        "stop_tolerance": 0.0,
    }


def without_removed(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a recipe of an earlier version into what is left of it and what would change the picture.

    A removed field that holds what always holds now is in neither.
    """
    now = values_now("imagenet" if fields.get("canvas") == "imagenet" else "rgb")
    left = {name: value for name, value in fields.items() if name not in now}
    lost = {name: fields[name] for name in now if name in fields and fields[name] != now[name]}
    if left.get("precision") == "mixed":
        lost["precision"] = left.pop("precision")
    return left, lost
