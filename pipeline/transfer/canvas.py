"""The canvas: what the optimiser moves. It is an image in the recipe's parametrisation, with a margin.

Shapes in names: B pictures, H rows, W columns; `canvas_BCHW` has the margin, `image_BCHW` is sRGB in [0, 1].
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec.layers import poolings_before
from ..spec.recipe import Recipe
from ..vgg.encoder import IMAGENET_MEAN, IMAGENET_STD


def crop_features(features_BCHW: Tensor, layer: str, margin: int) -> Tensor:
    """Crop a layer's features to those inside a margin in pixels; only whole positions are cut."""
    border = margin >> poolings_before(layer)
    rows, columns = features_BCHW.shape[2:]
    return features_BCHW[:, :, border : rows - border, border : columns - border]


class Parametrisation:
    """Turns images into a recipe's canvases and back."""

    def __init__(self, recipe: Recipe) -> None:
        self.margin = recipe.margin
        self.normalised = recipe.canvas == "imagenet"

    def to_image(self, canvas_BCHW: Tensor) -> Tensor:
        """Return the image that a canvas stands for, of the same size: the margin stays."""
        if not self.normalised:
            return canvas_BCHW
        mean, std = _per_channel(canvas_BCHW, IMAGENET_MEAN), _per_channel(canvas_BCHW, IMAGENET_STD)
        return canvas_BCHW * std + mean

    def to_cropped_image(self, canvas_BCHW: Tensor) -> Tensor:
        """Return the image that a canvas stands for, without the margin."""
        return self.to_image(self.crop(canvas_BCHW))

    def to_padded_canvas(self, image_BCHW: Tensor) -> Tensor:
        """Return the canvas that stands for an image, with a new margin."""
        if self.normalised:
            mean, std = _per_channel(image_BCHW, IMAGENET_MEAN), _per_channel(image_BCHW, IMAGENET_STD)
            image_BCHW = (image_BCHW - mean) / std
        return self.pad(image_BCHW)

    def canvas_gradient(self, gradient_BCHW: Tensor) -> Tensor:
        """Turn the gradient with respect to the image into the one with respect to the canvas."""
        return gradient_BCHW * _per_channel(gradient_BCHW, IMAGENET_STD) if self.normalised else gradient_BCHW

    def pad(self, image_BCHW: Tensor) -> Tensor:
        """Add a margin of mirrored pixels, so that artefacts at the border end up outside the image."""
        return F.pad(image_BCHW, [self.margin] * 4, mode="reflect")

    def crop(self, canvas_BCHW: Tensor) -> Tensor:
        """Remove the margin."""
        rows, columns = canvas_BCHW.shape[2:]
        margin = self.margin
        return canvas_BCHW[:, :, margin : rows - margin, margin : columns - margin]


def _per_channel(like: Tensor, values: tuple[float, ...]) -> Tensor:
    return _constant(values, like.device, like.dtype)


@cache
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy numbers to a device once: a copy in every step would stall it, and CUDA graphs cannot hold one."""
    return torch.tensor(values, device=device, dtype=dtype)[:, None, None]
