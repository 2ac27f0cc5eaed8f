"""The total loss and its gradient in one pass of our own, without autograd. `objective.py` is the reference.

The network may run in bfloat16; moments, losses and canvas stay float32. The targets of content and style
lie in tensors that are allocated once and overwritten by `load`, and `evaluate` reads no number from the
device, so that it can be captured in a CUDA graph.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from .canvas import crop_features
from .gradients import ContentTarget, FeatureGradient, content_gradient, content_target, pixel_gradient
from .network import frozen_network
from .objective import Losses, weighted_losses
from .style_terms import style_terms
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
        self.styles = style_terms(recipe, targets, len(content_BCHW))

    @torch.no_grad()
    def load(self, content_BCHW: Tensor, targets: StyleTargets) -> None:
        """Overwrite the targets, in place, with those of other pictures of the same sizes."""
        for layer, content in self._content_targets(content_BCHW).items():
            self.content[layer].features.copy_(content.features)
            self.content[layer].divisor.copy_(content.divisor)
        for layer, style in style_terms(self.recipe, targets, len(content_BCHW)).items():
            self.styles[layer].copy_(style)

    @torch.no_grad()
    def _content_targets(self, content_BCHW: Tensor) -> dict[str, ContentTarget]:
        features = self.network.forward(content_BCHW).features
        return {
            layer: content_target(features[layer], self.recipe.loss) for layer in self.recipe.content_layers
        }

    @torch.no_grad()
    def evaluate(self, image_BCHW: Tensor) -> tuple[Losses, Tensor]:
        """Return the losses and the gradient of each picture's total with respect to its pixels."""
        recipe = self.recipe
        activations = self.network.forward(image_BCHW)
        gradients: defaultdict[str, list[FeatureGradient]] = defaultdict(list)
        content: dict[str, Tensor] = {}
        style: dict[str, Tensor] = {}
        for layer, weight in recipe.content_layers.items():
            content[layer], gradient = content_gradient(
                activations.features[layer], self.content[layer], recipe.content_weight * weight
            )
            gradients[layer].append(gradient)
        for layer in recipe.style_layers:
            style[layer], gradient = self._style_gradient(layer, activations.features[layer])
            gradients[layer].append(gradient)
        tv_B, outside_B, gradient_BCHW = pixel_gradient(
            image_BCHW, recipe.tv_weight, recipe.tv_chroma, recipe.range_weight
        )
        losses = weighted_losses(recipe, content, style, tv_B, outside_B)
        by_normalised_BCHW = self.network.backward(activations, gradients)
        return losses, gradient_BCHW.addcdiv_(by_normalised_BCHW, self.network.std)

    def _style_gradient(self, layer: str, features_BCHW: Tensor) -> tuple[Tensor, FeatureGradient]:
        """Return a layer's style loss (B) and its gradient with respect to the features."""
        inner_BCHW = crop_features(features_BCHW, layer, self.recipe.margin)
        inner_BCHW = inner_BCHW.contiguous(memory_format=torch.channels_last)
        term = self.styles[layer]
        loss_B, by_moments = term.loss(term.moments(inner_BCHW))
        border = (features_BCHW.shape[2] - inner_BCHW.shape[2]) // 2
        gradient = term.feature_gradient(inner_BCHW, by_moments)
        return loss_B, replace(gradient, border=(border,) * 4)
