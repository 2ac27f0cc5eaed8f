"""Colour: formulas against a direct transcription in float64, then whole requests."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import random_image
from torch import Tensor

from pipeline.transfer import color
from pipeline.transfer.color import (
    FLAT,
    SAMPLES,
    blended_pixels,
    grey,
    luma,
    match_colors,
    match_histograms,
    match_luma,
    with_luma,
)


def image(seed: int, height: int = 20, width: int = 24) -> Tensor:
    return random_image(height, width, seed).double()


def yiq(image_BCHW: Tensor) -> np.ndarray:
    """Channels Y, I, Q by the standard library, HW3."""
    pixels = image_BCHW[0].permute(1, 2, 0).numpy()
    return np.array([[colorsys.rgb_to_yiq(*pixel) for pixel in row] for row in pixels])


def moments_by_hand(image_BCHW: Tensor) -> tuple[np.ndarray, np.ndarray]:
    pixels = image_BCHW[0].reshape(3, -1).numpy()
    return pixels.mean(1), np.cov(pixels, bias=True)


def root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def test_luma_is_the_y_of_yiq() -> None:
    # The standard library rounds the weights otherwise, to 0.30, 0.59 and 0.11.
    assert np.allclose(luma(image(0))[0, 0].numpy(), yiq(image(0))[..., 0], atol=0.02)
    pixels = image(0)[0].numpy()
    by_hand = 0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    assert np.allclose(luma(image(0))[0, 0].numpy(), by_hand, atol=1e-12)
    assert torch.equal(grey(image(0))[:, 1], luma(image(0))[:, 0])


def test_another_luma_keeps_i_and_q_where_the_gamut_allows_it() -> None:
    """With Y replaced and I, Q kept, by the matrix of YIQ and its inverse."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    content, target = 0.4 + 0.2 * image(0), 0.4 + 0.2 * luma(image(1))
    expected = np.einsum("ij,jhw->ihw", to_yiq, content[0].numpy())
    expected[0] = target[0, 0].numpy()
    expected = np.einsum("ij,jhw->ihw", np.linalg.inv(to_yiq), expected)
    # The matrix has four digits: grey has an I and a Q of up to 1e-4 in it.
    assert np.abs(with_luma(content, target)[0].numpy() - expected).max() < 2e-4


def test_out_of_gamut_colours_get_paler_and_keep_luma_and_hue() -> None:
    content, target = image(0), luma(image(1)) * 1.3 - 0.2
    result = with_luma(content, target)
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.allclose(luma(result), target.clamp(0, 1), atol=1e-9)
    before, after = content - luma(content), result - luma(result)
    scale = (before * after).sum(1, keepdim=True) / before.square().sum(1, keepdim=True)
    assert torch.allclose(after, scale * before, atol=1e-9)
    assert scale.min() < 0.5
    assert scale.max() == pytest.approx(1)
    # No further than needed: what was scaled touches the gamut's border.
    touches = torch.minimum(result.amin(1), 1 - result.amax(1))[scale[:, 0] < 0.999]
    assert touches.abs().max() < 1e-9


def test_a_pictures_own_luma_gives_it_back() -> None:
    assert torch.allclose(with_luma(image(0), luma(image(0))), image(0), atol=1e-12)
    for value in (0.0, 0.5, 1.0):
        flat = torch.full((1, 3, 4, 5), value)
        assert torch.equal(with_luma(flat, luma(flat).clamp(0, 1)), luma(flat).clamp(0, 1).expand_as(flat))


def test_luma_gets_mean_and_deviation() -> None:
    style, content = luma(image(1)), luma(image(2, 30, 16)) * 0.5
    s, c = style.numpy(), content.numpy()
    expected = c.std() / s.std() * (s - s.mean()) + c.mean()
    assert np.allclose(match_luma(style, content).numpy(), expected, atol=1e-12)


def test_colours_get_mean_and_covariance_by_the_symmetric_roots() -> None:
    style, content = image(1), image(2, 30, 16)
    (m, s), (m_t, s_t) = moments_by_hand(style), moments_by_hand(content)
    a = root(s_t) @ np.linalg.inv(root(s))
    pixels = style[0].reshape(3, -1).numpy()
    expected = a @ (pixels - m[:, None]) + m_t[:, None]
    matched = match_colors(style, content)
    assert np.allclose(matched[0].reshape(3, -1).numpy(), expected, atol=1e-10)
    mean, covariance = moments_by_hand(matched)
    assert np.allclose(mean, m_t, atol=1e-10)
    assert np.allclose(covariance, s_t, atol=1e-10)


