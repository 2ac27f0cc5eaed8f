"""Segments of the network, and how far their values reach: what tiles need to be exact.

A segment is a run of convolutions with their poolings. It begins with the input of its first convolution and
ends with the pooling before the next segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..spec.layers import poolings_before
from ..vgg.encoder import starts_block

# The first block whose input is kept for a whole picture. Before it, maps are large and reach little.
FIRST_CUT = 3


@dataclass(frozen=True)
class Segment:
    """Convolutions in their order, and the one after the pooling that ends the segment, if there is one.

    Borders are in positions of the segment's input. With j the `stride` of its output, an output position p
    depends on the inputs from p·j - reach to p·j + j - 1 + reach, and so do all layers inside, which reach
    less. At the border of the picture itself, padding adds nothing to that.
    """

    convolutions: tuple[str, ...]
    following: str = ""

    @property
    def depth(self) -> int:
        """The number of poolings before the segment's input."""
        return poolings_before(self.convolutions[0])

    @property
    def output_depth(self) -> int:
        """The number of poolings before the next segment's input; -1 if there is none."""
        return poolings_before(self.following) if self.following else -1

    def halvings(self, layer: str) -> int:
        """Return how many poolings lie between the segment's input and a layer inside."""
        return poolings_before(layer) - self.depth

    @property
    def stride(self) -> int:
        """How many positions of the input, in a row, become one position of the output."""
        return 1 << self.halvings(self.following or self.convolutions[-1])

    @property
    def reach(self) -> int:
        """How far a value depends on the input, beyond the positions that it stands for itself.

        A 3 x 3 convolution reaches one position further, of its own size; a pooling reaches no further.
        """
        return sum(1 << self.halvings(name) for name in self.convolutions)

    @property
    def forward_border(self) -> int:
        """How many positions around a tile give exact values in the tile."""
        return _rounded_up(self.reach, self.stride)

    @property
    def gradient_border(self) -> int:
        """How many positions around a tile give an exact gradient in the tile.

        The gradient at an input is the sum over the positions p that depend on it, and each of them has to be
        exact itself. A p that depends on the tile's first position a may depend on a - (2·reach + j - 1) too.
        Positions nearer to the edge of the cut have wrong values, but nothing in the tile depends on these.
        """
        return _rounded_up(2 * self.reach + self.stride - 1, self.stride)


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


def segments(convolutions: Sequence[str]) -> tuple[Segment, ...]:
    """Divide a network into segments: the blocks before FIRST_CUT, and each later block.

    Between segments, values are kept for a whole picture, as in checkpointing (Chen et al. 2016, "Training
    deep nets with sublinear memory cost"). So the borders of tiles do not add up over the whole network.
    """
    starts = [
        index
        for index, name in enumerate(convolutions)
        if starts_block(name) and poolings_before(name) + 1 >= FIRST_CUT
    ]
    edges = [0, *starts, len(convolutions)]
    return tuple(
        Segment(tuple(convolutions[first:last]), convolutions[last] if last < len(convolutions) else "")
        for first, last in pairwise(edges)
    )
