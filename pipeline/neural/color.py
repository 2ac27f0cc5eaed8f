"""Keeping a picture's own colours: luminance put into them, or a style's palette matched to them first.

From Gatys, Bethge, Hertzmann, Shechtman 2016, "Preserving Color in Neural Artistic Style Transfer", which has
both ways: luminance-only transfer, and a linear map of the style's pixels before an ordinary transfer.

Shapes in names: B pictures, H rows, W columns, 3 or 1 channels; `image_BCHW` is sRGB in [0, 1], float32 or
float64. Nothing here clips but `with_luma`, which has to.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Luma of sRGB values: the Y of YIQ, which the paper takes (Recommendation ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# Standard deviations below this are noise of eight bits and JPEG, which no matching should blow up.
FLAT = 0.01


def luma(image_BCHW: Tensor) -> Tensor:
    """Return the luma (B1HW) of a picture."""
    weights = image_BCHW.new_tensor(LUMA)[:, None, None]
    return (image_BCHW * weights).sum(1, keepdim=True)


def grey(image_BCHW: Tensor) -> Tensor:
    """Return a picture without its colours, still with three channels."""
    return luma(image_BCHW).expand_as(image_BCHW).contiguous()


def with_luma(image_BCHW: Tensor, luma_B1HW: Tensor) -> Tensor:
    """Return a picture with another luma and its own chroma (I and Q of YIQ), inside [0, 1].

    I and Q are a linear function of what is left of a pixel without its luma, so that rest is kept as it is.
    Where it would leave the gamut it is scaled down just as far as needed: luma and hue stay, the colour
    gets paler. Clipping channels, as is common, would change both.
    """
    luma_B1HW = luma_B1HW.clamp(0, 1)
    chroma_BCHW = image_BCHW - luma(image_BCHW)
    tiny = torch.finfo(image_BCHW.dtype).tiny
    room_BCHW = torch.where(chroma_BCHW > 0, 1 - luma_B1HW, luma_B1HW) / chroma_BCHW.abs().clamp_min(tiny)
    scale_B1HW = room_BCHW.amin(1, keepdim=True).clamp(max=1)
    return (luma_B1HW + scale_B1HW * chroma_BCHW).clamp(0, 1)


def match_luma(image_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Give a luma the mean and the standard deviation of another's (as the paper does; Reinhard et al. 2001).

    The pictures may differ in size. A flat picture keeps its deviation but for a bounded factor.
    """
    mean, target_mean = image_B1HW.mean((2, 3), keepdim=True), target_B1HW.mean((2, 3), keepdim=True)
    deviation = _deviation(image_B1HW).clamp_min(FLAT)
    return _deviation(target_B1HW) / deviation * (image_B1HW - mean) + target_mean


def _deviation(image_B1HW: Tensor) -> Tensor:
    return image_B1HW.std((2, 3), correction=0, keepdim=True)


def match_colors(image_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Give a picture's pixels the mean and the covariance of another's; values may leave [0, 1].

    x' = A (x - m) + m_t with A = S_t^½ S^-½, symmetric square roots of the covariances: of the
    paper's two solutions the one after Hertzmann et al. 2001, "Image Analogies". Directions in which
    the picture is flat are stretched by a bounded factor, so noise stays small.
    """
    mean_B3, covariance_B33 = _color_moments(image_BCHW)
    target_mean_B3, target_covariance_B33 = _color_moments(target_BCHW)
    map_B33 = _power(target_covariance_B33, 0.5, 0.0) @ _power(covariance_B33, -0.5, FLAT**2)
    offset_B3 = target_mean_B3 - (map_B33 @ mean_B3[:, :, None])[:, :, 0]
    flat = map_B33.to(image_BCHW) @ image_BCHW.flatten(2) + offset_B3.to(image_BCHW)[:, :, None]
    return flat.view_as(image_BCHW)


def _color_moments(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (B3) and covariance (B33) of the pixels, float64."""
    # On the CPU: Apple's GPUs have neither float64 nor the decomposition that comes next.
    flat = image_BCHW.flatten(2).cpu().double()
    centred = flat - flat.mean(2, keepdim=True)
    return flat.mean(2), centred @ centred.transpose(1, 2) / flat.shape[2]


def _power(symmetric_B33: Tensor, exponent: float, floor: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric_B33)
    powers: Tensor = vectors * values.clamp_min(floor).pow(exponent)[:, None, :] @ vectors.transpose(1, 2)
    return powers
