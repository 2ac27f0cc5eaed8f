from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_requests import half_hidden, image_of, in_regions, one, picture, recipe_for
from tiny import asking_for_nothing

from pipeline.spec.recipe import Recipe
from pipeline.transfer.checkpoints import RunState
from pipeline.transfer.color import blended_pixels, grey, luma, match_colors, match_histograms, with_luma
from pipeline.transfer.color_policy import match_to_content, recolor, style_image
from pipeline.transfer.engine import StyleTransfer
from pipeline.transfer.level_inputs import first_image
from pipeline.transfer.pyramid import Level, plan_levels
from pipeline.transfer.reports import Outcome
from pipeline.transfer.request import Picture, Request
from pipeline.transfer.tensors import to_tensor

LEVEL = Level(96, 72, 1)


@pytest.fixture(autouse=True)
def _whole_palettes(monkeypatch) -> None:
    """Few edges of noise survive a palette, which is not what these tests are about: see test_palette.py."""
    monkeypatch.setattr("pipeline.transfer.color_policy.limited_palette", lambda *_: None)


@pytest.fixture
def transferred(monkeypatch) -> list[torch.Tensor]:
    """The pictures as the transfer returns them, before anything is done to their colours."""
    images, run = [], StyleTransfer.run

    def kept(self: StyleTransfer, states: list[RunState]) -> list[Outcome]:
        results = run(self, states)
        images.extend(each.image_BCHW.clamp(0, 1) for each in results if each.image_BCHW is not None)
        return results

    monkeypatch.setattr(StyleTransfer, "run", kept)
    return images


LYING = picture(1, 40, 80)


def colors_of(image: Image.Image) -> torch.Tensor:
    image_BCHW = to_tensor(image, image.size)
    return image_BCHW - luma(image_BCHW)


@pytest.mark.parametrize("color", ["content", "luminance"])
@pytest.mark.parametrize("upscale", [False, True])
def test_the_contents_own_colours_come_back_at_the_results_size(session, weights, color, upscale):
    content = picture(0, 96, 128)
    recipe = recipe_for(color=color, upscale_to_content=upscale, init="style")
    image = image_of(one(session, Request(content, [(picture(1), 1.0)], recipe), weights))
    assert image.size == ((128, 96) if upscale else (68, 51))
    own, kept = colors_of(content.image.resize(image.size, Image.Resampling.LANCZOS)), colors_of(image)
    # Paler where the new luminance would leave the gamut, and otherwise the same.
    same = ((own - kept).abs() < 3 / 255).float().mean()
    assert same > 0.6
    assert (own * kept).sum() / (own.norm() * kept.norm()) > 0.95


def test_the_contents_colours_are_put_on_what_would_have_come_out(session, weights):
    fields = {"pyramid": 0, "init": "style"}
    request = Request(picture(0), [(picture(1), 1.0)], recipe_for(**fields))
    plain = one(session, request, weights)
    kept = one(
        session, Request(picture(0), [(picture(1), 1.0)], recipe_for(color="content", **fields)), weights
    )
    assert kept.cache_hits == 1, "the style's targets are the same"
    assert image_of(plain).tobytes() != image_of(kept).tobytes()
    difference = luma(to_tensor(image_of(plain), (68, 51))) - luma(to_tensor(image_of(kept), (68, 51)))
    assert difference.abs().max() < 2 / 255


def test_luminance_sees_no_colour(session, weights):
    """Neither of the content, of the style nor of the start: grey ones give the same first loss."""
    grey_of = {seed: Picture.from_image(picture(seed).image.convert("L")) for seed in (0, 1, 2)}
    recipe = recipe_for(color="luminance", precision="float32", pyramid=0)
    colored = Request(picture(0), [(picture(1), 1.0)], recipe, picture(2))
    greys = Request(grey_of[0], [(grey_of[1], 1.0)], recipe, grey_of[2])
    first, other = (one(session, request, weights).rows[0] for request in (colored, greys))
    # The grey ones are rounded to 256 levels.
    assert first.total == pytest.approx(other.total, rel=0.02)


def test_a_match_by_histogram_is_another_than_by_covariance(session, weights):
    """Each with targets of its own in the cache."""
    results = []
    for by in ("covariance", "histogram"):
        recipe = recipe_for(color="match", match_by=by)
        results.append(one(session, Request(picture(0), [(picture(1), 1.0)], recipe), weights))
    assert [each.cache_misses for each in results] == [2, 2]
    assert image_of(results[0]).tobytes() != image_of(results[1]).tobytes()


