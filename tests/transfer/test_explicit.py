from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import random_image, tiny_encoder
from torch import Tensor

from pipeline.images.reading import decode_picture
from pipeline.spec.recipe import Recipe
from pipeline.transfer import convolutions
from pipeline.transfer.explicit import ExplicitObjective
from pipeline.transfer.lbfgs import LBFGS
from pipeline.transfer.losses import Moments
from pipeline.transfer.objective import Losses, ReferenceObjective
from pipeline.transfer.targets import StyleTargets, gram_targets, stack_targets
from pipeline.transfer.tensors import to_tensor
from pipeline.vgg.encoder import Encoder
from pipeline.vgg.weights import bundled_weights, read_weights

EXAMPLES = Path(__file__).parents[2] / "examples"

RECIPES = {
    "default": Recipe(margin=0),
    "zeros": Recipe(margin=0, padding="zeros"),
    "replicate": Recipe(margin=0, padding="replicate"),
    "average": Recipe(margin=0, pooling="average"),
    "gatys": Recipe(margin=0, style_loss="gram", loss="gatys", content_layers={"conv4_1": 1.0}),
    "mean": Recipe(margin=0, style_loss="gram", loss="mean"),
    "normalized gram": Recipe(margin=0, style_loss="gram"),
    "before the relu": Recipe(margin=0, style_layers={"conv1_1": 1.0, "conv3_1": 0.5, "relu3_1": 0.2}),
    "shared layer": Recipe(margin=0, content_layers={"relu4_1": 1.0}, content_weight=3.0),
    "no pixels": Recipe(margin=0, tv_weight=0.0, canvas="imagenet"),
    "margin": Recipe(margin=5),
    "plain variation": Recipe(margin=0, tv_chroma=1.0),
}


