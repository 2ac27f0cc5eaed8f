"""The total loss and its gradient in one pass of our own, without autograd.

The network is frozen and only the pixels move, so nothing of autograd's bookkeeping is needed: the forward
pass keeps what its way back asks for (the inputs of every convolution, which pixel a pooling chose), and the
input gradient of a convolution is a convolution with flipped, transposed weights. The network may run in
bfloat16; moments, losses and canvas stay float32. `objective.py` is the reference.

What a job brings (content and style targets) lies in tensors allocated once, which `load` overwrites, and
`evaluate` never asks the device for a number: it can be captured in a CUDA graph.

Shapes in names: B pictures, C channels, H rows, W columns, M = H·W positions, K channels of a gradient or
regions of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec.recipe import Recipe
from ..threads import SharedContext
from ..vgg.encoder import Encoder
from .canvas import crop_features
from .losses import (
    TINY,
    BuresTarget,
    Convention,
    Guide,
    Moments,
    bures_target,
    gram_style_loss,
    stretched_chroma,
)
from .masks import guides
from .objective import Losses
from .targets import StyleTargets

_INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
# From so many values of a picture on, a copy with a border costs more than the border's own small
# convolutions; the way back also has to fold the copy.
APART, APART_BACK = 2_000_000, 500_000


@dataclass(frozen=True)
class Kernel:
    """A 3 x 3 convolution's weights, and their outer rows and columns for what lies beyond the border."""

    weight: Tensor
    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> Kernel:
        def lay(part: Tensor) -> Tensor:
            return part.to(dtype).contiguous(memory_format=torch.channels_last)

        return cls(
            lay(weight),
            (lay(weight[:, :, :1]), lay(weight[:, :, 2:])),
            (lay(weight[..., :1]), lay(weight[..., 2:])),
        )


@dataclass(frozen=True)
class _Stage:
    """One convolution, and the one that is its way back."""

    name: str
    forward: Kernel
    bias: Tensor
    back: Kernel
    pools: bool

    @property
    def relu(self) -> str:
        return "relu" + self.name[4:]


