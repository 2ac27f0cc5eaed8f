from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from tiny import asking_for_nothing, random_image, tiny_weights

from pipeline.errors import DeviceError, ImageError
from pipeline.spec.recipe import Recipe
from pipeline.transfer import session as session_module
from pipeline.transfer.checkpoints import RunState
from pipeline.transfer.color import blended_pixels, grey, luma, match_colors, match_histograms, with_luma
from pipeline.transfer.devices import DevicePlan, cpu_dtype, list_devices, plan_device
from pipeline.transfer.engine import Level, Outcome, StyleTransfer
from pipeline.transfer.images import to_image, to_tensor
from pipeline.transfer.masks import Regions, find_regions
from pipeline.transfer.memory import LargeStyle, OutOfMemory
from pipeline.transfer.session import Picture, Request, Session, _Run, plan_levels
from pipeline.transfer.stepper import Steppers
from pipeline.transfer.targets import TargetCache
from pipeline.vgg.encoder import smallest_side
from pipeline.vgg.weights import EncoderWeights, weights_digest


def picture(seed: int = 0, height: int = 48, width: int = 64) -> Picture:
    return Picture.from_image(to_image(random_image(height, width, seed)))


@pytest.fixture
def weights(tmp_path) -> EncoderWeights:
    arrays = {name: tensor.numpy() for name, tensor in tiny_weights().items()}
    save_file(arrays, tmp_path / "tiny.safetensors")
    return EncoderWeights("vgg19-slim", tmp_path / "tiny.safetensors", weights_digest(arrays))


@pytest.fixture
def session(tmp_path) -> Session:
    return Session(plan_device("cpu"), TargetCache(tmp_path / "targets"))


def one(session: Session, request: Request, weights: EncoderWeights) -> Outcome:
    (outcome,) = session.stylize([request], weights)
    return outcome


def image_of(outcome: Outcome) -> Image.Image:
    return to_image(outcome.image_BCHW)


def recipe_for(**fields) -> Recipe:
    return Recipe(**{"size": 68, "pyramid": 48, "steps": 3, **fields})


def test_levels_keep_the_shape_and_end_at_the_size():
    levels = plan_levels(Recipe(), (640, 480))
    assert [level.size for level in levels] == [
        (128, 96), (181, 136), (256, 192), (362, 272), (512, 384), (512, 384), (512, 384),
    ]  # fmt: skip
    *coarse, first, second, third = (level.steps for level in levels)
    assert [*coarse, first + second + third] == [Recipe().steps_at(index) for index in range(5)]


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"steps": 200}, [200, 67, 67, 66]),
        ({"steps": 60, "pyramid": 0}, [20, 20, 20]),
        ({"steps": 59}, [59, 30, 29]),
        ({"steps": 39}, [39, 39]),
        ({"steps": 1}, [1, 1]),
        ({"steps": 90, "color": "luminance"}, [90, 90]),
        ({"steps": 90, "recolor": False}, [90, 90]),
    ],
)
def test_the_last_level_has_parts_where_each_starts_in_the_palette(fields, steps):
    levels = plan_levels(recipe_for(**fields), (640, 480))
    assert [level.steps for level in levels] == steps
    coarse = [(48, 36)] if len(levels) == 2 or "pyramid" not in fields else []
    assert [level.size for level in levels] == [*coarse, *[(68, 51)] * (len(steps) - len(coarse))]


def test_a_panorama_starts_at_a_finer_level():
    levels = plan_levels(Recipe(), (4000, 400))
    smallest = smallest_side([*Recipe().style_layers], Recipe().padding)
    assert 2**-0.5 * levels[0].height < max(smallest, Recipe().margin + 1) <= levels[0].height
    assert levels[-1].size == (512, 51)
    *coarse, first, second, third = (level.steps for level in levels)
    last = first + second + third
    assert [*coarse, last] == [Recipe().steps_at(index) for index in range(4 - len(coarse), 5)]


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        ((1000, 100), {}),
        ((3000, 20), {"size": 64}),
        ((20, 3000), {"size": 64}),
        ((333, 7), {"margin": 40}),
        ((64, 64), {"size": 20}),
        ((64, 3), {"size": 20, "square": True}),
        ((7919, 107), {"pyramid": 0}),
    ],
)
def test_too_small_says_the_least_size_that_works(content, fields):
    recipe = Recipe(**{"size": 64, **fields})
    with pytest.raises(ImageError, match="short side") as caught:
        plan_levels(recipe, content)
    size = int(caught.value.next_step.split()[2])
    assert plan_levels(recipe.model_copy(update={"size": size}), content)
    with pytest.raises(ImageError, match="short side"):
        plan_levels(recipe.model_copy(update={"size": size - 1}), content)


