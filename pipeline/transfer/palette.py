"""The palette that a picture is given: that of its style, as far as the edges of the photograph remain.

A painting that is almost entirely black or white leaves no contrast for the photograph. The histogram of such
a painting maps most of the photograph to one colour.

Shapes in names: B pictures, C channels, H rows, W columns; `image_BCHW` is sRGB in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from .color import luma, match_colors, match_histograms, pixels_where

# Long edge in pixels at which edges are compared. It is the same for every level, and so is the palette.
PALETTE_SIZE = 128
# The most that a palette may cost: 1 minus the correlation of the edges before and after.
MOST_LOST = 0.45
# How much of the way from the style's mean and covariance to its whole histogram is tried.
SHARES = tuple(eighths / 8 for eighths in range(8, -1, -1))


def limited_palette(
    content_BCHW: Tensor, style_BCHW: Tensor, where_HW: Tensor | None = None
) -> Tensor | None:
    """Return pixels (BC1N) with the palette nearest to the style's that keeps the content's edges.

    It lies between two: the style's mean and covariance, which keep every edge, and its whole histogram.
    None says that the edges survive the whole histogram: take the style's own pixels. With `where_HW` (bool),
    only those pixels of the content count.
    """
    even_BCHW = match_colors(content_BCHW, style_BCHW, where_HW).clamp(0, 1)
    full_BCHW = match_histograms(content_BCHW, style_BCHW, where_HW).clamp(0, 1)
    for share in SHARES:
        mixed_BCHW = torch.lerp(even_BCHW, full_BCHW, share)
        if edges_lost(mixed_BCHW, content_BCHW, where_HW) <= MOST_LOST:
            break
    return None if share == 1 else pixels_where(mixed_BCHW, where_HW)


def edges_lost(image_BCHW: Tensor, content_BCHW: Tensor, where_HW: Tensor | None = None) -> float:
    """Return 1 minus the correlation of the edges of two pictures' luma: 0 is the same, 1 is unrelated.

    A content without any edge has none to lose.
    """
    image_N, content_N = (_edges(each_BCHW, where_HW) for each_BCHW in (image_BCHW, content_BCHW))
    image_N, content_N = image_N - image_N.mean(), content_N - content_N.mean()
    norm = float(content_N.norm())
    if norm == 0:
        return 0.0
    return 1 - float(image_N @ content_N) / max(norm * float(image_N.norm()), 1e-12)


def _edges(image_BCHW: Tensor, where_HW: Tensor | None) -> Tensor:
    """Return the size of the luma's gradient at the selected pixels of all pictures, in float64."""
    luma_B1HW = luma(image_BCHW.double())
    down, right = luma_B1HW.diff(dim=2)[..., :-1], luma_B1HW.diff(dim=3)[:, :, :-1]
    size_B1HW = (down.square() + right.square()).sqrt()
    return pixels_where(size_B1HW, None if where_HW is None else where_HW[:-1, :-1]).flatten()
