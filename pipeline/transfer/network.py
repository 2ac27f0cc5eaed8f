"""The frozen network, forward and backward, whole or a segment of it, without autograd.

As its weights never change, autograd's bookkeeping is not needed: the forward pass keeps what the backward
pass uses. The network may run in bfloat16.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from ..vgg.encoder import Encoder, relu_of, starts_block
from .convolutions import FrozenConvolution
from .gradients import FeatureGradient
from .packing import INTEGERS, Mask, Maxima
from .segments import Segment


@dataclass
class Activations:
    """What a segment made of its input, and what its backward pass needs, by convolution.

    `features` are those of the encoder's layers, `output` is the input of the next segment. `outputs` are
    those of the ReLU after a convolution. `pool_inputs` are those of the pooling before it, `pooled` and
    `indices` what a max pooling returned.
    """

    segment: Segment
    output: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    pool_inputs: dict[str, Tensor] = field(default_factory=dict)
    pooled: dict[str, Tensor] = field(default_factory=dict)
    indices: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PackedActivations:
    """Activations for a backward pass, in less memory: features as they are, of other layers only masks.

    `masks` are of the ReLUs after convolutions. `sources` name the convolutions whose outputs are pooled.
    """

    segment: Segment
    features: dict[str, Tensor]
    masks: dict[str, Mask]
    sources: dict[str, str]
    pooled: dict[str, Mask]
    maxima: dict[str, Maxima]

    def unpacked(self) -> Activations:
        """Return the activations, without the input of the next segment."""
        outputs = {
            name: self.masks[name].unpacked() if name in self.masks else self.features[relu_of(name)]
            for name in self.segment.convolutions
        }
        return Activations(
            self.segment,
            torch.empty(0),
            self.features,
            outputs,
            # The backward pass of a pooling reads only their shape.
            {name: outputs[source] for name, source in self.sources.items()},
            {name: mask.unpacked() for name, mask in self.pooled.items()},
            {name: each.unpacked() for name, each in self.maxima.items()},
        )


class FrozenNetwork:
    """An encoder's convolutions, poolings and ReLUs, computed in `dtype`, channels last."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        self.layers, self.pooling, self.dtype = encoder.layers, encoder.pooling, dtype
        self.mean, self.std = encoder.mean, encoder.std
        self.channels = encoder.channels
        self.convolutions = {
            name: FrozenConvolution(
                convolution.get_parameter("weight").detach(),
                convolution.get_parameter("bias").detach(),
                encoder.padding,
                dtype,
            )
            for name, convolution in encoder.convolutions.items()
        }

    def forward(self, image_BCHW: Tensor) -> Activations:
        """Return the activations of pictures in sRGB, [0, 1]."""
        return self.run(Segment(tuple(self.convolutions)), self.normalised(image_BCHW))

    def normalised(self, image_BCHW: Tensor) -> Tensor:
        """Return the input of the first segment."""
        # Rounded as the encoder rounds: a tiny difference may change what a ReLU or a pooling selects.
        return ((image_BCHW - self.mean) / self.std).to(self.dtype, memory_format=torch.channels_last)

    def run(self, segment: Segment, x: Tensor, keep: bool = True) -> Activations:
        """Return the activations of a segment; they have what the backward pass needs only with `keep`."""
        kept = Activations(segment, x)
        for name in segment.convolutions:
            if starts_block(name) and name != segment.convolutions[0]:
                x = self._pool(name, x, kept, keep)
            x = self.convolutions[name].forward(x)
            if name in self.layers:
                kept.features[name] = x
                x = x.clone()
            x = relu_(x)
            if keep:
                kept.outputs[name] = x
            if (relu := relu_of(name)) in self.layers:
                kept.features[relu] = x
        kept.output = self._pool(segment.following, x, kept, keep) if segment.following else x
        return kept

    def packed(self, kept: Activations) -> PackedActivations:
        """Return what the backward pass needs of activations."""
        sources = {
            name: next(each for each in kept.outputs if kept.outputs[each] is x)
            for name, x in kept.pool_inputs.items()
        }
        return PackedActivations(
            kept.segment,
            kept.features,
            {name: Mask.of(x) for name, x in kept.outputs.items() if relu_of(name) not in kept.features},
            sources,
            {name: Mask.of(x) for name, x in kept.pooled.items()},
            {name: Maxima.of(kept.pool_inputs[name], kept.pooled[name]) for name in kept.indices},
        )

    def _pool(self, name: str, x: Tensor, kept: Activations, keep: bool) -> Tensor:
        """Return the input of the convolution `name`, which starts a block."""
        if keep:
            kept.pool_inputs[name] = x
        if self.pooling == "average":
            return F.avg_pool2d(x, 2)
        pooled, indices = F.max_pool2d(x, 2, return_indices=True)
        if keep:
            kept.pooled[name], kept.indices[name] = pooled, indices
        return pooled

    def backward(
        self,
        kept: Activations,
        gradients: Mapping[str, Sequence[FeatureGradient]],
        by_output: Tensor | None = None,
    ) -> Tensor:
        """Return the gradient with respect to a segment's input, for the first the normalised picture.

        It is that of losses whose `gradients` with respect to features are given, by layer, and of losses in
        later segments, whose gradient with respect to the segment's output is `by_output`.
        """
        segment, gradient = kept.segment, by_output
        is_masked = False  # whether it is already zero where the ReLU let nothing through
        if gradient is not None and segment.following:
            gradient = self._pool_backward(segment.following, gradient, kept)
            is_masked = segment.following in kept.pooled
        for name in reversed(segment.convolutions):
            for each in gradients.get(relu_of(name), ()):
                gradient, is_masked = each.add_to(gradient), False
            if gradient is not None and not is_masked:
                gradient = relu_backward(gradient, kept.outputs[name])
            for each in gradients.get(name, ()):
                gradient = each.add_to(gradient)
            if gradient is None:  # no loss is so deep
                continue
            gradient = self.convolutions[name].backward(gradient)
            is_masked = name in kept.pooled
            if name in kept.pool_inputs:
                gradient = self._pool_backward(name, gradient, kept)
        assert gradient is not None  # there is a loss
        return gradient

    def _pool_backward(self, name: str, gradient: Tensor, kept: Activations) -> Tensor:
        """Return the gradient with respect to the input of the pooling before the convolution `name`."""
        if name in kept.pooled:
            # Cheaper than before the pooling, where the ReLU has four times as many values.
            gradient = relu_backward(gradient, kept.pooled[name])
        return pool_backward(gradient, kept.pool_inputs[name], kept.indices.get(name))


