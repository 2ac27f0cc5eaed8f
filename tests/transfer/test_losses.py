"""Formulas against a direct transcription in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.transfer.losses import (
    bures_style_loss,
    bures_target,
    content_loss,
    gram_matrix,
    gram_style_loss,
    moments,
    out_of_range,
    scale_chroma,
    total_variation,
)

N, H, W = 5, 6, 7
M = H * W


def features(seed: int, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, N, H, W, generator=generator, dtype=torch.float64)


def as_matrix(features_BCHW: torch.Tensor) -> np.ndarray:
    return features_BCHW[0].reshape(N, M).numpy()


def gram_by_hand(f: np.ndarray) -> np.ndarray:
    return np.array([[sum(f[i, k] * f[j, k] for k in range(M)) for j in range(N)] for i in range(N)])


def content_by_hand(f: np.ndarray, p: np.ndarray, convention: str) -> float:
    squared = ((f - p) ** 2).sum()
    return {"gatys": squared / (2 * N), "mean": squared / (N * M), "normalized": squared / (p**2).sum()}[
        convention
    ]


def style_by_hand(f: np.ndarray, s: np.ndarray, convention: str) -> float:
    g, a = gram_by_hand(f), gram_by_hand(s)
    if convention == "gatys":
        return ((g - a) ** 2).sum() / (4 * N**2 * M**2)
    g, a = g / (N * M), a / (N * M)
    return ((g - a) ** 2).mean() if convention == "mean" else ((g - a) ** 2).sum() / (a**2).sum()


def wasserstein2_by_hand(f: np.ndarray, s: np.ndarray) -> float:
    """The exact squared distance of two Gaussians with the features' means and covariances."""

    def root(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(values.clip(0)) @ vectors.T

    mean, target_mean = f.mean(1), s.mean(1)
    cov, target = np.cov(f, bias=True), np.cov(s, bias=True)
    cross = root(root(target) @ cov @ root(target))
    return ((mean - target_mean) ** 2).sum() + np.trace(cov + target - 2 * cross)


def test_gram_matrix_is_the_sum_over_positions():
    f = features(0)
    np.testing.assert_allclose(gram_matrix(f)[0], gram_by_hand(as_matrix(f)))
    np.testing.assert_allclose(moments(f).second[0], gram_by_hand(as_matrix(f)) / M)
    np.testing.assert_allclose(moments(f).mean[0], as_matrix(f).mean(1))


@pytest.mark.parametrize("convention", ["gatys", "mean", "normalized"])
def test_content_loss(convention):
    f, p = features(1), features(2)
    expected = content_by_hand(as_matrix(f), as_matrix(p), convention)
    assert content_loss(f, p, convention).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("convention", ["gatys", "mean", "normalized"])
def test_gram_style_loss(convention):
    f, s = features(3), features(4)
    expected = style_by_hand(as_matrix(f), as_matrix(s), convention)
    loss = gram_style_loss(moments(f).second, moments(s).second, convention)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_bures_style_loss_is_its_formula():
    f, s, epsilon = features(5), features(6), 0.1
    a, b = as_matrix(f), as_matrix(s)
    values, vectors = np.linalg.eigh(np.cov(b, bias=True))
    d = vectors.T @ (np.cov(a, bias=True) - np.cov(b, bias=True)) @ vectors
    spread = sum(
        0.5 * d[i, j] ** 2 / (values[i] + values[j] + epsilon * values.mean())
        for i in range(N)
        for j in range(N)
    )
    mean = ((a.mean(1) - b.mean(1)) ** 2).sum()
    expected = (mean + spread) / (values.sum() + (b.mean(1) ** 2).sum())
    assert bures_style_loss(moments(f), bures_target(moments(s), epsilon)).item() == pytest.approx(expected)


def test_bures_style_loss_is_the_wasserstein_distance_near_the_target():
    s = features(7)
    target = bures_target(moments(s), epsilon=1e-9)
    ratios = []
    for distance in (1e-2, 1e-4):
        f = s + distance * (features(8) - 0.5)
        exact = wasserstein2_by_hand(as_matrix(f), as_matrix(s)) / target.scale.item()
        ratios.append(bures_style_loss(moments(f), target).item() / exact)
    errors = [abs(ratio - 1) for ratio in ratios]
    assert errors[0] < 1e-2
    assert errors[1] < 1e-4


@pytest.mark.parametrize("loss", ["bures", "gatys", "mean", "normalized"])
def test_gradients_agree_with_finite_differences(loss):
    style = moments(features(9))

    def losses(f):
        if loss == "bures":
            return bures_style_loss(moments(f), bures_target(style))
        return gram_style_loss(moments(f).second, style.second, loss)

    assert torch.autograd.gradcheck(losses, (features(10).requires_grad_(),), eps=1e-6, atol=1e-7)


def test_every_loss_is_zero_at_its_target():
    f = features(11)
    for convention in ("gatys", "mean", "normalized"):
        assert content_loss(f, f, convention).item() == 0
        assert gram_style_loss(moments(f).second, moments(f).second, convention).item() == 0
    assert bures_style_loss(moments(f), bures_target(moments(f), 0.1)).item() == pytest.approx(0, abs=1e-20)
    assert total_variation(torch.full((1, 3, 8, 8), 0.3)).item() == 0
    assert out_of_range(torch.rand(1, 3, 8, 8)).item() == 0


def test_a_flat_style_gives_finite_losses():
    flat = torch.zeros(1, N, H, W, dtype=torch.float64)
    f = features(12)
    assert torch.isfinite(bures_style_loss(moments(f), bures_target(moments(flat), 0.1))).all()
    assert torch.isfinite(gram_style_loss(moments(f).second, moments(flat).second, "normalized")).all()
    assert torch.isfinite(content_loss(f, flat, "normalized")).all()


def test_dead_channels_leave_no_subnormal_numbers_in_a_bures_target():
    f = features(15)
    f[:, : N // 2] = 0
    vectors = bures_target(moments(f), 0.1).eigenvectors
    assert ((vectors == 0) | (vectors.abs() > 1e-12)).all()
    assert vectors.transpose(1, 2) @ vectors == pytest.approx(torch.eye(N)[None].numpy(), abs=1e-10)


def test_a_batch_gives_each_picture_its_own_loss():
    pair, style = features(13, count=2), features(14)
    targets = bures_target(moments(style.expand(2, -1, -1, -1)), 0.1)
    together = bures_style_loss(moments(pair), targets)
    for index in range(2):
        alone = bures_style_loss(moments(pair[index : index + 1]), bures_target(moments(style), 0.1))
        assert together[index].item() == pytest.approx(alone.item(), rel=1e-12)
    assert content_loss(pair, style.expand_as(pair), "mean").shape == (2,)


def test_total_variation_and_range_by_hand():
    image = torch.tensor([[[[0.0, 1.0], [0.5, 2.0]]]], dtype=torch.float64)
    rows = (0.5**2 + 1.0**2) / 2
    columns = (1.0**2 + 1.5**2) / 2
    assert total_variation(image).item() == pytest.approx(rows + columns)
    assert out_of_range(image).item() == pytest.approx(1.0 / 4)
    assert out_of_range(image - 1).item() == pytest.approx((1.0 + 0.25) / 4)


@pytest.mark.parametrize("k", [0.0, 1.0, 5.0])
def test_steps_in_colour_weigh_k_times_those_in_lightness(k):
    image = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pixels, by_hand = image[0].numpy(), 0.0
    for axis in (1, 2):
        steps = np.diff(pixels, axis=axis).reshape(3, -1).T
        total = 0.0
        for d in steps:
            mean_part = np.full(3, d.mean())
            total += (mean_part**2).sum() + k * ((d - mean_part) ** 2).sum()
        by_hand += total / steps.size
    assert total_variation(scale_chroma(image, k**0.5)).item() == pytest.approx(by_hand, rel=1e-12)
    assert (by_hand == pytest.approx(total_variation(image).item())) == (k == 1)


def test_a_grey_picture_is_unaffected_by_the_weight_of_colour():
    grey = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(2)).double().expand(1, 3, 5, 6)
    assert torch.allclose(scale_chroma(grey, 3.0), grey)


def test_a_style_of_one_colour_does_not_amplify_rounding():
    """Its features have no variance; rounded to bfloat16 they have very little."""
    flat = torch.linspace(0.5, 3, N, dtype=torch.float64).view(1, N, 1, 1).expand(1, N, H, W)
    target = bures_target(moments(flat), 0.1)
    rounded = (flat * (1 + 1e-3 * (features(16) - 0.5))).to(torch.bfloat16).double()
    assert bures_style_loss(moments(rounded), target).item() < 1e-4
    assert bures_style_loss(moments(features(17)), target).item() < 1e4


def test_the_lower_bound_does_not_touch_a_style_with_some_variance():
    style = moments(1 + 0.1 * features(18))
    values = torch.linalg.eigvalsh(style.covariance)
    expected = values[:, :, None] + values[:, None, :] + 0.1 * values.mean() + 1e-12
    assert torch.allclose(bures_target(style, 0.1).divisor, expected, rtol=1e-9)
