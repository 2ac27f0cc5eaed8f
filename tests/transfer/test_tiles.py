from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.transfer.tiles import Box, TileSize, whole

SIDES = st.integers(1, 90)


@given(SIDES, SIDES, st.integers(1, 5), st.integers(1, 5), st.integers(0, 2))
def test_tiles_have_every_position_of_every_layer_once(
    rows: int, columns: int, tile_rows: int, tile_columns: int, halvings: int
) -> None:
    stride = 4
    counted = torch.zeros(1, 1, rows >> halvings, columns >> halvings)
    size = TileSize(tile_rows * stride, tile_columns * stride)
    for tile in size.divide(Box(0, rows, 0, columns)):
        tile.pooled(halvings).of(counted).add_(1)
    assert bool((counted == 1).all())


def test_boxes() -> None:
    map_BCHW = torch.arange(48.0).view(1, 1, 6, 8)
    box = Box(1, 4, 2, 7)
    assert (box.rows, box.columns, box.area) == (3, 5, 15)
    assert torch.equal(box.of(map_BCHW), map_BCHW[:, :, 1:4, 2:7])
    window = box.grown(9).common(whole(map_BCHW))
    assert window == Box(0, 6, 0, 8)
    assert torch.equal(box.within(window).of(window.of(map_BCHW)), box.of(map_BCHW))
    assert Box(4, 9, 0, 7).pooled(1) == Box(2, 4, 0, 3)
    assert Box(0, 2, 0, 2).common(Box(3, 5, 0, 2)).area == 0
