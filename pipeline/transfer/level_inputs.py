"""What a request is optimised from and against, level by level.

Shapes in names: B pictures, C channels, H rows, W columns; `image_BCHW` is sRGB in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..vgg.encoder import Encoder, convolution_of
from .color_policy import network_image, recolor, style_image
from .engine import LevelInputs
from .memory import STYLE_TILE, LargeStyle, OutOfMemory, is_out_of_memory
from .pyramid import Level, style_size
from .request import Picture, Request
from .target_cache import ColorMatch, StyleKey, TargetCache
from .targets import StyleTargets, blend_targets, gram_targets, stack_targets
from .tiles import OnTile, ignore_tile


def first_image(request: Request, level: Level) -> Tensor:
    """Return what the coarsest level starts from."""
    recipe, shape = request.recipe, (1, 3, level.height, level.width)
    if recipe.init == "noise":
        return torch.rand(shape, generator=torch.Generator().manual_seed(recipe.seed))
    if recipe.init == "blank":
        return torch.full(shape, 0.5)
    if recipe.init == "style":
        return style_image(request, request.styles[0][0], level.size, level.size)
    return recolor(request, network_image(request, request.init or request.content, level.size))


def style_key(request: Request, style: Picture, level: Level, weights_digest: str) -> StyleKey:
    """Return what the targets of a style at a level depend on."""
    recipe, content = request.recipe, request.content
    match_by = recipe.match_by if recipe.color == "match" else ""
    matched = ColorMatch(recipe.color, match_by, content.sha256, level.size)
    return StyleKey(
        style.sha256,
        style_size(recipe, style.image.size, level.size),
        weights_digest,
        tuple(sorted(recipe.style_layers)),
        recipe.pooling,
        recipe.padding,
        matched if recipe.matches_style else None,
    )


class RequestInputs:
    """The inputs of one request, computed when the engine asks for them; it counts what the cache had.

    Styles are analysed in tiles of `style_tile` pixels.
    """

    def __init__(
        self,
        request: Request,
        encoder: Encoder,
        weights_digest: str,
        cache: TargetCache,
        device: torch.device,
        style_tile: int = STYLE_TILE,
    ) -> None:
        self.request = request
        self.encoder = encoder
        self.weights_digest = weights_digest
        self.cache = cache
        self.device = device
        self.style_tile = style_tile
        self.cache_hits = self.cache_misses = 0
        self._last: tuple[tuple[int, int], StyleTargets] | None = None

    def first_image(self, level: Level) -> Tensor:
        return first_image(self.request, level)

    def next_image(self, image_BCHW: Tensor) -> Tensor:
        return recolor(self.request, image_BCHW)

    def at(self, level: Level, on_tile: OnTile = ignore_tile) -> LevelInputs:
        # The parts of the last level have one size, and the same targets. A content is not kept: it is large.
        if self._last is None or self._last[0] != level.size:
            self._last = level.size, self._style(level, on_tile)
        content_BCHW = network_image(self.request, self.request.content, level.size)
        return LevelInputs(content_BCHW.to(self.device), self._last[1])

    def _style(self, level: Level, on_tile: OnTile) -> StyleTargets:
        request = self.request
        targets = [self._targets(index, level, on_tile) for index in range(len(request.styles))]
        if request.regions is None:
            # The spectra of a blend are not blends of spectra; they are computed from its moments.
            style = blend_targets(targets, [share for _, share in request.styles])
        else:
            style = replace(stack_targets(targets), masks=request.regions.masks(*level.size))
        return style.to(self.device)

    def _targets(self, index: int, level: Level, on_tile: OnTile) -> StyleTargets:
        recipe, style = self.request.recipe, self.request.styles[index][0]
        key = style_key(self.request, style, level, self.weights_digest)

        def compute() -> StyleTargets:
            try:
                image_BCHW = style_image(self.request, style, key.size, level.size).to(self.device)
                return gram_targets(self.encoder, image_BCHW, key.layers, self.style_tile, on_tile)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    # A style that is no larger than the picture is not to blame: the picture needs more.
                    is_large = math.prod(key.size) > math.prod(level.size)
                    raise OutOfMemory(LargeStyle(index, key.size) if is_large else None) from error
                raise

        channels = {layer: self.encoder.channels[convolution_of(layer)] for layer in recipe.style_layers}
        targets, hit = self.cache.fetch(key.digest(), channels, compute, recipe.style_loss == "bures")
        self.cache_hits, self.cache_misses = self.cache_hits + hit, self.cache_misses + (not hit)
        return targets
