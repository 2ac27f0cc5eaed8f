from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.spec.recipe import Recipe
from pipeline.spec.schedule import at_level, fit_size, level_sizes, steps_at, total_steps


def test_level_sizes_of_the_default_are_half_the_pixels_each() -> None:
    assert level_sizes(Recipe(size=512, pyramid=128)) == (128, 181, 256, 362, 512)
    assert level_sizes(Recipe(size=512, pyramid=0)) == (512,)
    assert level_sizes(Recipe(size=100, pyramid=128)) == (100,)
    assert level_sizes(Recipe(size=181, pyramid=128)) == (128, 181)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (140, (140,)),
        (160, (128, 160)),
        (600, (128, 181, 256, 362, 600)),
        (640, (128, 181, 256, 362, 512, 640)),
    ],
)
def test_a_size_between_two_levels_takes_the_place_of_the_nearer_one(size, expected) -> None:
    assert level_sizes(Recipe(size=size, pyramid=128)) == expected


@given(st.integers(16, 65_536), st.integers(1, 256))
@example(16, 1)
@example(21, 11)
@example(1023, 128)
def test_a_picture_of_any_size_begins_as_a_larger_one(size: int, pyramid: int) -> None:
    *smaller, last = level_sizes(Recipe(size=size, pyramid=pyramid))
    assert last == size
    assert (*smaller,) == level_sizes(Recipe(size=65_536, pyramid=pyramid))[: len(smaller)]
    assert smaller == sorted(set(smaller))
    if smaller:
        assert smaller[0] == pyramid
        # Sizes are whole pixels.
        assert 2**0.25 * (smaller[-1] - 0.5) <= size <= 2**0.75 * (smaller[-1] + 0.5)
    else:
        assert size <= 2**0.25 * pyramid
    for one, next_one in pairwise(smaller):
        assert abs(one - next_one / 2**0.5) <= 1


@pytest.mark.parametrize("pyramid", range(1, 17))
def test_a_tiny_pyramid_has_no_empty_level(pyramid: int) -> None:
    sizes = level_sizes(Recipe(size=16, pyramid=pyramid))
    assert sizes[0] >= pyramid
    assert list(sizes) == sorted(set(sizes))


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({"style_growth": 1}, [3.125, 6.25, 12.5, 25.0, 50.0]),
        ({"style_growth": 0}, [50.0] * 5),
        ({"style_growth": 0.5, "style_weight": 16}, [4.0, 32**0.5, 8.0, 128**0.5, 16.0]),
        ({"style_growth": 1, "size": 256}, [3.125, 6.25, 12.5]),
        # A larger picture begins as a smaller one.
        ({"style_growth": 1, "size": 1024}, [3.125, 6.25, 12.5, 25.0, 50.0, 5000**0.5, 100.0]),
    ],
)
def test_style_weight_grows_with_the_level(fields, weights) -> None:
    recipe = Recipe(**fields)
    levels = [at_level(recipe, size) for size in level_sizes(recipe)]
    # The long edges of levels are whole pixels.
    assert [level.style_weight for level in levels] == pytest.approx(weights, rel=0.01)
    assert all(level.model_copy(update={"style_weight": recipe.style_weight}) == recipe for level in levels)


@pytest.mark.parametrize(
    ("strength", "style_weight", "tv_weight"),
    [(0, 0, 0), (0.5, 6.25, 3), (1, 50, 6), (2, 400, 6), (4, 3200, 6)],
)
def test_strength_scales_the_style_and_below_one_the_smoothness(strength, style_weight, tv_weight) -> None:
    level = at_level(Recipe(strength=strength), 512)
    assert (level.style_weight, level.tv_weight) == pytest.approx((style_weight, tv_weight))
    assert level.content_weight == 1


def test_an_encoders_style_factor_counts_where_weights_mean_the_same_for_every_encoder() -> None:
    recipe = Recipe(size=256)
    assert at_level(recipe, 256, 1.5).style_weight == pytest.approx(1.5 * at_level(recipe, 256).style_weight)
    for loss in ("gatys", "mean"):
        published = Recipe(size=256, loss=loss)
        assert at_level(published, 256, 1.5) == at_level(published, 256)


def test_the_last_steps_repeat() -> None:
    recipe = Recipe(size=512, pyramid=128, steps=(50, 20))
    assert [steps_at(recipe, level) for level in range(5)] == [50, 20, 20, 20, 20]
    assert total_steps(recipe) == 130
    assert total_steps(Recipe(size=512, pyramid=0, steps=(50, 20))) == 50


@pytest.mark.parametrize(
    ("size", "edge", "square", "expected"),
    [
        ((640, 480), 512, False, (512, 384)),
        ((480, 640), 512, False, (384, 512)),
        ((100, 100), 512, False, (512, 512)),
        ((640, 480), 512, True, (512, 512)),
        ((10_000, 3), 512, False, (512, 1)),
    ],
)
def test_fit_size(size: tuple[int, int], edge: int, square: bool, expected: tuple[int, int]) -> None:
    assert fit_size(size, edge, square) == expected
