"""How large tiles are: as large as the memory allows, or as the user says.

Rows and columns are positions of a segment's input unless they are said to be pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..spec.recipe import Recipe
from ..vgg.encoder import convolution_of
from .memory import CANVAS_BYTES, feature_bytes, history_bytes, map_size, picture_bytes
from .segments import Segment, segments
from .tiles import Box, TilePlan, TileSize, square_tiles

# Tiles are never made smaller than this, in pixels, to save memory: their borders would be most of the work.
SMALLEST = 256
# Larger windows save little: at 64 megapixels, windows of this size process 1.1 times the picture's pixels.
ENOUGH_BYTES = 1 << 30
# Tensors as large as the canvas, beside the history of L-BFGS. Measured at 4 megapixels.
TILED_CANVASES = 9


@dataclass(frozen=True)
class TileChoice:
    """What is asked for: tiles where the memory is too small without, or never (`off`), or always.

    `edge` is that of the tiles that are always used, in pixels. Each attempt that finds too little memory has
    tiles, and half the memory for them: `halved` so many times.
    """

    off: bool = False
    edge: int = 0
    halved: int = 0


AUTO = TileChoice()


@dataclass(frozen=True)
class Tiling:
    """Which levels are computed in tiles, and how large these are.

    With an `edge` all levels have square tiles of so many pixels. Without, only levels that would need more
    than `limit_bytes` for a picture have tiles, the largest with which they need no more.
    """

    limit_bytes: int = 0
    edge: int = 0

    def plan(self, memory: PictureMemory) -> TilePlan | None:
        """Return the tiles of a level, or None if it is computed untiled."""
        return None if not self.edge and memory.untiled <= self.limit_bytes else self.in_tiles(memory)

    def in_tiles(self, memory: PictureMemory) -> TilePlan:
        return memory.square(self.edge) if self.edge else memory.largest(self.limit_bytes)


def tile_notes(tiling: Tiling | None, last: PictureMemory) -> tuple[str, ...]:
    """Say what was done to fit the memory, given a picture's last level."""
    if tiling is None or tiling.edge:
        return ()
    size, canvas = tiling.in_tiles(last).sizes[0], last.canvas
    columns, rows = min(size.columns, canvas.columns), min(size.rows, canvas.rows)
    return (f"tiles of {columns} x {rows} pixels: the memory was too small for the whole picture",)


class PictureMemory:
    """Estimates what a picture needs at a level, untiled and in tiles; arguments as in `picture_bytes`."""

    def __init__(
        self, recipe: Recipe, channels: Mapping[str, int], width: int, height: int, itemsize: int
    ) -> None:
        self.recipe = recipe
        self.channels = channels
        self.itemsize = itemsize
        self.canvas = Box(0, height + 2 * recipe.margin, 0, width + 2 * recipe.margin)
        self.segments = segments(tuple(channels))
        self.untiled = picture_bytes(recipe, channels, width, height, itemsize)

    def tiled(self, plan: TilePlan) -> int:
        """Estimate what the picture needs with these tiles, in bytes."""
        return max(
            round(self._beside(each) + self._window(each, plan.sizes[each.depth])) for each in self.segments
        )

    def square(self, edge: int) -> TilePlan:
        """Return square tiles of about `edge` pixels."""
        return square_tiles(self.segments, edge)

    def largest(self, limit_bytes: int) -> TilePlan:
        """Return the tiles of least work that need at most `limit_bytes`; the smallest if none does."""
        sizes = dict(self.square(SMALLEST).sizes)
        for segment in self.segments:
            free = min(limit_bytes - self._beside(segment), ENOUGH_BYTES)
            if found := _least_work(segment, self._input(segment), int(free / self._per_position(segment))):
                sizes[segment.depth] = found
        return TilePlan(sizes)

    def _input(self, segment: Segment) -> Box:
        return self.canvas.pooled(segment.depth)

    def _per_position(self, segment: Segment) -> float:
        """Return the bytes that a position of a window takes."""
        channels = {name: self.channels[name] for name in segment.convolutions}
        return feature_bytes(channels, self.itemsize) * (1 << 2 * segment.depth)

    def _window(self, segment: Segment, size: TileSize) -> float:
        """Return the bytes that the largest window takes."""
        box, border = self._input(segment), 2 * segment.gradient_border
        rows, columns = min(size.rows + border, box.rows), min(size.columns + border, box.columns)
        return rows * columns * self._per_position(segment)

    def _beside(self, segment: Segment) -> float:
        """Return the bytes beside a window while the gradient of a segment is computed."""
        recipe = self.recipe
        # Inputs of the segments so far, and the gradients with respect to this one's input and output.
        inputs = [self._output(each) for each in self.segments[:-1]]
        index = self.segments.index(segment)
        own = inputs[index - 1] if index else 3.0
        kept = sum(inputs[:index]) + own + (inputs[index] if index < len(inputs) else 0)
        kept += sum(
            map_size(layer, self.channels[convolution_of(layer)])
            for layer in recipe.content_layers
            if convolution_of(layer) not in self.segments[0].convolutions
        )
        canvases = history_bytes(recipe) + CANVAS_BYTES * TILED_CANVASES
        return self.canvas.area * (self.itemsize * kept + canvases)

    def _output(self, segment: Segment) -> float:
        """Return the values of a segment's output per pixel."""
        return map_size(segment.following, self.channels[segment.convolutions[-1]])


def _least_work(segment: Segment, box: Box, positions: int) -> TileSize | None:
    """Return the tiles whose windows have at most so many positions, and together the fewest."""
    border, stride, least = 2 * segment.gradient_border, segment.stride, SMALLEST >> segment.depth
    best: tuple[int, TileSize] | None = None
    for across in range(1, max(1, box.columns // least) + 1):
        columns = _multiple(-(-box.columns // across), stride)
        rows = positions // min(columns + border, box.columns)
        if rows < box.rows:
            rows = (rows - border) // stride * stride
        if rows < min(least, box.rows):
            continue
        down = -(-box.rows // rows)
        work = (box.rows + (down - 1) * border) * (box.columns + (across - 1) * border)
        if best is None or work < best[0]:
            best = work, TileSize(_multiple(-(-box.rows // down), stride), columns)
    return best and best[1]


def _multiple(number: int, step: int) -> int:
    """Return the next multiple of a step."""
    return -(-number // step) * step
