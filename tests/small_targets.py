"""Style targets of noise, for the tests of targets and their cache."""

from __future__ import annotations

import torch

from pipeline.transfer.losses import moments
from pipeline.transfer.targets import StyleTargets


def targets(seed: int = 0, channels: int = 4) -> StyleTargets:
    generator = torch.Generator().manual_seed(seed)
    return StyleTargets({"relu1_1": moments(torch.rand(1, channels, 8, 8, generator=generator))})


def same(a: StyleTargets, b: StyleTargets) -> bool:
    return a.layers.keys() == b.layers.keys() and all(
        torch.equal(a.layers[k].mean, b.layers[k].mean)
        and torch.equal(a.layers[k].second, b.layers[k].second)
        for k in a.layers
    )