@pytest.mark.parametrize("by", ["covariance", "histogram"])
def test_a_style_matched_to_a_grey_content_is_grey(session, weights, by):
    """All of it reaches the network: with the style alone to go by, the start from it stays as it is."""
    recipe = Recipe(init="style", color="match", match_by=by, pyramid=0, steps=1, size=64)
    content = Picture.from_image(picture(0).image.convert("L"))
    request = Request(content, [(picture(1), 1.0)], asking_for_nothing(recipe))
    image_BCHW = to_tensor(image_of(one(session, request, weights)), (64, 48))
    assert (image_BCHW - grey(image_BCHW)).abs().max() < 3 / 255
    content_BCHW = to_tensor(content.image, (64, 48))
    assert image_BCHW.mean() == pytest.approx(content_BCHW.mean().item(), abs=0.02)
    assert image_BCHW.std() == pytest.approx(content_BCHW.std().item(), rel=0.1)


@pytest.mark.parametrize("color", ["content", "luminance", "match"])
def test_colours_of_several_pictures_together_are_each_its_own(session, weights, color):
    recipe = recipe_for(color=color)
    requests = [
        Request(picture(0), [(picture(1), 1.0)], recipe),
        Request(picture(2), [(picture(3), 0.7), (picture(4), 0.3)], recipe),
    ]
    together = session.stylize(requests, weights)
    for request, outcome in zip(requests, together, strict=True):
        alone = np.asarray(image_of(one(session, request, weights)), int)
        assert np.abs(np.asarray(image_of(outcome), int) - alone).max() <= 2


def quantiles(pixels_3N: torch.Tensor) -> torch.Tensor:
    return pixels_3N.quantile(torch.linspace(0.05, 0.95, 10), dim=1)


def test_a_level_starts_in_the_styles_palette():
    request = Request(picture(0), [(picture(1), 1.0)], recipe_for())
    start_BCHW, style_BCHW = first_image(request, LEVEL), picture(1).tensor((96, 72))
    reached, wanted, before = (
        quantiles(each[0].flatten(1)) for each in (start_BCHW, style_BCHW, picture(0).tensor((96, 72)))
    )
    assert (reached - wanted).abs().max() < 0.04 < (before - wanted).abs().max()
    assert torch.equal(start_BCHW, first_image(request, LEVEL))


def test_every_region_starts_in_the_palette_of_its_style():
    request = in_regions(32)
    start_BCHW, masks = first_image(request, LEVEL), request.regions.masks(96, 72)
    for number, (style, _) in enumerate(request.styles):
        own = start_BCHW[0][:, masks[0, number] == 1]
        wanted = quantiles(style.tensor((96, 72))[0].flatten(1))
        assert (quantiles(own) - wanted).abs().max() < 0.05
    edge = start_BCHW[0, :, :, 47:49]
    assert edge[0].mean() > 0.2, "the mask's soft edge has both"
    assert edge[2].mean() > 0.2


@pytest.mark.parametrize("edge", [0, 64])
def test_a_region_of_no_pixel_starts_as_the_other(edge):
    start_BCHW = first_image(in_regions(edge), LEVEL)
    assert start_BCHW.isfinite().all()
    assert (start_BCHW[0, 2].mean() > start_BCHW[0, 0].mean()) == (edge == 0)


