from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_requests import image_of, one, picture, plain_recipe, recipe_for
from tiny import asking_for_nothing

from pipeline.spec.recipe import Recipe
from pipeline.transfer import level_inputs
from pipeline.transfer.color import grey
from pipeline.transfer.level_inputs import first_image
from pipeline.transfer.memory import LargeStyle, OutOfMemory
from pipeline.transfer.pyramid import Level
from pipeline.transfer.request import Request


@pytest.mark.parametrize("init", ["content", "noise", "blank", "style", "file"])
def test_every_start(session, weights, init):
    """With nothing but the start to go by, the start is what comes out."""
    content, style, file = picture(0), picture(1), picture(2)
    expected = {
        "content": np.asarray(content.image),
        "style": np.asarray(style.image),
        "file": np.asarray(file.image),
        "blank": np.full((48, 64, 3), 128),
    }
    recipe = asking_for_nothing(Recipe(init=init, pyramid=0, steps=1, size=64, recolor=False))
    request = Request(content, [(style, 1.0)], recipe, file if init == "file" else None)
    result = np.asarray(image_of(one(session, request, weights)))
    if init == "noise":
        again = np.asarray(image_of(one(session, request, weights)))
        other = Request(content, [(style, 1.0)], recipe.model_copy(update={"seed": 1}))
        assert np.array_equal(result, again)
        assert not np.array_equal(result, np.asarray(image_of(one(session, other, weights))))
    else:
        assert np.array_equal(result, expected[init])


LEVEL = Level(96, 72, 1)


@pytest.mark.parametrize("fields", [{"recolor": False}, {"color": "luminance"}])
def test_a_start_without_new_colours_is_the_content(fields):
    request = Request(picture(0), [(picture(1), 1.0)], recipe_for(**fields))
    content_BCHW = picture(0).tensor((96, 72))
    expected = grey(content_BCHW) if "color" in fields else content_BCHW
    assert torch.equal(first_image(request, LEVEL), expected)


def test_style_targets_are_computed_once_per_level(session, weights):
    first = one(session, Request(picture(0), [(picture(1), 1.0)], plain_recipe()), weights)
    second = one(session, Request(picture(2), [(picture(1), 1.0)], plain_recipe()), weights)
    assert (first.cache_hits, first.cache_misses) == (0, 2)
    assert (second.cache_hits, second.cache_misses) == (2, 0)


@pytest.mark.parametrize(
    "fields",
    [{"padding": "zeros"}, {"pooling": "average"}, {"style_scale": 1.5}, {"style_layers": ["relu1_1"]}],
)
def test_targets_of_another_recipe_are_not_mistaken(session, weights, fields):
    one(session, Request(picture(0), [(picture(1), 1.0)], plain_recipe()), weights)
    other = one(session, Request(picture(0), [(picture(1), 1.0)], plain_recipe(**fields)), weights)
    assert other.cache_misses == 2


@pytest.mark.parametrize("color", ["luminance", "match"])
def test_a_matched_style_belongs_to_its_content(session, weights, color):
    recipe = plain_recipe(color=color)
    one(session, Request(picture(0), [(picture(1), 1.0)], plain_recipe()), weights)
    first = one(session, Request(picture(0), [(picture(1), 1.0)], recipe), weights)
    again = one(session, Request(picture(0), [(picture(1), 1.0)], recipe), weights)
    other = one(session, Request(picture(2), [(picture(1), 1.0)], recipe), weights)
    assert [each.cache_misses for each in (first, again, other)] == [2, 0, 2]
    assert image_of(first).tobytes() == image_of(again).tobytes()


@pytest.mark.parametrize(("scale", "named"), [(2.0, LargeStyle(1, (128, 96))), (1.0, None)])
def test_a_style_that_did_not_fit_is_named_if_it_is_larger_than_the_picture(
    session, weights, monkeypatch, scale, named
):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    learn, seen = level_inputs.gram_targets, []

    def second_is_too_large(*arguments: Any) -> Any:
        seen.append(arguments)
        return (full if len(seen) > 1 else learn)(*arguments)

    monkeypatch.setattr(level_inputs, "gram_targets", second_is_too_large)
    styles = [(picture(1), 0.5), (picture(2), 0.5)]
    recipe = plain_recipe(size=64, pyramid=0, style_scale=scale)
    with pytest.raises(OutOfMemory) as caught:
        one(session, Request(picture(0), styles, recipe), weights)
    assert caught.value.style == named
