from __future__ import annotations

import pytest
import torch
from small_targets import same, targets
from tiny import random_image, tiny_encoder

from pipeline.spec.recipe import Recipe
from pipeline.transfer.losses import Moments, moments
from pipeline.transfer.targets import blend_targets, gram_targets


def test_targets_are_the_moments_of_the_features():
    encoder, image = tiny_encoder(Recipe()), random_image()
    computed = gram_targets(encoder, image, ["relu2_1"])
    expected = moments(encoder(image)["relu2_1"])
    assert torch.equal(computed.layers["relu2_1"].second, expected.second)


@pytest.mark.parametrize("size", [(149, 227), (64, 96), (37, 101)])
@pytest.mark.parametrize("edge", [32, 48, 80])
def test_targets_in_tiles_are_those_of_the_whole_picture(size: tuple[int, int], edge: int) -> None:
    encoder, image = tiny_encoder(Recipe()).double(), random_image(*size).double()
    layers = list(Recipe().style_layers)
    tiled, whole = gram_targets(encoder, image, layers, edge), gram_targets(encoder, image, layers)
    for layer in layers:
        torch.testing.assert_close(tiled.layers[layer].mean, whole.layers[layer].mean, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(
            tiled.layers[layer].second, whole.layers[layer].second, rtol=1e-12, atol=1e-14
        )


def test_a_blend_is_the_weighted_mean():
    a, b = targets(1), targets(2)
    blended = blend_targets([a, b], [3.0, 1.0])
    expected = 0.75 * a.layers["relu1_1"].second + 0.25 * b.layers["relu1_1"].second
    torch.testing.assert_close(blended.layers["relu1_1"].second, expected)
    expected = 0.75 * a.layers["relu1_1"].mean + 0.25 * b.layers["relu1_1"].mean
    torch.testing.assert_close(blended.layers["relu1_1"].mean, expected)
    assert same(blend_targets([a], [2.0]), a)


def test_moments_of_a_blend_keep_the_covariance_positive():
    blended = blend_targets([targets(3), targets(4)], [0.5, 0.5]).layers["relu1_1"]
    assert isinstance(blended, Moments)
    assert torch.linalg.eigvalsh(blended.covariance[0]).min() > -1e-6
