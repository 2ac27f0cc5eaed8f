"""The total loss and its gradient in one pass of our own, without autograd.

The network is frozen and only the pixels move, so nothing of autograd's bookkeeping is needed: the forward
pass keeps what its way back asks for (which pixels a ReLU let through, which a pooling chose, the tapped
features), and the input gradient of a convolution is a convolution with flipped, transposed weights. The
network may run in bfloat16; moments, losses and canvas stay float32. `objective.py` is the reference.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..recipe import Recipe
from .encoder import Encoder
from .losses import TINY, BuresTarget, Convention, Moments, bures_target, gram_style_loss, moments
from .objective import Losses
from .targets import StyleTargets


@dataclass(frozen=True)
class _Stage:
    """One convolution: forward weights, and those whose convolution is its way back."""

    name: str
    weight: Tensor
    bias: Tensor
    back_weight: Tensor
    pools: bool


@dataclass(frozen=True)
class _Trace:
    """What the way back needs: every stage's output, what each pooling chose, and the tapped features."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    chosen: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)


class ExplicitObjective:
    """Evaluates what `ReferenceObjective` does, with the network in `dtype`."""

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        content_BCHW: Tensor,
        targets: StyleTargets,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.recipe = recipe
        self.dtype = dtype
        self.pooling, self.padding = encoder.pooling, recipe.padding
        self.taps = frozenset([*recipe.content_layers, *recipe.style_layers])
        self.mean, self.std = encoder.mean, encoder.std
        self.stages = [
            _Stage(name, *_weights(encoder, name, dtype), pools=name.endswith("_1") and name != "conv1_1")
            for name in encoder.convolutions
        ]
        with torch.no_grad():
            features = self._forward(content_BCHW).features
        self.content = {layer: features[layer] for layer in recipe.content_layers}
        self.styles = {layer: self._style_target(targets.layers[layer]) for layer in recipe.style_layers}

    def _style_target(self, style: Moments) -> BuresTarget | Tensor:
        return (
            bures_target(style, self.recipe.bures_epsilon)
            if self.recipe.style_loss == "bures"
            else style.second
        )

    @torch.no_grad()
    def evaluate(self, image_BCHW: Tensor) -> tuple[Losses, Tensor]:
        recipe = self.recipe
        trace = self._forward(image_BCHW)
        layers: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}
        content = style = image_BCHW.new_zeros(len(image_BCHW))
        for layer, weight in recipe.content_layers.items():
            factor = recipe.content_weight * weight
            loss, gradient = content_gradient(trace.features[layer], self.content[layer], recipe.loss, factor)
            layers[f"content_{layer}"], gradients[layer] = loss, gradient
            content = content + factor * loss
        for layer, weight in recipe.style_layers.items():
            factor = recipe.style_weight * weight
            loss, gradient = self._style(layer, trace.features[layer], factor)
            layers[f"style_{layer}"] = loss
            gradients[layer] = gradients[layer] + gradient if layer in gradients else gradient
            style = style + factor * loss
        tv, outside, by_pixels = pixel_gradient(image_BCHW, recipe.tv_weight, recipe.range_weight)
        losses = Losses(content + style + tv + outside, content, style, tv, layers)
        return losses, self._backward(trace, gradients) + by_pixels

    def _style(self, layer: str, features_BCHW: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        current, target = moments(features_BCHW), self.styles[layer]
        if isinstance(target, BuresTarget):
            loss, by_second, by_mean = bures_gradient(current, target)
        else:
            loss, by_second = gram_gradient(current.second, target, self.recipe.loss)
            by_mean = torch.zeros_like(current.mean)
        return loss, moments_backward(features_BCHW, factor * by_second, factor * by_mean)

    def _forward(self, image_BCHW: Tensor) -> _Trace:
        trace = _Trace()
        x = ((image_BCHW - self.mean) / self.std).to(self.dtype).contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            if stage.pools and self.pooling == "max":
                x, trace.chosen[stage.name] = F.max_pool2d(x, 2, return_indices=True)
            elif stage.pools:
                x = F.avg_pool2d(x, 2)
            x = self._convolve(x, stage)
            if stage.name in self.taps:
                trace.features[stage.name] = x
            x = F.relu(x, inplace=stage.name not in self.taps)
            trace.outputs[stage.name] = x
            if (relu := "relu" + stage.name[4:]) in self.taps:
                trace.features[relu] = x
        return trace

    def _convolve(self, x: Tensor, stage: _Stage) -> Tensor:
        if self.padding == "zeros":
            return F.conv2d(x, stage.weight, stage.bias, padding=1)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), self.padding), stage.weight, stage.bias)

    def _backward(self, trace: _Trace, gradients: dict[str, Tensor]) -> Tensor:
        """Return the gradient by the picture of losses whose gradients by the tapped features are given."""
        gradient: Tensor | None = None
        for index, stage in reversed(list(enumerate(self.stages))):
            gradient = _sum(gradient, gradients.get("relu" + stage.name[4:]))
            if gradient is not None:
                gradient = torch.ops.aten.threshold_backward(gradient, trace.outputs[stage.name], 0)
            gradient = _sum(gradient, gradients.get(stage.name))
            assert gradient is not None  # the deepest stage is tapped
            gradient = self._convolve_back(gradient, stage)
            if stage.pools:
                before = trace.outputs[self.stages[index - 1].name]
                gradient = self._pool_back(gradient, before, trace.chosen.get(stage.name))
        assert gradient is not None
        return gradient.float() / self.std

    def _convolve_back(self, gradient: Tensor, stage: _Stage) -> Tensor:
        if self.padding == "zeros":
            return F.conv2d(gradient, stage.back_weight, padding=1)
        return _fold(F.conv2d(gradient, stage.back_weight, padding=2), self.padding)

    def _pool_back(self, gradient: Tensor, before: Tensor, chosen: Tensor | None) -> Tensor:
        aten, sizes = torch.ops.aten, ([2, 2], [2, 2], [0, 0])
        if chosen is None:
            return cast(Tensor, aten.avg_pool2d_backward(gradient, before, *sizes, False, True, None))
        back = aten.max_pool2d_with_indices_backward(gradient, before, *sizes, [1, 1], False, chosen)
        return cast(Tensor, back)


