"""The style loss of a layer, with its gradient: of all of its positions, or of those in a tile.

Shapes in names: B pictures, K regions, C channels, H rows, W columns; a layer is without its margin here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from ..spec.recipe import Recipe
from .gradients import (
    FeatureGradient,
    bures_gradient,
    feature_moments,
    gram_gradient,
    guided_moments_gradient,
    moments_gradient,
)
from .losses import BuresTarget, Convention, Guide, Moments, StyleTarget, style_target
from .objective import style_guides
from .targets import StyleTargets
from .tiles import Box


@dataclass(frozen=True)
class MomentGradient:
    """The gradient of a loss with respect to a layer's second moment (BCC), and to its mean (BC) if any."""

    second: Tensor
    mean: Tensor | None = None


@dataclass(frozen=True)
class StyleTerm:
    """The style loss of a layer, whose weight in the total is `factor`.

    That of a tile has the guide's weights there, and the `share` of the layer's positions that it covers.
    """

    target: StyleTarget
    guide: Guide | None
    convention: Convention
    factor: float
    share: float = 1.0

    def at(self, tile: Box, layer: Box) -> StyleTerm:
        """Return the term of a tile of the layer."""
        guide = self.guide
        if guide is not None:
            weights_BKHW = guide.weights.view(*guide.share.shape, layer.rows, layer.columns)
            guide = replace(guide, weights=tile.of(weights_BKHW).flatten(2))
        return replace(self, guide=guide, share=tile.area / layer.area)

    def moments(self, features_BCHW: Tensor) -> Moments:
        """Return the moments of features; those of tiles add up to those of the layer."""
        found = feature_moments(features_BCHW, self.guide)
        if self.guide is not None or self.share == 1:
            return found
        return Moments(found.mean * self.share, found.second * self.share)

    def loss(self, current: Moments) -> tuple[Tensor, MomentGradient]:
        """Return the loss (B), without its weight, and its gradient, given the moments of the whole layer."""
        if isinstance(self.target, BuresTarget):
            loss, *by_moments = bures_gradient(current, self.target)
        else:
            loss, *by_moments = gram_gradient(current.second, self.target.second, self.convention)
        return loss if self.guide is None else self.guide.combined(loss), MomentGradient(*by_moments)

    def feature_gradient(self, features_BCHW: Tensor, by: MomentGradient) -> FeatureGradient:
        """Return the gradient of the weighted loss with respect to features, from that to the moments."""
        factor = self.factor * self.share
        if self.guide is None:
            return moments_gradient(features_BCHW, by.second, by.mean, factor)
        return guided_moments_gradient(features_BCHW, self.guide, by.second, by.mean, factor)

    def copy_(self, other: StyleTerm) -> None:
        """Overwrite the tensors, in place, with those of a term of the same shapes."""
        _copy_tensors(self.target, other.target)
        if self.guide is not None:
            _copy_tensors(self.guide, other.guide)


def style_terms(recipe: Recipe, targets: StyleTargets, pictures: int) -> dict[str, StyleTerm]:
    """Return the term of every style layer; targets of one style are those of all pictures."""
    count = pictures * max(1, targets.regions)
    guides = style_guides(recipe, targets)
    return {
        layer: StyleTerm(
            _expanded(style_target(targets.layers[layer], recipe.style_loss), count),
            guides.get(layer),
            recipe.loss,
            recipe.style_weight * weight,
        )
        for layer, weight in recipe.style_layers.items()
    }


def _expanded(target: Any, count: int) -> Any:
    """Return a target of one style, or of each of `count`, as one with `count` tensors of its own."""
    tensors = (getattr(target, part.name) for part in fields(target))
    return type(target)(*(t.expand(count, *t.shape[1:]).clone() for t in tensors))


def _copy_tensors(old: Any, new: Any) -> None:
    for part in fields(old):
        getattr(old, part.name).copy_(getattr(new, part.name))