def left(image_BCHW: torch.Tensor) -> torch.Tensor:
    """What shows of a picture as wide as `half_hidden`, without the pixels at the edge."""
    return image_BCHW[..., : image_BCHW.shape[3] // 2 - 1]


@pytest.mark.parametrize("by", ["covariance", "histogram"])
def test_a_contents_palette_is_of_what_shows(by):
    content, recipe = half_hidden(), recipe_for(color="match", match_by=by)
    request = Request(content, [(picture(1), 1.0)], recipe)
    content_BCHW = content.tensor((68, 51))
    matched_BCHW = match_to_content(request, picture(1).tensor((68, 51)), content_BCHW)
    apart = matched_BCHW.mean((2, 3)) - left(content_BCHW).mean((2, 3))
    assert apart.abs().max() < 0.03 < (content_BCHW - 0.15).mean()


def test_what_shows_of_a_content_starts_and_ends_in_the_palette(session, weights, transferred):
    request = Request(half_hidden(), [(picture(1), 1.0)], recipe_for())
    palette_BCHW = picture(1).tensor((68, 51))
    start_BCHW = left(first_image(request, LEVEL))
    assert (start_BCHW.mean((2, 3)) - palette_BCHW.mean((2, 3))).abs().max() < 0.03
    image_BCHW = one(session, request, weights).image_BCHW
    matched_BCHW = match_histograms(transferred[0], palette_BCHW, half_hidden().visible((68, 51)))
    assert torch.allclose(image_BCHW, 0.75 * transferred[0] + 0.25 * matched_BCHW.clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize(("edge", "shows"), [(48, 32), (32, 32), (16, 16)])
def test_what_shows_of_a_region_starts_in_its_palette(edge, shows):
    """The first region is what is left of `edge`, and what shows of the content ends at 32."""
    request = replace(in_regions(edge), content=half_hidden())
    start_BCHW = first_image(request, LEVEL)
    reds = request.styles[0][0].tensor((96, 72)).mean((2, 3))
    shown_BCHW = start_BCHW[..., : shows * 96 // 64 - 3]
    assert (shown_BCHW.mean((2, 3)) - reds).abs().max() < 0.05


def test_a_luminance_is_that_of_what_shows():
    content, recipe = half_hidden(), recipe_for(color="luminance")
    level = plan_levels(recipe, content.image.size)[-1]
    request = Request(content, [(picture(1), 1.0)], recipe)
    style_BCHW = style_image(request, picture(1), level.size, level.size)
    assert style_BCHW.mean() == pytest.approx(float(luma(left(content.tensor(level.size))).mean()), abs=0.02)


def test_a_content_that_hides_everything_is_a_white_one(session, weights):
    nothing = Picture.from_image(Image.new("RGBA", (64, 48)))
    white = Picture.from_image(Image.new("RGB", (64, 48), "white"))
    recipe = recipe_for(color="match")
    images = [
        image_of(one(session, Request(each, [(picture(1), 1.0)], recipe), weights))
        for each in (nothing, white)
    ]
    assert images[0].tobytes() == images[1].tobytes()


@pytest.mark.parametrize("case", ["style", "blend", "scale", "match", "content"])
def test_a_result_goes_some_of_the_way_to_the_palette_it_was_made_in(session, weights, transferred, case):
    fields = {"scale": {"style_scale": 2.0}, "match": {"color": "match"}, "content": {"color": "content"}}
    styles = [(LYING, 0.7), (picture(2), 0.3)] if case == "blend" else [(LYING, 1.0)]
    request = Request(picture(0), styles, recipe_for(**fields.get(case, {})))
    image_BCHW = one(session, request, weights).image_BCHW
    palette_BCHW, content_BCHW = LYING.tensor((68, 34)), picture(0).tensor((68, 51))
    if case == "blend":
        palette_BCHW = blended_pixels([palette_BCHW, picture(2).tensor((68, 51))], [0.7, 0.3])
    if case == "scale":
        palette_BCHW = LYING.tensor((136, 68))
    if case == "match":
        palette_BCHW = match_colors(palette_BCHW, content_BCHW).clamp(0, 1)
    matched_BCHW = match_histograms(transferred[0], palette_BCHW).clamp(0, 1)
    expected_BCHW = 0.75 * transferred[0] + 0.25 * matched_BCHW
    if case == "content":
        expected_BCHW = with_luma(content_BCHW, luma(expected_BCHW))
    assert torch.allclose(image_BCHW, expected_BCHW, atol=1e-5)
    assert (image_BCHW - transferred[0]).abs().max() > 0.005


def test_every_region_of_a_result_goes_to_the_palette_of_its_own_style(session, weights, transferred):
    request = in_regions(32)
    image_BCHW, before_BCHW = one(session, request, weights).image_BCHW, transferred[0]
    masks_BKHW = request.regions.masks(68, 51)
    matched_BCHW = torch.zeros_like(image_BCHW)
    for number, (style, _) in enumerate(request.styles):
        mask_BHW = masks_BKHW[:, number]
        part_BCHW = match_histograms(before_BCHW, style.tensor((68, 51)), mask_BHW[0] > 0.5)
        matched_BCHW += mask_BHW[:, None] * part_BCHW
    assert torch.allclose(image_BCHW, 0.75 * before_BCHW + 0.25 * matched_BCHW.clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("fields", [{"recolor": False}, {"color": "luminance"}])
def test_without_new_colours_a_result_stays_as_it_is(session, weights, transferred, monkeypatch, fields):
    """And no work is done for it: with such a factor, any would show."""
    monkeypatch.setattr("pipeline.transfer.color_policy.LAST_RECOLORING", float("nan"))
    monkeypatch.setattr("pipeline.transfer.color_policy.match_histograms", None)
    request = Request(picture(0), [(LYING, 1.0)], recipe_for(**fields))
    image_BCHW, expected_BCHW = one(session, request, weights).image_BCHW, transferred[0]
    if "color" in fields:
        expected_BCHW = with_luma(picture(0).tensor((68, 51)), luma(expected_BCHW))
    assert torch.equal(image_BCHW, expected_BCHW)


@pytest.mark.parametrize("strength", [0, 0.3, 1, 2])
def test_a_weak_picture_goes_only_a_part_of_the_way_to_the_palette(strength: float) -> None:
    content, style = picture(0), picture(1)
    image_BCHW = content.tensor((64, 48))
    whole_BCHW = recolor(Request(content, [(style, 1.0)], recipe_for()), image_BCHW)
    part_BCHW = recolor(Request(content, [(style, 1.0)], recipe_for(strength=strength)), image_BCHW)
    assert not torch.allclose(whole_BCHW, image_BCHW, atol=0.01)
    assert torch.allclose(part_BCHW, torch.lerp(image_BCHW, whole_BCHW, min(1.0, strength)), atol=1e-6)
