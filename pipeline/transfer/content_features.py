"""What a content's features are, for tiles: recomputed from its pixels, or kept.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Generic

import torch
from torch import Tensor

from ..spec.recipe import Recipe
from ..vgg.encoder import convolution_of, poolings_before
from .gradients import ContentTarget, content_divisor, sum_of_squares
from .segments import Segment, segments
from .sweep import Network, Tile, V, channels_last, sweep
from .tiles import OnTile, TilePlan, ignore_tile, whole


class ContentFeatures(Generic[V]):
    """The targets of the content layers.

    Features of the first segment are many, and quickly computed: they are recomputed for every tile, from
    the picture in the network's dtype. Those of later segments are kept.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: Network[V],
        recipe: Recipe,
        image_BCHW: Tensor,
        plan: TilePlan,
        on_tile: OnTile = ignore_tile,
    ) -> None:
        self.network = network
        self.positions = whole(image_BCHW)
        parts = segments(tuple(network.channels))
        self.recomputed = _up_to(parts[0], recipe)
        self._normalised_BCHW = network.normalised(image_BCHW) if self.recomputed else None
        self._kept: dict[str, Tensor] = {}
        self._divisors: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        tiles = plan.count(parts, self.positions)
        for number, (tile, values) in enumerate(sweep(network, plan, image_BCHW), 1):
            on_tile(number, tiles)
            for layer in (each for each in recipe.content_layers if each in values.features):
                inner, window = tile.at(layer)
                features_BCHW = inner.within(window).of(values.features[layer])
                squares[layer] = sum_of_squares(features_BCHW) + squares.get(layer, 0)
                if tile.segment.depth:
                    inner.of(self._kept_map(layer, features_BCHW)).copy_(features_BCHW)
        for layer, squares_B in squares.items():
            channels = network.channels[convolution_of(layer)]
            positions = self.positions.pooled(poolings_before(layer)).area
            self._divisors[layer] = content_divisor(squares_B, channels, positions, recipe.loss)

    def _kept_map(self, layer: str, features_BCHW: Tensor) -> Tensor:
        """Return the map of a whole layer, for features like these."""
        if layer not in self._kept:
            box = self.positions.pooled(poolings_before(layer))
            shape = (*features_BCHW.shape[:2], box.rows, box.columns)
            self._kept[layer] = features_BCHW.new_empty(shape).contiguous(memory_format=torch.channels_last)
        return self._kept[layer]

    def at(self, tile: Tile) -> dict[str, ContentTarget]:
        """Return the targets of a tile's content layers, in its window."""
        if tile.segment.depth:
            features = {
                layer: tile.at(layer)[1].of(map_BCHW)
                for layer, map_BCHW in self._kept.items()
                if convolution_of(layer) in tile.segment.convolutions
            }
        elif self.recomputed is not None and self._normalised_BCHW is not None:
            x = channels_last(tile.window.of(self._normalised_BCHW))
            found = self.network.run(self.recomputed, x, keep=False).features
            features = {layer: found[layer] for layer in self._divisors if layer in found}
        else:
            features = {}
        return {layer: ContentTarget(each, self._divisors[layer]) for layer, each in features.items()}


def _up_to(segment: Segment, recipe: Recipe) -> Segment | None:
    """Return the start of a segment up to its deepest content layer; None if it has no content layer."""
    layers = {convolution_of(layer) for layer in recipe.content_layers}
    ends = [index for index, name in enumerate(segment.convolutions) if name in layers]
    return Segment(segment.convolutions[: ends[-1] + 1]) if ends else None
