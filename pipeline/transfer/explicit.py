"""The total loss and its gradient in one pass of our own, without autograd. `objective.py` is the reference.

The network may run in bfloat16; moments, losses and canvas stay float32. The targets of content and style
lie in tensors that are allocated once and overwritten by `load`, and `evaluate` reads no number from the
device, so that it can be captured in a CUDA graph.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from .canvas import crop_features
from .gradients import (
    ContentTarget,
    FeatureGradient,
    bures_gradient,
    content_gradient,
    content_target,
    feature_moments,
    gram_gradient,
    guided_moments_gradient,
    moments_gradient,
    pixel_gradient,
)
from .losses import BuresTarget, StyleTarget, style_target
from .network import frozen_network
from .objective import Losses, style_guides
from .targets import StyleTargets


class ExplicitObjective:
    """Evaluates what `ReferenceObjective` does, with the network in `dtype`.

    `targets` are of one style for all pictures, or of one for each, along B.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        content_BCHW: Tensor,
        targets: StyleTargets,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.recipe = recipe
        self.network = frozen_network(encoder, dtype)
        self.content = self._content_targets(content_BCHW)
        self.styles = self._style_targets(targets, len(content_BCHW))
        self.guides = style_guides(recipe, targets)

    @torch.no_grad()
    def load(self, content_BCHW: Tensor, targets: StyleTargets) -> None:
        """Overwrite the targets, in place, with those of other pictures of the same sizes."""
        for layer, content in self._content_targets(content_BCHW).items():
            _copy_target(self.content[layer], content)
        for layer, style in self._style_targets(targets, len(content_BCHW)).items():
            _copy_target(self.styles[layer], style)
        for layer, guide in style_guides(self.recipe, targets).items():
            _copy_target(self.guides[layer], guide)

    @torch.no_grad()
    def _content_targets(self, content_BCHW: Tensor) -> dict[str, ContentTarget]:
        features = self.network.forward(content_BCHW).features
        return {
            layer: content_target(features[layer], self.recipe.loss) for layer in self.recipe.content_layers
        }

    def _style_targets(self, targets: StyleTargets, pictures: int) -> dict[str, StyleTarget]:
        count = pictures * max(1, targets.regions)
        return {
            layer: _expanded(style_target(targets.layers[layer], self.recipe.style_loss), count)
            for layer in self.recipe.style_layers
        }

    @torch.no_grad()
    def evaluate(self, image_BCHW: Tensor) -> tuple[Losses, Tensor]:
        """Return the losses and the gradient of each picture's total with respect to its pixels."""
        recipe = self.recipe
        activations = self.network.forward(image_BCHW)
        layers: dict[str, Tensor] = {}
        gradients: defaultdict[str, list[FeatureGradient]] = defaultdict(list)
        content = style = image_BCHW.new_zeros(len(image_BCHW))
        for layer, weight in recipe.content_layers.items():
            factor = recipe.content_weight * weight
            loss, gradient = content_gradient(activations.features[layer], self.content[layer], factor)
            gradients[layer].append(gradient)
            layers[f"content_{layer}"], content = loss, content + factor * loss
        for layer, weight in recipe.style_layers.items():
            factor = recipe.style_weight * weight
            loss, gradient = self._style_gradient(layer, activations.features[layer], factor)
            gradients[layer].append(gradient)
            layers[f"style_{layer}"], style = loss, style + factor * loss
        tv, outside, gradient_BCHW = pixel_gradient(
            image_BCHW, recipe.tv_weight, recipe.tv_chroma, recipe.range_weight
        )
        losses = Losses(content + style + tv + outside, content, style, tv, layers)
        by_normalised_BCHW = self.network.backward(activations, gradients)
        return losses, gradient_BCHW.addcdiv_(by_normalised_BCHW, self.network.std)

    def _style_gradient(
        self, layer: str, features_BCHW: Tensor, factor: float
    ) -> tuple[Tensor, FeatureGradient]:
        """Return a layer's style loss (B) and its gradient with respect to the features."""
        inner_BCHW = crop_features(features_BCHW, layer, self.recipe.margin)
        inner_BCHW = inner_BCHW.contiguous(memory_format=torch.channels_last)
        target, guide = self.styles[layer], self.guides.get(layer)
        current = feature_moments(inner_BCHW, guide)
        by_mean: Tensor | None = None
        if isinstance(target, BuresTarget):
            loss, by_second, by_mean = bures_gradient(current, target)
        else:
            loss, by_second = gram_gradient(current.second, target.second, self.recipe.loss)
        if guide is None:
            gradient = moments_gradient(inner_BCHW, by_second, by_mean, factor)
        else:
            loss = guide.combined(loss)
            gradient = guided_moments_gradient(inner_BCHW, guide, by_second, by_mean, factor)
        return loss, replace(gradient, border=(features_BCHW.shape[2] - inner_BCHW.shape[2]) // 2)


def _expanded(target: Any, count: int) -> Any:
    """Return a target of one style, or of each of `count`, as one with `count` tensors of its own."""
    tensors = (getattr(target, part.name) for part in fields(target))
    return type(target)(*(t.expand(count, *t.shape[1:]).clone() for t in tensors))


def _copy_target(old: Any, new: Any) -> None:
    for part in fields(old):
        getattr(old, part.name).copy_(getattr(new, part.name))
