"""The pyramid: at which sizes a picture is optimised, for how many steps, and how large its styles are there.

Sizes are (width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import ImageError
from ..spec.layers import smallest_side
from ..spec.recipe import LARGEST_SIZE, Recipe
from ..spec.schedule import fit_size, level_sizes, steps_at

# The last level is optimised in at most LAST_PARTS parts, each of at least PART_STEPS steps.
LAST_PARTS, PART_STEPS = 3, 20
# A narrow style may be enlarged until its long edge is this many times the smallest side.
STRIP = 64


@dataclass(frozen=True)
class Level:
    """One pyramid level: the picture's size and how many steps it gets.

    The canvas is larger by the recipe's margin on every side.
    """

    width: int
    height: int
    steps: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def plan_levels(recipe: Recipe, content_size: tuple[int, int]) -> list[Level]:
    """Plan the pyramid for a content image, coarsest level first.

    Levels that are too small for the deepest layer are left out, so a panorama starts at a finer one. The
    steps of the other levels stay the same.

    Raises:
        ImageError: the result itself would be too small.
    """
    smallest = smallest_side([*recipe.content_layers, *recipe.style_layers], recipe.padding)
    # The margin mirrors that many pixels of the picture.
    smallest = max(smallest, recipe.margin + 1)
    sizes = [fit_size(content_size, size, recipe.square) for size in level_sizes(recipe)]
    levels = [Level(*size, steps_at(recipe, index)) for index, size in enumerate(sizes)]
    usable = [level for level in levels if min(level.size) >= smallest]
    if not usable:
        width, height = sizes[-1]
        enough = _smallest_size(content_size, smallest, recipe.square)
        raise ImageError(
            f"The result would be {width} x {height} pixels; this recipe needs {smallest} on the short side.",
            f"Use size {enough} or more."
            if enough <= LARGEST_SIZE
            else f"No size up to {LARGEST_SIZE} is enough; crop the picture, or set square: true.",
        )
    return _split_last(usable) if recipe.recolors else usable


def _smallest_size(content_size: tuple[int, int], short_side: int, square: bool) -> int:
    """Return the smallest long edge that gives a content this many pixels on its short side."""
    # Half a pixel rounds up, so the estimate may be one pixel too small, but never too large.
    size = short_side if square else int((short_side - 0.5) * max(content_size) / min(content_size)) - 1
    size = max(size, 1)
    while min(fit_size(content_size, size, square)) < short_side:
        size += 1
    return size


def _split_last(levels: Sequence[Level]) -> list[Level]:
    """Split the last level into several of its size; each of them starts in the style's palette again."""
    *coarse, last = levels
    parts = max(1, min(LAST_PARTS, last.steps // PART_STEPS))
    steps = [last.steps // parts + (part < last.steps % parts) for part in range(parts)]
    return [*coarse, *(replace(last, steps=each) for each in steps)]


def style_size(recipe: Recipe, size: tuple[int, int], level_size: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which a style of `size` is analysed for a level.

    Its long edge is that of the level times `style_scale`. A narrow style may be larger, so that its short
    side is usable, but not larger than its own file, nor longer than STRIP times the smallest side. If that
    is not enough it is widened.
    """
    edge = round(max(level_size) * recipe.style_scale)
    smallest = smallest_side(recipe.style_layers, recipe.padding)
    if recipe.square:
        return fit_size(size, max(edge, smallest), square=True)
    usable = -(-smallest * max(size) // min(size))
    width, height = fit_size(size, max(edge, min(usable, max(size), STRIP * smallest)))
    return max(width, smallest), max(height, smallest)
