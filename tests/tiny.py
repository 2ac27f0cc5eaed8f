"""A VGG-19 of a few channels with random weights: the real layout, in milliseconds."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.neural.encoder import CONVOLUTIONS, Encoder
from pipeline.recipe import Recipe

# Threads cost such small tensors more than they bring, and much more on a busy machine.
torch.set_num_threads(1)


def tiny_weights(width: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights, channels = {}, 3
    for name in CONVOLUTIONS:
        weights[f"{name}.weight"] = torch.randn(width, channels, 3, 3, generator=generator) / (
            3 * channels**0.5
        )
        weights[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)
        channels = width
    return weights


def tiny_encoder(recipe: Recipe) -> Encoder:
    layers = [*recipe.content_layers, *recipe.style_layers]
    return Encoder(tiny_weights(), layers, recipe.pooling, recipe.padding)


def random_image(height: int = 40, width: int = 48, seed: int = 0) -> Tensor:
    """Smooth noise, so that it has structure at several scales. `image_BCHW` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return (smooth + 0.1 * torch.rand(1, 3, height, width, generator=generator)).clamp(0, 1)
