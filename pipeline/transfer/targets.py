"""Style targets: what a style is, per layer.

Shapes in names: B pictures, K regions, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..spec.layers import poolings_before
from ..vgg.encoder import Encoder
from .losses import Moments, moments
from .memory import STYLE_TILE
from .segments import segments
from .sweep import AutogradNetwork, sweep
from .tiles import OnTile, ignore_tile, square_tiles, whole


@dataclass(frozen=True)
class StyleTargets:
    """Mean (BC) and second moment (BCC) of the style's features, per layer.

    With `masks` (BKHW, of the canvas's size) every picture has K styles, one after another along B. The masks
    say how much each pixel belongs to the region of each style; they add up to one.
    """

    layers: Mapping[str, Moments]
    masks: Tensor | None = None

    @property
    def regions(self) -> int:
        """How many regions each picture has, each with its own style; 0 without masks."""
        return 0 if self.masks is None else self.masks.shape[1]

    @property
    def memory_bytes(self) -> int:
        return sum(
            tensor.nbytes for m in self.layers.values() for tensor in (m.mean, m.second, *(m.spectrum or ()))
        )

    def to(self, device: torch.device) -> StyleTargets:
        return StyleTargets(
            {
                name: Moments(m.mean.to(device), m.second.to(device), m.spectrum)
                for name, m in self.layers.items()
            },
            None if self.masks is None else self.masks.to(device),
        )

    def decomposed(self) -> StyleTargets:
        """Return the same targets with the spectra that the `bures` style loss needs."""
        return StyleTargets({name: m.decomposed() for name, m in self.layers.items()})


@torch.no_grad()
def gram_targets(
    encoder: Encoder,
    style_image_BCHW: Tensor,
    layers: Sequence[str],
    edge: int = STYLE_TILE,
    on_tile: OnTile = ignore_tile,
) -> StyleTargets:
    """Compute the style targets of a picture, in tiles of `edge` pixels; they are returned on the CPU."""
    network = AutogradNetwork(encoder)
    computed: dict[str, Moments] = {}
    parts = segments(tuple(encoder.channels))
    plan = square_tiles(parts, edge)
    tiles = plan.count(parts, whole(style_image_BCHW))
    for number, (tile, values) in enumerate(sweep(network, plan, style_image_BCHW), 1):
        on_tile(number, tiles)
        for layer in (each for each in layers if each in values.features):
            inner, window = tile.at(layer)
            if not inner.area:
                continue
            share = inner.area / whole(style_image_BCHW).pooled(poolings_before(layer)).area
            found = moments(inner.within(window).of(values.features[layer]))
            part = Moments(found.mean * share, found.second * share)
            computed[layer] = computed[layer].plus(part) if layer in computed else part
    return StyleTargets({layer: computed[layer] for layer in layers}).to(torch.device("cpu"))


def blend_targets(targets: Sequence[StyleTargets], weights: Sequence[float]) -> StyleTargets:
    """Return the weighted mean of several styles' targets; the weights need not add up to one."""
    if len(targets) == 1:
        return targets[0]
    shares = [(each, weight / sum(weights)) for each, weight in zip(targets, weights, strict=True)]
    blended = {}
    for layer in targets[0].layers:
        mean = sum((each.layers[layer].mean * share for each, share in shares), torch.zeros(()))
        second = sum((each.layers[layer].second * share for each, share in shares), torch.zeros(()))
        blended[layer] = Moments(mean, second)
    return StyleTargets(blended)


def stack_targets(targets: Sequence[StyleTargets]) -> StyleTargets:
    """Join the targets of several pictures or regions, each with its own style, along B."""
    joined = {}
    for layer in targets[0].layers:
        parts = [each.layers[layer] for each in targets]
        spectra = [part.spectrum for part in parts if part.spectrum is not None]
        joined[layer] = Moments(
            torch.cat([part.mean for part in parts]),
            torch.cat([part.second for part in parts]),
            _joined_spectrum(spectra) if len(spectra) == len(parts) else None,
        )
    masks = [each.masks for each in targets if each.masks is not None]
    return StyleTargets(joined, torch.cat(masks) if masks else None)


def _joined_spectrum(spectra: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    values, vectors = zip(*spectra, strict=True)
    return torch.cat(values), torch.cat(vectors)
