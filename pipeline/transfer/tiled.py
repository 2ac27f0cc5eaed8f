"""The total loss and its gradient for pictures of any size, tile by tile: the untiled values, in less memory.

The losses of style depend on a picture as a whole, but only through moments, which are sums over positions.
So an evaluation goes over the tiles twice: first forward, to add up the moments, then forward again and
backward, with the gradient of the loss with respect to the moments of the whole picture.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from ..spec.layers import poolings_before
from ..spec.recipe import Recipe
from .content_features import ContentFeatures
from .evaluations import Evaluation, EvaluationFiles
from .gradients import FeatureGradient, content_gradient, pixel_gradient
from .large_maps import close_gaps, empty_map
from .losses import Moments
from .objective import Losses, weighted_losses
from .scratch_file import ScratchFile
from .segments import Segment, segments
from .style_terms import MomentGradient, StyleTerm, style_terms
from .sweep import KeptTiles, Network, Tile, V, channels_last, cut, sweep
from .targets import StyleTargets
from .tiles import Box, OnTile, TilePlan, ignore_tile

# Rows added at once.
STRIP_ROWS = 256
# Tiles that are at most this many times as large as ours are as good for the memory.
MUCH_LARGER = 1.2


class TiledObjective(Generic[V]):
    """Evaluates what the other objectives do, in tiles.

    `targets` are of one style for all pictures, or of one for each, along B. `on_tile` is called after every
    tile of each pass of an evaluation, and of the analysis of the content. Evaluations of one picture may be
    kept in `files`. What the plan has in a file is below the folder `scratch`.
    """

    def __init__(
        self,
        network: Network[V],
        recipe: Recipe,
        content_BCHW: Tensor,
        targets: StyleTargets,
        plan: TilePlan,
        on_tile: OnTile = ignore_tile,
        files: EvaluationFiles | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.plan = plan
        self.segments = segments(tuple(network.channels))
        self.styles = style_terms(recipe, targets, len(content_BCHW))
        self.content = ContentFeatures(network, recipe, content_BCHW, plan, on_tile, scratch)
        self._on_tile = on_tile
        self._files = files
        self._activations = ScratchFile(scratch, plan.file_bytes) if scratch and plan.filed else None

    @torch.no_grad()
    def evaluate(self, image_BCHW: Tensor) -> tuple[Losses, Tensor]:
        """Return the losses and the gradient of each picture's total with respect to its pixels.

        Raises:
            Stopped: a stop was asked for.
        """
        recipe, made = self.recipe, self._begin(image_BCHW)
        plan = self.plan
        if made.sizes != plan.sizes:  # it was interrupted, and had other tiles
            plan = replace(plan, sizes=made.sizes, kept={}, filed={}, file_bytes=0)
        kept = KeptTiles(self.network, plan, self._activations if plan.filed else None)
        run = _Run(image_BCHW, plan, self._tiles(plan), made, kept)
        self._sum_moments(run)
        style: dict[str, Tensor] = {}
        by_moments: dict[str, MomentGradient] = {}
        for layer, term in self.styles.items():
            style[layer], by_moments[layer] = term.loss(made.moments[layer])
        for segment in reversed(self.segments):
            self._pass_backward(run, segment, by_moments)
        # Last: while the segments are computed there is no gradient of the size of the picture.
        tv_B, outside_B, gradient_BCHW = pixel_gradient(
            image_BCHW, recipe.tv_weight, recipe.tv_chroma, recipe.range_weight
        )
        by_input = made.gradients[0]
        # By strips, as a sum of two types makes a copy.
        for top in range(0, image_BCHW.shape[2], STRIP_ROWS):
            strip = slice(top, top + STRIP_ROWS)
            gradient_BCHW[:, :, strip].addcdiv_(by_input[:, :, strip], self.network.std)
        return weighted_losses(recipe, made.content, style, tv_B, outside_B), gradient_BCHW

    def _begin(self, image_BCHW: Tensor) -> Evaluation:
        """Return an evaluation of which no tile is computed, or one that was interrupted."""
        found = self._files.begin(image_BCHW, self.network.dtype, self._fits) if self._files else None
        content = {layer: image_BCHW.new_zeros(len(image_BCHW)) for layer in self.recipe.content_layers}
        return found or Evaluation(self.plan.sizes, content=content)

    def _fits(self, found: Evaluation) -> bool:
        """Return whether an evaluation has no tiles left, or none that are much larger than ours."""
        own = self.plan.sizes
        return found.tile == self._tiles(TilePlan(found.sizes)) or all(
            size.rows * size.columns <= MUCH_LARGER * own[depth].rows * own[depth].columns
            for depth, size in found.sizes.items()
        )

    def _tiles(self, plan: TilePlan) -> int:
        """Return how many tiles an evaluation has, those of both passes counted."""
        return 2 * plan.count(self.segments, self.content.positions)

    def _sum_moments(self, run: _Run[V]) -> None:
        """Add up the moments of every style layer."""
        if run.made.tile >= run.tiles // 2:
            return
        made = run.made
        for tile, values in sweep(self.network, run.plan, run.image_BCHW, made.inputs, run.kept, made.tile):
            self._add_moments(tile, values.features, made.moments)
            del values  # before the next tile is computed
            self._count_tile(run)

    def _add_moments(self, tile: Tile, features: Mapping[str, Tensor], moments: dict[str, Moments]) -> None:
        """Add what a tile has to the moments of its style layers."""
        for layer in self._styled(features):
            inner, window = tile.at(layer)
            if (part := self._part(layer, inner, window, features[layer])) is not None:
                found = part.term.moments(part.features_BCHW)
                moments[layer] = moments[layer].plus(found) if layer in moments else found

    def _styled(self, features: Mapping[str, Tensor]) -> list[str]:
        """Name the layers among these that have a style loss, always in the same order."""
        return [layer for layer in self.styles if layer in features]

    def _pass_backward(
        self, run: _Run[V], segment: Segment, by_moments: Mapping[str, MomentGradient]
    ) -> None:
        """Compute the gradient with respect to a segment's input, and the losses of its content layers."""
        made, depth, box = run.made, segment.depth, self.content.positions.pooled(segment.depth)
        if not (tiles := self._tiles_left(run, segment)):
            return
        input_BCHW = made.inputs[depth] if depth else run.image_BCHW
        if depth not in made.gradients:
            shape, device = input_BCHW.shape, input_BCHW.device
            made.gradients[depth] = empty_map(shape, self.network.dtype, device, channels_last=True)
        by_input = made.gradients[depth]
        by_output = made.gradients[segment.output_depth] if segment.following else None
        for inner in tiles:
            tile = Tile.of(segment, inner, box, segment.gradient_border)
            values = run.kept.pop(tile)
            if values is None:
                values = self.network.run(segment, cut(self.network, tile, input_BCHW))
            gradient = self._by_window(tile, values, by_output, by_moments, made.content)
            if gradient is None:
                tile.inner.of(by_input).zero_()
            else:
                tile.inner.of(by_input).copy_(tile.inner.within(tile.window).of(gradient))
            del values, gradient  # before the next tile is computed
            if inner is tiles[-1]:  # other segments need no more of this one than the gradient
                made.inputs.pop(depth, None)
                made.gradients.pop(segment.output_depth, None)
            self._count_tile(run)
        close_gaps(by_input, run.plan.release_above_bytes)

    def _tiles_left(self, run: _Run[V], segment: Segment) -> list[Box]:
        """Return the tiles of a segment whose gradient is not computed."""
        # This segment and those before it come last.
        before = [each for each in self.segments if each.depth <= segment.depth]
        first = run.tiles - run.plan.count(before, self.content.positions)
        tiles = list(run.plan.tiles(segment, self.content.positions.pooled(segment.depth)))
        return tiles[max(0, run.made.tile - first) :]

    def _by_window(
        self,
        tile: Tile,
        values: V,
        by_output: Tensor | None,
        by_moments: Mapping[str, MomentGradient],
        content: dict[str, Tensor],
    ) -> Tensor | None:
        """Return the gradient with respect to what a tile's window shows of the input; None is zero."""
        gradients = self._by_features(tile, values.features, by_moments, content)
        if by_output is None:
            return self.network.backward(values, gradients) if gradients else None
        above = channels_last(tile.at(tile.segment.following)[1].of(by_output))
        return self.network.backward(values, gradients, above)

    def _count_tile(self, run: _Run[V]) -> None:
        run.made.tile += 1
        self._on_tile(run.made.tile, run.tiles)
        if self._files is not None:
            self._files.after_tile(run.image_BCHW, self.network.dtype, run.made, run.tiles)

    def _by_features(
        self,
        tile: Tile,
        features: Mapping[str, Tensor],
        by_moments: Mapping[str, MomentGradient],
        content: dict[str, Tensor],
    ) -> dict[str, list[FeatureGradient]]:
        """Return the gradients with respect to the features in a tile's window."""
        recipe = self.recipe
        gradients: defaultdict[str, list[FeatureGradient]] = defaultdict(list)
        for layer, target in self.content.at(tile).items():
            inner, window = tile.at(layer)
            factor = recipe.content_weight * recipe.content_layers[layer]
            loss_B, gradient = content_gradient(features[layer], target, factor, inner.within(window))
            content[layer] += loss_B
            gradients[layer].append(gradient)
        for layer in self._styled(features):
            _, window = tile.at(layer)
            if (part := self._part(layer, window, window, features[layer])) is not None:
                gradient = part.term.feature_gradient(part.features_BCHW, by_moments[layer])
                gradients[layer].append(replace(gradient, border=part.border))
        return gradients

    def _part(self, layer: str, box: Box, window: Box, features_BCHW: Tensor) -> _Part | None:
        """Return what of a box has a style loss, or None, given a layer's features in a window."""
        halvings = poolings_before(layer)
        with_style = self.content.positions.pooled(halvings).grown(-(self.recipe.margin >> halvings))
        part = box.common(with_style)
        if not part.area:
            return None
        border = (
            part.left - window.left,
            window.right - part.right,
            part.top - window.top,
            window.bottom - part.bottom,
        )
        term = self.styles[layer].at(part.within(with_style), with_style)
        return _Part(term, channels_last(part.within(window).of(features_BCHW)), border)


@dataclass
class _Run(Generic[V]):
    """An evaluation that is being made: of an image, with `tiles` tiles in both passes.

    `kept` has what the first pass keeps for the second; see `sweep`.
    """

    image_BCHW: Tensor
    plan: TilePlan
    tiles: int
    made: Evaluation
    kept: KeptTiles[V]


@dataclass(frozen=True)
class _Part:
    """The part of a layer's style loss in some positions, their features, and how many lie around them."""

    term: StyleTerm
    features_BCHW: Tensor
    border: tuple[int, int, int, int]