def test_too_small_at_any_size_says_so():
    with pytest.raises(ImageError, match="short side") as caught:
        plan_levels(Recipe(), (30_000, 20))
    assert caught.value.next_step == ("No size up to 16384 is enough; crop the picture, or set square: true.")


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (17, 31), (64, 48), (301, 199)])
def test_odd_and_tiny_pictures_work(session, weights, size):
    content = Picture.from_image(Image.new("RGB", size, (120, 60, 30)))
    outcome = one(session, Request(content, [(picture(1), 1.0)], recipe_for(steps=1)), weights)
    assert max(image_of(outcome).size) == 68


def test_square_and_back_to_the_contents_own_size(session, weights):
    request = Request(picture(), [(picture(1), 1.0)], recipe_for(square=True))
    assert image_of(one(session, request, weights)).size == (68, 68)
    request = Request(picture(), [(picture(1), 1.0)], recipe_for(square=True, upscale_to_content=True))
    assert image_of(one(session, request, weights)).size == (64, 48)


def test_style_targets_are_computed_once_per_level(session, weights):
    first = one(session, Request(picture(0), [(picture(1), 1.0)], recipe_for()), weights)
    second = one(session, Request(picture(2), [(picture(1), 1.0)], recipe_for()), weights)
    assert (first.cache_hits, first.cache_misses) == (0, 2)
    assert (second.cache_hits, second.cache_misses) == (2, 0)


@pytest.mark.parametrize(
    "fields",
    [{"padding": "zeros"}, {"pooling": "average"}, {"style_scale": 1.5}, {"style_layers": ["relu1_1"]}],
)
def test_targets_of_another_recipe_are_not_mistaken(session, weights, fields):
    one(session, Request(picture(0), [(picture(1), 1.0)], recipe_for()), weights)
    other = one(session, Request(picture(0), [(picture(1), 1.0)], recipe_for(**fields)), weights)
    assert other.cache_misses == 2


def test_a_result_is_the_same_with_a_cold_and_a_warm_cache(session, weights):
    request = Request(picture(0), [(picture(1), 0.7), (picture(2), 0.3)], recipe_for())
    cold, warm = one(session, request, weights), one(session, request, weights)
    assert warm.cache_misses == 0
    assert image_of(cold).tobytes() == image_of(warm).tobytes()


@pytest.mark.parametrize("init", ["content", "noise", "blank", "style", "file"])
def test_every_start(session, weights, init):
    """With nothing but the start to go by, the start is what comes out."""
    content, style, file = picture(0), picture(1), picture(2)
    expected = {
        "content": np.asarray(content.image),
        "style": np.asarray(style.image),
        "file": np.asarray(file.image),
        "blank": np.full((48, 64, 3), 128),
    }
    recipe = asking_for_nothing(Recipe(init=init, pyramid=0, steps=1, size=64, recolor=False))
    request = Request(content, [(style, 1.0)], recipe, file if init == "file" else None)
    result = np.asarray(image_of(one(session, request, weights)))
    if init == "noise":
        again = np.asarray(image_of(one(session, request, weights)))
        other = Request(content, [(style, 1.0)], recipe.model_copy(update={"seed": 1}))
        assert np.array_equal(result, again)
        assert not np.array_equal(result, np.asarray(image_of(one(session, other, weights))))
    else:
        assert np.array_equal(result, expected[init])


