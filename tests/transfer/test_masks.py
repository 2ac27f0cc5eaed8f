"""Masks: which region pixels belong to, what reaches the layers, and notes about small regions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import ImageError
from pipeline.spec.recipe import Recipe
from pipeline.transfer.losses import bures_style_loss, bures_target, guided_moments, moments
from pipeline.transfer.masks import Regions, find_regions, guides, memberships, region_notes

BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)


def row(*colors: tuple[float, ...]) -> np.ndarray:
    """A picture of one row (HWC) in 8 bits."""
    return (255 * np.array([colors])).round().astype(np.uint8)


def between(one: tuple[float, ...], other: tuple[float, ...], t: float) -> tuple[float, ...]:
    return tuple((1 - t) * a + t * b for a, b in zip(one, other, strict=True))


def halves(width: int = 64, height: int = 48, edge: int = 32) -> Regions:
    """Black on the left, white on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, edge:] = 255
    mask = Image.fromarray(pixels)
    return find_regions(mask, [BLACK, WHITE], (width, height), "in/m.png", ["a.jpg (0)", "b.jpg (1)"])


def test_pure_colours_are_all_of_their_region() -> None:
    colors = [BLACK, WHITE, RED, GREEN, BLUE]
    planes, stray = memberships(row(*colors), colors)
    assert np.array_equal(planes[:, 0], 255 * np.eye(5))
    assert stray == 0


@given(
    st.lists(st.sampled_from([BLACK, WHITE, RED, GREEN, BLUE]), min_size=2, max_size=5, unique=True),
    st.floats(0, 1),
    st.data(),
)
@settings(max_examples=60)
def test_a_smooth_edge_between_any_two_regions_is_divided_between_them(colors, t, data) -> None:
    one, other = data.draw(st.sampled_from(list(itertools.permutations(range(len(colors)), 2))))
    planes, stray = memberships(row(between(colors[one], colors[other], t)), colors)
    assert planes[other].item() == pytest.approx(255 * t, abs=1)
    assert planes[one].item() == pytest.approx(255 * (1 - t), abs=1)
    assert planes.sum() == 255
    assert stray == 0


def test_greys_lie_between_their_neighbours() -> None:
    planes, _ = memberships(
        row(*((v, v, v) for v in (0, 0.25, 0.5, 0.75, 1))), [(v,) * 3 for v in (1, 0, 0.5)]
    )
    expected = np.array([[0, 0, 0, 0.5, 1], [1, 0.5, 0, 0, 0], [0, 0.5, 1, 0.5, 0]])
    assert planes[:, 0] / 255 == pytest.approx(expected, abs=0.01)


def test_any_pixels_are_divided_whole_and_strange_ones_counted() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 7, 3), dtype=np.uint8)
    planes, stray = memberships(pixels, [BLACK, WHITE, RED])
    assert (planes.sum(0, dtype=int) == 255).all()
    assert 0.3 < stray < 0.9
    assert memberships(row(BLACK, WHITE, BLUE, BLUE), [BLACK, WHITE])[1] == 0.5


def test_masks_at_any_size_add_up_and_stay_smooth() -> None:
    regions = halves(width=100, height=60, edge=47)
    for size in ((100, 60), (33, 20), (9, 5), (230, 140)):
        masks = regions.masks(*size)
        assert masks.shape == (1, 2, size[1], size[0])
        assert torch.allclose(masks.sum(1), torch.ones(1, size[1], size[0]))
        assert masks.min() >= 0
        assert masks[0, 0].mean() == pytest.approx(0.47, abs=0.01)
    small = regions.masks(9, 5)[0, 1, 2]
    assert (small.diff() >= 0).all()
    assert ((small > 0.01) & (small < 0.99)).any(), "the edge falls within a pixel"


