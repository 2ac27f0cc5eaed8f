"""Keeping a picture's own colours: luminance put into them, or a palette matched to them.

From Gatys, Bethge, Hertzmann, Shechtman 2016, "Preserving Color in Neural Artistic Style Transfer", which has
both ways: luminance-only transfer, and a linear map of the style's pixels before an ordinary transfer. Whole
histograms after Pitié, Kokaram, Dahyot 2007, "Automated colour grading using colour distribution transfer".

Shapes in names: B pictures, H rows, W columns, 3 or 1 channels, N pixels; `image_BCHW` is sRGB in [0, 1],
float32 or float64. Only `with_luma` clips its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Luma of sRGB values: the Y of YIQ, which the paper takes (Recommendation ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# Standard deviations below this are the noise of 8 bits and of JPEG, which must not be amplified.
FLAT = 0.01
# Histograms are learnt from this many pixels of a picture.
SAMPLES = 1 << 14
# Rotations of the axes; quantiles of each axis (more of them draw contours into smooth gradients); points of
# the table that maps an axis.
ROTATIONS, QUANTILES, POINTS = 16, 64, 1024
# Pixels mapped at once, and pixels added up at once in float64, to bound the memory.
CHUNK, ADDED = 1 << 18, 1 << 22
# Rows that get another luma at once.
ROWS = 256


def luma(image_BCHW: Tensor) -> Tensor:
    """Return the luma (B1HW) of a picture."""
    weights = image_BCHW.new_tensor(LUMA)[:, None, None]
    return (image_BCHW * weights).sum(1, keepdim=True)


def grey(image_BCHW: Tensor) -> Tensor:
    """Return a picture in grey, still with three channels."""
    return luma(image_BCHW).expand_as(image_BCHW).contiguous()


def with_luma(image_BCHW: Tensor, luma_B1HW: Tensor) -> Tensor:
    """Return a picture with another luma and its own chroma (I and Q of YIQ), inside [0, 1].

    I and Q are linear in the pixel minus its luma, so that difference is kept. Where the pixel would leave
    the gamut, the difference is scaled down just far enough: luma and hue stay and the colour gets paler.
    Clipping the channels, as is common, would change both.
    """
    result = torch.empty_like(image_BCHW)
    for top in range(0, image_BCHW.shape[2], ROWS):
        rows = slice(top, top + ROWS)
        result[:, :, rows] = _rows_with_luma(image_BCHW[:, :, rows], luma_B1HW[:, :, rows].clamp(0, 1))
    return result


def _rows_with_luma(image_BCHW: Tensor, luma_B1HW: Tensor) -> Tensor:
    chroma_BCHW = image_BCHW - luma(image_BCHW)
    tiny = torch.finfo(image_BCHW.dtype).tiny
    headroom_BCHW = torch.where(chroma_BCHW > 0, 1 - luma_B1HW, luma_B1HW) / chroma_BCHW.abs().clamp_min(tiny)
    scale_B1HW = headroom_BCHW.amin(1, keepdim=True).clamp(max=1)
    return (luma_B1HW + scale_B1HW * chroma_BCHW).clamp(0, 1)


def match_luma(image_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Give a luma the mean and the standard deviation of another (as the paper does; Reinhard et al. 2001).

    The pictures may differ in size. The deviation of a flat picture is amplified by a bounded factor only.
    """
    mean, target_mean = image_B1HW.mean((2, 3), keepdim=True), target_B1HW.mean((2, 3), keepdim=True)
    deviation = _deviation(image_B1HW).clamp_min(FLAT)
    return _deviation(target_B1HW) / deviation * (image_B1HW - mean) + target_mean


def _deviation(image_B1HW: Tensor) -> Tensor:
    return image_B1HW.std((2, 3), correction=0, keepdim=True)


def pixels_where(image_BCHW: Tensor, where_HW: Tensor | None) -> Tensor:
    """Return the pixels (BC1N) that `where_HW` (bool) selects; all of them if it selects none, or is None."""
    return image_BCHW if where_HW is None or not where_HW.any() else image_BCHW[:, :, where_HW][:, :, None]


