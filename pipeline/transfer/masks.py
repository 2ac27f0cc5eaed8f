"""Masks: how much each pixel of a content, and each position of a layer, belongs to the region of a style.

Shapes in names: B pictures, K regions, C channels, H rows, W columns, M = H·W positions of a layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import ImageError
from ..spec.layers import poolings_before
from ..spec.recipe import Recipe
from ..spec.regions import Color, color_text
from .canvas import Parametrisation, crop_features
from .losses import Guide

# A region that covers fewer positions of a layer has no meaningful covariance there.
MIN_POSITIONS = 16
# How much the aspect ratio of a mask may differ from its content's: rounding to whole pixels changes it.
SHAPE_TOLERANCE = 0.02
# A colour further than this from the regions' colours, and from all mixtures of two, is stray. A mask with a
# larger share of stray pixels gets a note.
STRAY_DISTANCE, STRAY_SHARE = 0.2, 0.01
# Squared distances of colours that differ by less are equal.
TIE = 1e-6
# In a mask smaller than this, one pixel is enough for a region. In a larger one a region fills a square of
# 2 x 2 pixels somewhere, while a smooth edge that happens to pass through its colour does not.
SMALL_MASK = 16
# Rows of a mask that are worked on at once, to bound the memory.
ROWS = 256


def guides(masks_BKHW: Tensor, layers: Iterable[str], margin: int) -> dict[str, Guide]:
    """Bring masks to the size of each layer: averaged where the network pools, so that soft edges stay soft.

    The masks have a margin, in pixels, in which there is no style loss.
    """
    return {
        layer: _guide(crop_features(_pooled(masks_BKHW, poolings_before(layer)), layer, margin))
        for layer in layers
    }


def _pooled(masks_BKHW: Tensor, times: int) -> Tensor:
    for _ in range(times):
        masks_BKHW = F.avg_pool2d(masks_BKHW, 2)
    return masks_BKHW


def _guide(masks_BKHW: Tensor) -> Guide:
    weights_BKM = masks_BKHW.flatten(2)
    total_BK = weights_BKM.sum(2)
    # In a layer with fewer positions than that, a region may still cover all of them.
    enough_BK = total_BK >= min(MIN_POSITIONS, weights_BKM.shape[2])
    return Guide(
        weights_BKM * enough_BK[:, :, None],
        torch.where(enough_BK, total_BK, 1.0),
        total_BK * enough_BK / weights_BKM.shape[2],
    )


def memberships(pixels_HWC: NDArray[np.uint8], colors: Sequence[Color]) -> tuple[NDArray[np.uint8], float]:
    """Return how much each pixel belongs to each region (KHW, 255 is all), and the share of stray pixels.

    A pixel is divided between the two regions whose colours mix best to its own: a smooth edge between two
    regions consists of such mixtures.
    """
    planes_KHW = np.zeros((len(colors), *pixels_HWC.shape[:2]), np.uint8)
    stray = 0
    for top in range(0, len(pixels_HWC), ROWS):
        rows = slice(top, top + ROWS)
        image_CHW = np.divide(pixels_HWC[rows].transpose(2, 0, 1), 255, dtype=np.float32)
        stray += _divide(image_CHW, np.asarray(colors, np.float32), planes_KHW[:, rows])
    return planes_KHW, stray / planes_KHW[0].size


def _divide(
    image_CHW: NDArray[np.float32], colors_KC: NDArray[np.float32], planes_KHW: NDArray[np.uint8]
) -> int:
    """Fill `planes_KHW` for some rows; return how many of their pixels are stray."""
    nearest_HW = np.full(image_CHW.shape[1:], np.inf, np.float32)
    pairs = itertools.combinations(range(len(colors_KC)), 2)
    # Shortest first: with several greys, a pixel belongs to the two that are next to its own.
    for one, other in sorted(
        pairs, key=lambda pair: float(np.linalg.norm(np.diff(colors_KC[[*pair]], axis=0)))
    ):
        line_C = colors_KC[other] - colors_KC[one]
        offset_CHW = image_CHW - colors_KC[one][:, None, None]
        share_HW = (np.tensordot(line_C, offset_CHW, 1) / (line_C @ line_C)).clip(0, 1)
        distance_HW = np.square(offset_CHW - line_C[:, None, None] * share_HW).sum(0)
        better_HW = distance_HW < nearest_HW - TIE
        nearest_HW[better_HW] = distance_HW[better_HW]
        part = (255 * share_HW[better_HW]).round().astype(np.uint8)
        planes_KHW[:, better_HW] = 0
        planes_KHW[other, better_HW], planes_KHW[one, better_HW] = part, 255 - part
    return int((nearest_HW > STRAY_DISTANCE**2).sum())


def which_present(pixels_HWC: NDArray[np.uint8], colors: Sequence[Color]) -> list[bool]:
    """Return for each colour whether the mask has pixels near it that are nearer to no other of them."""
    small = min(pixels_HWC.shape[:2]) < SMALL_MASK
    found = np.zeros(len(colors), bool)
    for top in range(0, len(pixels_HWC), ROWS):
        image_HWC = np.divide(pixels_HWC[top : top + ROWS + 1], 255, dtype=np.float32)
        distance_KHW = np.stack([_squared_distance(image_HWC, color) for color in colors])
        near_KHW = (distance_KHW <= STRAY_DISTANCE**2) & (distance_KHW == distance_KHW.min(0))
        if not small:
            near_KHW = near_KHW[:, :-1] & near_KHW[:, 1:]
            near_KHW = near_KHW[:, :, :-1] & near_KHW[:, :, 1:]
        found |= near_KHW.any((1, 2))
    return [bool(one) for one in found]


def nearest_color(pixels_HWC: NDArray[np.uint8], color: Color) -> Color:
    """Return the mask's colour nearest to another; colours of whole areas come before those of edges."""
    best, nearest = (True, float("inf")), (0.0, 0.0, 0.0)
    for top in range(0, len(pixels_HWC), ROWS):
        rows_HWC = pixels_HWC[top : top + ROWS]
        distance_HW = _squared_distance(np.divide(rows_HWC, 255, dtype=np.float32), color)
        edge_HW = np.zeros(distance_HW.shape, bool)
        edge_HW[:, :-1] |= (rows_HWC[:, :-1] != rows_HWC[:, 1:]).any(2)
        edge_HW[:-1] |= (rows_HWC[:-1] != rows_HWC[1:]).any(2)
        for is_edge in (False, True):
            candidates_HW = np.where(edge_HW == is_edge, distance_HW, np.inf)
            row, column = divmod(int(candidates_HW.argmin()), candidates_HW.shape[1])
            if (found := (is_edge, float(candidates_HW[row, column]))) < best:
                red, green, blue = rows_HWC[row, column].tolist()
                best, nearest = found, (red / 255, green / 255, blue / 255)
    return nearest