def test_a_layer_sees_the_mean_of_what_it_pools() -> None:
    masks = torch.rand(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    masks /= masks.sum(1, keepdim=True)
    found = guides(masks, ["conv1_2", "relu3_1"], 0)
    assert torch.equal(found["conv1_2"].weights, masks.flatten(2))
    by_hand = masks[:, :, :36, :48].unflatten(2, (9, 4)).unflatten(4, (12, 4)).mean((3, 5))
    guide = found["relu3_1"]
    assert torch.allclose(guide.weights, by_hand.flatten(2))
    assert torch.allclose(guide.total, by_hand.sum((2, 3)))
    assert torch.allclose(guide.share * 108, guide.total)
    for guide in found.values():
        assert torch.allclose(guide.share.sum(1), torch.ones(2))


def test_a_region_too_small_for_a_layer_is_left_out_of_it() -> None:
    masks = torch.zeros(1, 2, 64, 64)
    masks[:, 0, :12, :12] = 1
    masks[:, 1] = 1 - masks[:, 0]
    found = guides(masks, ["relu2_1", "relu3_1"], 0)
    assert found["relu2_1"].share[0].tolist() == pytest.approx([36 / 1024, 988 / 1024])
    assert found["relu3_1"].share[0].tolist() == pytest.approx([0, 247 / 256])
    assert found["relu3_1"].total[0, 0] == 1
    assert not found["relu3_1"].weights[0, 0].any()


def test_a_layer_smaller_than_the_fewest_can_have_one_region() -> None:
    masks = torch.cat([torch.ones(1, 1, 48, 32), torch.zeros(1, 1, 48, 32)], 1)
    assert guides(masks, ["relu5_1"], 0)["relu5_1"].share.tolist() == [[1, 0]]


def test_moments_of_a_region_are_those_of_its_pixels() -> None:
    """Of a region with hard edges, and by their definition of one without."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 12, 10, generator=generator, dtype=torch.float64)
    masks = torch.zeros(2, 2, 12, 10, dtype=torch.float64)
    masks[0, 0, :7], masks[1, 0, :, 3:] = 1, 1
    masks[:, 1] = 1 - masks[:, 0]
    hard = guided_moments(features, guides(masks, ["relu1_1"], 0)["relu1_1"])
    parts = [features[:1, :, :7], features[:1, :, 7:], features[1:, :, :, 3:], features[1:, :, :, :3]]
    for index, part in enumerate(parts):
        assert torch.allclose(hard.mean[index], moments(part).mean[0])
        assert torch.allclose(hard.second[index], moments(part).second[0])
    masks = 0.5 * masks + 0.25
    soft = guided_moments(features, guides(masks, ["relu1_1"], 0)["relu1_1"])
    t, f = masks[1, 0].flatten(), features[1].flatten(1)
    assert torch.allclose(soft.second[2], (f * t) @ f.T / t.sum())
    assert torch.allclose(soft.mean[2], f @ t / t.sum())


def test_every_position_is_pulled_as_strongly_as_without_regions() -> None:
    """Two regions in one style are, where their moments agree, what one picture is."""
    generator = torch.Generator().manual_seed(0)
    half = torch.rand(1, 5, 12, 10, generator=generator, dtype=torch.float64)
    features = torch.cat([half, half], 3)
    masks = torch.zeros(1, 2, 12, 20, dtype=torch.float64)
    masks[:, 0, :, :10], masks[:, 1, :, 10:] = 1, 1
    style = moments(torch.rand(1, 5, 9, 9, generator=generator, dtype=torch.float64))
    target = bures_target(style, 0.1)
    guide = guides(masks, ["relu1_1"], 0)["relu1_1"]
    assert guide.combined(bures_style_loss(guided_moments(features, guide), target)).item() == pytest.approx(
        bures_style_loss(moments(features), target).item()
    )


def test_a_mask_of_another_shape_is_an_error_with_both_sizes() -> None:
    mask = Image.new("RGB", (64, 40))
    mask.paste("white", (32, 0, 64, 40))
    with pytest.raises(ImageError, match=r"in/m.png: .*64 x 40 .* 640 x 480") as caught:
        find_regions(mask, [BLACK, WHITE], (640, 480), "in/m.png", ["a", "b"])
    assert "copy of the content" in caught.value.next_step
    assert find_regions(mask, [BLACK, WHITE], (641, 400), "in/m.png", ["a", "b"])


def test_small_regions_get_one_note_each() -> None:
    recipe = Recipe(margin=0)
    sizes = [(128, 96), (256, 192)]
    assert region_notes(halves(), recipe, sizes) == ()
    (note,) = region_notes(halves(edge=60), recipe, sizes)
    assert note == (
        "m.png: the region of b.jpg (1) is too small for relu4_1 at 128 pixels; relu5_1 at 128, 256 pixels; "
        "it is left out there."
    )


@pytest.mark.parametrize("margin", [7, 16])
def test_the_margin_does_not_count(margin: int) -> None:
    sizes, region = [(128, 96)], halves(edge=54)
    without = region_notes(region, Recipe(margin=0), sizes)
    assert "relu5_1" in str(without)
    assert region_notes(region, Recipe(margin=margin), sizes) == without


def found_in(pixels: np.ndarray, *colors: tuple[float, ...]) -> Regions:
    height, width = pixels.shape[:2]
    labels = [f"{letter}.jpg ({color})" for letter, color in zip("abc", colors, strict=False)]
    return find_regions(Image.fromarray(pixels), colors, (width, height), "in/m.png", labels)


GREY = (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("there", "asked", "nearest"),
    [
        (BLUE, RED, "0"),
        ((0.88, 0.13, 0.13), RED, "#e02121"),
        ((0, 0.5, 0), GREEN, "#008000"),
        (WHITE, (0.52, 0.52, 0.52), "1"),
        (WHITE, (0.7, 0.7, 0.7), "1"),
    ],
)
def test_a_colour_that_is_nowhere_in_the_mask_is_an_error(there, asked, nearest) -> None:
    """With hard edges and with smooth ones, on which there is a little of what is asked for."""
    hard = np.zeros((480, 640, 3), np.uint8)
    hard[:, 400:] = [round(255 * value) for value in there]
    smooth = np.asarray(Image.fromarray(hard).rotate(5, Image.Resampling.BICUBIC).crop((90, 60, 550, 420)))
    assert len(np.unique(smooth.reshape(-1, 3), axis=0)) > 2
    for pixels in (hard, smooth):
        with pytest.raises(ImageError) as caught:
            found_in(pixels, BLACK, asked)
        assert caught.value.message == (
            f"in/m.png: the colour of b.jpg ({asked}) is nowhere in this mask; "
            f"the nearest that is there is {nearest}."
        )
        assert "in the mask" in caught.value.next_step


def test_colours_that_are_in_the_mask_are_found() -> None:
    pixels = np.zeros((300, 40, 3), np.uint8)
    pixels[298:, 38:], pixels[255:257, 3:5] = (255, 0, 0), (128, 128, 128)
    pixels[10:20] = np.random.default_rng(0).integers(230, 256, (10, 40, 3), np.uint8)  # as JPEG leaves it
    assert found_in(pixels, BLACK, RED, WHITE).planes_KHW.shape == (3, 300, 40)
    assert found_in(pixels, GREY, BLACK)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 40, 0).repeat(3, 2)
    assert found_in(ramp, BLACK, GREY, WHITE), "a smooth gradient through three styles"
    for tiny in (row(BLACK, RED, WHITE), np.concatenate([row(BLACK, RED), row(WHITE, WHITE)])):
        assert found_in(tiny, BLACK, RED, WHITE)


def test_a_region_that_the_result_is_too_small_for_is_an_error() -> None:
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[:4, :4] = (255, 0, 0)
    regions = found_in(pixels, BLACK, RED)
    with pytest.raises(ImageError, match=r"in/m\.png: the region of b\.jpg .* has no pixel") as caught:
        region_notes(regions, Recipe(margin=0), [(32, 24)])
    assert caught.value.next_step


def test_colours_of_no_region_get_a_note() -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 32:], pixels[:24, :16] = 255, (0, 200, 0)
    regions = find_regions(Image.fromarray(pixels), [BLACK, WHITE], (64, 48), "in/m.png", ["a", "b"])
    assert region_notes(regions, Recipe(), [(128, 96)])[0].startswith("m.png: 12% of this mask has colours")