def match_colors(image_BCHW: Tensor, target_BCHW: Tensor, where_HW: Tensor | None = None) -> Tensor:
    """Give a picture's pixels the mean and the covariance of another picture's; values may leave [0, 1].

    With `where_HW` (bool), the map is learnt from those pixels, and applied to all.

    x' = A (x - m) + m_t with A = S_t^½ S^-½, symmetric square roots of the covariances: of the
    paper's two solutions the one after Hertzmann et al. 2001, "Image Analogies". Directions in which
    the picture is flat are stretched by a bounded factor, so noise stays small.
    """
    map_B33, offset_B3 = _linear_map(pixels_where(image_BCHW, where_HW), target_BCHW)
    map_B33, offset_B31 = map_B33.to(image_BCHW), offset_B3.to(image_BCHW)[:, :, None]
    flat_BCN, result = image_BCHW.flatten(2), torch.empty_like(image_BCHW)
    result_BCN = result.view(flat_BCN.shape)
    for part in _parts(flat_BCN.shape[2], ADDED):
        result_BCN[:, :, part] = map_B33 @ flat_BCN[:, :, part] + offset_B31
    return result


def _linear_map(image_BCHW: Tensor, target_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (B33) and m_t - A m (B3) of `match_colors`, float64."""
    mean_B3, covariance_B33 = _color_moments(image_BCHW)
    target_mean_B3, target_covariance_B33 = _color_moments(target_BCHW)
    map_B33 = _power(target_covariance_B33, 0.5, 0.0) @ _power(covariance_B33, -0.5, FLAT**2)
    return map_B33, target_mean_B3 - (map_B33 @ mean_B3[:, :, None])[:, :, 0]


def _color_moments(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (B3) and covariance (B33) of the pixels, float64."""
    # On the CPU: Apple's GPUs have neither float64 nor the eigendecomposition that follows.
    flat = image_BCHW.flatten(2).cpu()
    B, _, pixels = flat.shape
    total, covariance = torch.zeros(B, 3, 1).double(), torch.zeros(B, 3, 3).double()
    for part in _parts(pixels, ADDED):
        total += flat[:, :, part].double().sum(2, keepdim=True)
    mean = total / pixels
    for part in _parts(pixels, ADDED):
        centred = flat[:, :, part].double() - mean
        covariance += centred @ centred.transpose(1, 2)
    return mean[:, :, 0], covariance / pixels


def _parts(pixels: int, at_once: int) -> Iterator[slice]:
    """Divide pixels into parts."""
    return (slice(start, min(start + at_once, pixels)) for start in range(0, pixels, at_once))


def _power(symmetric_B33: Tensor, exponent: float, floor: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric_B33)
    powers: Tensor = vectors * values.clamp_min(floor).pow(exponent)[:, None, :] @ vectors.transpose(1, 2)
    return powers


class _Transfer(NamedTuple):
    """One iteration: each axis of a rotated space gets the quantiles of another picture.

    The table has POINTS values, evenly spaced from `low_31` on, with `per_unit_31` of them in a unit.
    """

    rotation_33: Tensor
    low_31: Tensor
    per_unit_31: Tensor
    table_3P: Tensor

    def __call__(self, pixels_3N: Tensor) -> Tensor:
        last = self.table_3P.shape[1] - 1
        place_3N = ((self.rotation_33 @ pixels_3N - self.low_31) * self.per_unit_31).clamp_(0, last)
        below_3N = place_3N.long().clamp_(max=last - 1)
        low, high = self.table_3P.gather(1, below_3N), self.table_3P.gather(1, below_3N + 1)
        return self.rotation_33.T @ torch.lerp(low, high, place_3N - below_3N)


def match_histograms(image_BCHW: Tensor, target_BCHW: Tensor, where_HW: Tensor | None = None) -> Tensor:
    """Give a picture's pixels the joint distribution of another picture's three channels.

    With `where_HW` (bool), the map is learnt from those pixels, and applied to all.

    Iterative distribution transfer: the axes are rotated, each gets the other picture's quantiles, they are
    rotated back, and so on (Pitié, Kokaram, Dahyot 2007, section 3). Departures: the linear map of
    `match_colors` comes first, so that hues stay together and fewer rotations suffice; the rotations are
    always the same; the maps are learnt from SAMPLES pixels spread over the picture. Noise as large as FLAT
    is added to these, so that flat parts are not stretched over the whole palette of the other picture.
    """
    learnt_BCHW = pixels_where(image_BCHW, where_HW)
    map_B33, offset_B3 = _linear_map(learnt_BCHW, target_BCHW)
    result = torch.empty_like(image_BCHW)
    for index, (linear_33, offset_3) in enumerate(zip(map_B33, offset_B3[:, :, None], strict=True)):
        source_3S = linear_33 @ (_samples(learnt_BCHW[index]) + FLAT * _noise()) + offset_3
        transfers = _learn(source_3S, _samples(target_BCHW[index]))
        steps = [_Transfer(*(part.to(image_BCHW) for part in transfer)) for transfer in transfers]
        linear_33, offset_3 = linear_33.to(image_BCHW), offset_3.to(image_BCHW)
        flat_3N, result_3N = image_BCHW[index].flatten(1), result[index].view(3, -1)
        for part in _parts(flat_3N.shape[1], CHUNK):
            pixels_3N = linear_33 @ flat_3N[:, part] + offset_3
            for step in steps:
                pixels_3N = step(pixels_3N)
            result_3N[:, part] = pixels_3N
    return result


def blended_pixels(images_BCHW: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return pixels (B31N) of several pictures, of each in proportion to its share."""
    if len(images_BCHW) == 1:
        return images_BCHW[0]
    total = sum(shares)
    rows = []
    for image_BCHW, share in zip(images_BCHW, shares, strict=True):
        flat_B3N = image_BCHW.flatten(2)
        last = flat_B3N.shape[2] - 1
        places = torch.linspace(0, last, max(1, round(SAMPLES * share / total)))
        # From 2**24 pixels on, the last place is rounded, perhaps to one behind the end.
        rows.append(flat_B3N[:, :, places.long().clamp_(max=last)])
    return torch.cat(rows, 2)[:, :, None]


def _learn(source_3S: Tensor, target_3S: Tensor) -> Sequence[_Transfer]:
    """Return the iterations that map one set of pixels to another, float64; the last one is not rotated."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.linspace(0, SAMPLES - 1, QUANTILES).round().long()
    found = []
    for index in range(ROTATIONS):
        random_33 = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        rotation_33 = torch.linalg.qr(random_33)[0] if index < ROTATIONS - 1 else torch.eye(3).double()
        own_3Q, other_3Q = (_sorted(rotation_33 @ each)[:, ranks] for each in (source_3S, target_3S))
        found.append(_transfer(rotation_33, own_3Q, other_3Q))
        source_3S = found[-1](source_3S)
    return found


def _sorted(values_3S: Tensor) -> Tensor:
    # torch's own sort takes six times as long on a CPU.
    return torch.from_numpy(np.sort(values_3S.numpy(), axis=1))


def _transfer(rotation_33: Tensor, own_3Q: Tensor, other_3Q: Tensor) -> _Transfer:
    """Tabulate the map of quantiles to quantiles, linear between them and constant beyond."""
    low_31, width_31 = own_3Q[:, :1], (own_3Q[:, -1:] - own_3Q[:, :1]).clamp_min(1e-9)
    points_3P = low_31 + width_31 * torch.linspace(0, 1, POINTS, dtype=torch.float64)
    above_3P = torch.searchsorted(own_3Q, points_3P).clamp_(1, QUANTILES - 1)
    left, right = own_3Q.gather(1, above_3P - 1), own_3Q.gather(1, above_3P)
    part_3P = ((points_3P - left) / (right - left).clamp_min(1e-12)).clamp_(0, 1)
    table_3P = torch.lerp(other_3Q.gather(1, above_3P - 1), other_3Q.gather(1, above_3P), part_3P)
    return _Transfer(rotation_33, low_31, (POINTS - 1) / width_31, table_3P)


def _samples(image_3HW: Tensor) -> Tensor:
    """Return SAMPLES pixels (3S) spread evenly over a picture, float64; those of a small picture repeat."""
    # Every nth pixel could follow the rows' period; multiples of the golden ratio do not.
    places = torch.arange(SAMPLES, dtype=torch.float64) * ((5**0.5 - 1) / 2) % 1
    flat_3N = image_3HW.flatten(1).cpu()
    return flat_3N[:, (places * flat_3N.shape[1]).long()].double()


def _noise() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, SAMPLES, generator=generator, dtype=torch.float64)
