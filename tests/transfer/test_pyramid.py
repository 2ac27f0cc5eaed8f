from __future__ import annotations

import pytest
from small_requests import recipe_for

from pipeline.errors import ImageError
from pipeline.spec.layers import smallest_side
from pipeline.spec.recipe import Recipe
from pipeline.spec.schedule import steps_at
from pipeline.transfer.pyramid import plan_levels, style_size


def test_levels_keep_the_shape_and_end_at_the_size():
    levels = plan_levels(Recipe(), (640, 480))
    assert [level.size for level in levels] == [
        (128, 96), (181, 136), (256, 192), (362, 272), (512, 384), (512, 384),
    ]  # fmt: skip
    *coarse, first, second = (level.steps for level in levels)
    assert [*coarse, first + second] == [steps_at(Recipe(), index) for index in range(5)]


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"steps": 200}, [200, 67, 67, 66]),
        ({"steps": 60, "pyramid": 0}, [20, 20, 20]),
        ({"steps": 59}, [59, 30, 29]),
        ({"steps": 39}, [39, 39]),
        ({"steps": 1}, [1, 1]),
        ({"steps": 90, "color": "luminance"}, [90, 90]),
        ({"steps": 90, "recolor": False}, [90, 90]),
    ],
)
def test_the_last_level_has_parts_where_each_starts_in_the_palette(fields, steps):
    levels = plan_levels(recipe_for(**fields), (640, 480))
    assert [level.steps for level in levels] == steps
    coarse = [(48, 36)] if len(levels) == 2 or "pyramid" not in fields else []
    assert [level.size for level in levels] == [*coarse, *[(68, 51)] * (len(steps) - len(coarse))]


def test_a_panorama_starts_at_a_finer_level():
    levels = plan_levels(Recipe(), (4000, 400))
    smallest = smallest_side([*Recipe().style_layers], Recipe().padding)
    assert 2**-0.5 * levels[0].height < max(smallest, Recipe().margin + 1) <= levels[0].height
    assert levels[-1].size == (512, 51)
    *coarse, first, second = (level.steps for level in levels)
    assert [*coarse, first + second] == [steps_at(Recipe(), index) for index in range(4 - len(coarse), 5)]


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        ((1000, 100), {}),
        ((3000, 20), {"size": 64}),
        ((20, 3000), {"size": 64}),
        ((333, 7), {"margin": 40}),
        ((64, 64), {"size": 20}),
        ((64, 3), {"size": 20, "square": True}),
        ((7919, 107), {"pyramid": 0}),
    ],
)
def test_the_error_names_the_smallest_size_that_works(content, fields):
    recipe = Recipe(**{"size": 64, **fields})
    with pytest.raises(ImageError, match="short side") as caught:
        plan_levels(recipe, content)
    size = int(caught.value.next_step.split()[2])
    assert plan_levels(recipe.model_copy(update={"size": size}), content)
    with pytest.raises(ImageError, match="short side"):
        plan_levels(recipe.model_copy(update={"size": size - 1}), content)


def test_the_error_says_that_no_size_is_enough():
    with pytest.raises(ImageError, match="short side") as caught:
        plan_levels(Recipe(), (300_000, 20))
    assert caught.value.next_step == ("No size up to 65536 is enough; crop the picture, or set square: true.")


@pytest.mark.parametrize(
    ("size", "edge", "square", "expected"),
    [
        ((640, 480), 512, False, (512, 384)),
        ((64, 48), 5120, False, (5120, 3840)),  # as the recipe asks
        ((4000, 400), 64, False, (320, 32)),
        ((400, 4000), 64, False, (32, 320)),
        ((640, 480), 16, False, (43, 32)),
        ((20_000, 1), 64, False, (2048, 32)),
        ((20_000, 1), 4096, False, (4096, 32)),
        ((1, 89_000_000), 64, False, (32, 2048)),
        ((1000, 20), 64, False, (1000, 32)),
        ((20, 1), 64, False, (64, 32)),
        ((20_000, 1), 16, True, (32, 32)),
    ],
)
def test_a_narrow_style_is_no_larger_than_needed(size, edge, square, expected):
    assert style_size(Recipe(square=square), size, (edge, edge)) == expected