def objectives(
    encoder: Encoder, recipe: Recipe, size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> tuple[ReferenceObjective, ExplicitObjective]:
    content, style = (
        image.to(encoder.mean.dtype) for image in (random_image(*size, seed=1), random_image(seed=2))
    )
    targets = gram_targets(encoder, style, list(recipe.style_layers))
    arguments = (encoder, recipe, content, targets)
    return ReferenceObjective(*arguments), ExplicitObjective(*arguments, dtype)


def masked_targets(encoder: Encoder, recipe: Recipe, masks_BKHW: Tensor) -> StyleTargets:
    """A style for every region of every picture, all different."""
    count = masks_BKHW.shape[0] * masks_BKHW.shape[1]
    images = [random_image(seed=50 + number).to(encoder.mean.dtype) for number in range(count)]
    styles = [gram_targets(encoder, image, list(recipe.style_layers)) for image in images]
    return replace(stack_targets(styles), masks=masks_BKHW.to(encoder.mean.dtype))


def soft_masks(*shape: int, seed: int = 7) -> Tensor:
    """Smooth weights (BKHW) that add up to one."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 4 * torch.randn(*shape[:2], 4, 5, generator=generator)
    return F.interpolate(coarse, shape[2:], mode="bilinear", align_corners=False).softmax(1)


def slim_encoder(recipe: Recipe) -> Encoder:
    layers = sorted({*recipe.content_layers, *recipe.style_layers})
    weights = read_weights(bundled_weights("vgg19-slim"), layers)
    return Encoder(weights, layers, recipe.pooling, recipe.padding)


def cosine(one: Tensor, other: Tensor) -> float:
    flat = (one.double().flatten(), other.double().flatten())
    return float(torch.nn.functional.cosine_similarity(*flat, dim=0))


def assert_same(ours: Losses, reference: Losses, rtol: float) -> None:
    for part in ("total", "content", "style", "tv"):
        assert torch.allclose(getattr(ours, part), getattr(reference, part), rtol=rtol, atol=1e-9), part
    assert ours.layers.keys() == reference.layers.keys()
    for layer, loss in reference.layers.items():
        assert torch.allclose(ours.layers[layer], loss, rtol=rtol, atol=1e-12), layer


SIZES = pytest.mark.parametrize("size", [(40, 48), (37, 51)], ids=["even", "odd"])


@pytest.mark.parametrize("name", RECIPES)
@SIZES
@pytest.mark.parametrize("bound", [0, 10**9], ids=["separate border", "padded copy"])
def test_it_agrees_with_autograd(
    name: str, size: tuple[int, int], bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolutions, "SEPARATE_BORDER", bound)
    monkeypatch.setattr(convolutions, "SEPARATE_BORDER_BACKWARD", bound)
    encoder = tiny_encoder(RECIPES[name]).double()
    reference, ours = objectives(encoder, RECIPES[name], size, torch.float64)
    image = random_image(*size, seed=3).double() * 1.2 - 0.1
    losses, gradient = reference.evaluate(image)
    our_losses, our_gradient = ours.evaluate(image)
    assert_same(our_losses, losses, 1e-8)
    assert float((our_gradient - gradient).norm() / gradient.norm()) < 1e-6


@pytest.mark.parametrize("name", RECIPES)
@SIZES
def test_in_float32_it_agrees_with_autograd(name: str, size: tuple[int, int]) -> None:
    reference, ours = objectives(tiny_encoder(RECIPES[name]), RECIPES[name], size)
    image = random_image(*size, seed=3) * 1.2 - 0.1
    losses, gradient = reference.evaluate(image)
    our_losses, our_gradient = ours.evaluate(image)
    assert_same(our_losses, losses, 1e-5)
    assert cosine(our_gradient, gradient) > 0.99999
    assert float((our_gradient - gradient).norm() / gradient.norm()) < 1e-3


@pytest.mark.parametrize("name", RECIPES)
@SIZES
def test_with_masks_it_agrees_with_autograd(name: str, size: tuple[int, int]) -> None:
    recipe = RECIPES[name]
    encoder = tiny_encoder(recipe).double()
    targets = masked_targets(encoder, recipe, soft_masks(2, 3, *size))
    content = torch.cat([random_image(*size, seed=seed) for seed in (1, 4)]).double()
    image = torch.cat([random_image(*size, seed=seed) for seed in (3, 5)]).double() * 1.2 - 0.1
    losses, gradient = ReferenceObjective(encoder, recipe, content, targets).evaluate(image)
    ours, our_gradient = ExplicitObjective(encoder, recipe, content, targets, torch.float64).evaluate(image)
    assert_same(ours, losses, 1e-8)
    assert float((our_gradient - gradient).norm() / gradient.norm()) < 1e-6


@pytest.mark.parametrize("margin", [5, 16])
@pytest.mark.parametrize("style_loss", ["bures", "gram"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_with_a_margin_it_agrees_with_autograd(margin: int, style_loss: str, masked: bool) -> None:
    recipe, size = Recipe(margin=margin, style_loss=style_loss), (85, 97)
    encoder = tiny_encoder(recipe).double()
    content, image = (random_image(*size, seed=seed).double() for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2).double(), list(recipe.style_layers))
    if masked:
        targets = masked_targets(encoder, recipe, soft_masks(1, 2, *size))
    losses, gradient = ReferenceObjective(encoder, recipe, content, targets).evaluate(image)
    ours, our_gradient = ExplicitObjective(encoder, recipe, content, targets, torch.float64).evaluate(image)
    assert_same(ours, losses, 1e-8)
    assert float((our_gradient - gradient).norm() / gradient.norm()) < 1e-6


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_a_margin_has_no_style_loss(masked: bool) -> None:
    """At the first layer only one pixel of the margin counts: the one that a convolution reaches."""
    recipe = Recipe(style_layers={"relu1_1": 1.0}, margin=5, tv_weight=0.0, canvas="imagenet")
    encoder = tiny_encoder(recipe)
    image, targets = random_image(seed=3), gram_targets(encoder, random_image(seed=2), ["relu1_1"])
    if masked:
        targets = masked_targets(encoder, recipe, soft_masks(1, 2, 40, 48))
    other, nearer = random_image(seed=9), random_image(seed=9)
    other[:, :, 4:-4, 4:-4], nearer[:, :, 5:-5, 5:-5] = image[:, :, 4:-4, 4:-4], image[:, :, 5:-5, 5:-5]
    for kind in (ReferenceObjective, ExplicitObjective):
        objective = kind(encoder, recipe, random_image(seed=1), targets)
        style = [float(objective.evaluate(each)[0].style) for each in (image, other, nearer)]
        assert style[1] == pytest.approx(style[0], rel=1e-6)
        assert style[2] != pytest.approx(style[0], rel=1e-4)


@pytest.mark.parametrize("name", ["default", "gatys", "mean", "normalized gram"])
def test_with_masks_the_gradient_is_the_slope_of_the_loss(name: str) -> None:
    recipe = RECIPES[name]
    encoder = tiny_encoder(recipe).double()
    targets = masked_targets(encoder, recipe, soft_masks(1, 2, 40, 48))
    ours = ExplicitObjective(encoder, recipe, random_image(seed=1).double(), targets, torch.float64)
    image, way = random_image(seed=3).double(), random_image(seed=4).double() - 0.5
    slope = float((ours.evaluate(image)[1] * way).sum())
    step = 1e-7  # short, so that hardly a ReLU turns
    ahead, behind = (float(ours.evaluate(image + sign * step * way)[0].total) for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("name", ["default", "gatys", "mean", "normalized gram"])
@pytest.mark.parametrize("size", [(40, 48), (37, 51)])
def test_a_region_of_all_pixels_is_the_same_as_no_mask(name: str, size: tuple[int, int]) -> None:
    recipe = RECIPES[name]
    encoder = tiny_encoder(recipe).double()
    content, image = (random_image(*size, seed=seed).double() for seed in (1, 3))
    masks = torch.cat([torch.ones(1, 1, *size), torch.zeros(1, 1, *size)], 1)
    masked = masked_targets(encoder, recipe, masks)
    plain = gram_targets(encoder, random_image(seed=50).double(), list(recipe.style_layers))
    for kind in (ReferenceObjective, partial(ExplicitObjective, dtype=torch.float64)):
        losses, gradient = kind(encoder, recipe, content, plain).evaluate(image)
        with_mask, masked_gradient = kind(encoder, recipe, content, masked).evaluate(image)
        assert_same(with_mask, losses, 1e-10)
        assert torch.allclose(masked_gradient, gradient, rtol=1e-7, atol=1e-12)


def test_mirrored_regions_give_mirrored_gradients() -> None:
    recipe = RECIPES["zeros"].model_copy(update={"pooling": "average"})
    encoder = tiny_encoder(recipe).double()
    for convolution in encoder.convolutions.values():  # a network that sees both ways alike
        weight = convolution.get_parameter("weight")
        weight.copy_((weight + weight.flip(3)) / 2)
    size = (48, 64)  # whole down to the deepest layer
    content, image = (random_image(*size, seed=seed).double() for seed in (1, 3))
    targets = masked_targets(encoder, recipe, soft_masks(1, 2, *size))
    mirrored = replace(targets, masks=targets.masks.flip(3))
    losses, gradient = ExplicitObjective(encoder, recipe, content, targets, torch.float64).evaluate(image)
    other = ExplicitObjective(encoder, recipe, content.flip(3), mirrored, torch.float64)
    other_losses, other_gradient = other.evaluate(image.flip(3))
    assert_same(other_losses, losses, 1e-9)
    assert torch.allclose(other_gradient.flip(3), gradient, rtol=1e-6, atol=1e-12)


def test_a_region_moves_its_own_pixels_only() -> None:
    """At the first layer a region reaches only one pixel beyond its edge."""
    recipe = Recipe(
        style_layers={"relu1_1": 1.0}, content_weight=0.0, tv_weight=0.0, canvas="imagenet", margin=0
    )
    encoder = tiny_encoder(recipe)
    masks = torch.zeros(1, 2, 40, 48)
    masks[:, 0, :, :24], masks[:, 1, :, 24:] = 1, 1
    targets = masked_targets(encoder, recipe, masks)
    moments = targets.layers["relu1_1"]
    scale = torch.tensor([1.0, 2.0])  # of the second region's style only
    louder = Moments(moments.mean * scale[:, None], moments.second * scale[:, None, None] ** 2)
    other = replace(targets, layers={"relu1_1": louder})
    image = random_image(seed=3)
    gradients = [
        ExplicitObjective(encoder, recipe, random_image(seed=1), each).evaluate(image)[1]
        for each in (targets, other)
    ]
    difference = (gradients[0] - gradients[1]).abs().amax((0, 1, 2))
    assert difference[:23].max() == 0
    assert difference[26:].min() > 0


def test_the_loss_of_a_canvas_that_is_not_finite_is_not_finite() -> None:
    for recipe in (RECIPES["default"], RECIPES["no pixels"]):
        ours = objectives(tiny_encoder(recipe), recipe, (40, 48))[1]
        for value in (float("nan"), float("inf")):
            image = random_image(seed=3)
            image[0, 0, 5, 5] = value
            assert not torch.isfinite(ours.evaluate(image)[0].total).any()


@pytest.mark.parametrize("name", ["default", "normalized gram", "gatys"])
@pytest.mark.parametrize("masked", [False, True])
def test_load_reuses_the_memory_of_the_job_before(name: str, masked: bool) -> None:
    recipe = RECIPES[name]
    encoder = tiny_encoder(recipe)
    jobs = []
    for seed in (1, 5):
        style = gram_targets(encoder, random_image(seed=seed + 1), list(recipe.style_layers))
        if masked:
            style = masked_targets(encoder, recipe, soft_masks(1, 2, 40, 48, seed=seed))
        jobs.append((random_image(seed=seed), style))
    loaded, image = ExplicitObjective(encoder, recipe, *jobs[0]), random_image(seed=3)
    before = [tensor.data_ptr() for tensor in tensors_of(loaded)]
    loaded.evaluate(image)
    loaded.load(*jobs[1])
    losses, gradient = loaded.evaluate(image)
    assert [tensor.data_ptr() for tensor in tensors_of(loaded)] == before
    fresh, fresh_gradient = ExplicitObjective(encoder, recipe, *jobs[1]).evaluate(image)
    assert torch.equal(losses.total, fresh.total)
    assert torch.equal(gradient, fresh_gradient)


@pytest.mark.parametrize(("dtype", "masked"), [(torch.float32, False), (torch.bfloat16, True)], ids=str)
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("bound", [0, 10**9], ids=["separate border", "padded copy"])
def test_an_evaluation_reads_no_number_from_the_device(
    name: str, dtype: torch.dtype, bound: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolutions, "SEPARATE_BORDER", bound)
    monkeypatch.setattr(convolutions, "SEPARATE_BORDER_BACKWARD", bound)
    encoder, recipe = tiny_encoder(RECIPES[name]), RECIPES[name]
    ours = objectives(encoder, recipe, (40, 48), dtype)[1]
    if masked:
        targets = masked_targets(encoder, recipe, soft_masks(1, 2, 40, 48))
        ours = ExplicitObjective(encoder, recipe, random_image(seed=1), targets, dtype)
    losses, gradient = on_meta(ours).evaluate(random_image().to("meta"))
    assert losses.total.device.type == gradient.device.type == "meta"
    assert gradient.shape == (1, 3, 40, 48)
    assert gradient.is_contiguous()


def tensors_of(value: object) -> list[Tensor]:
    """Every tensor in nested dictionaries, lists and objects of ours, always in the same order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in tensors_of(part)]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors_of(part)]
    return tensors_of(vars(value)) if is_ours(value) else []