def test_matching_with_itself_changes_nothing_and_float32_is_enough() -> None:
    assert torch.allclose(match_colors(image(1), image(1)), image(1), atol=1e-9)
    single = match_colors(image(1).float(), image(2).float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), match_colors(image(1), image(2)), atol=1e-5)


def test_a_chosen_part_gets_the_distribution_and_the_rest_follows() -> None:
    style, content = image(1), image(2, 30, 16)
    where_HW = torch.zeros(style.shape[2:], dtype=torch.bool)
    where_HW[:, : style.shape[3] // 3] = True
    part = style[..., : style.shape[3] // 3]
    matched = match_histograms(style, content, where_HW)
    assert torch.allclose(matched[..., : part.shape[3]], match_histograms(part, content), atol=1e-12)
    assert not torch.allclose(matched, match_histograms(style, content), atol=1e-3)
    nowhere_HW = torch.zeros_like(where_HW)
    assert torch.equal(match_histograms(style, content, nowhere_HW), match_histograms(style, content))


def test_every_picture_of_a_batch_is_matched_alone() -> None:
    styles, contents = torch.cat([image(1), image(2)]), torch.cat([image(3), image(4)])
    alone = torch.cat([match_colors(image(1), image(3)), match_colors(image(2), image(4))])
    assert torch.allclose(match_colors(styles, contents), alone, atol=1e-12)


@pytest.mark.parametrize("match", [match_colors, match_histograms])
def test_noise_in_a_grey_style_is_not_stretched_over_the_palette(match: Callable[..., Tensor]) -> None:
    """Noise of a level of eight bits, in its chroma."""
    content = image(2)
    noise = torch.randn(1, 3, 20, 24, generator=torch.Generator().manual_seed(0)).double() / 255
    matched = match(grey(image(1)) + noise, content)
    spread = (matched - luma(matched)).std()
    assert spread < (content - luma(content)).std()
    assert spread / noise.std() < 0.5 / FLAT


def test_a_flat_style_does_not_blow_up() -> None:
    flat, content = torch.full((1, 3, 4, 5), 0.3).double(), image(2)
    expected = content.mean((2, 3), keepdim=True)
    assert torch.allclose(match_colors(flat, content), expected.expand_as(flat), atol=1e-9)
    assert torch.isfinite(match_luma(luma(flat), luma(content))).all()


DECILES = np.linspace(0.05, 0.95, 19)


def quantiles(image_BCHW: Tensor) -> np.ndarray:
    """Of red, green and blue, and in other directions, which only a joint match gets right."""
    directions = np.random.default_rng(0).normal(size=(10, 3))
    axes = np.vstack([np.eye(3), directions / np.linalg.norm(directions, axis=1, keepdims=True)])
    return np.quantile(axes @ image_BCHW[0].reshape(3, -1).double().numpy(), DECILES, axis=1)


def skewed(seed: int, height: int = 60, width: int = 72) -> Tensor:
    """A picture whose channels depend on each other in no linear way, with a peak of black pixels."""
    picture = image(seed, height, width)
    picture[:, 1] = picture[:, 0] ** 3
    picture[:, :, :10, :10] = 0
    return picture


def test_histograms_are_the_others_in_every_direction() -> None:
    style, content = skewed(1), skewed(2, 50, 90) ** 2
    wanted = quantiles(content)
    by_moments = np.abs(quantiles(match_colors(style, content)) - wanted)
    by_histogram = np.abs(quantiles(match_histograms(style, content)) - wanted)
    assert by_histogram.mean() < 0.006
    assert by_histogram.mean() < by_moments.mean() / 4
    # The last iteration is along the channels themselves.
    assert by_histogram[:, :3].mean() < 0.004


def transfer_by_hand(source: np.ndarray, target: np.ndarray, rotations: list[np.ndarray]) -> np.ndarray:
    """Iterative distribution transfer as the paper has it, but with quantiles for cumulative histograms."""
    ranks = np.linspace(0, 1, color.QUANTILES)
    for rotation in rotations:
        axes = [
            np.interp(own, np.quantile(own, ranks), np.quantile(other, ranks))
            for own, other in zip(rotation @ source, rotation @ target, strict=True)
        ]
        source = rotation.T @ np.array(axes)
    return source


def test_histograms_are_matched_as_the_paper_has_it() -> None:
    source, target = color._samples(image(1, 60, 72)[0]), color._samples(image(2, 50, 90)[0])
    learnt = color._learn(source, target)
    rotations = [transfer.rotation_33.numpy() for transfer in learnt]
    assert len(rotations) == color.ROTATIONS
    assert all(np.allclose(rotation @ rotation.T, np.eye(3)) for rotation in rotations)
    assert np.array_equal(rotations[-1], np.eye(3))
    expected = transfer_by_hand(source.numpy(), target.numpy(), rotations)
    for transfer in learnt:
        source = transfer(source)
    difference = np.abs(source.numpy() - expected)
    assert difference.mean() < 0.002
    assert np.quantile(difference, 0.95) < 0.01


def test_a_smooth_gradient_gets_no_contours() -> None:
    """But of a content of few colours far apart, which can be matched in no other way."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 512), indexing="ij")
    ramp = torch.stack([columns, (rows + columns) / 2, rows])[None]
    steps = match_histograms(ramp, skewed(2).float()).diff(dim=3).abs()
    assert steps.max() < 0.1
    assert steps.quantile(0.99) < 0.01


def test_a_histogram_matched_with_itself_stays_as_it_is() -> None:
    for picture in (image(1, 60, 72), skewed(2)):
        changed = (match_histograms(picture, picture) - picture).abs()
        assert changed.mean() < 0.004
        assert changed.quantile(0.99) < 0.03


def test_histograms_of_flat_pictures() -> None:
    """Every colour of a flat content is that colour; a flat style gets one that is within the content's."""
    flat, content = torch.full((1, 3, 4, 5), 0.3).double(), image(2)
    assert torch.allclose(match_histograms(content, flat), torch.full_like(content, 0.3), atol=1e-9)
    assert torch.allclose(match_histograms(flat, flat), flat, atol=1e-9)
    matched = match_histograms(flat, content)
    assert matched.flatten(2).std(2).max() < 1e-9
    assert ((matched - content.mean((2, 3), keepdim=True)).abs() < 0.15).all()
    black = torch.zeros(1, 3, 1, 1)
    assert torch.allclose(match_histograms(black, black), black, atol=1e-6)


def test_histograms_in_parts_alone_and_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    styles, contents = torch.cat([image(1), image(2)]), torch.cat([image(3), image(4)])
    whole = match_histograms(styles, contents)
    monkeypatch.setattr(color, "CHUNK", 100)
    alone = torch.cat([match_histograms(image(1), image(3)), match_histograms(image(2), image(4))])
    assert torch.allclose(whole, alone, atol=1e-12)
    single = match_histograms(styles.float(), contents.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), whole, atol=2e-4)
    assert torch.equal(single, match_histograms(styles.float(), contents.float()))


def test_pillow_and_we_agree_what_grey_is() -> None:
    pixels = (image(0)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).convert("L"), float)
    ours = luma(torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[None])[0, 0].numpy() * 255
    assert np.abs(theirs - ours).max() <= 1


