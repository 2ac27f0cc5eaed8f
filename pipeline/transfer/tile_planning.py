"""How a large picture fits the memory: how large its tiles are, and how L-BFGS keeps its history.

Rows and columns are positions of a segment's input unless they are said to be pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from operator import itemgetter
from pathlib import Path

from ..spec.recipe import Recipe
from ..vgg.encoder import convolution_of
from .content_features import recompute_saves, recomputed
from .large_lbfgs import Storage
from .memory import CANVAS_BYTES, feature_bytes, history_bytes, map_size, picture_bytes
from .segments import Segment, segments
from .tile_work import (
    activation_bytes,
    file_factor,
    history_traffic,
    is_sooner_moved,
    kept_tiles,
    segment_work,
    work_factor,
)
from .tiles import Box, TilePlan, TileSize, square_tiles

# Tiles are never made smaller than this, in pixels, to save memory: their borders would be most of the work.
SMALLEST = 256
# How large windows may be. Larger ones save little: at 64 megapixels, the largest of these process 1.1 times
# the picture's pixels. Smaller ones leave memory for activations, which may save more.
WINDOWS_BYTES = (1 << 30, 1 << 29, 1 << 28, 1 << 27)
# How many tensors as large as the canvas are in memory, without the pairs of L-BFGS: the canvas and its
# gradient; the best canvas and the last gradient, if they are not in a file; and, with a history in float32,
# the last step and its change of the gradient.
IN_FILE, IN_BFLOAT16, IN_FLOAT32 = 2, 4, 6
# A plan is preferred to those after it if it is at most this many times as much work.
WORTH = 1.15


class History(Enum):
    """How L-BFGS keeps its pairs: as they are, or in bfloat16, in memory or in a file; see `LargeLBFGS`."""

    EXACT = "float32"
    ROUNDED = "bfloat16"
    FILE = "bfloat16 in a file"


@dataclass(frozen=True)
class TileChoice:
    """What is asked for: tiles where the memory is too small without, or never (`off`), or always.

    `edge` is that of the tiles that are always used, in pixels. After each attempt that found too little
    memory, the next has tiles, half the memory for them, and needs less: `halved` so many times.
    """

    off: bool = False
    edge: int = 0
    halved: int = 0


AUTO = TileChoice()


@dataclass(frozen=True)
class LevelPlan:
    """How a level is computed in tiles: their sizes, and how L-BFGS keeps its pairs.

    Files are below the folder `scratch`.
    """

    tiles: TilePlan
    history: History = History.EXACT
    scratch: Path | None = None

    @property
    def storage(self) -> Storage | None:
        """How a large picture's pairs are kept; None is as a small one's."""
        if self.history is History.EXACT:
            return None
        return Storage(folder=self.scratch if self.history is History.FILE else None)


@dataclass(frozen=True)
class Tiling:
    """Which levels are computed in tiles, and how.

    With an `edge` all levels have square tiles of so many pixels. Without, only levels that would need more
    than `limit_bytes` for a picture have tiles, the largest with which they need no more. Without a folder
    for files, `scratch`, no history is kept in one. Where one is, so is what so many `threads` of a CPU take
    longer to compute again; 0 is a GPU, which does not. The process may have `most_bytes` of its own.
    """

    limit_bytes: int = 0
    edge: int = 0
    scratch: Path | None = None
    threads: int = 0
    most_bytes: int = 0

    def plan(self, memory: PictureMemory) -> LevelPlan | None:
        """Return how a level is computed in tiles, or None if it is computed untiled."""
        return None if not self.edge and memory.untiled <= self.limit_bytes else self.in_tiles(memory)

    def smaller(self, needed: int) -> Tiling:
        """Return what to try after an attempt by this, in tiles or not, that `needed` too many bytes.

        Then freed memory is always given back.
        """
        limit_bytes = min(self.limit_bytes >> 1, needed - 1)
        return replace(self, limit_bytes=limit_bytes, edge=self.edge >> 1, most_bytes=0)

    def in_tiles(self, memory: PictureMemory) -> LevelPlan:
        """Return the first way that fits and is not much more work than another, and its plan of least work.

        If none fits, it is the one that needs least. What files save beside a history is added last: where
        the disk has no space for that, the plan is still the best one without.
        """
        ways = [self._plans(memory, *way) for way in self._ways(memory.recipe)]
        best = [least for plans in ways if (least := self._of_least_work(memory, plans))]
        enough = WORTH * min((work for work, _ in best), default=0)
        plan = next((plan for work, plan in best if work <= enough), ways[-1][-1])
        # So that what comes next fits beside gaps that it does not fit in.
        above = max(0, self.most_bytes - memory.beyond_gaps(plan.tiles))
        tiles = replace(plan.tiles, release_above_bytes=above)
        if plan.history is History.FILE and self.threads:
            tiles = memory.filing(tiles, self.threads)
        return replace(plan, tiles=tiles)

    def _ways(self, recipe: Recipe) -> list[tuple[History, bool]]:
        """Return ways to need less and less memory: how pairs are kept, and whether to recompute features."""
        if recipe.optimizer != "lbfgs":
            return [(History.EXACT, False), (History.EXACT, True)]
        ways = [(History.EXACT, False), (History.ROUNDED, False), (History.ROUNDED, True)]
        return [*ways, (History.FILE, False), (History.FILE, True)] if self.scratch else ways

    def _plans(self, memory: PictureMemory, history: History, recompute: bool) -> list[LevelPlan]:
        """Return plans with smaller and smaller windows, and as many activations kept as fit beside them."""
        if self.edge:
            found = [replace(memory.square(self.edge), recompute=recompute)]
        else:
            found = [memory.largest(self.limit_bytes, size, history, recompute) for size in WINDOWS_BYTES]
            found = [memory.keeping(tiles, self.limit_bytes, history) for tiles in found]
        return [LevelPlan(tiles, history, self.scratch) for tiles in found]

    def _of_least_work(
        self, memory: PictureMemory, plans: Sequence[LevelPlan]
    ) -> tuple[float, LevelPlan] | None:
        """Return the work and the plan of least work among those that fit, or None if none does."""
        works = [
            (memory.factor(plan.tiles) + memory.file_factor(plan), plan)
            for plan in plans
            if memory.tiled(plan) <= self.limit_bytes
        ]
        return min(works, key=itemgetter(0), default=None)


def tile_notes(tiling: Tiling | None, last: PictureMemory) -> tuple[str, ...]:
    """Say what was done to fit the memory, given a picture's last level."""
    if tiling is None or (plan := tiling.plan(last)) is None:
        return ()
    canvas = last.canvas
    size = plan.tiles.sizes[0]
    columns, rows = min(size.columns, canvas.columns), min(size.rows, canvas.rows)
    tiles = f"tiles of {columns} x {rows} pixels: the memory was too small for the whole picture"
    history = f"history in {plan.history.value}: the memory was too small for {History.EXACT.value}"
    return (
        *(() if tiling.edge else (tiles,)),
        *(() if plan.history is History.EXACT else (history,)),
    )


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
        self._packs = recipe.precision != "reference"  # what autograd keeps is not packed

    def needed(self, plan: LevelPlan | None) -> int:
        """Estimate what the picture needs with a plan, or untiled if that is None, in bytes."""
        return self.untiled if plan is None else self.tiled(plan)

    def tiled(self, plan: LevelPlan) -> int:
        """Estimate what the picture needs with a plan, in bytes."""
        kept, needed, tiles = 0.0, 0, plan.tiles
        for segment in self.segments:
            size = tiles.sizes[segment.depth]
            kept += tiles.kept.get(segment.depth, 0) * self._kept_tile(segment, size)
            beside = self._beside(segment, plan.history, tiles.recompute)
            needed = max(needed, round(kept + beside + self._window(segment, size)))
        return needed

    def keeping(self, plan: TilePlan, limit_bytes: int, history: History = History.EXACT) -> TilePlan:
        """Return a plan with as many activations kept as fit beside its tiles."""
        if not self._packs:
            return plan
        sizes = {each: plan.sizes[each.depth] for each in self.segments}
        free = {
            each.depth: limit_bytes - self._beside(each, history, plan.recompute) - self._window(each, size)
            for each, size in sizes.items()
        }
        tiles = {each.depth: self._kept_tile(each, size) for each, size in sizes.items()}
        return replace(plan, kept=kept_tiles(self.segments, plan, self.canvas, tiles, free))

    def filing(self, plan: TilePlan, threads: int) -> TilePlan:
        """Return a plan with files for what is sooner read than computed again by so many threads."""
        filed, size = dict[int, int](), 0.0
        for segment in self.segments if self._packs else ():
            tiles = sum(1 for _ in plan.tiles(segment, self._input(segment)))
            left = tiles - plan.kept.get(segment.depth, 0)
            work = segment_work(segment, self.channels)
            if left and is_sooner_moved(2 * self._kept_position(segment), work, threads):
                filed[segment.depth] = left
                # Masks end with a whole byte; there are at most two for a convolution.
                masks = 2 * len(segment.convolutions)
                size += left * (self._kept_tile(segment, plan.sizes[segment.depth]) + masks)
        content = frozenset(each.depth for each in self.segments if self._files_content(each, plan, threads))
        return replace(plan, filed=filed, file_bytes=round(size), filed_content=content)

    def _files_content(self, segment: Segment, plan: TilePlan, threads: int) -> bool:
        """Return whether a segment's features of the content are sooner read than computed again."""
        if (again := recomputed(segment, self.recipe, self.channels, plan)) is None:
            return False
        work = segment_work(again, self.channels) / (1 << 2 * segment.depth)
        return is_sooner_moved(self.itemsize * self._content_values(segment), work, threads)

    def factor(self, plan: TilePlan | None) -> float:
        """Return how many times the work of an untiled step one with a plan is; see `work_factor`."""
        if plan is None:
            return 1.0
        return work_factor(plan, self.segments, self.channels, self.recipe, self.canvas)

    def file_factor(self, plan: LevelPlan) -> float:
        """Return how many times the work of an untiled step a step spends on files."""
        history = history_traffic(self.recipe) if plan.history is History.FILE else 0
        activations = 2 * plan.tiles.file_bytes / self.canvas.area
        filed = [each for each in self.segments if each.depth in plan.tiles.filed_content]
        content = self.itemsize * sum(map(self._content_values, filed))
        return file_factor(history + activations + content, self.channels)

    def square(self, edge: int) -> TilePlan:
        """Return square tiles of about `edge` pixels."""
        return square_tiles(self.segments, edge)

    def largest(
        self,
        limit_bytes: int,
        window_bytes: int = WINDOWS_BYTES[0],
        history: History = History.EXACT,
        recompute: bool = False,
    ) -> TilePlan:
        """Return the tiles of least work that need at most `limit_bytes`; the smallest if none does."""
        sizes = dict(self.square(SMALLEST).sizes)
        for segment in self.segments:
            free = min(limit_bytes - self._beside(segment, history, recompute), window_bytes)
            if found := _least_work(segment, self._input(segment), int(free / self._per_position(segment))):
                sizes[segment.depth] = found
        return TilePlan(sizes, recompute=recompute)

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
        return self._positions(segment, size) * self._kept_position(segment)

    def _kept_position(self, segment: Segment) -> float:
        """Return the bytes that kept activations take per position of a segment."""
        layers = {*self.recipe.content_layers, *self.recipe.style_layers}
        return activation_bytes(segment, self.channels, layers, self.itemsize)

    def beyond_gaps(self, plan: TilePlan) -> int:
        """Return what a pass over a segment may take beside the gaps in the heap: a window, and a map."""
        window = max(self._window(each, plan.sizes[each.depth]) for each in self.segments)
        outputs = [self._output(each) for each in self.segments[:-1]]
        return round(window + self.canvas.area * self.itemsize * max(outputs, default=3.0))

    def _positions(self, segment: Segment, size: TileSize) -> int:
        """Return the positions of the largest window."""
        box, border = self._input(segment), 2 * segment.gradient_border
        return min(size.rows + border, box.rows) * min(size.columns + border, box.columns)

    def _beside(self, segment: Segment, history: History, recompute: bool) -> float:
        """Return the bytes beside a window while the gradient of a segment is computed."""
        # Inputs of the segments so far, and the gradients with respect to this one's input and output.
        inputs = [self._output(each) for each in self.segments[:-1]]
        index = self.segments.index(segment)
        own = inputs[index - 1] if index else 3.0
        kept = sum(inputs[:index]) + own + (inputs[index] if index < len(inputs) else 0)
        kept += 3 + sum(self._content(each, recompute) for each in self.segments[1:])
        return self.canvas.area * (self.itemsize * kept + self._canvases(history))

    def _content(self, segment: Segment, recompute: bool) -> float:
        """Return the values of a pixel that are kept for a later segment's content layers."""
        if recompute and recompute_saves(segment, self.recipe, self.channels):
            return self._output(self.segments[self.segments.index(segment) - 1])
        return self._content_values(segment)

    def _content_values(self, segment: Segment) -> float:
        """Return the values of a pixel in a segment's content layers."""
        names = [convolution_of(layer) for layer in self.recipe.content_layers]
        return sum(map_size(name, self.channels[name]) for name in names if name in segment.convolutions)

    def _canvases(self, history: History) -> int:
        """Return the bytes of a pixel in the canvas and what the optimiser keeps."""
        if history is History.FILE:
            return CANVAS_BYTES * IN_FILE
        if history is History.ROUNDED:
            return CANVAS_BYTES * IN_BFLOAT16 + history_bytes(self.recipe) // 2
        return CANVAS_BYTES * IN_FLOAT32 + history_bytes(self.recipe)

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