# By encoder and dtype, for as long as the encoder exists.
_NETWORKS: WeakKeyDictionary[Encoder, dict[torch.dtype, FrozenNetwork]] = WeakKeyDictionary()


def frozen_network(encoder: Encoder, dtype: torch.dtype) -> FrozenNetwork:
    """Return an encoder's frozen network; its weights are laid out once for all pictures."""
    networks = _NETWORKS.setdefault(encoder, {})
    if dtype not in networks:
        networks[dtype] = FrozenNetwork(encoder, dtype)
    return networks[dtype]


def relu_(x: Tensor) -> Tensor:
    """Set negative values to zero, in place.

    They are compared as integers of the same width: floats have their sign where integers have it, and on a
    CPU the maximum of integers takes a tenth of the time of that of bfloat16.
    """
    x.view(INTEGERS[x.dtype]).clamp_min_(0)
    return x


def relu_backward(gradient: Tensor, output: Tensor) -> Tensor:
    """Return the gradient with respect to a ReLU's input: zero where its output is zero."""
    return cast(Tensor, torch.ops.aten.threshold_backward(gradient, output, 0))


def pool_backward(gradient: Tensor, x: Tensor, indices: Tensor | None) -> Tensor:
    """Return the gradient with respect to the input `x` of a 2 x 2 pooling; a max pooling has `indices`."""
    aten, sizes = torch.ops.aten, ([2, 2], [2, 2], [0, 0])
    if indices is None:
        return cast(Tensor, aten.avg_pool2d_backward(gradient, x, *sizes, False, True, None))
    by_x = aten.max_pool2d_with_indices_backward(gradient, x, *sizes, [1, 1], False, indices)
    return cast(Tensor, by_x)
