"""Tiles change nothing: losses and gradients are those of the untiled picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from test_explicit import RECIPES, assert_same, masked_targets, soft_masks
from tiny import random_image, tiny_encoder
from torch import Tensor

from pipeline.spec.recipe import Recipe
from pipeline.transfer import stored, tile_planning
from pipeline.transfer.checkpoints import RunState
from pipeline.transfer.explicit import ExplicitObjective
from pipeline.transfer.network import Activations, FrozenNetwork, frozen_network
from pipeline.transfer.objective import Losses, Objective, ReferenceObjective
from pipeline.transfer.scratch_file import ScratchFile
from pipeline.transfer.segments import Segment, segments
from pipeline.transfer.stepper import MicroBatch, Stepper
from pipeline.transfer.sweep import AutogradNetwork
from pipeline.transfer.targets import StyleTargets, gram_targets
from pipeline.transfer.tile_planning import LevelPlan, PictureMemory
from pipeline.transfer.tiled import TiledObjective
from pipeline.transfer.tiles import TilePlan, TileSize, whole
from pipeline.vgg.encoder import Encoder

T = TypeVar("T")

# Rows and columns, in pixels; the last is one strip.
TILES = {"small": (16, 32), "columns": (512, 48), "strips": (32, 512)}
SIZES = {"odd": (53, 83), "even": (64, 80), "narrow": (37, 107)}
MIDDLE = (101, 150)
# Of so large a picture, some tiles reach no border, nor do their surroundings, down to the deepest segment.
LARGE = (149, 227)


def plan_of(encoder: Encoder, rows: int, columns: int) -> TilePlan:
    return TilePlan(
        {
            each.depth: TileSize(
                max(each.stride, rows >> each.depth), max(each.stride, columns >> each.depth)
            )
            for each in segments(tuple(encoder.channels))
        }
    )


def pair(
    encoder: Encoder,
    recipe: Recipe,
    content: Tensor,
    targets: StyleTargets,
    tiles: tuple[int, int],
    dtype: torch.dtype,
) -> tuple[Objective, Objective]:
    """The explicit objective, untiled and tiled."""
    plan, network = plan_of(encoder, *tiles), frozen_network(encoder, dtype)
    return (
        ExplicitObjective(encoder, recipe, content, targets, dtype),
        TiledObjective(network, recipe, content, targets, plan),
    )


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def check_float64(name: str, tiles: tuple[int, int], size: tuple[int, int]) -> None:
    recipe = RECIPES[name]
    encoder = tiny_encoder(recipe).double()
    content, image = (random_image(*size, seed=seed).double() for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2).double(), list(recipe.style_layers))
    untiled, tiled = pair(encoder, recipe, content, targets, tiles, torch.float64)
    losses, gradient = untiled.evaluate(1.2 * image - 0.1)
    tiled_losses, tiled_gradient = tiled.evaluate(1.2 * image - 0.1)
    assert_same(tiled_losses, losses, 1e-10)
    assert distance(tiled_gradient, gradient) < 1e-10


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", RECIPES)
def test_in_float64_the_gradient_is_the_untiled_one(name: str, size: tuple[int, int]) -> None:
    check_float64(name, TILES["small"], size)


@pytest.mark.parametrize("tiles", ["columns", "strips"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_gradient_in_long_tiles_is_the_untiled_one(name: str, tiles: str) -> None:
    check_float64(name, TILES[tiles], (85, 131))


@pytest.mark.parametrize("name", ["default", "average", "margin"])
def test_the_gradient_of_a_large_picture_is_the_untiled_one(name: str) -> None:
    check_float64(name, TILES["small"], LARGE)


class Counting(FrozenNetwork):
    """Counts the segments that it computes, with and without what a backward pass needs."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__(encoder, dtype)
        self.kept = self.dropped = 0

    def run(self, segment: Segment, x: Tensor, keep: bool = True) -> Activations:
        self.kept, self.dropped = self.kept + keep, self.dropped + (not keep)
        return super().run(segment, x, keep)