def test_the_encoder_stays_warm_until_another_is_asked_for(session, weights):
    first = session.encoder_for(recipe_for(), weights)
    assert session.encoder_for(recipe_for(size=64), weights) is first
    assert session.encoder_for(recipe_for(pooling="average"), weights) is not first


def test_out_of_memory_has_a_name_of_its_own(session, weights, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("pipeline.transfer.engine.StyleTransfer.run", full)
    with pytest.raises(OutOfMemory):
        one(session, Request(picture(0), [(picture(1), 1.0)], recipe_for()), weights)


def test_a_style_that_cannot_fit_is_not_begun_and_said(session, weights, monkeypatch):
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 30_000_000)
    monkeypatch.setattr("pipeline.transfer.engine.StyleTransfer.run", None)
    with pytest.raises(OutOfMemory) as caught:
        one(session, Request(picture(0), [(picture(1), 1.0)], recipe_for(size=64, style_scale=10)), weights)
    assert caught.value.style == LargeStyle(0, (640, 480))


def test_a_style_that_did_not_fit_is_said(session, weights, monkeypatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    learn, seen = session_module.gram_targets, []

    def second_is_too_large(*arguments: Any) -> Any:
        seen.append(arguments)
        return (full if len(seen) > 1 else learn)(*arguments)

    monkeypatch.setattr(session_module, "gram_targets", second_is_too_large)
    styles = [(picture(1), 0.5), (picture(2), 0.5)]
    with pytest.raises(OutOfMemory) as caught:
        one(session, Request(picture(0), styles, recipe_for(size=64)), weights)
    assert caught.value.style == LargeStyle(1, (64, 48))


def test_a_narrow_style_is_used(session, weights):
    thin = Picture.from_image(Image.new("RGB", (20_000, 1), (200, 30, 20)))
    assert one(session, Request(picture(0), [(thin, 1.0)], recipe_for(size=64)), weights).status == "done"


def test_what_cannot_fit_is_not_begun(session, weights, monkeypatch):
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 1000)
    monkeypatch.setattr("pipeline.transfer.engine.StyleTransfer.run", None)
    with pytest.raises(OutOfMemory):
        one(session, Request(picture(0), [(picture(1), 1.0)], recipe_for()), weights)


def test_several_requests_are_as_each_alone(session, weights):
    """Contents, styles, blends, starts and seeds of their own, one recipe and size."""
    requests = [
        Request(picture(0), [(picture(1), 1.0)], recipe_for()),
        Request(picture(2), [(picture(3), 0.7), (picture(4), 0.3)], recipe_for(init="noise")),
        Request(picture(5), [(picture(1), 1.0)], recipe_for(init="noise", seed=3)),
    ]
    together = session.stylize(requests, weights)
    assert [(each.cache_hits, each.cache_misses) for each in together] == [(0, 2), (0, 4), (2, 0)]
    for request, outcome in zip(requests, together, strict=True):
        alone = np.asarray(image_of(one(session, request, weights)), int)
        assert np.abs(np.asarray(image_of(outcome), int) - alone).max() <= 2


def test_every_region_gets_its_own_style(session, weights):
    """Red on the left and blue on the right, of styles that are red and blue."""
    flat = [Picture.from_image(Image.new("RGB", (64, 48), color)) for color in ("red", "blue")]
    mask = Image.new("RGB", (640, 480))
    mask.paste("white", (320, 0, 640, 480))
    regions = find_regions(mask, [(0, 0, 0), (1, 1, 1)], (64, 48), "m.png", ["a", "b"])
    fields = {"style_layers": ["conv1_1"], "content_weight": 0, "init": "blank", "tv_weight": 0}
    request = Request(
        picture(0), [(each, 1.0) for each in flat], recipe_for(**fields, steps=30), None, regions
    )
    image = np.asarray(image_of(one(session, request, weights)), int)
    redder = image[:, :, 0] - image[:, :, 2]
    assert redder[:, :30].mean() > 8
    assert redder[:, 38:].mean() < -8


