"""The requests that a session runs: pictures and a recipe, in memory.

Shapes in names: B pictures, C channels, H rows, W columns; `image_BCHW` is sRGB in [0, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ..images.decoding import Decoded, decode_pillow
from ..spec.recipe import Recipe
from .masks import Regions
from .tensors import scaled, to_tensor


@dataclass(frozen=True)
class Picture:
    """A decoded picture and the sha256 of the file it came from."""

    decoded: Decoded
    sha256: str

    @classmethod
    def from_image(cls, image: Image.Image) -> Picture:
        """Wrap a picture that has no file; the hash is that of its pixels and its transparency."""
        decoded = decode_pillow(image)
        pixels = decoded.image if decoded.rgb16_HWC is None else decoded.rgb16_HWC
        alpha = b"" if decoded.alpha_HW is None else decoded.alpha_HW.tobytes()
        identity = f"{decoded.image.size}".encode() + pixels.tobytes() + alpha
        return cls(decoded, hashlib.sha256(identity).hexdigest())

    @property
    def image(self) -> Image.Image:
        """The picture in 8 bits."""
        return self.decoded.image

    def tensor(self, size: tuple[int, int]) -> Tensor:
        """Return `image_BCHW` at `size` (width, height), from 16 bits where the file has them."""
        rgb16_HWC = self.decoded.rgb16_HWC
        return to_tensor(self.image if rgb16_HWC is None else rgb16_HWC, size)

    def visible(self, size: tuple[int, int]) -> Tensor | None:
        """Return which pixels (HW, bool) are visible at `size`; None if the picture is opaque."""
        alpha_HW = self.decoded.alpha_HW
        return None if alpha_HW is None else torch.from_numpy(scaled(alpha_HW, size) > 0.5)


@dataclass(frozen=True)
class Request:
    """One stylisation: `styles` are pictures with their share in the blend, `init` the file to start from.

    With `regions` each style has one of them, and there is no blend.
    """

    content: Picture
    styles: Sequence[tuple[Picture, float]]
    recipe: Recipe
    init: Picture | None = None
    regions: Regions | None = None
