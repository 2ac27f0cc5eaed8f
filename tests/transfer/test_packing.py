from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import random_image, tiny_encoder

from pipeline.spec.recipe import Recipe
from pipeline.transfer.network import frozen_network
from pipeline.transfer.packing import Mask, Maxima
from pipeline.transfer.segments import segments


@pytest.mark.parametrize("shape", [(1, 16, 7, 9), (2, 3, 5, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_mask_is_a_bit_a_value(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype).relu()
    x = x.contiguous(memory_format=torch.channels_last)
    mask = Mask.of(x)
    assert mask.bits.nbytes == -(-x.numel() // 8)
    unpacked = mask.unpacked()
    assert unpacked.dtype == dtype
    assert unpacked.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unpacked, (x > 0).to(dtype))


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_maxima_are_the_indices_of_max_pooling(dtype: torch.dtype, size: tuple[int, int]) -> None:
    # Few values, so that many are equal.
    x = torch.randint(4, (2, 3, *size), generator=torch.Generator().manual_seed(1)).to(dtype)
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    maxima = Maxima.of(x, pooled)
    assert maxima.codes.nbytes == indices.numel()
    assert torch.equal(maxima.unpacked(), indices)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_maxima_of_what_is_not_finite_are_places_that_exist(dtype: torch.dtype) -> None:
    x = torch.rand(1, 32, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[:, :, 2:5, 2:5] = torch.nan
    x[:, :, 6, 6] = torch.inf
    x = x.contiguous(memory_format=torch.channels_last)
    unpacked = Maxima.of(x, F.max_pool2d(x, 2)).unpacked()
    rows, columns = unpacked // 8, unpacked % 8
    assert torch.equal(rows // 2, torch.arange(4)[:, None].expand_as(rows))
    assert torch.equal(columns // 2, torch.arange(4).expand_as(columns))


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_packed_activations_give_the_same_gradient(pooling: str, padding: str) -> None:
    layers = {"conv1_2": 1.0, "relu1_2": 1.0, "relu3_1": 1.0, "conv4_2": 1.0}
    recipe = Recipe(pooling=pooling, padding=padding, content_layers=layers)
    encoder = tiny_encoder(recipe)
    network = frozen_network(encoder, torch.float32)
    x = network.normalised(random_image(37, 50))
    for segment in segments(tuple(encoder.channels)):
        values = network.run(segment, x)
        unpacked = network.packed(values).unpacked()
        assert all(unpacked.features[name] is each for name, each in values.features.items())
        by_output = torch.randn(values.output.shape, generator=torch.Generator().manual_seed(1))
        by_output = by_output.contiguous(memory_format=torch.channels_last)
        by_input = network.backward(values, {}, by_output.clone())
        assert torch.equal(network.backward(unpacked, {}, by_output.clone()), by_input)
        x = values.output
