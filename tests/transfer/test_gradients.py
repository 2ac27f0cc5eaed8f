from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from tiny import random_image
from torch import Tensor

from pipeline.transfer import gradients
from pipeline.transfer.gradients import (
    FeatureGradient,
    bures_gradient,
    content_gradient,
    content_target,
    feature_moments,
    gram_gradient,
    moments_gradient,
    pixel_gradient,
)
from pipeline.transfer.losses import (
    Moments,
    bures_style_loss,
    bures_target,
    content_loss,
    gram_style_loss,
    moments,
    out_of_range,
    scale_chroma,
    total_variation,
)

CONVENTIONS = pytest.mark.parametrize("convention", ["gatys", "mean", "normalized"])
Convention = Literal["gatys", "mean", "normalized"]


def features(seed: int, rows: int = 6, columns: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(2, 5, rows, columns, generator=generator, dtype=torch.float64)
    return values.contiguous(memory_format=torch.channels_last)


def assert_differentiated(
    loss: Callable[[Tensor], Tensor], at: Tensor, losses: Tensor, gradient: Tensor
) -> None:
    """Assert that losses and their gradients at a point agree with autograd on the function `loss`."""
    at = at.detach().clone().requires_grad_()
    expected = loss(at)
    assert torch.allclose(losses, expected, rtol=1e-10)
    assert torch.allclose(gradient, torch.autograd.grad(expected.sum(), at)[0], rtol=1e-8, atol=1e-14)


@CONVENTIONS
def test_content_gradient(convention: Convention) -> None:
    target = features(1)
    losses, gradient = content_gradient(features(2), content_target(target, convention), factor=3.0)
    assert_differentiated(
        lambda f: content_loss(f, target, convention), features(2), losses, gradient.add_to(None) / 3
    )


@CONVENTIONS
def test_gram_gradient(convention: Convention) -> None:
    second, target = (feature_moments(features(seed)).second for seed in (1, 2))
    losses, gradient = gram_gradient(second, target, convention)
    assert_differentiated(lambda s: gram_style_loss(s, target, convention), second, losses, gradient)


def test_bures_gradient() -> None:
    current, target = feature_moments(features(1)), bures_target(feature_moments(features(2)))
    losses, by_second, by_mean = bures_gradient(current, target)
    by_moments = (
        (current.second, by_second, lambda s: bures_style_loss(Moments(current.mean, s), target)),
        (current.mean, by_mean, lambda m: bures_style_loss(Moments(m, current.second), target)),
    )
    for at, gradient, loss in by_moments:
        assert_differentiated(loss, at, losses, gradient)


def test_moments_gradient() -> None:
    generator = torch.Generator().manual_seed(3)
    by_second = torch.rand(2, 5, 5, generator=generator, dtype=torch.float64)
    by_mean = torch.rand(2, 5, generator=generator, dtype=torch.float64)

    def losses(f: Tensor) -> Tensor:
        found = moments(f)
        return (found.second * by_second).sum((1, 2)) + (found.mean * by_mean).sum(1)

    gradient = moments_gradient(features(1), by_second, by_mean, factor=1.0).add_to(None)
    assert_differentiated(losses, features(1), losses(features(1)), gradient)


@pytest.mark.parametrize("chroma", [1.0, 4.0])
@pytest.mark.parametrize("strip", [1, 3 * 48 * 7, 1 << 22], ids=["rows", "strips", "whole"])
def test_pixel_gradient(chroma: float, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "STRIP", strip)
    image = torch.cat([random_image(seed=seed) for seed in (1, 2)]).double() * 1.4 - 0.2

    def losses(pixels: Tensor) -> Tensor:
        return 2 * total_variation(scale_chroma(pixels, chroma**0.5)) + 3 * out_of_range(pixels)

    tv, outside, gradient = pixel_gradient(image, 2.0, chroma, 3.0)
    assert_differentiated(losses, image, tv + outside, gradient)


@pytest.mark.parametrize("is_product", [False, True])
@pytest.mark.parametrize("border", [0, 2])
def test_gradients_are_added_inside_their_border(is_product: bool, border: int) -> None:
    values, matrix, bias = features(1), torch.eye(5).double().expand(2, 5, 5), torch.ones(2, 5).double()
    gradient = FeatureGradient(values, *((2 * matrix, bias) if is_product else ()), border=(border,) * 4)
    expected = torch.zeros(2, 5, 6 + 2 * border, 7 + 2 * border, dtype=torch.float64)
    expected[:, :, border : 6 + border, border : 7 + border] = 2 * values + 1 if is_product else values
    assert torch.allclose(gradient.add_to(None), expected)
    total = features(2, *expected.shape[2:])
    before, place = total.clone(), total.data_ptr()
    added = gradient.add_to(total)
    assert torch.allclose(added, before + expected)
    assert added.data_ptr() == place


def test_overlapping_products_in_bfloat16_restore_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first thread leaves while the second is still inside."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    features = random_image().to(torch.bfloat16, memory_format=torch.channels_last)
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    during: list[str] = []

    def stack(_tensors: Any) -> Tensor:
        if threading.current_thread() is first:
            first_is_in.set()
            assert second_is_in.wait(10)
        else:
            second_is_in.set()
            assert first_is_out.wait(10)
            during.append(matmul.fp32_precision)
        return torch.zeros(1, 3, 3)

    def work() -> None:
        feature_moments(features)
        first_is_out.set()

    monkeypatch.setattr(torch, "stack", stack)
    first, second = (threading.Thread(target=work) for _ in range(2))
    first.start()
    assert first_is_in.wait(10)
    second.start()
    for thread in (first, second):
        thread.join(20)
    assert during == ["bf16"]
    assert matmul.fp32_precision == before
