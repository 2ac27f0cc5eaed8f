"""How much a step computes in tiles, and which activations are kept so that it computes less.

Work is counted in multiply-adds of the convolutions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from ..spec.layers import poolings_before
from ..spec.recipe import Recipe
from ..vgg.encoder import relu_of, starts_block
from .content_features import recomputed
from .memory import CANVAS_BYTES, history_bytes
from .segments import Segment
from .sweep import Tile
from .tiles import Box, TilePlan

# Multiply-adds in the time in which a byte of a file is read or written: 200 billion a second in bfloat16,
# measured with one thread, and 1 GB/s.
BYTE_WORK = 200
# What can be computed again is read from a file only if that takes so many times less.
TIMES_LESS = 1.25


def convolution_works(channels: Mapping[str, int]) -> dict[str, int]:
    """Return the multiply-adds of each convolution at one of its positions, given the channels of all."""
    works, inputs = {}, 3
    for name, outputs in channels.items():
        works[name] = 9 * inputs * outputs
        inputs = outputs
    return works


def segment_work(segment: Segment, channels: Mapping[str, int]) -> float:
    """Return the multiply-adds of a segment per position of its input."""
    works = convolution_works(channels)
    return sum(works[name] / (1 << 2 * segment.halvings(name)) for name in segment.convolutions)


def work_factor(
    plan: TilePlan,
    parts: Sequence[Segment],
    channels: Mapping[str, int],
    recipe: Recipe,
    canvas: Box,
) -> float:
    """Return how many times the multiply-adds of an untiled step a step in tiles has.

    Those for features of the content that are recomputed count, too.
    """
    untiled = tiled = 0.0
    for segment in parts:
        box = canvas.pooled(segment.depth)
        own = segment_work(segment, channels)
        untiled += 2 * box.area * own
        again = recomputed(segment, recipe, channels, plan)
        in_content = segment_work(again, channels) if again else 0.0
        for number, inner in enumerate(plan.tiles(segment, box)):
            wide = Tile.of(segment, inner, box, segment.gradient_border).window.area
            narrow = Tile.of(segment, inner, box, segment.forward_border).window.area
            is_kept = number < plan.kept.get(segment.depth, 0) + plan.filed.get(segment.depth, 0)
            tiled += wide * (own + in_content) + (wide if is_kept else narrow + wide) * own
    return tiled / untiled


def history_traffic(recipe: Recipe) -> int:
    """Return the bytes of a pixel that a step reads from a history in files, and writes there."""
    # All pairs, in bfloat16, are read twice, one is written, and the gradient is exchanged.
    return 2 * (history_bytes(recipe) // 2) + CANVAS_BYTES + 2 * CANVAS_BYTES


def file_factor(traffic: float, channels: Mapping[str, int]) -> float:
    """Return how many untiled steps take as long as reading and writing `traffic` bytes a pixel."""
    step = sum(work / (1 << 2 * poolings_before(name)) for name, work in convolution_works(channels).items())
    return BYTE_WORK * traffic / (2 * step)


def is_sooner_moved(traffic: float, work: float, threads: int) -> bool:
    """Return whether `traffic` bytes of a file take less time than `work` by so many threads of a CPU."""
    return TIMES_LESS * BYTE_WORK * threads * traffic < work


def activation_bytes(
    segment: Segment, channels: Mapping[str, int], layers: Collection[str], itemsize: int
) -> float:
    """Return what a tile keeps of the forward pass per position of its window; `layers` have a loss."""
    total = 0.0
    for name, following in pairwise([*segment.convolutions, segment.following]):
        values = channels[name] / (1 << 2 * segment.halvings(name))
        total += itemsize * values * ((name in layers) + (relu_of(name) in layers))
        total += 0 if relu_of(name) in layers else values / 8
        if following and starts_block(following):
            total += (1 / 8 + 1) * values / 4  # where what is pooled is positive, and which value it was
    return total


def kept_tiles(
    parts: Sequence[Segment],
    plan: TilePlan,
    canvas: Box,
    tile_bytes: Mapping[int, float],
    free_bytes: Mapping[int, float],
) -> dict[int, int]:
    """Return how many tiles of each segment can be kept.

    `tile_bytes` is what one takes at most, `free_bytes` what is free while the gradient of a segment is
    computed, both by depth. The deepest come first: they save most for their memory, and are gone first.
    """
    free, kept = dict(free_bytes), dict[int, int]()
    for segment in reversed(parts):
        depth = segment.depth
        # A segment's activations are there until its own gradient, so also during those of deeper ones.
        spare = min(free[each.depth] for each in parts if each.depth >= depth)
        count = sum(1 for _ in plan.tiles(segment, canvas.pooled(depth)))
        if (fitting := min(count, int(spare / tile_bytes[depth]))) > 0:
            kept[depth] = fitting
        for each in parts:
            if each.depth >= depth:
                free[each.depth] -= kept.get(depth, 0) * tile_bytes[depth]
    return kept