def content_gradient(
    features_BCHW: Tensor, target_BCHW: Tensor, convention: Convention, factor: float
) -> tuple[Tensor, Tensor]:
    """Return `content_loss` (B) and `factor` times its gradient by the features."""
    difference = features_BCHW.float() - target_BCHW.float()
    squared = difference.square().flatten(1).sum(1)
    if convention == "gatys":
        per = squared.new_full((1,), 1 / (2 * features_BCHW.shape[1]))
    elif convention == "mean":
        per = squared.new_full((1,), 1 / features_BCHW[0].numel())
    else:
        per = 1 / target_BCHW.float().square().flatten(1).sum(1).clamp_min(TINY)
    gradient = difference * (2 * factor * per)[:, None, None, None]
    return squared * per, gradient.to(features_BCHW.dtype)


def gram_gradient(second_BCC: Tensor, target_BCC: Tensor, convention: Convention) -> tuple[Tensor, Tensor]:
    """Return `gram_style_loss` (B) and its gradient by the second moment (BCC)."""
    loss = gram_style_loss(second_BCC, target_BCC, convention)
    difference = second_BCC - target_BCC
    channels = second_BCC.shape[1]
    if convention == "gatys":
        return loss, difference * (2 / (4 * channels**2))
    if convention == "mean":
        return loss, difference * (2 / channels**4)
    return loss, difference * (2 / target_BCC.square().sum((1, 2), keepdim=True).clamp_min(TINY))


