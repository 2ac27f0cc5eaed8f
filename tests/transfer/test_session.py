from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from small_requests import image_of, one, picture, plain_recipe, recipe_for
from tiny import random_image

from pipeline.errors import ImageError
from pipeline.spec.recipe import Recipe
from pipeline.transfer.devices import DevicePlan, plan_device
from pipeline.transfer.masks import find_regions
from pipeline.transfer.memory import TILES_USABLE, LargeStyle, OutOfMemory
from pipeline.transfer.pyramid import plan_levels
from pipeline.transfer.request import Picture, Request
from pipeline.transfer.session import Session
from pipeline.transfer.stepper import StepperCache
from pipeline.transfer.target_cache import TargetCache
from pipeline.transfer.tensors import to_image
from pipeline.transfer.tile_planning import PictureMemory, TileChoice


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (17, 31), (64, 48), (301, 199)])
def test_odd_and_tiny_pictures_work(session, weights, size):
    content = Picture.from_image(Image.new("RGB", size, (120, 60, 30)))
    outcome = one(session, Request(content, [(picture(1), 1.0)], plain_recipe(steps=1)), weights)
    assert max(image_of(outcome).size) == 68


def test_square_and_back_to_the_contents_own_size(session, weights):
    request = Request(picture(), [(picture(1), 1.0)], plain_recipe(square=True))
    assert image_of(one(session, request, weights)).size == (68, 68)
    request = Request(picture(), [(picture(1), 1.0)], plain_recipe(square=True, upscale_to_content=True))
    assert image_of(one(session, request, weights)).size == (64, 48)


def test_a_result_is_the_same_with_a_cold_and_a_warm_cache(session, weights):
    request = Request(picture(0), [(picture(1), 0.7), (picture(2), 0.3)], recipe_for())
    cold, warm = one(session, request, weights), one(session, request, weights)
    assert warm.cache_misses == 0
    assert image_of(cold).tobytes() == image_of(warm).tobytes()


def test_the_encoder_stays_warm_until_another_is_asked_for(session, weights):
    first = session.encoder_for(plain_recipe(), weights)
    assert session.encoder_for(plain_recipe(size=64), weights) is first
    assert session.encoder_for(plain_recipe(pooling="average"), weights) is not first


def test_out_of_memory_has_a_name_of_its_own(session, weights, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    request = Request(picture(0), [(picture(1), 1.0)], plain_recipe())
    for step in ("vgg.encoder.Encoder.to", "transfer.engine.StyleTransfer.run", "transfer.session._finished"):
        with monkeypatch.context() as patch:
            patch.setattr(f"pipeline.{step}", full)
            with pytest.raises(OutOfMemory):
                one(session, request, weights)
    assert one(session, request, weights).status == "done"


def test_a_style_that_cannot_fit_is_named_before_anything_runs(session, weights, monkeypatch):
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 30_000_000)
    monkeypatch.setattr("pipeline.transfer.engine.StyleTransfer.run", None)
    with pytest.raises(OutOfMemory) as caught:
        one(session, Request(picture(0), [(picture(1), 1.0)], plain_recipe(size=64, style_scale=10)), weights)
    assert caught.value.style == LargeStyle(0, (640, 480))


def test_a_narrow_style_is_used(session, weights):
    thin = Picture.from_image(Image.new("RGB", (20_000, 1), (200, 30, 20)))
    assert one(session, Request(picture(0), [(thin, 1.0)], plain_recipe(size=64)), weights).status == "done"


def test_what_cannot_fit_is_not_started(session, weights, monkeypatch):
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 1000)
    monkeypatch.setattr("pipeline.transfer.engine.StyleTransfer.run", None)
    with pytest.raises(OutOfMemory):
        one(session, Request(picture(0), [(picture(1), 1.0)], plain_recipe()), weights)