def test_blended_pixels_hold_their_shares() -> None:
    flat = [torch.full((1, 3, *size), value) for size, value in (((9, 7), 0.2), ((50, 80), 0.8))]
    pixels_B31N = blended_pixels(flat, [3.0, 1.0])
    assert pixels_B31N.shape == (1, 3, 1, SAMPLES)
    assert (pixels_B31N == 0.2).float().mean() == pytest.approx(0.75, abs=1e-3)
    assert blended_pixels(flat[:1], [0.3]) is flat[0]


@pytest.mark.parametrize("size", [(4000, 6000), (4096, 4096), (4096, 8192), (65536, 65536)])
def test_pixels_of_large_pictures_are_blended(size: tuple[int, int]) -> None:
    """So many that float32 has no number for the place of the last of them."""
    large_BCHW = torch.full((1, 3, 1, 1), 0.5).expand(1, 3, *size)
    assert blended_pixels([large_BCHW] * 2, [0.5, 0.5]).shape == (1, 3, 1, SAMPLES)


def test_only_the_pixels_asked_for_are_matched() -> None:
    source, target = image(0), image(1, 30, 30)
    where = torch.zeros(20, 24, dtype=torch.bool)
    where[:, :12] = True
    matched = match_histograms(source, target, where)
    alone = match_histograms(source[:, :, :, :12], target)
    assert torch.allclose(matched[:, :, :, :12], alone, atol=0.02)
    nowhere = match_histograms(source, target, torch.zeros_like(where))
    assert torch.equal(nowhere, match_histograms(source, target))


def test_in_strips_colours_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    style, content = torch.cat([image(1), image(2)]), torch.cat([image(3, 31, 17), image(4, 31, 17)])
    lights = luma(style.flip(3))
    whole = match_colors(style, content), with_luma(style, lights)
    monkeypatch.setattr(color, "ADDED", 50)
    monkeypatch.setattr(color, "ROWS", 3)
    assert torch.allclose(match_colors(style, content), whole[0], atol=1e-12)
    assert torch.equal(with_luma(style, lights), whole[1])