def test_masked_requests_are_as_each_alone_and_share_their_targets(session, weights):
    requests = []
    for seed, width in ((0, 20), (2, 44)):
        mask = Image.new("RGB", (64, 48))
        mask.paste("white", (0, 0, width, 48))
        regions = find_regions(mask, [(0, 0, 0), (1, 1, 1)], (64, 48), "m.png", ["a", "b"])
        styles = [(picture(seed + 1), 1.0), (picture(5), 1.0)]
        requests.append(Request(picture(seed), styles, recipe_for(), None, regions))
    one(session, Request(picture(3), [(picture(5), 1.0)], recipe_for()), weights)
    together = session.stylize(requests, weights)
    assert [(each.cache_hits, each.cache_misses) for each in together] == [(2, 2), (2, 2)]
    for request, outcome in zip(requests, together, strict=True):
        alone = np.asarray(image_of(one(session, request, weights)), int)
        assert np.abs(np.asarray(image_of(outcome), int) - alone).max() <= 2


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
    # Paler where the new luminance leaves no room, and otherwise the same.
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
    assert first.total == pytest.approx(other.total, rel=0.01)


def test_a_match_by_histogram_is_another_than_by_covariance(session, weights):
    """Each with targets of its own in the cache."""
    results = []
    for by in ("covariance", "histogram"):
        recipe = recipe_for(color="match", match_by=by)
        results.append(one(session, Request(picture(0), [(picture(1), 1.0)], recipe), weights))
    assert [each.cache_misses for each in results] == [2, 2]
    assert image_of(results[0]).tobytes() != image_of(results[1]).tobytes()


@pytest.mark.parametrize("color", ["luminance", "match"])
def test_a_matched_style_belongs_to_its_content(session, weights, color):
    recipe = recipe_for(color=color)
    one(session, Request(picture(0), [(picture(1), 1.0)], recipe_for()), weights)
    first = one(session, Request(picture(0), [(picture(1), 1.0)], recipe), weights)
    again = one(session, Request(picture(0), [(picture(1), 1.0)], recipe), weights)
    other = one(session, Request(picture(2), [(picture(1), 1.0)], recipe), weights)
    assert [each.cache_misses for each in (first, again, other)] == [2, 0, 2]
    assert image_of(first).tobytes() == image_of(again).tobytes()


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


LEVEL = Level(96, 72, 1)


def start_of(session: Session, weights: EncoderWeights, request: Request) -> torch.Tensor:
    encoder = session.encoder_for(request.recipe, weights)
    return _Run(session, request, weights, encoder).first_image(LEVEL)


def quantiles(pixels_3N: torch.Tensor) -> torch.Tensor:
    return pixels_3N.quantile(torch.linspace(0.05, 0.95, 10), dim=1)


def test_a_level_starts_in_the_styles_palette(session, weights):
    request = Request(picture(0), [(picture(1), 1.0)], recipe_for())
    start_BCHW, style_BCHW = start_of(session, weights, request), picture(1).tensor((96, 72))
    reached, wanted, before = (
        quantiles(each[0].flatten(1)) for each in (start_BCHW, style_BCHW, picture(0).tensor((96, 72)))
    )
    assert (reached - wanted).abs().max() < 0.04 < (before - wanted).abs().max()
    assert torch.equal(start_BCHW, start_of(session, weights, request))


@pytest.mark.parametrize("fields", [{"recolor": False}, {"color": "luminance"}])
def test_a_start_without_new_colours_is_the_content(session, weights, fields):
    request = Request(picture(0), [(picture(1), 1.0)], recipe_for(**fields))
    content_BCHW = picture(0).tensor((96, 72))
    expected = grey(content_BCHW) if "color" in fields else content_BCHW
    assert torch.equal(start_of(session, weights, request), expected)


def in_regions(edge: int) -> Request:
    """Reds on the left of `edge` (of 64) and blues on the right."""
    noise = random_image(48, 64, 7)
    reds, blues = (noise * torch.tensor(scale)[:, None, None] for scale in ((1, 0.1, 0.1), (0.1, 0.1, 1)))
    styles = [(Picture.from_image(to_image(each)), 1.0) for each in (reds, blues)]
    planes_KHW = np.zeros((2, 48, 64), np.uint8)
    planes_KHW[0, :, :edge], planes_KHW[1, :, edge:] = 255, 255
    return Request(picture(0), styles, recipe_for(), None, Regions(planes_KHW, "m.png", ("a", "b")))


