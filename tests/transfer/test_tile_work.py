"""How much is computed in tiles, against a count of what the convolutions really do."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from tiny import random_image, tiny_encoder
from torch import Tensor

from pipeline.spec.recipe import Recipe
from pipeline.transfer.explicit import ExplicitObjective
from pipeline.transfer.network import frozen_network
from pipeline.transfer.segments import segments
from pipeline.transfer.targets import gram_targets
from pipeline.transfer.tile_planning import WORTH, LevelPlan, PictureMemory, Tiling
from pipeline.transfer.tile_work import activation_bytes, kept_tiles, work_factor
from pipeline.transfer.tiled import TiledObjective
from pipeline.transfer.tiles import TilePlan, square_tiles, whole

SLIM = {
    "conv1_1": 16, "conv1_2": 16, "conv2_1": 32, "conv2_2": 32, "conv3_1": 64, "conv3_2": 48, "conv3_3": 48,
    "conv3_4": 48, "conv4_1": 80, "conv4_2": 80, "conv4_3": 64, "conv4_4": 128, "conv5_1": 112,
}  # fmt: skip


@contextmanager
def counted_convolutions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the multiply-adds of all convolutions."""
    done = [0]
    convolve = F.conv2d

    def conv2d(x: Tensor, weight: Tensor, *rest: object, **options: object) -> Tensor:
        y = convolve(x, weight, *rest, **options)  # type: ignore[arg-type]
        done[0] += y.numel() * weight[0].numel()
        return y

    with monkeypatch.context() as patch:
        patch.setattr(F, "conv2d", conv2d)
        yield done


@pytest.mark.parametrize("kept", [{}, {4: 99, 3: 2}, {0: 2, 2: 99}], ids=str)
@pytest.mark.parametrize("recompute", [False, True])
def test_the_factor_is_what_convolutions_do(
    kept: dict[int, int], recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content_layers = {"relu2_1": 1.0, "relu3_1": 1.0, "relu3_2": 1.0, "relu4_2": 1.0}
    recipe = Recipe(margin=0, padding="zeros", content_layers=content_layers)
    encoder = tiny_encoder(recipe)
    content, image = (random_image(160, 192, seed=seed) for seed in (1, 3))
    targets = gram_targets(encoder, random_image(seed=2), list(recipe.style_layers))
    parts = segments(tuple(encoder.channels))
    plan = replace(square_tiles(parts, 64), kept=kept, recompute=recompute)
    untiled = ExplicitObjective(encoder, recipe, content, targets)
    tiled = TiledObjective(frozen_network(encoder, torch.float32), recipe, content, targets, plan)
    with counted_convolutions(monkeypatch) as done:
        untiled.evaluate(image)
        alone, done[0] = done[0], 0
        tiled.evaluate(image)
    factor = work_factor(plan, parts, encoder.channels, recipe, whole(image))
    assert factor == pytest.approx(done[0] / alone, rel=1e-6)


def test_activations_take_what_a_tile_keeps() -> None:
    recipe = Recipe(style_layers={"conv1_1": 1.0, "relu3_1": 1.0, "conv4_2": 1.0, "relu5_1": 1.0})
    encoder = tiny_encoder(recipe)
    network = frozen_network(encoder, torch.bfloat16)
    for segment in segments(tuple(encoder.channels)):
        channels = 3 if segment.depth == 0 else 4
        x = torch.rand(1, channels, 64, 96).to(torch.bfloat16, memory_format=torch.channels_last)
        packed = network.packed(network.run(segment, x))
        estimate = activation_bytes(segment, encoder.channels, encoder.layers, 2)
        assert bytes_held_by(packed) / (64 * 96) == pytest.approx(estimate, rel=1e-6)


def bytes_held_by(value: object) -> int:
    """Return the bytes of all tensors that an object refers to, each memory once."""
    storages: dict[int, int] = {}
    pending, seen = [value], set[int]()
    while pending:
        each = pending.pop()
        if id(each) in seen or isinstance(each, type | ModuleType):
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        pending += gc.get_referents(each)
    return sum(storages.values())


def test_the_deepest_are_kept_first_and_nothing_beyond_the_memory() -> None:
    parts = segments(tuple(SLIM))
    plan, box = square_tiles(parts, 512), whole(torch.empty(1, 3, 1024, 1024, device="meta"))
    tile_bytes = {0: 100.0, 2: 40.0, 3: 10.0, 4: 1.0}

    def kept(free: float) -> dict[int, int]:
        return kept_tiles(parts, plan, box, tile_bytes, dict.fromkeys(tile_bytes, free))

    assert kept(-5.0) == {}
    assert kept(3.5) == {4: 3}
    assert kept(4 + 40 + 85) == {4: 4, 3: 4, 2: 2}
    assert kept(10_000) == {0: 4, 2: 4, 3: 4, 4: 4}
    # What is kept of a shallow segment is there while deeper ones are computed.
    assert kept_tiles(parts, plan, box, tile_bytes, {0: 500.0, 2: 500.0, 3: 500.0, 4: 120.0}) == {
        4: 4, 3: 4, 2: 1,
    }  # fmt: skip


@pytest.mark.parametrize("part", [0.1, 0.3, 0.6, 0.9])
def test_more_memory_is_used_for_less_work(part: float) -> None:
    memory = PictureMemory(Recipe(history=3), SLIM, 2000, 1500, 2)
    least = memory.tiled(LevelPlan(memory.square(256)))

    def planned(limit: int) -> TilePlan:
        return Tiling(limit).in_tiles(memory).tiles

    limit = round(least + part * (memory.untiled - least))
    assert memory.tiled(Tiling(limit).in_tiles(memory)) <= limit
    plan = planned(limit)
    assert memory.factor(plan) <= WORTH * memory.factor(planned(round(0.95 * limit)))
    assert memory.factor(plan) < memory.factor(memory.largest(limit))
    assert 1 < memory.factor(plan) < 2
