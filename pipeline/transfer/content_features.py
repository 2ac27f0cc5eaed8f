"""What a content's features are, for tiles: recomputed, or kept in memory or in files.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from ..spec.layers import poolings_before
from ..spec.recipe import Recipe
from ..vgg.encoder import convolution_of
from .file_map import FileMap
from .gradients import ContentTarget, content_divisor, sum_of_squares
from .large_maps import empty_map
from .segments import Segment, segments
from .stored import spare_tensor
from .sweep import Network, Tile, V, channels_last, sweep
from .tiles import Box, OnTile, TilePlan, ignore_tile, whole

# Rows normalised at once.
STRIP_ROWS = 256


class ContentFeatures(Generic[V]):
    """The targets of the content layers.

    Features of the first segment are many, and quickly computed: they are recomputed for every tile, from
    the picture in the network's dtype. Those of later segments are kept, or if the plan says so recomputed
    from the segment's input where that is smaller. The plan may have some of those that would be recomputed
    in files below the folder `scratch`.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: Network[V],
        recipe: Recipe,
        image_BCHW: Tensor,
        plan: TilePlan,
        on_tile: OnTile = ignore_tile,
        scratch: Path | None = None,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.positions = whole(image_BCHW)
        parts = segments(tuple(network.channels))
        self._filed: dict[str, FileMap] = {}
        opened = {each.depth for each in parts if scratch and self._opens(each, plan, image_BCHW, scratch)}
        plan = replace(plan, filed_content=frozenset(opened))
        # Starts of segments that are run again for every tile.
        self._again = {
            segment.depth: start
            for segment in parts
            if (start := recomputed(segment, recipe, network.channels, plan))
        }
        self._kept: dict[str, Tensor] = {}
        self._divisors: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        inputs: dict[int, Tensor] = {}
        tiles = plan.count(parts, self.positions)
        for number, (tile, values) in enumerate(sweep(network, plan, image_BCHW, inputs), 1):
            on_tile(number, tiles)
            layers = [layer for layer in recipe.content_layers if layer in values.features]
            self._add(tile, {layer: values.features[layer] for layer in layers}, squares)
            del values  # before the next tile is computed
        self._inputs = {
            depth: inputs[depth] if depth else _normalised(network, image_BCHW) for depth in self._again
        }
        for layer, squares_B in squares.items():
            channels = network.channels[convolution_of(layer)]
            positions = self.positions.pooled(poolings_before(layer)).area
            self._divisors[layer] = content_divisor(squares_B, channels, positions, recipe.loss)

    def _add(self, tile: Tile, features: Mapping[str, Tensor], squares: dict[str, Tensor]) -> None:
        """Add a tile to the sums of squares, and keep its features if they are kept."""
        for layer, window_BCHW in features.items():
            inner, window = tile.at(layer)
            features_BCHW = inner.within(window).of(window_BCHW)
            squares[layer] = sum_of_squares(features_BCHW) + squares.get(layer, 0)
            if layer in self._filed:
                self._filed[layer].write(inner, features_BCHW)
            elif tile.segment.depth not in self._again:
                inner.of(self._kept_map(layer, features_BCHW)).copy_(features_BCHW)

    def _kept_map(self, layer: str, features_BCHW: Tensor) -> Tensor:
        """Return the map of a whole layer, for features like these."""
        if layer not in self._kept:
            box = self.positions.pooled(poolings_before(layer))
            shape = (*features_BCHW.shape[:2], box.rows, box.columns)
            dtype, device = features_BCHW.dtype, features_BCHW.device
            self._kept[layer] = empty_map(shape, dtype, device, channels_last=True)
        return self._kept[layer]

    def _opens(self, segment: Segment, plan: TilePlan, image_BCHW: Tensor, scratch: Path) -> bool:
        """Make files for the features of a segment, if the plan wants some; return whether they are there."""
        maps = {}
        for layer in self._layers(segment) if segment.depth in plan.filed_content else ():
            box = self.positions.pooled(poolings_before(layer))
            shape = (len(image_BCHW), box.rows, box.columns, self.network.channels[convolution_of(layer)])
            stored = spare_tensor(scratch, shape, self.network.dtype, "features of the content")
            if stored is None:
                return False
            maps[layer] = FileMap(stored, image_BCHW.device)
        self._filed.update(maps)
        return bool(maps)

    def _layers(self, segment: Segment) -> list[str]:
        """Return the content layers of a segment."""
        return [each for each in self.recipe.content_layers if convolution_of(each) in segment.convolutions]

    def at(self, tile: Tile) -> dict[str, ContentTarget]:
        """Return the targets of a tile's content layers, in its window."""
        if start := self._again.get(tile.segment.depth):
            x = channels_last(tile.window.of(self._inputs[tile.segment.depth]))
            found = self.network.run(start, x, keep=False).features
            features = {layer: found[layer] for layer in self._divisors if layer in found}
        else:
            features = {layer: self._window(layer, tile.at(layer)[1]) for layer in self._layers(tile.segment)}
        return {layer: ContentTarget(each, self._divisors[layer]) for layer, each in features.items()}

    def _window(self, layer: str, box: Box) -> Tensor:
        """Return what the map of a layer has in a box, from a file or from memory."""
        return self._filed[layer].read(box) if layer in self._filed else box.of(self._kept[layer])


def recompute_saves(segment: Segment, recipe: Recipe, channels: Mapping[str, int]) -> bool:
    """Return whether a later segment's input has fewer values than its content layers."""
    names = [convolution_of(layer) for layer in recipe.content_layers]
    kept = sum(channels[name] for name in names if name in segment.convolutions)
    before = list(channels)[list(channels).index(segment.convolutions[0]) - 1]
    return channels[before] < kept


def _normalised(network: Network[V], image_BCHW: Tensor) -> Tensor:
    """Return the network's input for a picture, made in strips."""
    result = empty_map(image_BCHW.shape, network.dtype, image_BCHW.device, channels_last=True)
    for top in range(0, image_BCHW.shape[2], STRIP_ROWS):
        strip = slice(top, top + STRIP_ROWS)
        result[:, :, strip] = network.normalised(image_BCHW[:, :, strip])
    return result


def recomputed(
    segment: Segment, recipe: Recipe, channels: Mapping[str, int], plan: TilePlan
) -> Segment | None:
    """Return the start of a segment that is run again for every tile, up to its deepest content layer."""
    if segment.depth in plan.filed_content:
        return None
    if segment.depth and not (plan.recompute and recompute_saves(segment, recipe, channels)):
        return None
    layers = {convolution_of(layer) for layer in recipe.content_layers}
    ends = [index for index, name in enumerate(segment.convolutions) if name in layers]
    return Segment(segment.convolutions[: ends[-1] + 1]) if ends else None
