"""Recipe fields and settings that are no longer accepted, each with advice for a document that names it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REMOVED: Mapping[str, str] = MappingProxyType(
    {
        "allow_download": "vgg19 comes with the package, and nothing is downloaded",
        "bures_epsilon": "it is always 10",
        "match_when": "palettes are always matched before the run",
        "range_weight": "it is 10 with `canvas: rgb` and 0 with `canvas: imagenet`",
        "stop_tolerance": "every level takes all of its steps",
    }
)
