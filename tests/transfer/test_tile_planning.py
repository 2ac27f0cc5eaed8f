from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.spec.recipe import Recipe
from pipeline.transfer.large_lbfgs import Storage
from pipeline.transfer.tile_planning import (
    SMALLEST,
    WORTH,
    History,
    LevelPlan,
    PictureMemory,
    Tiling,
    tile_notes,
)
from pipeline.transfer.tiles import TileSize

SLIM = {
    "conv1_1": 16, "conv1_2": 24, "conv2_1": 48, "conv2_2": 64, "conv3_1": 128, "conv3_2": 96, "conv3_3": 96,
    "conv3_4": 128, "conv4_1": 256, "conv4_2": 256, "conv4_3": 256, "conv4_4": 256, "conv5_1": 256,
}  # fmt: skip

VGG19 = {
    "conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv2_2": 128, "conv3_1": 256, "conv3_2": 256,
    "conv3_3": 256, "conv3_4": 256, "conv4_1": 512, "conv4_2": 512, "conv4_3": 512, "conv4_4": 512,
    "conv5_1": 512,
}  # fmt: skip


def memory_of(width: int, height: int, **fields: object) -> PictureMemory:
    return PictureMemory(Recipe(**fields), SLIM, width, height, 2)


@pytest.mark.parametrize("size", [(1024, 768), (4000, 3001), (1000, 9999), (300, 300)])
@pytest.mark.parametrize("part", [0.5, 0.7, 0.95])
def test_tiles_need_no_more_memory_than_there_is(size: tuple[int, int], part: float) -> None:
    memory = memory_of(*size)
    least = memory.tiled(LevelPlan(memory.square(SMALLEST)))
    limit = round(least + part * max(0, memory.untiled - least))
    plan = memory.largest(limit)
    assert memory.tiled(LevelPlan(plan)) <= limit
    for segment in memory.segments:
        tile = plan.sizes[segment.depth]
        assert tile.rows % segment.stride == tile.columns % segment.stride == 0


def test_more_memory_makes_larger_tiles_and_less_work() -> None:
    memory = memory_of(4096, 4096)
    areas = [
        size.rows * size.columns
        for limit in (9 << 29, 9 << 30, 9 << 31)
        for size in [memory.largest(limit).sizes[0]]
    ]
    assert areas == sorted(areas)
    assert areas[0] < areas[-1]