def test_every_region_starts_in_the_palette_of_its_style(session, weights):
    request = in_regions(32)
    start_BCHW, masks = start_of(session, weights, request), request.regions.masks(96, 72)
    for number, (style, _) in enumerate(request.styles):
        own = start_BCHW[0][:, masks[0, number] == 1]
        wanted = quantiles(style.tensor((96, 72))[0].flatten(1))
        assert (quantiles(own) - wanted).abs().max() < 0.05
    edge = start_BCHW[0, :, :, 47:49]
    assert edge[0].mean() > 0.2, "the mask's soft edge has both"
    assert edge[2].mean() > 0.2


@pytest.mark.parametrize("edge", [0, 64])
def test_a_region_of_no_pixel_starts_as_the_other(session, weights, edge):
    start_BCHW = start_of(session, weights, in_regions(edge))
    assert start_BCHW.isfinite().all()
    assert (start_BCHW[0, 2].mean() > start_BCHW[0, 0].mean()) == (edge == 0)


def half_hidden() -> Picture:
    """A dark picture that shows in its left half; the rest is white beneath transparency."""
    image = to_image(random_image(48, 64) * 0.3).convert("RGBA")
    image.paste((0, 255, 0, 0), (32, 0, 64, 48))
    return Picture.from_image(image)


