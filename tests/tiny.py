"""A VGG-19 of a few channels with random weights: the real layout, in milliseconds."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.spec.recipe import Recipe
from pipeline.vgg.encoder import CONVOLUTIONS, Encoder


def tiny_weights(width: int = 4, seed: int = 0) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in _weights(width, seed).items()}


@cache
def _weights(width: int, seed: int) -> dict[str, Tensor]:
    """Random weights, each channel scaled and shifted to mean 0 and deviation 1 over some pictures.

    After Mishkin and Matas 2016, "All you need is a good init": with random biases instead, most channels
    of the deeper layers are silent or constant.
    """
    generator = torch.Generator().manual_seed(seed)
    x = (torch.cat([random_image(64, 64, number) for number in range(4)]) - 0.5) / 0.25
    weights = {}
    for name in CONVOLUTIONS:
        if name.endswith("_1") and name != "conv1_1":
            x = F.max_pool2d(x, 2)
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        weight = torch.randn(width, x.shape[1], 3, 3, generator=generator)
        deviation, mean = torch.std_mean(F.conv2d(x, weight), (0, 2, 3))
        weights[f"{name}.weight"] = weight / deviation[:, None, None, None]
        weights[f"{name}.bias"] = -mean / deviation
        x = F.relu(F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    return weights


def tiny_encoder(recipe: Recipe) -> Encoder:
    layers = [*recipe.content_layers, *recipe.style_layers]
    return Encoder(tiny_weights(), layers, recipe.pooling, recipe.padding)


def random_image(height: int = 40, width: int = 48, seed: int = 0) -> Tensor:
    """Smooth noise, so that it has structure at several scales. `image_BCHW` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return (smooth + 0.1 * torch.rand(1, 3, height, width, generator=generator)).clamp(0, 1)


class _WithoutRange(Recipe):
    @property
    def range_weight(self) -> float:
        return 0.0


def asking_for_nothing(recipe: Recipe) -> Recipe:
    """A recipe, which is refused to users, under which every picture stays as it is."""
    weights = dict.fromkeys(("content_weight", "style_weight", "tv_weight"), 0.0)
    return _WithoutRange.model_construct(**{**recipe.model_dump(), **weights})
