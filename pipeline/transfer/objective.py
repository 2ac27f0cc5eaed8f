"""The total loss of a picture at one pyramid level, by automatic differentiation: the reference.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from .canvas import crop_features
from .losses import (
    BuresTarget,
    Guide,
    bures_style_loss,
    content_loss,
    gram_style_loss,
    guided_moments,
    moments,
    out_of_range,
    scale_chroma,
    style_target,
    total_variation,
)
from .masks import guides
from .targets import StyleTargets


@dataclass(frozen=True)
class Losses:
    """Losses per picture (B): the sums are weighted, `layers` are not."""

    total: Tensor
    content: Tensor
    style: Tensor
    tv: Tensor
    layers: dict[str, Tensor]

    def by_name(self) -> dict[str, Tensor]:
        """Return every loss by its name in the loss log."""
        sums = {"total": self.total, "content": self.content, "style": self.style, "tv": self.tv}
        return {**sums, **self.layers}


class Objective(Protocol):
    """Evaluates pictures."""

    def evaluate(self, image_BCHW: Tensor) -> tuple[Losses, Tensor]:
        """Return the losses and the gradient of each picture's total with respect to its pixels."""


def style_guides(recipe: Recipe, targets: StyleTargets) -> dict[str, Guide]:
    """Return the guides of every style layer; none without masks."""
    return {} if targets.masks is None else guides(targets.masks, recipe.style_layers, recipe.margin)


class ReferenceObjective:
    """Content, style, total variation and range loss, in float32 and with autograd: slow and plain."""

    def __init__(self, encoder: Encoder, recipe: Recipe, content_BCHW: Tensor, targets: StyleTargets) -> None:
        self.encoder = encoder
        self.recipe = recipe
        with torch.no_grad():
            features = encoder(content_BCHW)
        self.content = {layer: features[layer] for layer in recipe.content_layers}
        self.styles = {
            layer: style_target(targets.layers[layer], recipe.style_loss) for layer in recipe.style_layers
        }
        self.guides = style_guides(recipe, targets)

    def losses(self, image_BCHW: Tensor) -> Losses:
        """Return the losses, which autograd can differentiate with respect to the pictures."""
        recipe, features = self.recipe, self.encoder(image_BCHW)
        layers: dict[str, Tensor] = {}
        content = style = image_BCHW.new_zeros(len(image_BCHW))
        for layer, weight in recipe.content_layers.items():
            loss = content_loss(features[layer], self.content[layer], recipe.loss)
            layers[f"content_{layer}"] = loss
            content = content + recipe.content_weight * weight * loss
        for layer, weight in recipe.style_layers.items():
            layers[f"style_{layer}"] = loss = self._style_loss(layer, features[layer])
            style = style + recipe.style_weight * weight * loss
        tv = recipe.tv_weight * total_variation(scale_chroma(image_BCHW, recipe.tv_chroma**0.5))
        outside = recipe.range_weight * out_of_range(image_BCHW)
        return Losses(content + style + tv + outside, content, style, tv, layers)

    def _style_loss(self, layer: str, features_BCHW: Tensor) -> Tensor:
        features_BCHW = crop_features(features_BCHW, layer, self.recipe.margin)
        target, guide = self.styles[layer], self.guides.get(layer)
        current = moments(features_BCHW) if guide is None else guided_moments(features_BCHW, guide)
        if isinstance(target, BuresTarget):
            loss = bures_style_loss(current, target)
        else:
            loss = gram_style_loss(current.second, target.second, self.recipe.loss)
        return loss if guide is None else guide.combined(loss)

    def evaluate(self, image_BCHW: Tensor) -> tuple[Losses, Tensor]:
        variable = image_BCHW.detach().requires_grad_()
        losses = self.losses(variable)
        (gradient_BCHW,) = torch.autograd.grad(losses.total.sum(), variable)
        total, content, style, tv, *layers = (loss.detach() for loss in losses.by_name().values())
        return Losses(total, content, style, tv, dict(zip(losses.layers, layers, strict=True))), gradient_BCHW
