from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import random_image, tiny_encoder
from torch import Tensor

from pipeline.neural.encoder import Encoder
from pipeline.neural.explicit import ExplicitObjective
from pipeline.neural.images import decode_image, to_tensor
from pipeline.neural.lbfgs import LBFGS
from pipeline.neural.objective import Losses, ReferenceObjective
from pipeline.neural.targets import gram_targets
from pipeline.neural.weights import read_weights, resolve_encoder
from pipeline.recipe import Recipe

EXAMPLES = Path(__file__).parents[1] / "examples"

RECIPES = {
    "default": Recipe(),
    "zeros": Recipe(padding="zeros"),
    "replicate": Recipe(padding="replicate"),
    "average": Recipe(pooling="average"),
    "gatys": Recipe(style_loss="gram", loss="gatys", content_layers={"conv4_1": 1.0}),
    "mean": Recipe(style_loss="gram", loss="mean"),
    "normalized gram": Recipe(style_loss="gram"),
    "before the relu": Recipe(style_layers={"conv1_1": 1.0, "conv3_1": 0.5, "relu3_1": 0.2}),
    "shared layer": Recipe(content_layers={"relu4_1": 1.0}, content_weight=3.0),
    "no pixels": Recipe(tv_weight=0.0, range_weight=0.0),
}


def objectives(
    encoder: Encoder, recipe: Recipe, size: tuple[int, int], dtype: torch.dtype = torch.float32
) -> tuple[ReferenceObjective, ExplicitObjective]:
    content = random_image(*size, seed=1)
    targets = gram_targets(encoder, random_image(seed=2), list(recipe.style_layers))
    arguments = (encoder, recipe, content, targets)
    return ReferenceObjective(*arguments), ExplicitObjective(*arguments, dtype)


def slim_encoder(recipe: Recipe) -> Encoder:
    layers = sorted({*recipe.content_layers, *recipe.style_layers})
    weights = read_weights(resolve_encoder("vgg19-slim", Path("nowhere"), None), layers)
    return Encoder(weights, layers, recipe.pooling, recipe.padding)


def cosine(one: Tensor, other: Tensor) -> float:
    flat = (one.double().flatten(), other.double().flatten())
    return float(torch.nn.functional.cosine_similarity(*flat, dim=0))


def assert_same(ours: Losses, reference: Losses) -> None:
    for part in ("total", "content", "style", "tv"):
        assert torch.allclose(getattr(ours, part), getattr(reference, part), rtol=1e-5, atol=1e-9), part
    assert ours.layers.keys() == reference.layers.keys()
    for layer, loss in reference.layers.items():
        assert torch.allclose(ours.layers[layer], loss, rtol=1e-5, atol=1e-12), layer


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [(40, 48), (37, 51)], ids=["even", "odd"])
def test_it_is_what_autograd_computes(name: str, size: tuple[int, int]) -> None:
    reference, explicit = objectives(tiny_encoder(RECIPES[name]), RECIPES[name], size)
    image = random_image(*size, seed=3) * 1.2 - 0.1
    losses, gradient = reference.evaluate(image)
    ours, our_gradient = explicit.evaluate(image)
    assert_same(ours, losses)
    assert cosine(our_gradient, gradient) > 0.99999
    assert float((our_gradient - gradient).norm() / gradient.norm()) < 1e-3


def test_several_pictures_are_evaluated_as_each_alone() -> None:
    recipe = Recipe()
    encoder = tiny_encoder(recipe)
    targets = gram_targets(encoder, random_image(seed=2), list(recipe.style_layers))
    contents, images = ([random_image(seed=seed) for seed in pair] for pair in ((1, 5), (3, 4)))
    together = ExplicitObjective(encoder, recipe, torch.cat(contents), targets)
    losses, gradient = together.evaluate(torch.cat(images))
    for index, (content, image) in enumerate(zip(contents, images, strict=True)):
        alone, alone_gradient = ExplicitObjective(encoder, recipe, content, targets).evaluate(image)
        assert float(losses.total[index]) == pytest.approx(float(alone.total), rel=1e-5)
        assert cosine(gradient[index], alone_gradient[0]) > 0.99999


def test_in_bfloat16_it_points_the_same_way() -> None:
    recipe, size = Recipe(), (192, 128)
    encoder = slim_encoder(recipe)
    content, style = (
        to_tensor(decode_image((EXAMPLES / name).read_bytes(), name), size)
        for name in ("content/lake.jpg", "styles/swirls.jpg")
    )
    targets = gram_targets(encoder, style, list(recipe.style_layers))
    image = 0.7 * content + 0.3 * style
    losses, gradient = ReferenceObjective(encoder, recipe, content, targets).evaluate(image)
    explicit = ExplicitObjective(encoder, recipe, content, targets, torch.bfloat16)
    ours, our_gradient = explicit.evaluate(image)
    assert our_gradient.dtype == torch.float32
    assert float(ours.total) == pytest.approx(float(losses.total), rel=0.01)
    assert cosine(our_gradient, gradient) > 0.985


def test_a_run_in_bfloat16_ends_where_one_in_float32_does() -> None:
    recipe = Recipe()
    encoder, size, reached = slim_encoder(recipe), (64, 80), {}
    for dtype in (torch.float32, torch.bfloat16):
        reference, explicit = objectives(encoder, recipe, size, dtype)
        canvas = random_image(*size, seed=1)
        flat = canvas.view(1, -1)
        optimizer = LBFGS(flat, 1.0, recipe.history)
        for _ in range(60):
            losses, gradient = explicit.evaluate(canvas)
            optimizer.step(flat, losses.total, gradient.contiguous().view(1, -1))
        with torch.no_grad():
            reached[dtype] = float(reference(optimizer.best_BN.view_as(canvas)).total)
    assert reached[torch.bfloat16] == pytest.approx(reached[torch.float32], rel=0.03)
