"""What the optimiser moves: the picture in the recipe's parametrisation, with a margin around it.

Shapes in names: B pictures, H rows, W columns; `canvas_BCHW` has the margin, `image_BCHW` is sRGB in [0, 1].
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec.recipe import Recipe
from ..vgg.encoder import IMAGENET_MEAN, IMAGENET_STD


def without_margin(features_BCHW: Tensor, layer: str, margin: int) -> Tensor:
    """Cut off what a layer sees of a margin of so many pixels; whole positions only."""
    border = margin >> (int(layer[4]) - 1)
    rows, columns = features_BCHW.shape[2:]
    return features_BCHW[:, :, border : rows - border, border : columns - border]


class Parametrisation:
    """Turns pictures into a recipe's canvases and back."""

    def __init__(self, recipe: Recipe) -> None:
        self.margin = recipe.margin
        self.normalised = recipe.canvas == "imagenet"

    def to_image(self, canvas_BCHW: Tensor) -> Tensor:
        """Return the picture a canvas stands for; the margin, if any, stays."""
        if not self.normalised:
            return canvas_BCHW
        return canvas_BCHW * _per_channel(canvas_BCHW, IMAGENET_STD) + _per_channel(
            canvas_BCHW, IMAGENET_MEAN
        )

    def from_image(self, image_BCHW: Tensor) -> Tensor:
        if not self.normalised:
            return image_BCHW
        return (image_BCHW - _per_channel(image_BCHW, IMAGENET_MEAN)) / _per_channel(image_BCHW, IMAGENET_STD)

    def by_canvas(self, gradient_BCHW: Tensor) -> Tensor:
        """Turn a gradient by the picture into one by the canvas."""
        return gradient_BCHW * _per_channel(gradient_BCHW, IMAGENET_STD) if self.normalised else gradient_BCHW

    def framed(self, image_BCHW: Tensor) -> Tensor:
        """Mirror pixels around a picture: what the optimiser does wrong at a border happens there."""
        return F.pad(image_BCHW, [self.margin] * 4, mode="reflect")

    def unframed(self, canvas_BCHW: Tensor) -> Tensor:
        """Cut the margin off."""
        rows, columns = canvas_BCHW.shape[2:]
        margin = self.margin
        return canvas_BCHW[:, :, margin : rows - margin, margin : columns - margin]

    def picture(self, canvas_BCHW: Tensor) -> Tensor:
        """Return the picture a canvas stands for, without the margin."""
        return self.to_image(self.unframed(canvas_BCHW))

    def canvas(self, image_BCHW: Tensor) -> Tensor:
        """Return the canvas that stands for a picture, with a fresh margin."""
        return self.framed(self.from_image(image_BCHW))


def _per_channel(like: Tensor, values: tuple[float, ...]) -> Tensor:
    return _constant(values, like.device, like.dtype)


@cache
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Bring numbers to a device once: a copy within a step would make it wait, and cannot be recorded."""
    return torch.tensor(values, device=device, dtype=dtype)[:, None, None]
