"""Masks: how much every pixel of a content, and every position of a layer, belongs to the region of a style.

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
from ..spec.recipe import Recipe
from .canvas import Parametrisation, crop_features
from .losses import Guide

# A region that covers fewer positions of a layer has no covariance there to speak of.
FEWEST = 16
# A mask may have another shape than its content by so much: what rounding does to small pictures.
SHAPE_TOLERANCE = 0.02
# A colour so far from those of the regions, and from all between two of them, is not meant to be one.
STRAY, STRAY_SHARE = 0.2, 0.01
# Squared distances of colours that differ by less are the same.
TIE = 1e-6
# A smaller mask may have regions of a pixel. In any other a region fills two rows and two columns somewhere,
# which an edge between two others that passes through its colour does not.
SMALL = 16
# Rows of a mask that are worked on at once.
ROWS = 256


def guides(masks_BKHW: Tensor, layers: Iterable[str], margin: int) -> dict[str, Guide]:
    """Carry masks through the network: averaged where it pools, so that soft edges stay soft.

    They have a margin of so many pixels, where no style is looked for.
    """
    return {
        layer: _guide(crop_features(_pooled(masks_BKHW, int(layer[4]) - 1), layer, margin))
        for layer in layers
    }


def _pooled(masks_BKHW: Tensor, times: int) -> Tensor:
    for _ in range(times):
        masks_BKHW = F.avg_pool2d(masks_BKHW, 2)
    return masks_BKHW


def _guide(masks_BKHW: Tensor) -> Guide:
    weights_BKM = masks_BKHW.flatten(2)
    total_BK = weights_BKM.sum(2)
    # Of a layer smaller than that, one region can still be all.
    enough_BK = total_BK >= min(FEWEST, weights_BKM.shape[2])
    return Guide(
        weights_BKM * enough_BK[:, :, None],
        torch.where(enough_BK, total_BK, 1.0),
        total_BK * enough_BK / weights_BKM.shape[2],
    )


def memberships(
    pixels_HWC: NDArray[np.uint8], colors: Sequence[Sequence[float]]
) -> tuple[NDArray[np.uint8], float]:
    """Return how much each pixel belongs to each region (KHW, 255 is all), and the share of stray colours.

    A pixel is divided between the two regions of whose colours it is most nearly a mixture, as a smooth edge
    between any two regions is; `colors` are K times red, green and blue in [0, 1].
    """
    planes_KHW = np.zeros((len(colors), *pixels_HWC.shape[:2]), np.uint8)
    stray = 0
    for top in range(0, len(pixels_HWC), ROWS):
        rows = slice(top, top + ROWS)
        light_CHW = np.divide(pixels_HWC[rows].transpose(2, 0, 1), 255, dtype=np.float32)
        stray += _divide(light_CHW, np.asarray(colors, np.float32), planes_KHW[:, rows])
    return planes_KHW, stray / planes_KHW[0].size


def _divide(
    light_CHW: NDArray[np.float32], colors_KC: NDArray[np.float32], planes_KHW: NDArray[np.uint8]
) -> int:
    """Fill `planes_KHW` for some rows; return how many of their pixels have stray colours."""
    nearest_HW = np.full(light_CHW.shape[1:], np.inf, np.float32)
    pairs = itertools.combinations(range(len(colors_KC)), 2)
    # Shortest first: of greys in a row, the two on both sides of a pixel are its own.
    for one, other in sorted(
        pairs, key=lambda pair: float(np.linalg.norm(np.diff(colors_KC[[*pair]], axis=0)))
    ):
        way_C = colors_KC[other] - colors_KC[one]
        from_one_CHW = light_CHW - colors_KC[one][:, None, None]
        along_HW = (np.tensordot(way_C, from_one_CHW, 1) / (way_C @ way_C)).clip(0, 1)
        apart_HW = np.square(from_one_CHW - way_C[:, None, None] * along_HW).sum(0)
        better_HW = apart_HW < nearest_HW - TIE
        nearest_HW[better_HW] = apart_HW[better_HW]
        part = (255 * along_HW[better_HW]).round().astype(np.uint8)
        planes_KHW[:, better_HW] = 0
        planes_KHW[other, better_HW], planes_KHW[one, better_HW] = part, 255 - part
    return int((nearest_HW > STRAY**2).sum())


def present(pixels_HWC: NDArray[np.uint8], colors: Sequence[Sequence[float]]) -> list[bool]:
    """Tell of each colour whether it is in a mask: near enough, and nearer there than any other of them."""
    small = min(pixels_HWC.shape[:2]) < SMALL
    found = np.zeros(len(colors), bool)
    for top in range(0, len(pixels_HWC), ROWS):
        light_HWC = np.divide(pixels_HWC[top : top + ROWS + 1], 255, dtype=np.float32)
        apart_KHW = np.stack([_apart(light_HWC, color) for color in colors])
        near_KHW = (apart_KHW <= STRAY**2) & (apart_KHW == apart_KHW.min(0))
        if not small:
            near_KHW = near_KHW[:, :-1] & near_KHW[:, 1:]
            near_KHW = near_KHW[:, :, :-1] & near_KHW[:, :, 1:]
        found |= near_KHW.any((1, 2))
    return [bool(one) for one in found]


def nearest_color(pixels_HWC: NDArray[np.uint8], color: Sequence[float]) -> tuple[int, int, int]:
    """Return which colour of a mask is nearest to one, of those that fill areas where there are such."""
    best, nearest = (True, float("inf")), (0, 0, 0)
    for top in range(0, len(pixels_HWC), ROWS):
        rows_HWC = pixels_HWC[top : top + ROWS]
        apart_HW = _apart(np.divide(rows_HWC, 255, dtype=np.float32), color)
        edge_HW = np.zeros(apart_HW.shape, bool)
        edge_HW[:, :-1] |= (rows_HWC[:, :-1] != rows_HWC[:, 1:]).any(2)
        edge_HW[:-1] |= (rows_HWC[:-1] != rows_HWC[1:]).any(2)
        for is_edge in (False, True):
            where = np.where(edge_HW == is_edge, apart_HW, np.inf)
            row, column = divmod(int(where.argmin()), where.shape[1])
            if (found := (is_edge, float(where[row, column]))) < best:
                red, green, blue = rows_HWC[row, column].tolist()
                best, nearest = found, (red, green, blue)
    return nearest


def _apart(light_HWC: NDArray[np.float32], color: Sequence[float]) -> NDArray[np.float32]:
    """Return the squared distances (HW) from a colour."""
    return np.asarray(np.square(light_HWC - np.asarray(color, np.float32)).sum(2))


def _called(color: tuple[int, int, int]) -> str:
    red, green, blue = color
    return f"{red / 255:.3g}" if red == green == blue else f"#{red:02x}{green:02x}{blue:02x}"


@dataclass(frozen=True)
class Regions:
    """A mask taken apart: `planes_KHW` says how much each pixel belongs to each style's region, 255 is all.

    `name` is the mask's and `labels` are the regions', for messages.
    """

    planes_KHW: NDArray[np.uint8]
    name: str
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def masks(self, width: int, height: int) -> Tensor:
        """Return `masks_BKHW` with B = 1 at a size in pixels, edges smooth; they add up to one."""
        size = (width, height)
        planes = [
            np.asarray(Image.fromarray(plane).convert("F").resize(size, Image.Resampling.BILINEAR))
            for plane in self.planes_KHW
        ]
        masks_BKHW = torch.from_numpy(np.stack(planes)[None])
        return masks_BKHW / masks_BKHW.sum(1, keepdim=True)


def find_regions(
    mask: Image.Image,
    colors: Sequence[Sequence[float]],
    content_size: tuple[int, int],
    name: str,
    labels: Sequence[str],
) -> Regions:
    """Take a mask, in RGB, apart by the `colors` of its regions.

    Raises:
        ImageError: its shape is not the content's, of (width, height) pixels, or it lacks a region's colour.
    """
    (width, height), (content_width, content_height) = mask.size, content_size
    if abs(width * content_height / (height * content_width) - 1) > SHAPE_TOLERANCE:
        raise ImageError(
            f"{name}: this mask has {width} x {height} pixels and its content {content_width} x "
            f"{content_height}, which is another shape.",
            "Draw the mask on a copy of the content; any size of the same shape will do.",
        )
    pixels_HWC = np.asarray(mask)
    for label, color, is_there in zip(labels, colors, present(pixels_HWC, colors), strict=True):
        if not is_there:
            raise ImageError(
                f"{name}: the colour of {label} is nowhere in this mask; the nearest that is there is "
                f"{_called(nearest_color(pixels_HWC, color))}.",
                "Give the style a colour that is in the mask, or leave it out.",
            )
    planes_KHW, stray = memberships(pixels_HWC, colors)
    note = f"{Path(name).name}: {stray:.0%} of this mask has colours of no region; what is nearest is taken."
    return Regions(planes_KHW, name, tuple(labels), (note,) if stray > STRAY_SHARE else ())


def region_notes(regions: Regions, recipe: Recipe, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Say at which of the levels' sizes (width, height) regions are too small to count, one sentence each.

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
    small = [(label, where) for label, where in zip(regions.labels, missed, strict=True) if where]
    return (*regions.notes, *(_note(regions.name, label, where) for label, where in small))


def _note(name: str, label: str, missed: dict[str, list[int]]) -> str:
    where = "; ".join(f"{layer} at {', '.join(map(str, sizes))} pixels" for layer, sizes in missed.items())
    return f"{Path(name).name}: the region of {label} is too small for {where}; left out there."
