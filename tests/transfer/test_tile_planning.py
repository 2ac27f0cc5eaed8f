from __future__ import annotations

import pytest

from pipeline.spec.recipe import Recipe
from pipeline.transfer.tile_planning import SMALLEST, PictureMemory, Tiling, tile_notes
from pipeline.transfer.tiles import TileSize

SLIM = {
    "conv1_1": 16, "conv1_2": 16, "conv2_1": 32, "conv2_2": 32, "conv3_1": 64, "conv3_2": 48, "conv3_3": 48,
    "conv3_4": 48, "conv4_1": 80, "conv4_2": 80, "conv4_3": 64, "conv4_4": 128, "conv5_1": 112,
}  # fmt: skip


def memory_of(width: int, height: int, **fields: object) -> PictureMemory:
    return PictureMemory(Recipe(**fields), SLIM, width, height, 2)


@pytest.mark.parametrize("size", [(1024, 768), (4000, 3001), (1000, 9999), (300, 300)])
@pytest.mark.parametrize("part", [0.5, 0.7, 0.95])
def test_tiles_need_no_more_memory_than_there_is(size: tuple[int, int], part: float) -> None:
    memory = memory_of(*size)
    least = memory.tiled(memory.square(SMALLEST))
    limit = round(least + part * max(0, memory.untiled - least))
    plan = memory.largest(limit)
    assert memory.tiled(plan) <= limit
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
    assert tiling.plan(large) == large.largest(small.untiled)
    assert Tiling(edge=512).plan(small) == small.square(512)


def test_what_was_done_is_said_only_if_the_memory_asked_for_it() -> None:
    memory = memory_of(4000, 1000)
    assert tile_notes(None, memory) == tile_notes(Tiling(edge=512), memory) == ()
    (note,) = tile_notes(Tiling(memory.untiled * 2 // 3), memory)
    assert note == "tiles of 1008 x 516 pixels: the memory was too small for the whole picture"
