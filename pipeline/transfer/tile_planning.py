"""How large tiles are: as large as the memory allows, or as the user says.

Rows and columns are positions of a segment's input unless they are said to be pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..spec.recipe import Recipe
from ..vgg.encoder import convolution_of
from .memory import CANVAS_BYTES, feature_bytes, history_bytes, map_size, picture_bytes
from .segments import Segment, segments
from .tile_work import activation_bytes, kept_tiles, work_factor
from .tiles import Box, TilePlan, TileSize, square_tiles

# Tiles are never made smaller than this, in pixels, to save memory: their borders would be most of the work.
SMALLEST = 256
# How large windows may be. Larger ones save little: at 64 megapixels, the largest of these process 1.1 times
# the picture's pixels. Smaller ones leave memory for activations, which may save more.
WINDOWS_BYTES = (1 << 30, 1 << 29, 1 << 28, 1 << 27)
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
        """Return the plan of least work."""
        if self.edge:
            return memory.keeping(memory.square(self.edge), self.limit_bytes)
        plans = [memory.largest(self.limit_bytes, window_bytes) for window_bytes in WINDOWS_BYTES]
        return min((memory.keeping(plan, self.limit_bytes) for plan in plans), key=memory.factor)


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
        kept, needed = 0.0, 0
        for segment in self.segments:
            size = plan.sizes[segment.depth]
            kept += plan.kept.get(segment.depth, 0) * self._kept_tile(segment, size)
            needed = max(needed, round(kept + self._beside(segment) + self._window(segment, size)))
        return needed

    def keeping(self, plan: TilePlan, limit_bytes: int) -> TilePlan:
        """Return a plan with as many activations kept as fit beside its tiles."""
        sizes = {each: plan.sizes[each.depth] for each in self.segments}
        free = {
            each.depth: limit_bytes - self._beside(each) - self._window(each, size)
            for each, size in sizes.items()
        }
        tiles = {each.depth: self._kept_tile(each, size) for each, size in sizes.items()}
        return replace(plan, kept=kept_tiles(self.segments, plan, self.canvas, tiles, free))

    def factor(self, plan: TilePlan | None) -> float:
        """Return how many times the work of an untiled step one with a plan is; see `work_factor`."""
        if plan is None:
            return 1.0
        return work_factor(plan, self.segments, self.channels, self.recipe.content_layers, self.canvas)

    def square(self, edge: int) -> TilePlan:
        """Return square tiles of about `edge` pixels."""
        return square_tiles(self.segments, edge)

    def largest(self, limit_bytes: int, window_bytes: int = WINDOWS_BYTES[0]) -> TilePlan:
        """Return the tiles of least work that need at most `limit_bytes`; the smallest if none does."""
        sizes = dict(self.square(SMALLEST).sizes)
        for segment in self.segments:
            free = min(limit_bytes - self._beside(segment), window_bytes)
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
        """Return the bytes that the largest window takes while it is computed."""
        return self._positions(segment, size) * self._per_position(segment)

    def _kept_tile(self, segment: Segment, size: TileSize) -> float:
        """Return the bytes that the activations of a kept tile take at most."""
        layers = {*self.recipe.content_layers, *self.recipe.style_layers}
        each = activation_bytes(segment, self.channels, layers, self.itemsize)
        return self._positions(segment, size) * each

    def _positions(self, segment: Segment, size: TileSize) -> int:
        """Return the positions of the largest window."""
        box, border = self._input(segment), 2 * segment.gradient_border
        return min(size.rows + border, box.rows) * min(size.columns + border, box.columns)

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
