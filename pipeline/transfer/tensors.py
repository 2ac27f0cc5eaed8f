"""Pictures <-> tensors. A picture is a Pillow image in mode RGB, or a 16-bit array (HWC), both in sRGB.

Tensors are `image_BCHW`: float32, three channels, sRGB in [0, 1]. B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# Rows converted at once, to bound the memory it takes.
ROWS = 256


def to_tensor(image: Image.Image | NDArray[np.uint16], size: tuple[int, int]) -> Tensor:
    """Scale a picture, 8-bit or 16-bit, to `size` (width, height); return `image_BCHW` with B = 1."""
    if not isinstance(image, Image.Image):
        return _scaled_channels([image[:, :, index] for index in range(image.shape[2])], size)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1)[None].contiguous().float().div_(255)


def _scaled_channels(channels_HW: Sequence[NDArray[Any]], size: tuple[int, int]) -> Tensor:
    """Scale channels to `size` (width, height), one after another; return `image_BCHW` with B = 1."""
    result = torch.empty(1, len(channels_HW), size[1], size[0])
    for index, channel_HW in enumerate(channels_HW):
        result[0, index] = torch.from_numpy(scaled(channel_HW, size))
    return result


def scaled(channel_HW: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Scale one channel to `size` (width, height), as float32 in [0, 1]; integers by their range."""
    is_integer = np.issubdtype(channel_HW.dtype, np.integer)
    top = np.iinfo(channel_HW.dtype).max if is_integer else 1
    image = Image.fromarray(channel_HW.astype(np.float32))
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return (np.asarray(image) / np.float32(top)).clip(0, 1)


def resized(image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale the first picture of a batch, in [0, 1], to `size` (width, height); the result is on the CPU."""
    return _scaled_channels([channel.numpy() for channel in image_BCHW[0].detach().float().cpu()], size)


def shrunk(image_BCHW: Tensor, long_edge: int) -> Tensor:
    """Scale a batch down until its long edge has at most so many pixels; the result is on the CPU."""
    factor = max(image_BCHW.shape[2:]) // long_edge
    if factor > 1:  # most of it where the batch is: of all scaling, every device can do this
        image_BCHW = F.avg_pool2d(image_BCHW, factor, ceil_mode=True)
    image_BCHW = image_BCHW.detach().float().cpu()
    rows, columns = image_BCHW.shape[2:]
    share = long_edge / max(rows, columns)
    if share >= 1:
        return image_BCHW
    size = max(1, round(rows * share)), max(1, round(columns * share))
    return F.interpolate(image_BCHW, size, mode="bilinear", antialias=True)


def to_pixels(image_BCHW: Tensor, bits: int) -> NDArray[Any]:
    """Return the first picture of a batch as an array (HWC) of 8 or 16 bits, clipped to [0, 1]."""
    top, dtype = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    image_HWC = image_BCHW[0].detach().permute(1, 2, 0)
    pixels_HWC = np.empty(image_HWC.shape, dtype)
    for first in range(0, len(pixels_HWC), ROWS):
        rows_HWC = image_HWC[first : first + ROWS].float().cpu().clamp(0, 1).contiguous().numpy()
        pixels_HWC[first : first + ROWS] = (rows_HWC * np.float32(top)).round()
    return pixels_HWC


def to_image(image_BCHW: Tensor) -> Image.Image:
    """Return the first picture of a batch as a Pillow image, clipped to [0, 1]."""
    return Image.fromarray(to_pixels(image_BCHW, 8))


def side_by_side(images: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Place pictures in a row on white, all of them at the height of the last."""
    height = images[-1].height
    row = [im.resize((max(1, round(im.width * height / im.height)), height)) for im in images]
    sheet = Image.new("RGB", (sum(im.width for im in row) + gap * (len(row) - 1), height), "white")
    left = 0
    for image in row:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    return sheet