def bures_gradient(current: Moments, target: BuresTarget) -> tuple[Tensor, Tensor, Tensor]:
    """Return `bures_style_loss` (B) and its gradients by the second moment (BCC) and the mean (BC).

    With Σ = S - m mᵀ: dL/dΣ = V (D / divisor) Vᵀ / scale =: Q, so dL/dS = Q and
    dL/dm = 2 (m - m̂) / scale - 2 Q m.
    """
    vectors = target.eigenvectors
    rotated = vectors.transpose(1, 2) @ (current.covariance - target.covariance) @ vectors
    weighed = rotated / target.divisor
    apart = current.mean - target.mean
    loss = (apart.square().sum(1) + 0.5 * (rotated * weighed).sum((1, 2))) / target.scale
    by_second = vectors @ weighed @ vectors.transpose(1, 2) / target.scale[:, None, None]
    by_mean = 2 * apart / target.scale[:, None] - 2 * (by_second @ current.mean[:, :, None])[:, :, 0]
    return loss, by_second, by_mean


def moments_backward(features_BCHW: Tensor, by_second_BCC: Tensor, by_mean_BC: Tensor) -> Tensor:
    """Return the gradient by the features: (2 Q F + g 1ᵀ) / M, in the features' dtype and layout."""
    B, C, H, W = features_BCHW.shape
    dtype = features_BCHW.dtype
    flat_BMC = features_BCHW.permute(0, 2, 3, 1).reshape(B, H * W, C)
    matrix = (by_second_BCC + by_second_BCC.transpose(1, 2)) / (H * W)
    bias = (by_mean_BC / (H * W))[:, None, :]
    gradient_BMC = torch.baddbmm(bias.to(dtype), flat_BMC, matrix.to(dtype))
    return gradient_BMC.reshape(B, H, W, C).permute(0, 3, 1, 2)


def pixel_gradient(
    image_BCHW: Tensor, tv_weight: float, range_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted total variation and range losses (B), and the gradient of both together."""
    rows, columns = image_BCHW.diff(dim=2), image_BCHW.diff(dim=3)
    per_row, per_column = 1 / rows[0].numel(), 1 / columns[0].numel()
    outside = image_BCHW - image_BCHW.clamp(0, 1)
    gradient = outside * (2 * range_weight / outside[0].numel())
    gradient[:, :, 1:] += rows * (2 * tv_weight * per_row)
    gradient[:, :, :-1] -= rows * (2 * tv_weight * per_row)
    gradient[:, :, :, 1:] += columns * (2 * tv_weight * per_column)
    gradient[:, :, :, :-1] -= columns * (2 * tv_weight * per_column)
    tv = total_of_squares(rows) * per_row + total_of_squares(columns) * per_column
    return tv_weight * tv, range_weight * total_of_squares(outside) / outside[0].numel(), gradient


def total_of_squares(values: Tensor) -> Tensor:
    """Return the sum of squares per picture (B)."""
    return values.square().flatten(1).sum(1)


def _weights(encoder: Encoder, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    weight = encoder.convolutions[name].get_parameter("weight").detach()
    bias = encoder.convolutions[name].get_parameter("bias").detach()
    back = weight.flip(2, 3).transpose(0, 1)
    forward, back = (w.to(dtype).contiguous(memory_format=torch.channels_last) for w in (weight, back))
    return forward, bias.to(dtype), back


def _fold(padded: Tensor, padding: str) -> Tensor:
    """Add what flowed into a border of one pixel to the pixels it was copied from, and cut it off."""
    inner = 1 if padding == "reflect" else 0  # how far inside the copied row or column lies
    rows = padded[:, :, 1:-1].clone(memory_format=torch.channels_last)
    rows[:, :, inner] += padded[:, :, 0]
    rows[:, :, -1 - inner] += padded[:, :, -1]
    columns = rows[:, :, :, 1:-1]
    columns[:, :, :, inner] += rows[:, :, :, 0]
    columns[:, :, :, -1 - inner] += rows[:, :, :, -1]
    return columns.contiguous(memory_format=torch.channels_last)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
