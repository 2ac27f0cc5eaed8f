"""The schedule of a recipe: its pyramid levels, their sizes and steps, and the weight of the style there."""

from __future__ import annotations

import math

from .recipe import Recipe

# Long edge of a level, in pixels, at which style_weight counts as it is.
REFERENCE_SIZE = 512

# The loss of structure is then in proportion to `strength`: docs/quality.md.
STRENGTH_POWER = 3


def level_sizes(recipe: Recipe) -> tuple[int, ...]:
    """Return the long edge of every pyramid level in pixels, coarsest first.

    Levels are √2 apart, so each has half the pixels of the next. They are counted up from `pyramid`, so that
    pictures of all sizes begin alike; the last level is `size`, between 2^¼ and 2^¾ times the one before.
    """
    if not recipe.pyramid:
        return (recipe.size,)
    smaller = round(2 * math.log2(recipe.size / recipe.pyramid))
    # Where the pyramid is of a few pixels, several levels are of the same size.
    sizes = dict.fromkeys(round(recipe.pyramid * 2 ** (level / 2)) for level in range(smaller))
    return (*sizes, recipe.size)


def fit_size(size: tuple[int, int], long_edge: int, square: bool = False) -> tuple[int, int]:
    """Return the size with this long edge and the shape of `size`, or a square."""
    if square:
        return long_edge, long_edge
    scale = long_edge / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def steps_at(recipe: Recipe, level: int) -> int:
    """Return the steps of a level, counted from the coarsest, 0."""
    return recipe.steps[min(level, len(recipe.steps) - 1)]


def total_steps(recipe: Recipe) -> int:
    return sum(steps_at(recipe, level) for level in range(len(level_sizes(recipe))))


def at_level(recipe: Recipe, long_edge: int, style_factor: float = 1.0) -> Recipe:
    """Return the recipe with the weights of a pyramid level of `long_edge` pixels.

    A strong style on coarse levels puts motifs of the painting where the content has none. On levels beyond
    512 pixels a weak one brings the photograph back where smaller levels have painted it, and a strong one
    puts motifs into its details. So, to the power of `style_growth`, the weight grows with the pixels of a
    level up to 512, and with its long edge beyond. It depends on the level alone, so a large picture begins
    exactly as a small one. `style_factor` is the encoder's; it counts in the convention in which weights mean
    the same for every encoder.
    """
    scale = long_edge / REFERENCE_SIZE
    growth = min(scale, scale**2) ** recipe.style_growth
    factor = style_factor if recipe.loss == "normalized" else 1.0
    weights = {
        "style_weight": recipe.style_weight * factor * growth * recipe.strength**STRENGTH_POWER,
        # Smoothness softens what is not painted.
        "tv_weight": recipe.tv_weight * min(1.0, recipe.strength),
    }
    return recipe.model_copy(update=weights)