def on_meta(value: Any) -> Any:
    """Return a copy of nested values whose tensors are on the meta device, without numbers."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, dict):
        return {key: on_meta(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_meta(part) for part in value)
    if is_ours(value):
        moved = copy(value)
        vars(moved).update(on_meta(vars(value)))
        return moved
    return value


def is_ours(value: object) -> bool:
    return type(value).__module__.startswith("pipeline.transfer")


def test_a_batch_is_evaluated_as_each_picture_alone() -> None:
    recipe = Recipe(margin=0)
    encoder = tiny_encoder(recipe)
    targets = gram_targets(encoder, random_image(seed=2), list(recipe.style_layers))
    contents, images = ([random_image(seed=seed) for seed in pair] for pair in ((1, 5), (3, 4)))
    together = ExplicitObjective(encoder, recipe, torch.cat(contents), targets)
    losses, gradient = together.evaluate(torch.cat(images))
    for index, (content, image) in enumerate(zip(contents, images, strict=True)):
        alone, alone_gradient = ExplicitObjective(encoder, recipe, content, targets).evaluate(image)
        assert float(losses.total[index]) == pytest.approx(float(alone.total), rel=1e-5)
        assert cosine(gradient[index], alone_gradient[0]) > 0.99999


PAIR = ("content/lake.jpg", "styles/swirls.jpg")


def example_pictures(size: tuple[int, int], *names: str) -> list[Tensor]:
    return [to_tensor(decode_picture((EXAMPLES / name).read_bytes(), name).image, size) for name in names]


def test_in_bfloat16_the_gradient_points_the_same_way() -> None:
    recipe = Recipe()
    encoder = slim_encoder(recipe)
    content, style = example_pictures((192, 128), *PAIR)
    targets = gram_targets(encoder, style, list(recipe.style_layers))
    image = 0.7 * content + 0.3 * style
    losses, gradient = ReferenceObjective(encoder, recipe, content, targets).evaluate(image)
    ours, our_gradient = ExplicitObjective(encoder, recipe, content, targets, torch.bfloat16).evaluate(image)
    assert our_gradient.dtype == torch.float32
    assert float(ours.total) == pytest.approx(float(losses.total), rel=0.01)
    assert cosine(our_gradient, gradient) > 0.985


def test_in_bfloat16_with_masks_the_gradient_points_the_same_way() -> None:
    recipe, size = Recipe(), (192, 128)
    encoder = slim_encoder(recipe)
    content, *styles = example_pictures(size, *PAIR, "styles/mosaic.jpg")
    targets = stack_targets([gram_targets(encoder, style, list(recipe.style_layers)) for style in styles])
    targets = replace(targets, masks=soft_masks(1, 2, size[1], size[0]))
    image = 0.7 * content + 0.3 * styles[0]
    losses, gradient = ReferenceObjective(encoder, recipe, content, targets).evaluate(image)
    ours, our_gradient = ExplicitObjective(encoder, recipe, content, targets, torch.bfloat16).evaluate(image)
    assert float(ours.total) == pytest.approx(float(losses.total), rel=0.01)
    assert cosine(our_gradient, gradient) > 0.985


def test_a_run_in_bfloat16_ends_where_one_in_float32_does() -> None:
    recipe, reached = Recipe(margin=0), {}
    encoder, (content, style) = slim_encoder(recipe), example_pictures((96, 64), *PAIR)
    targets = gram_targets(encoder, style, list(recipe.style_layers))
    reference = ReferenceObjective(encoder, recipe, content, targets)
    for dtype in (torch.float32, torch.bfloat16):
        objective = ExplicitObjective(encoder, recipe, content, targets, dtype)
        canvas = content.clone()
        flat = canvas.view(1, -1)
        optimizer = LBFGS(flat, 1.0, recipe.history)
        for _ in range(40):
            losses, gradient = objective.evaluate(canvas)
            optimizer.step(flat, losses.total, gradient.contiguous().view(1, -1))
        with torch.no_grad():
            reached[dtype] = float(reference.losses(optimizer.best_BN.view_as(canvas)).total)
    # With few pixels and a heavy relu1_1, rounding counts for more than in real pictures.
    assert reached[torch.bfloat16] == pytest.approx(reached[torch.float32], rel=0.08)
