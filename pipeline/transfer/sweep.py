"""A network's forward pass over pictures of any size, tile by tile.

Only the inputs of the segments are kept for a whole picture. Tiles see a border around them that is wide
enough, so all values are those of the untiled pass.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..vgg.encoder import Encoder
from .gradients import FeatureGradient
from .large_maps import close_gaps, empty_map
from .segments import Segment, segments
from .tiles import Box, TilePlan, whole


class Values(Protocol):
    """What a segment makes of its input: the features of its layers, and the input of the next segment."""

    @property
    def features(self) -> dict[str, Tensor]: ...

    @property
    def output(self) -> Tensor: ...


V = TypeVar("V", bound=Values)


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

    def packed(self, kept: V) -> Callable[[], V]: ...

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

    def packed(self, kept: Traced) -> Callable[[], Traced]:
        return lambda: kept

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


# The packed values of tiles.
Kept: TypeAlias = dict[Tile, Callable[[], V]]


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
    kept: Kept[V] | None = None,
    done: int = 0,
) -> Iterator[tuple[Tile, V]]:
    """Run the network forward, and yield every tile with its values, but for the first that are `done`.

    `inputs` gets the inputs of the segments by their depths, without that of the first, which is the image;
    it has what the done tiles gave. `kept` gets the values of the tiles that are kept by the plan, packed;
    those of others have nothing for a backward pass.
    """
    map_BCHW = image_BCHW
    for segment in segments(tuple(network.channels)):
        output_BCHW = _output(network, segment, map_BCHW, {} if inputs is None else inputs)
        keeping = 0 if kept is None else plan.kept.get(segment.depth, 0)
        box = whole(map_BCHW)
        for number, inner in enumerate(plan.tiles(segment, box)):
            if done:
                done -= 1
                continue
            keep = number < keeping
            tile = Tile.of(segment, inner, box, segment.gradient_border if keep else segment.forward_border)
            values = network.run(segment, cut(network, tile, map_BCHW), keep)
            if output_BCHW is not None:
                inner, window = tile.at(segment.following)
                inner.of(output_BCHW).copy_(inner.within(window).of(values.output))
            yield tile, values
            if kept is not None and keep:
                kept[tile] = network.packed(values)
            del values  # before the next tile is computed
        close_gaps(image_BCHW)
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
