from __future__ import annotations

import pytest
import torch
from tiny import random_image, tiny_weights

from pipeline.transfer.gradients import FeatureGradient
from pipeline.transfer.network import FrozenNetwork, frozen_network, relu_
from pipeline.vgg.encoder import Encoder, Padding, Pooling

LAYERS = ["conv1_2", "relu2_1", "conv3_1", "relu3_1", "conv4_2"]


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
def test_it_agrees_with_the_encoder_and_autograd(pooling: Pooling, padding: Padding) -> None:
    encoder = Encoder(tiny_weights(), LAYERS, pooling, padding).double()
    image = random_image(37, 51).double().requires_grad_()
    features = encoder(image)
    generator = torch.Generator().manual_seed(0)
    weights = {
        layer: torch.randn(features[layer].shape, generator=generator, dtype=torch.float64)
        for layer in LAYERS
    }
    total = torch.stack([(features[layer] * weights[layer]).sum() for layer in LAYERS]).sum()
    (expected,) = torch.autograd.grad(total, image)

    network = FrozenNetwork(encoder, torch.float64)
    kept = network.forward(image.detach())
    assert kept.features.keys() == features.keys()
    for layer in LAYERS:
        assert torch.allclose(kept.features[layer], features[layer], rtol=1e-10, atol=1e-12), layer
    gradients = {
        layer: [FeatureGradient(weight.contiguous(memory_format=torch.channels_last))]
        for layer, weight in weights.items()
    }
    gradient = network.backward(kept, gradients) / network.std
    assert torch.allclose(gradient, expected, rtol=1e-8, atol=1e-10)


def test_weights_are_laid_out_once_for_each_dtype() -> None:
    encoder = Encoder(tiny_weights(), LAYERS)
    network = frozen_network(encoder, torch.float32)
    assert frozen_network(encoder, torch.float32) is network
    assert frozen_network(encoder, torch.bfloat16) is not network
    assert frozen_network(Encoder(tiny_weights(), LAYERS), torch.float32) is not network


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_our_relu_is_that_of_torch(dtype: torch.dtype) -> None:
    values = [-3.0, -1e-30, -0.0, 0.0, 1e-30, 2.5, float("inf"), -float("inf"), float("nan")]
    x = torch.tensor(values, dtype=dtype)
    assert torch.equal(relu_(x.clone())[:-1], x[:-1].relu())
    assert relu_(x.clone())[-1].isnan()