def test_where_nothing_fits_tiles_are_the_smallest() -> None:
    memory = memory_of(4096, 4096)
    assert memory.largest(0) == memory.square(SMALLEST)
    assert memory.square(SMALLEST).sizes[3] == TileSize(SMALLEST // 8, SMALLEST // 8)


def test_only_levels_that_do_not_fit_have_tiles() -> None:
    small, large = memory_of(256, 256), memory_of(4096, 4096)
    tiling = Tiling(limit_bytes=small.untiled)
    assert tiling.plan(small) is None
    least_of_all = replace(large.square(SMALLEST), recompute=True)
    assert tiling.plan(large) == LevelPlan(least_of_all, History.ROUNDED)
    assert Tiling(edge=512, limit_bytes=0).plan(small).tiles.sizes == small.square(512).sizes


def least(memory: PictureMemory, history: History) -> int:
    return memory.tiled(LevelPlan(memory.square(SMALLEST), history))


def test_a_history_is_rounded_or_in_a_file_only_where_the_memory_asks_for_it(tmp_path: Path) -> None:
    memory = memory_of(4096, 4096)
    needs = {history: memory.tiled(LevelPlan(memory.largest(1 << 40), history)) for history in History}
    assert needs[History.FILE] < 0.6 * needs[History.ROUNDED] < 0.4 * needs[History.EXACT]
    for history, for_activations in zip(History, (2 << 30, 2 << 30, 0), strict=True):
        limit = needs[history] + for_activations
        plan = Tiling(limit, scratch=tmp_path).in_tiles(memory)
        assert (plan.history, plan.tiles.recompute, plan.scratch) == (history, False, tmp_path)
        assert memory.tiled(plan) <= limit
    assert Tiling(needs[History.FILE]).in_tiles(memory).history is History.ROUNDED  # no folder for files
    adam = memory_of(4096, 4096, optimizer="adam")
    assert Tiling(needs[History.FILE], scratch=tmp_path).in_tiles(adam).history is History.EXACT


def test_a_rounded_history_is_better_than_tiles_that_are_mostly_border() -> None:
    memory = memory_of(4096, 4096)
    limit = least(memory, History.EXACT)
    assert Tiling(limit).in_tiles(memory).history is History.ROUNDED
    larger = memory.largest(limit, history=History.ROUNDED)
    assert memory.factor(larger) < 0.8 * memory.factor(memory.square(SMALLEST))


@pytest.mark.parametrize(
    ("channels", "gigabytes", "expected"),
    [
        (VGG19, 5.5, History.FILE),  # 1.28 and 0.08 for the file; 1.64 with a history in memory
        (VGG19, 8.0, History.ROUNDED),  # 1.27; 1.63 with one in float32
        (VGG19, 10.0, History.EXACT),  # 1.29; 1.21 with a rounded one is not worth it
        (SLIM, 4.0, History.ROUNDED),  # a step of a small network takes little beside the file
    ],
    ids=str,
)
def test_a_history_leaves_the_memory_to_activations_where_these_save_more_work(
    channels: dict[str, int], gigabytes: float, expected: History, tmp_path: Path
) -> None:
    memory = PictureMemory(Recipe(), channels, 4096, 4096, 2)
    limit = round(gigabytes * 1e9)
    plan = Tiling(limit, scratch=tmp_path).in_tiles(memory)
    assert plan.history is expected
    work = memory.factor(plan.tiles) + memory.file_factor(plan)
    for history in History:
        other = memory.keeping(memory.largest(limit, history=history), limit, history)
        if memory.tiled(LevelPlan(other, history)) <= limit:
            assert work <= WORTH * (memory.factor(other) + memory.file_factor(LevelPlan(other, history)))


def test_what_files_take_is_in_proportion_to_the_history_and_to_the_network() -> None:
    memory, long = (PictureMemory(Recipe(history=each), VGG19, 64, 64, 2) for each in (10, 23))
    exact, rounded, file = (LevelPlan(memory.square(64), history) for history in History)
    assert memory.file_factor(rounded) == memory.file_factor(exact) == 0
    # 2 x 10 vectors of 3 x 2 bytes are read twice, 2 are written; a gradient of 3 x 4 is read and written.
    assert memory.file_factor(file) == pytest.approx(200 * 276 / (2 * 361_152))
    assert long.file_factor(file) / memory.file_factor(file) == pytest.approx(588 / 276)
    # Activations are written and read, features of the content are read: relu2_1 and relu5_1.
    filed = LevelPlan(replace(file.tiles, file_bytes=memory.canvas.area), History.FILE)
    assert memory.file_factor(filed) == pytest.approx(200 * (276 + 2) / (2 * 361_152))
    filed = LevelPlan(replace(file.tiles, filed_content=frozenset({0, 4})), History.FILE)
    assert memory.file_factor(filed) == pytest.approx(200 * (276 + 2 * (128 / 4 + 512 / 256)) / (2 * 361_152))


@pytest.mark.parametrize(("channels", "gigabytes"), [(SLIM, 4.45), (VGG19, 7.9)], ids=["slim", "vgg19"])
def test_files_save_work_at_64_megapixels(channels: dict[str, int], gigabytes: float, tmp_path: Path) -> None:
    """What a picture may take if `memory_mb` is 6000 and 10000."""
    memory = PictureMemory(Recipe(), channels, 8000, 8000, 2)
    limit = round(gigabytes * 1e9)
    plan = Tiling(limit, scratch=tmp_path, threads=1).in_tiles(memory)
    assert memory.tiled(plan) <= limit
    assert memory.factor(plan.tiles) < 1.3
    without = Tiling(limit, scratch=tmp_path).in_tiles(memory)
    assert memory.factor(without.tiles) > 1.7
    total, total_without = (memory.factor(each.tiles) + memory.file_factor(each) for each in (plan, without))
    assert total < 0.85 * total_without
    # Without space for them, nothing else changes.
    plain = replace(plan.tiles, filed={}, file_bytes=0, filed_content=frozenset())
    assert replace(plan, tiles=plain) == without


def test_files_are_used_only_where_the_history_is_in_one_and_threads_are_few(tmp_path: Path) -> None:
    memory = PictureMemory(Recipe(), SLIM, 8000, 8000, 2)
    for gigabytes, history in ((5.0, History.FILE), (20.0, History.ROUNDED)):
        for threads in (0, 1, 16):
            plan = Tiling(round(gigabytes * 1e9), 0, tmp_path, threads).in_tiles(memory)
            assert plan.history is history
            is_filed = bool(plan.tiles.filed or plan.tiles.filed_content)
            assert is_filed == (history is History.FILE and threads == 1)


def test_what_autograd_keeps_is_not_planned(tmp_path: Path) -> None:
    for precision, is_kept in (("float32", True), ("reference", False)):
        memory = PictureMemory(Recipe(precision=precision), SLIM, 4096, 4096, 4)
        for gigabytes in (4.0, 12.0):
            tiles = Tiling(round(gigabytes * 1e9), 0, tmp_path, 1).in_tiles(memory).tiles
            assert bool(tiles.kept or tiles.filed) == is_kept


def test_freed_memory_is_kept_while_there_is_room_for_what_comes_next() -> None:
    memory = memory_of(4096, 4096)
    tiling = Tiling(4 << 30, most_bytes=6 << 30)
    tiles = tiling.in_tiles(memory).tiles
    window = max(memory._window(each, tiles.sizes[each.depth]) for each in memory.segments)
    assert 0 < window < (6 << 30) - tiles.release_above_bytes < window + (1 << 30)
    assert tiling.smaller(2 << 30).in_tiles(memory).tiles.release_above_bytes == 0


def test_a_plan_says_how_pairs_are_kept(tmp_path: Path) -> None:
    tiles = memory_of(300, 300).square(SMALLEST)
    assert LevelPlan(tiles, scratch=tmp_path).storage is None
    assert LevelPlan(tiles, History.ROUNDED, tmp_path).storage == Storage(torch.bfloat16)
    assert LevelPlan(tiles, History.FILE, tmp_path).storage == Storage(torch.bfloat16, tmp_path)


def test_what_was_done_is_said_only_if_the_memory_asked_for_it(tmp_path: Path) -> None:
    memory = memory_of(4000, 1000)
    enough = 2 * memory.untiled
    assert tile_notes(None, memory) == tile_notes(Tiling(enough, edge=512), memory) == ()
    (note,) = tile_notes(Tiling(memory.untiled * 5 // 6), memory)
    assert re.fullmatch(r"tiles of \d+ x 1032 pixels: the memory was too small for the whole picture", note)
    limit = least(memory, History.FILE)
    _, history = tile_notes(Tiling(limit, scratch=tmp_path), memory)
    assert history == "history in bfloat16 in a file: the memory was too small for float32"
    assert tile_notes(Tiling(limit, 256, tmp_path), memory) == (history,)
