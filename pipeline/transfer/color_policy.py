"""The recipe's colour policy: which colours contents, styles, starts and results have.

`color` matches whatever pictures it is given; this module decides which. All of it is pure.

Shapes in names: B pictures, C channels, H rows, W columns; `image_BCHW` is sRGB in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from .color import (
    blended_pixels,
    grey,
    luma,
    match_colors,
    match_histograms,
    match_luma,
    pixels_where,
    with_luma,
)
from .palette import PALETTE_SIZE, limited_palette
from .pyramid import style_size
from .request import Picture, Request

# How far a result is moved to its style's palette at the end: all the way would cost content and texture.
LAST_RECOLORING = 0.25


def network_image(request: Request, picture: Picture, size: tuple[int, int]) -> Tensor:
    """Return a content or a start as the network gets it: grey for `luminance`."""
    image_BCHW = picture.tensor(size)
    return grey(image_BCHW) if request.recipe.color == "luminance" else image_BCHW


def style_image(
    request: Request, style: Picture, size: tuple[int, int], content_size: tuple[int, int]
) -> Tensor:
    """Return a style at `size`, matched to the content at `content_size` if the recipe says so."""
    image_BCHW = style.tensor(size)
    if not request.recipe.matches_style:
        return image_BCHW
    content_BCHW = network_image(request, request.content, content_size)
    if request.recipe.color == "match":
        return match_to_content(request, image_BCHW, content_BCHW)
    luma_B1HW = match_luma(luma(image_BCHW), luma(_visible_pixels(request.content, content_BCHW)))
    return luma_B1HW.expand_as(image_BCHW).clamp(0, 1)


def recolor(request: Request, image_BCHW: Tensor) -> Tensor:
    """Give a picture the palette of its styles; of a strength below 1, only a part of the way to it."""
    if not request.recipe.recolors:
        return image_BCHW
    recolored_BCHW = _recolored(request, image_BCHW)
    if request.recipe.strength >= 1:
        return recolored_BCHW
    return torch.lerp(image_BCHW, recolored_BCHW, request.recipe.strength, out=recolored_BCHW)


def _recolored(request: Request, image_BCHW: Tensor) -> Tensor:
    """Return a picture with the palette of its styles, or each region of it with that of its own style."""
    size = _size(image_BCHW)
    visible_HW = request.content.visible(size)
    palettes_BCHW = _palettes(request, size)
    if request.regions is None:
        return match_histograms(image_BCHW, palettes_BCHW[0], visible_HW).clamp_(0, 1)
    masks_BKHW = request.regions.masks(*size).to(image_BCHW)
    parts = [
        mask_BHW[:, None] * match_histograms(image_BCHW, palette_BCHW, _region(mask_BHW[0], visible_HW))
        for mask_BHW, palette_BCHW in zip(masks_BKHW.unbind(1), palettes_BCHW, strict=True)
    ]
    return torch.stack(parts).sum(0).clamp(0, 1)


def _palettes(request: Request, size: tuple[int, int]) -> list[Tensor]:
    """Return the palette of the picture at `size`, or of each of its regions, as pixels."""
    content = request.content.image.size
    scale = min(1.0, PALETTE_SIZE / max(content))
    small = (max(2, round(content[0] * scale)), max(2, round(content[1] * scale)))
    content_BCHW, visible_HW = network_image(request, request.content, small), request.content.visible(small)
    large_BCHW, small_BCHW = _style_pixels(request, size), _style_pixels(request, small)
    where = [visible_HW]
    if request.regions is not None:
        where = [_region(mask_HW, visible_HW) for mask_HW in request.regions.masks(*small)[0]]
    limited = [limited_palette(content_BCHW, *each) for each in zip(small_BCHW, where, strict=True)]
    return [own if other is None else other for own, other in zip(large_BCHW, limited, strict=True)]


def _style_pixels(request: Request, size: tuple[int, int]) -> list[Tensor]:
    """Return the pixels of the blend, or of each region's style, that go with a picture at `size`."""
    styles_BCHW = [
        style_image(request, style, style_size(request.recipe, style.image.size, size), size)
        for style, _ in request.styles
    ]
    if request.regions is not None:
        return styles_BCHW
    return [blended_pixels(styles_BCHW, [share for _, share in request.styles])]


def recolor_result(request: Request, image_BCHW: Tensor) -> Tensor:
    """Move a result a part of the way to the palette of its styles."""
    if not request.recipe.recolors:
        return image_BCHW
    recolored_BCHW = recolor(request, image_BCHW)
    return torch.lerp(image_BCHW, recolored_BCHW, LAST_RECOLORING, out=recolored_BCHW)


def final_colors(request: Request, image_BCHW: Tensor) -> Tensor:
    """Return a result or a snapshot, on the CPU, with the content's colours if the recipe keeps them."""
    if request.recipe.color not in {"content", "luminance"}:
        return image_BCHW
    return with_luma(request.content.tensor(_size(image_BCHW)), luma(image_BCHW))


def match_to_content(request: Request, image_BCHW: Tensor, content_BCHW: Tensor) -> Tensor:
    """Give a picture the palette of the content's visible pixels; see `match_histograms`."""
    match = match_histograms if request.recipe.match_by == "histogram" else match_colors
    return match(image_BCHW, _visible_pixels(request.content, content_BCHW)).clamp(0, 1)


def _visible_pixels(content: Picture, content_BCHW: Tensor) -> Tensor:
    return pixels_where(content_BCHW, content.visible(_size(content_BCHW)))


def _region(mask_HW: Tensor, visible_HW: Tensor | None) -> Tensor:
    """Return the visible pixels (HW, bool) of a region, or all of them if none is visible."""
    inside_HW = mask_HW > 0.5
    if visible_HW is None or not (inside_HW & visible_HW).any():
        return inside_HW
    return inside_HW & visible_HW


def _size(image_BCHW: Tensor) -> tuple[int, int]:
    rows, columns = image_BCHW.shape[2:]
    return columns, rows
