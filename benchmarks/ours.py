"""Our loop, as the engine runs it, for measurements of its parts.

Shapes in names: B pictures, C channels, H rows, W columns, N numbers of a canvas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.spec.recipe import Recipe
from pipeline.transfer.devices import plan_device
from pipeline.transfer.explicit import ExplicitObjective
from pipeline.transfer.lbfgs import LBFGS
from pipeline.transfer.losses import Moments
from pipeline.transfer.objective import Losses
from pipeline.transfer.targets import StyleTargets, gram_targets
from pipeline.vgg.encoder import Encoder


class Ours:
    """B pictures of one size in one tensor: `step()` moves them all."""

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        content_BCHW: Tensor,
        targets: StyleTargets,
        start_BCHW: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self._parts = (encoder, recipe, content_BCHW, targets)
        self.compute_in(dtype)
        self.canvas_BCHW = start_BCHW.clone(memory_format=torch.contiguous_format)
        self.flat_BN = self.canvas_BCHW.view(len(start_BCHW), -1)
        self.optimizer = LBFGS(self.flat_BN, recipe.learning_rate, recipe.history)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Continue with the network in `dtype`; L-BFGS keeps its history."""
        self.objective = ExplicitObjective(*self._parts, dtype)

    def step(self) -> Losses:
        """Take one step; return the losses of the canvas before it."""
        losses, gradient_BCHW = self.objective.evaluate(self.canvas_BCHW)
        gradient_BN = gradient_BCHW.contiguous().view(len(gradient_BCHW), -1)
        self.optimizer.step(self.flat_BN, losses.total, gradient_BN)
        return losses


def build_encoder(weights: dict[str, Tensor], recipe: Recipe, device: str = "cpu") -> Encoder:
    layers = sorted({*recipe.content_layers, *recipe.style_layers})
    return Encoder(weights, layers, recipe.pooling, recipe.padding).to(torch.device(device))


def style_targets(encoder: Encoder, recipe: Recipe, style_1CHW: Tensor, pictures: int = 1) -> StyleTargets:
    """Return the targets of one style, repeated for each picture."""
    one = gram_targets(encoder, style_1CHW, sorted(recipe.style_layers)).to(style_1CHW.device)
    return StyleTargets(
        {
            layer: Moments(m.mean.repeat(pictures, 1), m.second.repeat(pictures, 1, 1))
            for layer, m in one.layers.items()
        }
    )


def quickest_dtype(device: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, plan_device(device).dtype)
    return dtype
