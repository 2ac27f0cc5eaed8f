"""A network's forward pass over pictures of any size, tile by tile.

Only the inputs of the segments are kept for a whole picture. Tiles see a border around them that is wide
enough, so all values are those of the untiled pass.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ..vgg.encoder import Encoder
from .gradients import FeatureGradient
from .large_maps import close_gaps, empty_map
from .scratch_file import ScratchFile
from .segments import Segment, segments
from .tiles import Box, TilePlan, whole


class Values(Protocol):
    """What a segment makes of its input: the features of its layers, and the input of the next segment."""

    @property
    def features(self) -> dict[str, Tensor]: ...

    @property
    def output(self) -> Tensor: ...


V = TypeVar("V", bound=Values)
V_co = TypeVar("V_co", bound=Values, covariant=True)


class Packed(Protocol[V_co]):
    """Values in less memory, for as long as they wait for a backward pass."""

    def unpacked(self) -> V_co: ...


class Network(Protocol[V]):
    """A network that runs in segments. `FrozenNetwork` is one, and explains the methods."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def std(self) -> Tensor: ...

    @property
    def channels(self) -> dict[str, int]: ...

    def normalised(self, image_BCHW: Tensor) -> Tensor: ...

    def run(self, segment: Segment, x: Tensor, keep: bool = True) -> V: ...

    def packed(self, kept: V) -> Packed[V]: ...

    def backward(
        self,
        kept: V,
        gradients: Mapping[str, Sequence[FeatureGradient]],
        by_output: Tensor | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Traced:
    """What a segment made of its input, with the graph that autograd recorded."""

    source: Tensor
    features: dict[str, Tensor]
    output: Tensor

    def unpacked(self) -> Traced:
        return self


class AutogradNetwork:
    """An encoder in segments, differentiated by autograd."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.dtype, self.std, self.channels = encoder.mean.dtype, encoder.std, encoder.channels

    def normalised(self, image_BCHW: Tensor) -> Tensor:
        return self.encoder.normalised(image_BCHW)

    def run(self, segment: Segment, x: Tensor, keep: bool = True) -> Traced:
        x = x.detach().requires_grad_(keep)
        with torch.set_grad_enabled(keep):
            features, output = self.encoder.run(x, segment.convolutions, segment.following)
            layout = torch.channels_last
            features = {name: each.contiguous(memory_format=layout) for name, each in features.items()}
        return Traced(x, features, output)

    def packed(self, kept: Traced) -> Traced:
        return kept

    def backward(
        self,
        kept: Traced,
        gradients: Mapping[str, Sequence[FeatureGradient]],
        by_output: Tensor | None = None,
    ) -> Tensor:
        ends = [] if by_output is None else [(kept.output, by_output)]
        for layer, each in gradients.items():
            total: Tensor | None = None
            for gradient in each:
                total = gradient.add_to(total)
            assert total is not None
            ends.append((kept.features[layer], total))
        values, by_values = zip(*ends, strict=True)
        return torch.autograd.grad(values, kept.source, by_values)[0]


@dataclass(frozen=True)
class Tile:
    """A tile of a segment's input, and the `window` that it is computed in: the tile with its border."""

    segment: Segment
    inner: Box
    window: Box

    @classmethod
    def of(cls, segment: Segment, inner: Box, box: Box, border: int) -> Tile:
        """Return a tile with a border where the segment's input, which is as large as `box`, goes on."""
        return cls(segment, inner, inner.grown(border).common(box))

    def at(self, layer: str) -> tuple[Box, Box]:
        """Return the tile and the window in positions of a layer inside the segment."""
        halvings = self.segment.halvings(layer)
        return self.inner.pooled(halvings), self.window.pooled(halvings)


class KeptTiles(Generic[V]):
    """What a forward pass keeps of tiles for the backward pass, packed: in memory, or in a file.

    The plan says of which tiles. If there is no space for the file, it keeps none there.
    """

    def __init__(self, network: Network[V], plan: TilePlan, file: ScratchFile | None = None) -> None:
        self._network = network
        self._packed: dict[Tile, Callable[[], Packed[V]]] = {}
        self._file = file if file is not None and file.open() else None
        # How many of a segment's first tiles are kept in memory, and of the next in the file, by depth.
        self._in_memory = plan.kept
        self._in_file = plan.filed if self._file else {}

    def keeps(self, segment: Segment, number: int) -> bool:
        """Return whether values of the tile with this number of a segment are kept."""
        depth = segment.depth
        return number < self._in_memory.get(depth, 0) + self._in_file.get(depth, 0)

    def put(self, tile: Tile, number: int, values: V) -> None:
        """Keep the values of a tile.

        Raises:
            DiskError: they cannot be written.
        """
        packed = self._network.packed(values)
        if number < self._in_memory.get(tile.segment.depth, 0):
            self._packed[tile] = lambda: packed
        else:
            assert self._file is not None
            self._packed[tile] = self._file.put(packed)

    def pop(self, tile: Tile) -> V | None:
        """Return the values of a tile, and forget them; None if they are not kept.

        Raises:
            DiskError: they cannot be read.
        """
        packed = self._packed.pop(tile, None)
        return packed and packed().unpacked()


def cut(network: Network[V], tile: Tile, map_BCHW: Tensor) -> Tensor:
    """Return the window of a tile of a segment's input; that of the first segment is an image."""
    window_BCHW = tile.window.of(map_BCHW)
    return network.normalised(window_BCHW) if tile.segment.depth == 0 else channels_last(window_BCHW)


def channels_last(map_BCHW: Tensor) -> Tensor:
    """Return a map laid out as channels last, and without gaps."""
    return map_BCHW.contiguous(memory_format=torch.channels_last)


def sweep(
    network: Network[V],
    plan: TilePlan,
    image_BCHW: Tensor,
    inputs: dict[int, Tensor] | None = None,
    kept: KeptTiles[V] | None = None,
    done: int = 0,
) -> Iterator[tuple[Tile, V]]:
    """Run the network forward, and yield every tile with its values, but for the first that are `done`.

    `inputs` gets the inputs of the segments by their depths, without that of the first, which is the image;
    it has what the done tiles gave. `kept` gets the values of the tiles that it keeps; those of others have
    nothing for a backward pass.
    """
    map_BCHW = image_BCHW
    for segment in segments(tuple(network.channels)):
        output_BCHW = _output(network, segment, map_BCHW, {} if inputs is None else inputs)
        box = whole(map_BCHW)
        for number, inner in enumerate(plan.tiles(segment, box)):
            if done:
                done -= 1
                continue
            keep = kept is not None and kept.keeps(segment, number)
            tile = Tile.of(segment, inner, box, segment.gradient_border if keep else segment.forward_border)
            values = network.run(segment, cut(network, tile, map_BCHW), keep)
            if output_BCHW is not None:
                inner, window = tile.at(segment.following)
                inner.of(output_BCHW).copy_(inner.within(window).of(values.output))
            yield tile, values
            if kept is not None and keep:
                kept.put(tile, number, values)
            del values  # before the next tile is computed
        close_gaps(image_BCHW, plan.release_above_bytes)
        if output_BCHW is not None:
            map_BCHW = output_BCHW


def _output(
    network: Network[V], segment: Segment, map_BCHW: Tensor, inputs: dict[int, Tensor]
) -> Tensor | None:
    """Return memory for the output of a segment; None for the last, whose output nobody needs."""
    if not segment.following:
        return None
    if (depth := segment.output_depth) not in inputs:
        rows, columns = (size // segment.stride for size in map_BCHW.shape[2:])
        channels = network.channels[segment.convolutions[-1]]
        shape = (len(map_BCHW), channels, rows, columns)
        inputs[depth] = empty_map(shape, network.dtype, map_BCHW.device, channels_last=True)
    return inputs[depth]