@pytest.mark.parametrize("kept", [{4: 99}, {4: 1, 3: 2}, {0: 99, 2: 99, 3: 99, 4: 99}, {0: 3}], ids=str)
@pytest.mark.parametrize(("style_loss", "pooling"), [("bures", "max"), ("gram", "average")])
def test_what_is_kept_is_not_computed_again_and_changes_nothing(
    kept: dict[int, int], style_loss: str, pooling: str
) -> None:
    recipe, size = Recipe(margin=16, style_loss=style_loss, pooling=pooling), (115, 150)
    encoder = tiny_encoder(recipe).double()
    targets = masked_targets(encoder, recipe, soft_masks(1, 2, *size))
    content, image = (random_image(*size, seed=seed).double() for seed in (1, 3))
    losses, gradient = ExplicitObjective(encoder, recipe, content, targets, torch.float64).evaluate(image)
    plan, network = plan_of(encoder, 32, 48), Counting(encoder, torch.float64)
    parts = segments(tuple(encoder.channels))
    box = whole(image)
    counts = {part.depth: len(list(plan.tiles(part, box.pooled(part.depth)))) for part in parts}
    tiled = TiledObjective(network, recipe, content, targets, replace(plan, kept=kept))
    network.kept = network.dropped = 0
    for _ in range(2):  # nothing is left of the first evaluation
        tiled_losses, tiled_gradient = tiled.evaluate(image)
        assert_same(tiled_losses, losses, 1e-10)
        assert distance(tiled_gradient, gradient) < 1e-10
    kept_tiles = sum(min(kept.get(depth, 0), count) for depth, count in counts.items())
    assert network.kept == 2 * sum(counts.values())
    # The content's features in the first segment are computed again, too.
    assert network.dropped == 2 * (sum(counts.values()) - kept_tiles + counts[0])


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is put into scratch files."""
    objects: list[object] = []
    real = ScratchFile.put

    def counted(self: ScratchFile, value: T) -> Callable[[], T]:
        objects.append(value)
        return real(self, value)

    monkeypatch.setattr(ScratchFile, "put", counted)
    return objects


@pytest.mark.parametrize("has_space", [True, False], ids=["space", "no space"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_what_is_in_files_is_what_is_kept_in_memory_or_else_computed_again(
    dtype: torch.dtype, has_space: bool, put: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_space:
        monkeypatch.setattr(stored, "SPARE", math.inf)
    recipe = Recipe()
    encoder = tiny_encoder(recipe).to(torch.float64 if dtype == torch.float64 else torch.float32)
    content, image = (random_image(*MIDDLE, seed=seed).to(encoder.mean) for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2).to(encoder.mean), list(recipe.style_layers))
    # As planned, but for the sizes of tiles and what is in memory.
    height, width = (side - 2 * recipe.margin for side in MIDDLE)
    memory = PictureMemory(recipe, encoder.channels, width, height, dtype.itemsize)
    base = replace(plan_of(encoder, 32, 48), recompute=True, kept=dict.fromkeys((0, 2, 3, 4), 1))
    monkeypatch.setattr(tile_planning, "is_sooner_moved", lambda *_: True)
    plan = memory.filing(base, 1)
    assert plan.filed_content >= {0}
    assert plan.filed.keys() == {0, 2, 3, 4}

    def evaluated(plan: TilePlan) -> tuple[int, Losses, Tensor]:
        network = Counting(encoder, dtype)
        tiled = TiledObjective(network, recipe, content, targets, plan, scratch=tmp_path / "scratch")
        tiled.evaluate(image)
        network.dropped = 0
        losses, gradient = tiled.evaluate(image)  # in the space of the first
        return network.dropped, losses, gradient

    counts = {depth: kept + plan.filed[depth] for depth, kept in plan.kept.items()}
    dropped, losses, gradient = evaluated(replace(base, kept=counts) if has_space else base)
    found_dropped, found_losses, found_gradient = evaluated(plan)
    assert torch.equal(found_losses.total, losses.total)
    assert torch.equal(found_gradient, gradient)
    if has_space:
        assert len(put) == 2 * sum(plan.filed.values())
        assert found_dropped == 0 < dropped  # the content's features are not computed again either
    else:
        assert not put
        assert found_dropped == dropped


def test_the_reference_keeps_activations_too() -> None:
    recipe, size = Recipe(), MIDDLE
    encoder = tiny_encoder(recipe).double()
    content, image = (random_image(*size, seed=seed).double() for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2).double(), list(recipe.style_layers))
    plan = replace(plan_of(encoder, 32, 48), kept={0: 2, 2: 99, 3: 1})
    losses, gradient = ReferenceObjective(encoder, recipe, content, targets).evaluate(image)
    tiled = TiledObjective(AutogradNetwork(encoder), recipe, content, targets, plan)
    tiled_losses, tiled_gradient = tiled.evaluate(image)
    assert_same(tiled_losses, losses, 1e-10)
    assert distance(tiled_gradient, gradient) < 1e-10


@pytest.mark.parametrize("margin", [0, 5, 16, 40])
@pytest.mark.parametrize(("style_loss", "pooling"), [("bures", "max"), ("gram", "average")])
def test_masks_margins_and_batches(margin: int, style_loss: str, pooling: str) -> None:
    recipe = Recipe(margin=margin, style_loss=style_loss, pooling=pooling)
    encoder, size = tiny_encoder(recipe).double(), (115, 150)
    targets = masked_targets(encoder, recipe, soft_masks(2, 3, *size))
    content, image = (
        torch.cat([random_image(*size, seed=seed) for seed in seeds]).double() for seeds in ((1, 4), (3, 5))
    )
    untiled, tiled = pair(encoder, recipe, content, targets, (32, 48), torch.float64)
    losses, gradient = untiled.evaluate(image)
    tiled_losses, tiled_gradient = tiled.evaluate(image)
    assert_same(tiled_losses, losses, 1e-10)
    for own, other in zip(tiled_gradient, gradient, strict=True):
        assert distance(own, other) < 1e-10


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_the_reference_in_tiles_is_the_reference(name: str, masked: bool) -> None:
    recipe, size = RECIPES[name], (85, 131)
    encoder = tiny_encoder(recipe).double()
    content, image = (random_image(*size, seed=seed).double() for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2).double(), list(recipe.style_layers))
    if masked:
        targets = masked_targets(encoder, recipe, soft_masks(1, 2, *size))
    plan = plan_of(encoder, 32, 48)
    losses, gradient = ReferenceObjective(encoder, recipe, content, targets).evaluate(image)
    tiled = TiledObjective(AutogradNetwork(encoder), recipe, content, targets, plan)
    tiled_losses, tiled_gradient = tiled.evaluate(image)
    assert_same(tiled_losses, losses, 1e-10)
    assert distance(tiled_gradient, gradient) < 1e-10


@pytest.mark.parametrize("name", ["default", "gatys", "normalized gram"])
def test_in_float32_the_gradient_is_the_untiled_one(name: str) -> None:
    recipe, size = RECIPES[name], MIDDLE
    encoder = tiny_encoder(recipe)
    content, image = (random_image(*size, seed=seed) for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2), list(recipe.style_layers))
    untiled, tiled = pair(encoder, recipe, content, targets, (32, 48), torch.float32)
    losses, gradient = untiled.evaluate(image)
    tiled_losses, tiled_gradient = tiled.evaluate(image)
    assert_same(tiled_losses, losses, 1e-5)
    assert distance(tiled_gradient, gradient) < 1e-5


@pytest.mark.parametrize("name", ["default", "normalized gram", "average"])
def test_in_bfloat16_it_is_as_near_as_rounding_allows(name: str) -> None:
    recipe, size = RECIPES[name], MIDDLE
    encoder = tiny_encoder(recipe)
    content, image = (random_image(*size, seed=seed) for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2), list(recipe.style_layers))
    untiled, tiled = pair(encoder, recipe, content, targets, (32, 48), torch.bfloat16)
    losses, gradient = untiled.evaluate(image)
    tiled_losses, tiled_gradient = tiled.evaluate(image)
    assert_same(tiled_losses, losses, 1e-3)
    assert distance(tiled_gradient, gradient) < 1e-2


def test_content_features_may_be_computed_again_for_every_tile() -> None:
    layers = {"relu1_2": 1.0, "relu3_1": 1.0, "relu3_2": 2.0, "conv4_1": 1.0, "relu4_3": 1.0, "relu5_1": 1.0}
    recipe, size = Recipe(content_layers=layers), MIDDLE
    encoder = tiny_encoder(recipe).double()
    content, image = (random_image(*size, seed=seed).double() for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2).double(), list(recipe.style_layers))
    kept = plan_of(encoder, 32, 48)
    again = TilePlan(kept.sizes, recompute=True)
    one, other = (
        TiledObjective(frozen_network(encoder, torch.float64), recipe, content, targets, plan)
        for plan in (kept, again)
    )
    # relu5_1 has no fewer values than the segment's input, and is kept.
    assert set(one.content._kept) - set(other.content._kept) == {"relu3_1", "relu3_2", "conv4_1", "relu4_3"}
    losses, gradient = one.evaluate(image)
    other_losses, other_gradient = other.evaluate(image)
    assert_same(other_losses, losses, 1e-10)
    assert distance(other_gradient, gradient) < 1e-10


@pytest.mark.gpu
@pytest.mark.parametrize("kept", [{}, {0: 2, 2: 99, 3: 99, 4: 99}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu_tiles_change_nothing_and_never_wait(dtype: torch.dtype, kept: dict[int, int]) -> None:
    recipe, size = Recipe(), (293, 411)
    encoder = tiny_encoder(recipe).cuda()
    content, image = (random_image(*size, seed=seed).cuda() for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2).cuda(), list(recipe.style_layers))
    targets = targets.to(torch.device("cuda"))
    plan, network = replace(plan_of(encoder, 64, 96), kept=kept), frozen_network(encoder, dtype)
    losses, gradient = ExplicitObjective(encoder, recipe, content, targets, dtype).evaluate(image)
    tiled = TiledObjective(network, recipe, content, targets, plan)
    tiled.evaluate(image)
    torch.cuda.set_sync_debug_mode("error")
    try:
        tiled_losses, tiled_gradient = tiled.evaluate(image)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # A GPU multiplies float32 with fewer digits, and in another order for another shape.
    tolerance = 1e-3 if dtype == torch.float32 else 2e-2
    assert_same(tiled_losses, losses, tolerance)
    assert distance(tiled_gradient, gradient) < tolerance


def painted(recipe: Recipe, image: Tensor, target: Tensor, tiles: tuple[int, int] | None) -> Tensor:
    """What some steps make of an image in the style of `target`, in tiles or whole."""
    encoder = tiny_encoder(recipe).double()
    targets = gram_targets(encoder, target, list(recipe.style_layers))
    batch = MicroBatch(image, targets, [RunState(canvas=image)])
    plan = None if tiles is None else LevelPlan(plan_of(encoder, *tiles))
    stepper = Stepper(encoder, recipe, batch, torch.float64, plan)
    for _ in range(6):
        stepper.step()
    return stepper.canvas_BCHW


def test_a_painting_in_its_own_style_stays_as_it_is() -> None:
    """The identity test of Galerne et al. 2024: content and style are the same painting."""
    recipe = Recipe(margin=0, tv_weight=0.0)
    image = random_image(*MIDDLE).double()
    result = painted(recipe, image, image, (32, 48))
    assert float((result - image).abs().max()) < 1e-6


def test_the_result_has_no_seams() -> None:
    """Steps over tile borders are as large as elsewhere, and as without tiles."""
    recipe = Recipe(margin=0, tv_weight=0.0, optimizer="adam", learning_rate=0.01)
    image, target = random_image(160, 192).double(), random_image(160, 192, seed=5).double()
    tiled, whole = painted(recipe, image, target, (32, 48)), painted(recipe, image, target, None)
    assert float((tiled - image).abs().mean()) > 1e-2  # something was painted
    assert distance(tiled, whole) < 1e-6
    energy = (tiled - image).diff(dim=2).square().mean((0, 1, 3))
    at_borders = energy[31::32].mean()
    assert 0.5 < float(at_borders / energy.mean()) < 2
