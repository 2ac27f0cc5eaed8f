from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import tiny_encoder

from pipeline.spec.recipe import Recipe
from pipeline.transfer.devices import DevicePlan
from pipeline.transfer.forecast import work_factor
from pipeline.transfer.memory import FREE_IF_UNKNOWN, MemoryModel
from pipeline.transfer.pyramid import Level
from pipeline.transfer.run_work import RunWork
from pipeline.transfer.tile_planning import AUTO, PictureMemory, TileChoice, Tiling
from pipeline.vgg.weights import bundled_weights

CPU = DevicePlan("cpu", "CPU", "float32", 0)
LEVELS = [Level(10, 10, 4), Level(20, 10, 3), Level(20, 10, 2)]


def test_work_is_pixels_and_counts_parts_of_steps() -> None:
    work = RunWork(LEVELS, [1.0, 1.0, 1.5])
    assert work.steps == 9
    assert [work.until(step) for step in (0, 2.5, 4, 5, 7, 7.5, 9)] == [0, 250, 400, 600, 1000, 1150, 1600]
    assert work.factor == 1600 / 1400
    assert RunWork(LEVELS, [1.0] * 3).factor == 1


def test_only_levels_in_tiles_have_more_work() -> None:
    recipe, channels = Recipe(), tiny_encoder(Recipe()).channels
    levels = [Level(256, 256, 10), Level(1024, 1024, 5), Level(1024, 1024, 5)]
    assert RunWork.of(levels, recipe, channels, 4, None).factors == [1.0] * 3
    large = PictureMemory(recipe, channels, 1024, 1024, 4)
    tiling = Tiling(large.untiled // 2)
    first, *rest = RunWork.of(levels, recipe, channels, 4, tiling).factors
    assert first == 1
    assert rest == [large.factor(tiling.in_tiles(large).tiles)] * 2
    assert rest[0] > 1


def test_before_a_run_it_is_known_whether_there_will_be_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, weights = Recipe(preset="print"), bundled_weights("vgg19-slim")

    def factor(
        free: int | None,
        tiles: TileChoice = AUTO,
        device: DevicePlan = CPU,
        recipe: Recipe = recipe,
    ) -> float:
        monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: free)
        return work_factor(recipe, weights, device, MemoryModel(device), tiles)

    assert factor(64 << 30) == 1
    assert 1 < factor(2 << 30) < 2
    assert factor(2 << 30) > factor(3 << 30)
    assert factor(2 << 30, TileChoice(off=True)) == 1
    assert factor(64 << 30, TileChoice(edge=256)) > 1.2
    assert factor(None, TileChoice(edge=256)) == factor(FREE_IF_UNKNOWN, TileChoice(edge=256))
    with_bfloat16, exact = replace(CPU, dtype="bfloat16"), recipe.model_copy(update={"precision": "float32"})
    assert factor(2 << 30, device=with_bfloat16) < factor(2 << 30)
    assert factor(2 << 30, device=with_bfloat16, recipe=exact) == factor(2 << 30)
    monkeypatch.setattr(MemoryModel, "address_bytes", lambda memory: 2 << 30)  # by `ulimit -v`
    assert factor(64 << 30) == factor(2 << 30)
    monkeypatch.undo()
    # What does not fit a GPU is known when it was tried.
    assert factor(2 << 30, device=DevicePlan("cuda:0", "GPU", "bfloat16", 8 << 30)) == 1
