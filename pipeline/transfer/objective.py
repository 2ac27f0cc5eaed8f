"""The total loss of a picture at one pyramid level, by automatic differentiation: the reference.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from .canvas import crop_features
from .losses import (
    BuresStyleLoss,
    ContentLoss,
    GramStyleLoss,
    out_of_range,
    stretched_chroma,
    total_variation,
)
from .masks import guides
from .targets import StyleTargets


@dataclass(frozen=True)
class Losses:
    """Weighted losses, each per picture (B); `layers` before weighting."""

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
        """Return the losses and the gradient of each picture's total by its pixels."""


class ReferenceObjective(nn.Module):
    """Content, style, total variation and range loss, in float32 and with autograd: slow and plain."""

    def __init__(self, encoder: Encoder, recipe: Recipe, content_BCHW: Tensor, targets: StyleTargets) -> None:
        super().__init__()
        self.encoder = encoder
        self.recipe = recipe
        with torch.no_grad():
            features = encoder(content_BCHW)
        self.content_losses = nn.ModuleDict(
            {layer: ContentLoss(features[layer], recipe.loss) for layer in recipe.content_layers}
        )
        self.guides = (
            {} if targets.masks is None else guides(targets.masks, recipe.style_layers, recipe.margin)
        )
        self.style_losses = nn.ModuleDict()
        for layer in recipe.style_layers:
            style = targets.layers[layer]
            self.style_losses[layer] = (
                BuresStyleLoss(style) if recipe.style_loss == "bures" else GramStyleLoss(style, recipe.loss)
            )

    def forward(self, image_BCHW: Tensor) -> Losses:
        recipe, features = self.recipe, self.encoder(image_BCHW)
        layers: dict[str, Tensor] = {}
        content = style = image_BCHW.new_zeros(len(image_BCHW))
        for layer, weight in recipe.content_layers.items():
            layers[f"content_{layer}"] = loss = self.content_losses[layer](features[layer])
            content = content + recipe.content_weight * weight * loss
        for layer, weight in recipe.style_layers.items():
            layers[f"style_{layer}"] = loss = self.style_losses[layer](
                crop_features(features[layer], layer, recipe.margin), self.guides.get(layer)
            )
            style = style + recipe.style_weight * weight * loss
        tv = recipe.tv_weight * total_variation(stretched_chroma(image_BCHW, recipe.tv_chroma**0.5))
        outside = recipe.range_weight * out_of_range(image_BCHW)
        return Losses(content + style + tv + outside, content, style, tv, layers)

    def evaluate(self, image_BCHW: Tensor) -> tuple[Losses, Tensor]:
        variable = image_BCHW.detach().requires_grad_()
        losses = self(variable)
        (gradient_BCHW,) = torch.autograd.grad(losses.total.sum(), variable)
        layers = {name: loss.detach() for name, loss in losses.layers.items()}
        total, content, style, tv = (
            loss.detach() for loss in (losses.total, losses.content, losses.style, losses.tv)
        )
        return Losses(total, content, style, tv, layers), gradient_BCHW
