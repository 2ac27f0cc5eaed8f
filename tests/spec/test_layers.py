from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import UsageError
from pipeline.spec.layers import LAYERS
from pipeline.spec.recipe import Recipe


@pytest.mark.parametrize(
    ("given_", "weights"),
    [
        ("conv4_2", {"conv4_2": 1}),
        (["relu1_1", "conv5_4"], {"relu1_1": 1, "conv5_4": 1}),
        ({"relu3_1": 0.25, "relu1_2": 2}, {"relu3_1": 0.25, "relu1_2": 2}),
    ],
)
def test_layers_are_a_name_a_list_or_weights(given_: Any, weights: dict[str, float]) -> None:
    recipe = Recipe.model_validate({"content_layers": given_, "style_layers": given_})
    assert recipe.content_layers == recipe.style_layers == weights


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(ValidationError, match="'conv4_9' is not a layer"):
        Recipe.model_validate({"content_layers": ["conv4_2", "conv4_9"]})


def test_layers_are_those_of_vgg19() -> None:
    from pipeline.vgg.encoder import CONVOLUTIONS

    assert tuple(layer for layer in LAYERS if layer.startswith("conv")) == CONVOLUTIONS
    assert {"relu" + layer[4:] for layer in CONVOLUTIONS} == set(LAYERS) - set(CONVOLUTIONS)
    assert len(LAYERS) == len(set(LAYERS)) == 32


def test_the_bundled_encoder_ends_at_relu5_1() -> None:
    with pytest.raises(UsageError, match="ends at relu5_1"):
        Recipe(encoder="vgg19-slim", style_layers=["relu1_1", "conv5_2"])
    assert Recipe(encoder="vgg19", style_layers=["relu1_1", "conv5_2"]).beyond_slim() == ["conv5_2"]