@dataclass(frozen=True)
class _Trace:
    """What the way back needs: every stage's output, what each pooling gave and chose, and the taps."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    pooled: dict[str, Tensor] = field(default_factory=dict)
    chosen: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)


class ExplicitObjective:
    """Evaluates what `ReferenceObjective` does, with the network in `dtype`.

    `targets` are of one style for all pictures or of one for each, in the batch dimension.
    """

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
        self.stages = _stages(encoder, dtype)
        self.content = self._content_targets(content_BCHW)
        self.styles = self._style_targets(targets, len(content_BCHW))
        self.guides = self._guides(targets)

    @torch.no_grad()
    def load(self, content_BCHW: Tensor, targets: StyleTargets) -> None:
        """Put the targets of other pictures, of the same sizes, in the place of those there are."""
        for layer, new in self._content_targets(content_BCHW).items():
            _copy_target(self.content[layer], new)
        for layer, style in self._style_targets(targets, len(content_BCHW)).items():
            _copy_target(self.styles[layer], style)
        for layer, guide in self._guides(targets).items():
            _copy_target(self.guides[layer], guide)

    def _content_targets(self, content_BCHW: Tensor) -> dict[str, ContentTarget]:
        with torch.no_grad():
            features = self._forward(content_BCHW).features
        return {
            layer: content_target(features[layer], self.recipe.loss) for layer in self.recipe.content_layers
        }

    def _style_targets(self, targets: StyleTargets, pictures: int) -> dict[str, BuresTarget | GramTarget]:
        styles: dict[str, BuresTarget | GramTarget] = {}
        for layer in self.recipe.style_layers:
            style = targets.layers[layer]
            styles[layer] = _expanded(
                bures_target(style) if self.recipe.style_loss == "bures" else GramTarget(style.second),
                pictures * max(1, targets.regions),
            )
        return styles

    def _guides(self, targets: StyleTargets) -> dict[str, Guide]:
        recipe = self.recipe
        return {} if targets.masks is None else guides(targets.masks, recipe.style_layers, recipe.margin)

    @torch.no_grad()
    def evaluate(self, image_BCHW: Tensor) -> tuple[Losses, Tensor]:
        """Return the losses and the gradient of each picture's total by its pixels."""
        recipe = self.recipe
        trace = self._forward(image_BCHW)
        layers: dict[str, Tensor] = {}
        pulls: dict[str, list[_Pull]] = {}
        content = style = image_BCHW.new_zeros(len(image_BCHW))
        for layer, weight in recipe.content_layers.items():
            factor = recipe.content_weight * weight
            loss, difference = content_gradient(trace.features[layer], self.content[layer], factor)
            pulls.setdefault(layer, []).append(_Pull(difference))
            layers[f"content_{layer}"], content = loss, content + factor * loss
        for layer, weight in recipe.style_layers.items():
            factor = recipe.style_weight * weight
            loss, pull = self._style(layer, trace.features[layer], factor)
            pulls.setdefault(layer, []).append(pull)
            layers[f"style_{layer}"], style = loss, style + factor * loss
        tv, outside, gradient_BCHW = pixel_gradient(
            image_BCHW, recipe.tv_weight, recipe.tv_chroma, recipe.range_weight
        )
        losses = Losses(content + style + tv + outside, content, style, tv, layers)
        return losses, gradient_BCHW.addcdiv_(self._backward(trace, pulls), self.std)

    def _style(self, layer: str, whole_BCHW: Tensor, factor: float) -> tuple[Tensor, _Pull]:
        features_BCHW = crop_features(whole_BCHW, layer, self.recipe.margin)
        features_BCHW = features_BCHW.contiguous(memory_format=torch.channels_last)
        target, guide = self.styles[layer], self.guides.get(layer)
        current = feature_moments(features_BCHW, guide)
        if isinstance(target, BuresTarget):
            loss, by_second, by_mean = bures_gradient(current, target)
        else:
            loss, by_second = gram_gradient(current.second, target.second, self.recipe.loss)
            by_mean = None
        if guide is None:
            pull = moments_pull(features_BCHW, by_second, by_mean, factor)
        else:
            loss = guide.combined(loss)
            pull = guided_pull(features_BCHW, guide, by_second, by_mean, factor)
        return loss, replace(pull, border=(whole_BCHW.shape[2] - features_BCHW.shape[2]) // 2)

    def _forward(self, image_BCHW: Tensor) -> _Trace:
        trace = _Trace()
        # Rounded as the encoder rounds: the least difference may turn a ReLU or a pooling another way.
        x = ((image_BCHW - self.mean) / self.std).to(self.dtype, memory_format=torch.channels_last)
        for stage in self.stages:
            if stage.pools and self.pooling == "max":
                x, trace.chosen[stage.name] = F.max_pool2d(x, 2, return_indices=True)
                trace.pooled[stage.name] = x
            elif stage.pools:
                x = F.avg_pool2d(x, 2)
            x = convolve(x, stage.forward, stage.bias, self.padding)
            if stage.name in self.taps:
                trace.features[stage.name] = x
                x = x.clone()
            trace.outputs[stage.name] = x = relu_(x)
            if stage.relu in self.taps:
                trace.features[stage.relu] = x
        return trace

    def _backward(self, trace: _Trace, pulls: dict[str, list[_Pull]]) -> Tensor:
        """Return the gradient by the normalised picture of losses that pull at the tapped features."""
        gradient: Tensor | None = None
        masked = False  # where the ReLU let nothing through, there is nothing already
        for index, stage in reversed(list(enumerate(self.stages))):
            for pull in pulls.get(stage.relu, []):
                gradient, masked = pull.added_to(gradient), False
            if gradient is not None and not masked:
                gradient = _where_positive(gradient, trace.outputs[stage.name])
            for pull in pulls.get(stage.name, []):
                gradient = pull.added_to(gradient)
            assert gradient is not None  # the deepest stage is tapped
            gradient = convolve_back(gradient, stage.back, self.padding)
            masked = stage.name in trace.pooled
            if masked:
                # A quarter of the mask before the pooling: what it chose is positive where it is itself.
                gradient = _where_positive(gradient, trace.pooled[stage.name])
            if stage.pools:
                before = trace.outputs[self.stages[index - 1].name]
                gradient = _pool_back(gradient, before, trace.chosen.get(stage.name))
        assert gradient is not None
        return gradient


@dataclass(frozen=True)
class ContentTarget:
    """A content's features (BCHW), and what divides the squared distance from them (B)."""

    features: Tensor
    divisor: Tensor


@dataclass(frozen=True)
class GramTarget:
    """A style's second moment F Fᵀ / M (BCC)."""

    second: Tensor


@dataclass(frozen=True)
class _Pull:
    """A gradient by features: `by_features` itself, or F · matrix + bias, not yet multiplied out.

    It pulls at all positions but a `border` of so many.
    """

    by_features: Tensor
    matrix_BCC: Tensor | None = None
    bias_BC: Tensor | None = None
    border: int = 0

    def added_to(self, gradient_BCHW: Tensor | None) -> Tensor:
        """Return the sum with `gradient_BCHW`, in its memory."""
        if self.border:
            inner_BCHW = replace(self, border=0).added_to(None)
            if gradient_BCHW is None:
                return F.pad(inner_BCHW, [self.border] * 4)
            cut = slice(self.border, -self.border)
            gradient_BCHW[:, :, cut, cut] += inner_BCHW
            return gradient_BCHW
        if self.matrix_BCC is None:
            return self.by_features if gradient_BCHW is None else gradient_BCHW.add_(self.by_features)
        features_BMC = _rows(self.by_features)
        if gradient_BCHW is None:
            gradient_BCHW = torch.zeros_like(self.by_features)
        gradient_BMC = _rows(gradient_BCHW)
        gradient_BMC = gradient_BMC.baddbmm_(features_BMC, self.matrix_BCC)
        if self.bias_BC is not None:
            # As a product: a sum that repeats the bias takes ten times as long in bfloat16.
            ones_BM1 = features_BMC.new_ones(*features_BMC.shape[:2], 1)
            gradient_BMC.baddbmm_(ones_BM1, self.bias_BC[:, None])
        return gradient_BCHW


def content_target(features_BCHW: Tensor, convention: Convention) -> ContentTarget:
    """Return a content's target with the divisor of its convention."""
    divisor = _squares(features_BCHW).clamp_min(TINY)
    if convention != "normalized":
        divisor.fill_(2 * features_BCHW.shape[1] if convention == "gatys" else features_BCHW[0].numel())
    # The features may be the network's own memory.
    return ContentTarget(features_BCHW.clone(), divisor)


def content_gradient(features_BCHW: Tensor, target: ContentTarget, factor: float) -> tuple[Tensor, Tensor]:
    """Return `content_loss` (B) and `factor` times its gradient by the features."""
    difference = features_BCHW - target.features
    loss = _squares(difference) / target.divisor
    return loss, difference.mul_((2 * factor / target.divisor).to(difference.dtype)[:, None, None, None])


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


def feature_moments(features_BCHW: Tensor, guide: Guide | None = None) -> Moments:
    """Return `moments` of features laid out as channels last: sums in float32, or float64 of float64.

    With a guide, `guided_moments`.
    """
    features_BMC = _rows(features_BCHW)
    wide_BMC = features_BMC.to(_wide(features_BCHW.dtype))
    as_bfloat16 = features_BCHW.dtype == torch.bfloat16 and features_BCHW.device.type == "cpu"
    if guide is None:
        return Moments(wide_BMC.mean(1), _squared(wide_BMC, as_bfloat16) / wide_BMC.shape[1])
    mean_BKC = (guide.weights @ wide_BMC) / guide.total[:, :, None]
    # The root on both sides keeps it symmetric; in bfloat16 it rounds at soft edges only.
    roots = guide.weights.sqrt()[..., None].unbind(1)
    second_BKCC = torch.stack([_squared(wide_BMC * root_BM1, as_bfloat16) for root_BM1 in roots], 1)
    second_BKCC /= guide.total[:, :, None, None]
    return Moments(mean_BKC.flatten(0, 1), second_BKCC.flatten(0, 1))


def _squared(wide_BMC: Tensor, as_bfloat16: bool) -> Tensor:
    """Return Fᵀ F (BCC)."""
    if not as_bfloat16:
        return wide_BMC.transpose(1, 2) @ wide_BMC
    with _bfloat16_factors:
        return torch.stack([wide_MC.T @ wide_MC for wide_MC in wide_BMC])


def moments_pull(
    features_BCHW: Tensor, by_second_BCC: Tensor, by_mean_BC: Tensor | None, factor: float
) -> _Pull:
    """Return `factor` times the gradient by the features, (2 Q F + g 1ᵀ) / M, from those by the moments."""
    share = factor / (features_BCHW.shape[2] * features_BCHW.shape[3])
    dtype = features_BCHW.dtype
    matrix_BCC = (by_second_BCC + by_second_BCC.transpose(1, 2)) * share
    bias_BC = None if by_mean_BC is None else (by_mean_BC * share).to(dtype)
    return _Pull(features_BCHW, matrix_BCC.to(dtype), bias_BC)


def guided_pull(
    features_BCHW: Tensor, guide: Guide, by_second: Tensor, by_mean: Tensor | None, factor: float
) -> _Pull:
    """Return `factor` times the gradient by the features, Σ_k t_k ⊙ (2 Q_k F + g_k 1ᵀ) / M.

    A region's loss has the share Σ t_k / M, and its moments are divided by Σ t_k, which cancels out.
    """
    features_BMC, dtype = _rows(features_BCHW), features_BCHW.dtype
    B, C, H, W = features_BCHW.shape
    regions = guide.share.shape[1]
    weights_BMK = (guide.weights * (factor / (H * W))).to(dtype).transpose(1, 2).contiguous()
    matrix = (by_second + by_second.transpose(1, 2)).to(dtype)
    if by_mean is None:
        pulled_BMC = features_BMC.new_zeros(features_BMC.shape)
    else:
        pulled_BMC = weights_BMK @ by_mean.view(B, regions, C).to(dtype)
    for region in range(regions):
        # Spread out first: repeating them on the way takes ten times as long in bfloat16.
        spread_BMC = weights_BMK[:, :, region, None].expand_as(features_BMC).contiguous()
        pulled_BMC.baddbmm_(spread_BMC.mul_(features_BMC), matrix[region::regions])
    return _Pull(pulled_BMC.view(B, H, W, C).permute(0, 3, 1, 2))


def pixel_gradient(
    image_BCHW: Tensor, tv_weight: float, tv_chroma: float, range_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted total variation and range losses (B), and the gradient of both together."""
    stretched_BCHW = stretched_chroma(image_BCHW, tv_chroma**0.5)
    gradient = torch.zeros_like(image_BCHW)
    tv = image_BCHW.new_zeros(len(image_BCHW))
    for dim in (2, 3):
        steps = stretched_BCHW.diff(dim=dim)
        share = tv_weight / steps[0].numel()
        tv += share * total_of_squares(steps)
        gradient.narrow(dim, 1, steps.shape[dim]).add_(steps, alpha=2 * share)
        gradient.narrow(dim, 0, steps.shape[dim]).sub_(steps, alpha=2 * share)
    outside = image_BCHW - image_BCHW.clamp(0, 1)
    share = range_weight / outside[0].numel()
    gradient = stretched_chroma(gradient, tv_chroma**0.5).add(outside, alpha=2 * share)
    return tv, share * total_of_squares(outside), gradient


def total_of_squares(values: Tensor) -> Tensor:
    """Return the sum of squares per picture (B)."""
    return values.square().flatten(1).sum(1)


def convolve(x_BCHW: Tensor, kernel: Kernel, bias: Tensor, padding: str) -> Tensor:
    """Convolve a picture continued by one pixel on all sides as `padding` says."""
    if padding == "zeros":
        return F.conv2d(x_BCHW, kernel.weight, bias, padding=1)
    if x_BCHW[0].numel() < APART:
        return F.conv2d(F.pad(x_BCHW, (1, 1, 1, 1), padding), kernel.weight, bias)
    y_BCHW = F.conv2d(x_BCHW, kernel.weight, bias, padding=1)
    for edge, source, row, column in _sides(kernel, padding):
        beyond = F.pad(x_BCHW[:, :, source, None], (1, 1, 0, 0), padding)
        y_BCHW[:, :, edge] += F.conv2d(beyond, row)[:, :, 0]
        y_BCHW[:, :, :, edge] += F.conv2d(x_BCHW[:, :, :, source, None], column, padding=(1, 0))[..., 0]
    return y_BCHW


def convolve_back(gradient_BKHW: Tensor, kernel: Kernel, padding: str) -> Tensor:
    """Return the gradient by `x_BCHW` of `convolve`, whose way back `kernel` is."""
    if padding == "zeros":
        return F.conv2d(gradient_BKHW, kernel.weight, padding=1)
    if gradient_BKHW[0].numel() < APART_BACK:
        return _fold(F.conv2d(gradient_BKHW, kernel.weight, padding=2), padding)
    by_x = F.conv2d(gradient_BKHW, kernel.weight, padding=1)
    for edge, source, row, column in _sides(kernel, padding, back=True):
        beyond = F.conv2d(gradient_BKHW[:, :, edge, None], row, padding=(0, 2))[:, :, 0]
        by_row = beyond[:, :, 1:-1]
        first, last = (1, -2) if padding == "reflect" else (0, -1)
        by_row[:, :, first] += beyond[:, :, 0]
        by_row[:, :, last] += beyond[:, :, -1]
        by_x[:, :, source] += by_row
        by_x[:, :, :, source] += F.conv2d(gradient_BKHW[:, :, :, edge, None], column, padding=(1, 0))[..., 0]
    return by_x


def relu_(x: Tensor) -> Tensor:
    """Set what is negative to zero, in place.

    As integers of the same width: floats have their sign where integers have it, and the CPU's maximum of
    integers takes a tenth of the time of that of bfloat16.
    """
    x.view(_INTEGERS[x.dtype]).clamp_min_(0)
    return x


def _where_positive(gradient: Tensor, output: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.aten.threshold_backward(gradient, output, 0))


def _pool_back(gradient: Tensor, before: Tensor, chosen: Tensor | None) -> Tensor:
    aten, sizes = torch.ops.aten, ([2, 2], [2, 2], [0, 0])
    if chosen is None:
        return cast(Tensor, aten.avg_pool2d_backward(gradient, before, *sizes, False, True, None))
    back = aten.max_pool2d_with_indices_backward(gradient, before, *sizes, [1, 1], False, chosen)
    return cast(Tensor, back)


def _sides(kernel: Kernel, padding: str, back: bool = False) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Give, for the first and the last row and column: which it is, which is repeated beyond it, weights."""
    inside = 1 if padding == "reflect" else 0
    for edge, source, part in ((0, inside, 0), (-1, -1 - inside, 1)):
        part = 1 - part if back else part
        yield edge, source, kernel.rows[part], kernel.columns[part]


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


# By encoder and dtype, for as long as the encoder is there; it stays as it is once it was used.
_LAID_OUT: WeakKeyDictionary[Encoder, dict[torch.dtype, tuple[_Stage, ...]]] = WeakKeyDictionary()


def _stages(encoder: Encoder, dtype: torch.dtype) -> tuple[_Stage, ...]:
    """Lay out an encoder's weights, once for all the pictures it sees."""
    layouts = _LAID_OUT.setdefault(encoder, {})
    if dtype not in layouts:
        layouts[dtype] = tuple(_stage(encoder, name, dtype) for name in encoder.convolutions)
    return layouts[dtype]


def _stage(encoder: Encoder, name: str, dtype: torch.dtype) -> _Stage:
    weight = encoder.convolutions[name].get_parameter("weight").detach()
    bias = encoder.convolutions[name].get_parameter("bias").detach()
    back = weight.flip(2, 3).transpose(0, 1)
    pools = name.endswith("_1") and name != "conv1_1"
    return _Stage(name, Kernel.of(weight, dtype), bias.to(dtype), Kernel.of(back, dtype), pools)


def _expanded(target: Any, pictures: int) -> Any:
    """Return a target with tensors of its own for every picture."""
    tensors = (getattr(target, part.name) for part in fields(target))
    return type(target)(*(t.expand(pictures, *t.shape[1:]).clone() for t in tensors))


def _copy_target(old: Any, new: Any) -> None:
    for part in fields(old):
        getattr(old, part.name).copy_(getattr(new, part.name))


def _rows(x_BCHW: Tensor) -> Tensor:
    """Return a view (BMC) of a tensor laid out as channels last."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


def _squares(values_BCHW: Tensor) -> Tensor:
    """Return the sum of squares per picture (B), in float32 at least."""
    rows = _rows(values_BCHW).flatten(1)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=_wide(rows.dtype))
    return norms.square()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@contextmanager
def _factors_in_bfloat16() -> Iterator[None]:
    """Let products of float32 matrices take their factors as bfloat16: exact where that is what they are."""
    backend: Any = torch.backends.mkldnn  # its module does not declare what it holds
    before, backend.matmul.fp32_precision = backend.matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        backend.matmul.fp32_precision = before


# The setting is the process's.
_bfloat16_factors = SharedContext(_factors_in_bfloat16)