def _squared_distance(image_HWC: NDArray[np.float32], color: Color) -> NDArray[np.float32]:
    return np.asarray(np.square(image_HWC - np.asarray(color, np.float32)).sum(2))


@dataclass(frozen=True)
class Regions:
    """The regions of a mask: `planes_KHW` says how much each pixel belongs to each of them, 255 is all.

    Messages call the mask by its `name` and the regions by their `labels`.
    """

    planes_KHW: NDArray[np.uint8]
    name: str
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def masks(self, width: int, height: int) -> Tensor:
        """Return `masks_BKHW` with B = 1 at a size in pixels, with smooth edges; they add up to one."""
        size = (width, height)
        planes = [
            np.asarray(Image.fromarray(plane).convert("F").resize(size, Image.Resampling.BILINEAR))
            for plane in self.planes_KHW
        ]
        masks_BKHW = torch.from_numpy(np.stack(planes)[None])
        return masks_BKHW / masks_BKHW.sum(1, keepdim=True)


def find_regions(
    mask: Image.Image,
    colors: Sequence[Color],
    content_size: tuple[int, int],
    name: str,
    labels: Sequence[str],
) -> Regions:
    """Divide a mask, an RGB picture, into the regions of these `colors`.

    Raises:
        ImageError: its shape is not that of the content, or it lacks the colour of a region.
    """
    (width, height), (content_width, content_height) = mask.size, content_size
    if abs(width * content_height / (height * content_width) - 1) > SHAPE_TOLERANCE:
        raise ImageError(
            f"{name}: this mask has {width} x {height} pixels and its content {content_width} x "
            f"{content_height}, which is another shape.",
            "Draw the mask on a copy of the content; any size of the same shape will do.",
        )
    pixels_HWC = np.asarray(mask)
    for label, color, is_there in zip(labels, colors, which_present(pixels_HWC, colors), strict=True):
        if not is_there:
            raise ImageError(
                f"{name}: the colour of {label} is nowhere in this mask; the nearest that is there is "
                f"{color_text(nearest_color(pixels_HWC, color))}.",
                "Give the style a colour that is in the mask, or leave it out.",
            )
    planes_KHW, stray = memberships(pixels_HWC, colors)
    note = (
        f"{Path(name).name}: {stray:.0%} of this mask has colours of no region; the nearest region is taken."
    )
    return Regions(planes_KHW, name, tuple(labels), (note,) if stray > STRAY_SHARE else ())


def region_notes(regions: Regions, recipe: Recipe, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Return a note for each region that is too small for some layers at some level sizes (width, height).

    Raises:
        ImageError: a region has no pixel at all.
    """
    missed: list[dict[str, list[int]]] = [{} for _ in regions.labels]
    for size in dict.fromkeys(sizes):
        masks_BKHW = Parametrisation(recipe).pad(regions.masks(*size))
        for layer, guide in guides(masks_BKHW, recipe.style_layers, recipe.margin).items():
            for region, share in zip(missed, guide.share[0].tolist(), strict=True):
                if not share:
                    region.setdefault(layer, []).append(max(size))
    for label, total in zip(regions.labels, masks_BKHW.sum((0, 2, 3)).tolist(), strict=True):
        if total < 1:
            raise ImageError(
                f"{regions.name}: the region of {label} has no pixel in this mask.",
                "Give the style a colour that is in the mask, or leave it out.",
            )
    notes = [
        _small_region_note(regions.name, label, sizes_by_layer)
        for label, sizes_by_layer in zip(regions.labels, missed, strict=True)
        if sizes_by_layer
    ]
    return (*regions.notes, *notes)


def _small_region_note(name: str, label: str, missed: dict[str, list[int]]) -> str:
    where = "; ".join(f"{layer} at {', '.join(map(str, sizes))} pixels" for layer, sizes in missed.items())
    return f"{Path(name).name}: the region of {label} is too small for {where}; it is left out there."