def test_several_requests_are_as_each_alone(session, weights):
    """Contents, styles, blends, starts and seeds of their own, one recipe and size."""
    requests = [
        Request(picture(0), [(picture(1), 1.0)], plain_recipe()),
        Request(picture(2), [(picture(3), 0.7), (picture(4), 0.3)], plain_recipe(init="noise")),
        Request(picture(5), [(picture(1), 1.0)], plain_recipe(init="noise", seed=3)),
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
    # With the palette: without it, the right is not blue where only AVX2 is used.
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
    one(session, Request(picture(3), [(picture(5), 1.0)], plain_recipe()), weights)
    together = session.stylize(requests, weights)
    assert [(each.cache_hits, each.cache_misses) for each in together] == [(2, 2), (2, 2)]
    for request, outcome in zip(requests, together, strict=True):
        alone = np.asarray(image_of(one(session, request, weights)), int)
        assert np.abs(np.asarray(image_of(outcome), int) - alone).max() <= 2


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
    outcome = one(session, Request(picture(0), [(picture(1), 1.0)], plain_recipe(**fields)), weights)
    assert outcome.status in {"done", "diverged"}
    assert (outcome.error is None) == (outcome.status == "done")


@pytest.mark.gpu
def test_the_gpu_gives_the_cpus_picture(weights, tmp_path):
    request = Request(picture(0), [(picture(1), 1.0)], plain_recipe())
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
    fetch = StepperCache.fetch
    monkeypatch.setattr(
        StepperCache, "fetch", lambda self, *arguments: built.append(arguments[3]) or fetch(self, *arguments)
    )
    monkeypatch.setattr("pipeline.transfer.pyramid.PART_STEPS", 2)  # the last level has two parts
    session = Session(DevicePlan("cpu", "a CPU", "bfloat16", 0), TargetCache(None))
    request = Request(picture(0), [(picture(1), 1.0)], recipe_for(precision=precision, steps=4))
    assert one(session, request, weights).dtype == dtype
    assert built == [getattr(torch, dtype)] * 3


def test_without_strength_the_picture_stays_the_photograph(session, weights) -> None:
    content = picture(0, 96, 128)
    request = Request(content, [(picture(1), 1.0)], recipe_for(strength=0, pyramid=0))
    outcome = one(session, request, weights)
    plain_BCHW = content.tensor((68, 51))
    assert (outcome.image_BCHW - plain_BCHW).abs().max() < 2 / 255


# Convolutions up to conv5_1, some left out.
CHANNELS = {"conv1_1": 16, "conv2_1": 48, "conv3_1": 128, "conv4_1": 256, "conv5_1": 256}


def test_tiles_are_planned_for_the_addresses_that_are_left_and_tried_in_any_case(session, monkeypatch):
    last = PictureMemory(Recipe(), CHANNELS, 1400, 1400, 2)
    left = [last.untiled]
    monkeypatch.setattr(session.memory, "free_bytes", lambda alone=True: last.untiled)
    monkeypatch.setattr(session.memory, "address_bytes", lambda: left[0])
    monkeypatch.setattr(session.memory, "most_bytes", lambda alone: 5 << 30)

    def fit(**choice):
        return session._fit(last, 1, True, TileChoice(**choice))

    assert fit() == (None, last.untiled)
    left[0] = last.untiled // 2
    tiling, estimate = fit()
    assert tiling.limit_bytes == round(TILES_USABLE * left[0])
    assert tiling.most_bytes == 5 << 30
    assert tiling.threads == torch.get_num_threads()
    assert estimate <= tiling.limit_bytes
    assert fit(off=True) == (None, last.untiled)
    left[0] = 1
    _, smallest = fit()
    assert smallest < estimate
    with pytest.raises(OutOfMemory) as refused:  # the smallest tiles are tried once
        fit(halved=1)
    assert refused.value.foreseen
    left[0] = None
    monkeypatch.setattr(session.memory, "free_bytes", lambda alone=True: smallest + 1)
    monkeypatch.setattr(session.memory, "fits", lambda *_: True)  # as on a GPU: the whole picture was tried
    assert fit(halved=1)[1] == smallest
    with pytest.raises(OutOfMemory):
        fit(halved=2)


@pytest.mark.parametrize("size", [48, 1400])
@pytest.mark.parametrize("edge", [0, 512])
@pytest.mark.parametrize("free", [1, 2, 100])
def test_each_attempt_needs_less_than_the_one_before_however_much_memory_seems_to_be_free(
    session, monkeypatch, size, edge, free
):
    last = PictureMemory(Recipe(), CHANNELS, size, size, 2)
    monkeypatch.setattr(session.memory, "free_bytes", lambda alone=True: free * last.untiled)
    _, estimate = session._fit(last, 1, True, TileChoice(edge=edge))
    attempts = 1
    for halved in range(1, 5):
        try:
            tiling, less = session._fit(last, 1, True, TileChoice(edge=edge, halved=halved))
        except OutOfMemory:
            break
        assert tiling.plan(last) is not None
        assert less < estimate
        estimate, attempts = less, attempts + 1
    assert attempts > 1
