"""Tiles: rectangles of positions that a picture, or a feature map of it, is divided into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from .segments import Segment

# Called with the number of tiles that are computed, and the number of all, after each of them.
OnTile: TypeAlias = Callable[[int, int], None]


def ignore_tile(tile: int, tiles: int) -> None:
    """Do nothing after a tile."""


@dataclass(frozen=True)
class Box:
    """A rectangle of positions of a feature map: rows from `top` to before `bottom`, columns likewise."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> int:
        return max(0, self.bottom - self.top)

    @property
    def columns(self) -> int:
        return max(0, self.right - self.left)

    @property
    def area(self) -> int:
        return self.rows * self.columns

    def of(self, map_BCHW: Tensor) -> Tensor:
        """Return a view of the map's values in this box."""
        return map_BCHW[:, :, self.top : self.bottom, self.left : self.right]

    def within(self, outer: Box) -> Box:
        """Return this box in a map that begins where `outer` does."""
        return Box(
            self.top - outer.top, self.bottom - outer.top, self.left - outer.left, self.right - outer.left
        )

    def common(self, other: Box) -> Box:
        """Return what both boxes cover; its area may be 0."""
        return Box(
            max(self.top, other.top),
            min(self.bottom, other.bottom),
            max(self.left, other.left),
            min(self.right, other.right),
        )

    def grown(self, border: int) -> Box:
        return Box(self.top - border, self.bottom + border, self.left - border, self.right + border)

    def pooled(self, halvings: int) -> Box:
        """Return the box after some poolings, which drop what is no whole position."""
        return Box(
            self.top >> halvings, self.bottom >> halvings, self.left >> halvings, self.right >> halvings
        )


def whole(map_BCHW: Tensor) -> Box:
    """Return the box of all positions of a map."""
    rows, columns = map_BCHW.shape[2:]
    return Box(0, rows, 0, columns)


@dataclass(frozen=True)
class TileSize:
    """The rows and columns of a segment's tiles, in positions of its input: multiples of its stride.

    So every position of every layer is in one tile, and poolings fall on the same positions as untiled.
    """

    rows: int
    columns: int

    def divide(self, box: Box) -> Iterator[Box]:
        """Divide a box into tiles; the last ones may be smaller."""
        for top in range(box.top, box.bottom, self.rows):
            for left in range(box.left, box.right, self.columns):
                yield Box(top, min(top + self.rows, box.bottom), left, min(left + self.columns, box.right))


@dataclass(frozen=True)
class TilePlan:
    """The tiles of each segment, by the segment's depth.

    So many of the first tiles of a segment as `kept` says keep their activations from the forward pass for
    the backward pass, and so many after them as `filed` says do so in a file, where they take at most
    `file_bytes`; the others are computed again. `recompute`: features of the content are computed again for
    every tile where that takes less memory. Those of the segments `filed_content` are in a file instead.

    Between segments, freed memory is given back to the system if the process has more of its own than
    `release_above_bytes`.
    """

    sizes: dict[int, TileSize]
    kept: dict[int, int] = field(default_factory=dict)
    filed: dict[int, int] = field(default_factory=dict)
    file_bytes: int = 0
    recompute: bool = False
    filed_content: frozenset[int] = frozenset()
    release_above_bytes: int = 0

    def tiles(self, segment: Segment, box: Box) -> Iterator[Box]:
        """Divide the input of a segment into tiles."""
        return self.sizes[segment.depth].divide(box)

    def count(self, parts: Sequence[Segment], picture: Box) -> int:
        """Return how many tiles the inputs of all segments have, given the box of the picture."""
        return sum(1 for segment in parts for _ in self.tiles(segment, picture.pooled(segment.depth)))


def square_tiles(parts: Sequence[Segment], edge: int) -> TilePlan:
    """Return square tiles of about `edge` pixels for all segments of a network."""
    sizes = {}
    for segment in parts:
        side = max(1, (edge >> segment.depth) // segment.stride) * segment.stride
        sizes[segment.depth] = TileSize(side, side)
    return TilePlan(sizes)