def left(image_BCHW: torch.Tensor) -> torch.Tensor:
    """What shows of a picture as wide as `half_hidden`, without the pixels at the edge."""
    return image_BCHW[..., : image_BCHW.shape[3] // 2 - 1]


@pytest.mark.parametrize("by", ["covariance", "histogram"])
def test_a_contents_palette_is_of_what_shows(by):
    content, recipe = half_hidden(), recipe_for(color="match", match_by=by)
    request = Request(content, [(picture(1), 1.0)], recipe)
    content_BCHW = content.tensor((68, 51))
    matched_BCHW = request.matched(picture(1).tensor((68, 51)), content_BCHW)
    apart = matched_BCHW.mean((2, 3)) - left(content_BCHW).mean((2, 3))
    assert apart.abs().max() < 0.03 < (content_BCHW - 0.15).mean()


def test_what_shows_of_a_content_starts_and_ends_in_the_palette(session, weights, transferred):
    request = Request(half_hidden(), [(picture(1), 1.0)], recipe_for())
    palette_BCHW = picture(1).tensor((68, 51))
    start_BCHW = left(start_of(session, weights, request))
    assert (start_BCHW.mean((2, 3)) - palette_BCHW.mean((2, 3))).abs().max() < 0.03
    image_BCHW = one(session, request, weights).image_BCHW
    matched_BCHW = match_histograms(transferred[0], palette_BCHW, half_hidden().visible((68, 51)))
    assert torch.allclose(image_BCHW, 0.75 * transferred[0] + 0.25 * matched_BCHW.clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize(("edge", "shows"), [(48, 32), (32, 32), (16, 16)])
def test_what_shows_of_a_region_starts_in_its_palette(session, weights, edge, shows):
    """The first region is what is left of `edge`, and what shows of the content ends at 32."""
    request = replace(in_regions(edge), content=half_hidden())
    start_BCHW = start_of(session, weights, request)
    reds = request.styles[0][0].tensor((96, 72)).mean((2, 3))
    shown_BCHW = start_BCHW[..., : shows * 96 // 64 - 3]
    assert (shown_BCHW.mean((2, 3)) - reds).abs().max() < 0.05


def test_a_luminance_is_that_of_what_shows(session, weights):
    content, recipe = half_hidden(), recipe_for(color="luminance")
    level = plan_levels(recipe, content.image.size)[-1]
    run = _Run(session, Request(content, [(picture(1), 1.0)], recipe), weights, None)
    style_BCHW = run._style_image(picture(1), level.size, level)
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
    monkeypatch.setattr("pipeline.transfer.session.LAST_RECOLORING", float("nan"))
    monkeypatch.setattr("pipeline.transfer.session.match_histograms", None)
    request = Request(picture(0), [(LYING, 1.0)], recipe_for(**fields))
    image_BCHW, expected_BCHW = one(session, request, weights).image_BCHW, transferred[0]
    if "color" in fields:
        expected_BCHW = with_luma(picture(0).tensor((68, 51)), luma(expected_BCHW))
    assert torch.equal(image_BCHW, expected_BCHW)


@pytest.mark.parametrize("margin", [0, 5, 16, 40])
def test_the_smallest_picture_with_a_margin_has_a_style_at_every_layer(session, weights, margin):
    recipe = Recipe(size=32 if margin < 32 else margin + 1, pyramid=0, steps=1, margin=margin)
    content = Picture.from_image(to_image(random_image(64, 64)))
    with pytest.raises(ImageError, match="short side"):
        plan_levels(recipe.model_copy(update={"size": recipe.size - 1}), (64, 64))
    (row,) = one(session, Request(content, [(picture(1), 1.0)], recipe), weights).rows
    assert all(np.isfinite(loss) for loss in row.layers.values())


HEAVY = {f"relu{block}_1": 1e6 for block in range(1, 6)}


@pytest.mark.parametrize(
    "fields",
    [
        {"style_weight": 1e12, "style_layers": HEAVY},
        {"style_weight": 1e12, "style_layers": HEAVY, "style_loss": "gram", "loss": "gatys"},
        {"content_weight": 1e12, "content_layers": {"relu4_2": 1e6}},
        {"tv_weight": 1e12, "tv_chroma": 1e6},
        {"learning_rate": 1e3, "optimizer": "adam"},
        {"learning_rate": 1e-9},
        {"style_layers": dict.fromkeys(HEAVY, 0.0)},
        {"content_layers": {"relu4_2": 0.0}},
        {"content_weight": 0, "style_weight": 0, "tv_weight": 1e-300},
    ],
    ids=str,
)
def test_a_recipe_within_its_bounds_is_done_or_diverges(session, weights, fields):
    outcome = one(session, Request(picture(0), [(picture(1), 1.0)], recipe_for(**fields)), weights)
    assert outcome.status in {"done", "diverged"}
    assert (outcome.error is None) == (outcome.status == "done")


def test_devices():
    assert list_devices()[-1].device == "cpu"
    assert plan_device("auto") == list_devices()[0]
    assert plan_device("cpu").dtype in {"float32", "bfloat16"}
    assert cpu_dtype("flags : fpu avx512_bf16 amx_tile") == "bfloat16"
    assert cpu_dtype("flags : fpu avx512f") == cpu_dtype("") == "float32"
    with pytest.raises(DeviceError, match="no device 'cuda:77'") as caught:
        plan_device("cuda:77")
    assert "cpu" in caught.value.next_step


@pytest.mark.gpu
def test_the_gpu_gives_the_cpus_picture(weights, tmp_path):
    request = Request(picture(0), [(picture(1), 1.0)], recipe_for())
    results = []
    for device in ("cpu", "cuda"):
        outcome = one(Session(plan_device(device), TargetCache(None)), request, weights)
        results.append(np.asarray(image_of(outcome), int))
    assert np.abs(results[0] - results[1]).mean() < 2


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", "bfloat16"), ("bfloat16", "bfloat16"), ("float32", "float32"), ("reference", "float32")],
)
def test_every_level_has_the_precision_of_the_recipe(weights, monkeypatch, precision, dtype):
    built = []
    fetch = Steppers.fetch
    monkeypatch.setattr(
        Steppers, "fetch", lambda self, *arguments: built.append(arguments[-1]) or fetch(self, *arguments)
    )
    session = Session(DevicePlan("cpu", "a CPU", "bfloat16", 0), TargetCache(None))
    request = Request(picture(0), [(picture(1), 1.0)], recipe_for(precision=precision, steps=40))
    assert one(session, request, weights).dtype == dtype
    assert built == [getattr(torch, dtype)] * 3
