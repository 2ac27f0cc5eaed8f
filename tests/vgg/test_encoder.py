from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import random_image, tiny_weights

from pipeline.spec.layers import smallest_side
from pipeline.vgg.encoder import (
    CONVOLUTIONS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION_INDEX,
    Encoder,
    convolutions_up_to,
)


def features_by_hand(
    image: torch.Tensor, weights: dict[str, torch.Tensor], pooling: str
) -> dict[str, torch.Tensor]:
    """VGG-19, transcribed from the paper's table, with zero padding."""
    features = {}
    x = (image - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    for block, depth in enumerate((2, 2, 4, 4, 4), start=1):
        for index in range(1, depth + 1):
            name = f"{block}_{index}"
            x = F.conv2d(x, weights[f"conv{name}.weight"], weights[f"conv{name}.bias"], padding=1)
            features[f"conv{name}"] = x.clone()
            x = features[f"relu{name}"] = F.relu(x)
        x = F.max_pool2d(x, 2) if pooling == "max" else F.avg_pool2d(x, 2)
    return features


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_every_layer_by_name(pooling):
    weights, image = tiny_weights(), random_image(32, 48)
    layers = [layer for name in CONVOLUTIONS for layer in (name, "relu" + name[4:])]
    features = Encoder(weights, layers, pooling)(image)
    expected = features_by_hand(image, weights, pooling)
    assert list(features) == layers
    for layer in layers:
        torch.testing.assert_close(features[layer], expected[layer])


@pytest.mark.parametrize("width", [3, 4, 6])
def test_every_channel_of_the_tests_own_network_is_active(width):
    """And varies over positions, on pictures that its weights were not scaled by."""
    layers = ["relu" + name[4:] for name in CONVOLUTIONS]
    encoder = Encoder(tiny_weights(width), layers, padding="reflect")
    features = encoder(torch.cat([random_image(64, 64, seed) for seed in range(20, 26)]))
    for layer in layers:
        active = (features[layer] > 0).float().mean((0, 2, 3))
        assert 0.03 < active.min() <= active.max() < 1, layer
        assert features[layer].std((0, 2, 3)).min() > 0.1, layer


def test_a_tapped_convolution_is_not_overwritten_by_its_relu():
    features = Encoder(tiny_weights(), ["conv2_1"])(random_image())
    assert (features["conv2_1"] < 0).any()


def test_built_only_to_the_deepest_layer():
    encoder = Encoder(tiny_weights(), ["relu3_1", "conv2_2"])
    assert tuple(encoder.convolutions) == CONVOLUTIONS[:5] == convolutions_up_to(["relu3_1", "conv2_2"])


def test_frozen_while_gradients_reach_the_picture():
    encoder = Encoder(tiny_weights(), ["relu5_1"], padding="reflect")
    image = random_image().requires_grad_()
    encoder(image)["relu5_1"].sum().backward()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
def test_the_smallest_side_works_and_one_less_does_not(padding):
    layers = ["relu4_2", "relu5_1"]
    encoder, side = Encoder(tiny_weights(), layers, padding=padding), smallest_side(layers, padding)
    assert encoder(torch.rand(1, 3, side, side))["relu5_1"].numel() > 0
    with pytest.raises(RuntimeError):
        encoder(torch.rand(1, 3, side, side - 1))


def test_the_layout_is_torchvisions():
    from torchvision.models import vgg19

    with torch.device("meta"):
        network = vgg19(weights=None).features
    convolutions = [index for index, module in enumerate(network) if isinstance(module, torch.nn.Conv2d)]
    assert list(TORCHVISION_INDEX.values()) == convolutions
    assert list(TORCHVISION_INDEX) == list(CONVOLUTIONS)


def test_a_network_may_have_a_normalisation_of_its_own_and_zeros_stand_for_its_mean():
    weights = tiny_weights()
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    image = torch.rand(1, 3, 8, 8)
    found = Encoder({**weights, "mean": mean, "std": std}, ["conv1_1"])(image)["conv1_1"]
    x = torch.nn.functional.pad((image - mean[:, None, None]) / std[:, None, None], (1, 1, 1, 1))
    expected = torch.nn.functional.conv2d(x, weights["conv1_1.weight"], weights["conv1_1.bias"])
    torch.testing.assert_close(found, expected)
    grey = mean[:, None, None].expand(1, 3, 8, 8)
    flat = Encoder({**weights, "mean": mean, "std": std}, ["conv1_1"])(grey)["conv1_1"]
    torch.testing.assert_close(flat, weights["conv1_1.bias"][:, None, None].expand_as(flat))


def test_a_network_may_say_how_much_its_style_loss_counts():
    weights = tiny_weights()
    assert Encoder(weights, ["conv1_1"]).style_factor == 1
    assert Encoder({**weights, "style_factor": torch.tensor(1.5)}, ["conv1_1"]).style_factor == 1.5
