"""The frozen network, forward and backward, without autograd.

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

_INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


@dataclass(frozen=True)
class Activations:
    """The features of the encoder's layers, and what the backward pass needs, by convolution.

    `outputs` are those of the ReLU after it. `pool_inputs` are those of the pooling before it, `pooled` and
    `indices` what a max pooling returned.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    pool_inputs: dict[str, Tensor] = field(default_factory=dict)
    pooled: dict[str, Tensor] = field(default_factory=dict)
    indices: dict[str, Tensor] = field(default_factory=dict)


class FrozenNetwork:
    """An encoder's convolutions, poolings and ReLUs, computed in `dtype`, channels last."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        self.layers, self.pooling, self.dtype = encoder.layers, encoder.pooling, dtype
        self.mean, self.std = encoder.mean, encoder.std
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
        kept = Activations()
        # Rounded as the encoder rounds: a tiny difference may change what a ReLU or a pooling selects.
        x = ((image_BCHW - self.mean) / self.std).to(self.dtype, memory_format=torch.channels_last)
        for name, convolution in self.convolutions.items():
            if starts_block(name):
                kept.pool_inputs[name] = x
                if self.pooling == "max":
                    x, kept.indices[name] = F.max_pool2d(x, 2, return_indices=True)
                    kept.pooled[name] = x
                else:
                    x = F.avg_pool2d(x, 2)
            x = convolution.forward(x)
            if name in self.layers:
                kept.features[name] = x
                x = x.clone()
            kept.outputs[name] = x = relu_(x)
            if (relu := relu_of(name)) in self.layers:
                kept.features[relu] = x
        return kept

    def backward(self, kept: Activations, gradients: Mapping[str, Sequence[FeatureGradient]]) -> Tensor:
        """Return the gradient with respect to the normalised picture from those with respect to features."""
        gradient: Tensor | None = None
        is_masked = False  # whether it is already zero where the ReLU let nothing through
        for name, convolution in reversed(self.convolutions.items()):
            for each in gradients.get(relu_of(name), ()):
                gradient, is_masked = each.add_to(gradient), False
            if gradient is not None and not is_masked:
                gradient = relu_backward(gradient, kept.outputs[name])
            for each in gradients.get(name, ()):
                gradient = each.add_to(gradient)
            assert gradient is not None  # the deepest layer has a loss
            gradient = convolution.backward(gradient)
            if is_masked := name in kept.pooled:
                # Cheaper than before the pooling, where the ReLU has four times as many values.
                gradient = relu_backward(gradient, kept.pooled[name])
            if name in kept.pool_inputs:
                gradient = pool_backward(gradient, kept.pool_inputs[name], kept.indices.get(name))
        assert gradient is not None
        return gradient


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
    x.view(_INTEGERS[x.dtype]).clamp_min_(0)
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
