"""The total loss of a picture at one pyramid level, by automatic differentiation: the reference.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def weighted_losses(
    recipe: Recipe,
    content: Mapping[str, Tensor],
    style: Mapping[str, Tensor],
    tv_B: Tensor,
    outside_B: Tensor,
) -> Losses:
    """Weigh and add up the content and style losses by layer (B); the other two are weighted already."""
    content_B = style_B = torch.zeros_like(tv_B)
    for layer, loss_B in content.items():
        content_B = content_B + recipe.content_weight * recipe.content_layers[layer] * loss_B
    for layer, loss_B in style.items():
        style_B = style_B + recipe.style_weight * recipe.style_layers[layer] * loss_B
    layers = {f"content_{layer}": loss_B for layer, loss_B in content.items()}
    layers |= {f"style_{layer}": loss_B for layer, loss_B in style.items()}
    return Losses(content_B + style_B + tv_B + outside_B, content_B, style_B, tv_B, layers)


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
        content = {
            layer: content_loss(features[layer], self.content[layer], recipe.loss)
            for layer in recipe.content_layers
        }
        style = {layer: self._style_loss(layer, features[layer]) for layer in recipe.style_layers}
        tv_B = recipe.tv_weight * total_variation(scale_chroma(image_BCHW, recipe.tv_chroma**0.5))
        outside_B = recipe.range_weight * out_of_range(image_BCHW)
        return weighted_losses(recipe, content, style, tv_B, outside_B)

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
