"""The losses of `losses.py` with their gradients in closed form, for features laid out as channels last.

Features may be bfloat16; moments and losses are float32, or float64 of float64 features. Gradients with
respect to features are weighted by a `factor`, which is the loss's weight in the total.

Shapes in names: B pictures, C channels, H rows, W columns, M = H·W positions, K regions of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..threads import SharedContext
from .large_maps import empty_map
from .losses import (
    TINY,
    BuresTarget,
    Convention,
    Guide,
    Moments,
    gram_divisor,
    gram_style_loss,
    scale_chroma,
)
from .tiles import Box

# Values of a picture whose pixel losses are computed at once, to bound the memory.
STRIP = 1 << 22


@dataclass(frozen=True)
class ContentTarget:
    """A content's features (BCHW), and the divisor (B) of the squared distance from them."""

    features: Tensor
    divisor: Tensor


@dataclass(frozen=True)
class FeatureGradient:
    """The gradient of a loss with respect to a layer's features.

    It is `values`, or the product `values` · matrix + bias, which is computed only when it is added. The
    outermost positions of the layer have no gradient, and no values here: so many as `border` says, on the
    left, on the right, at the top and at the bottom.
    """

    values_BCHW: Tensor
    matrix_BCC: Tensor | None = None
    bias_BC: Tensor | None = None
    border: tuple[int, int, int, int] = (0, 0, 0, 0)

    def add_to(self, total_BCHW: Tensor | None) -> Tensor:
        """Return the sum with `total_BCHW`, in its memory; without a total, in the memory of the values."""
        if not any(self.border):
            return self._add_to(total_BCHW)
        if total_BCHW is None:
            return F.pad(self._add_to(None), self.border)
        left, right, top, bottom = self.border
        rows, columns = total_BCHW.shape[2:]
        total_BCHW[:, :, top : rows - bottom, left : columns - right] += self._add_to(None)
        return total_BCHW

    def _add_to(self, total_BCHW: Tensor | None) -> Tensor:
        if self.matrix_BCC is None:
            return self.values_BCHW if total_BCHW is None else total_BCHW.add_(self.values_BCHW)
        if total_BCHW is None:
            total_BCHW = torch.zeros_like(self.values_BCHW)
        values_BMC, total_BMC = _rows(self.values_BCHW), _rows(total_BCHW)
        total_BMC.baddbmm_(values_BMC, self.matrix_BCC)
        if self.bias_BC is not None:
            # As a product: in bfloat16, a sum that broadcasts the bias takes ten times as long.
            ones_BM1 = values_BMC.new_ones(*values_BMC.shape[:2], 1)
            total_BMC.baddbmm_(ones_BM1, self.bias_BC[:, None])
        return total_BCHW


def content_target(features_BCHW: Tensor, convention: Convention) -> ContentTarget:
    """Return a content's target with the divisor of its convention."""
    channels, positions = features_BCHW.shape[1], features_BCHW[0, 0].numel()
    squares_B = sum_of_squares(features_BCHW)
    return ContentTarget(features_BCHW, content_divisor(squares_B, channels, positions, convention))


def content_divisor(squares_B: Tensor, channels: int, positions: int, convention: Convention) -> Tensor:
    """Return the divisor (B) of a target, given the sum of the squares of its features (B)."""
    if convention == "normalized":
        return squares_B.clamp_min(TINY)
    return torch.full_like(squares_B, 2 * channels if convention == "gatys" else channels * positions)


def content_gradient(
    features_BCHW: Tensor, target: ContentTarget, factor: float, counted: Box | None = None
) -> tuple[Tensor, FeatureGradient]:
    """Return `content_loss` (B) and its gradient with respect to the features.

    With `counted` only the positions in that box count for the loss, but all have their gradient.
    """
    difference = features_BCHW - target.features
    loss_B = sum_of_squares(difference if counted is None else counted.of(difference)) / target.divisor
    scale_B = (2 * factor / target.divisor).to(difference.dtype)
    return loss_B, FeatureGradient(difference.mul_(scale_B[:, None, None, None]))


def gram_gradient(second_BCC: Tensor, target_BCC: Tensor, convention: Convention) -> tuple[Tensor, Tensor]:
    """Return `gram_style_loss` (B) and its gradient with respect to the second moment (BCC)."""
    loss_B = gram_style_loss(second_BCC, target_BCC, convention)
    return loss_B, (second_BCC - target_BCC) * (2 / gram_divisor(target_BCC, convention))


def bures_gradient(current: Moments, target: BuresTarget) -> tuple[Tensor, Tensor, Tensor]:
    """Return `bures_style_loss` (B), its gradients with respect to the second moment (BCC) and the mean (BC).

    With Σ = S - m mᵀ: dL/dΣ = V (D / divisor) Vᵀ / scale =: Q, so dL/dS = Q and
    dL/dm = 2 (m - m̂) / scale - 2 Q m.
    """
    vectors = target.eigenvectors
    rotated = vectors.transpose(1, 2) @ (current.covariance - target.covariance) @ vectors
    weighted = rotated / target.divisor
    mean_difference = current.mean - target.mean
    loss_B = (mean_difference.square().sum(1) + 0.5 * (rotated * weighted).sum((1, 2))) / target.scale
    by_second = vectors @ weighted @ vectors.transpose(1, 2) / target.scale[:, None, None]
    by_mean = (
        2 * mean_difference / target.scale[:, None] - 2 * (by_second @ current.mean[:, :, None])[:, :, 0]
    )
    return loss_B, by_second, by_mean


def feature_moments(features_BCHW: Tensor, guide: Guide | None = None) -> Moments:
    """Return `moments` of the features, or with a guide `guided_moments`."""
    features_BMC = _rows(features_BCHW)
    wide_BMC = features_BMC.to(_wide(features_BCHW.dtype))
    as_bfloat16 = features_BCHW.dtype == torch.bfloat16 and features_BCHW.device.type == "cpu"
    if guide is None:
        return Moments(wide_BMC.mean(1), _gram(wide_BMC, as_bfloat16) / wide_BMC.shape[1])
    mean_BKC = (guide.weights @ wide_BMC) / guide.total[:, :, None]
    # The root on both sides keeps it symmetric; in bfloat16 it rounds at soft edges only.
    roots = guide.weights.sqrt()[..., None].unbind(1)
    second_BKCC = torch.stack([_gram(wide_BMC * root_BM1, as_bfloat16) for root_BM1 in roots], 1)
    second_BKCC /= guide.total[:, :, None, None]
    return Moments(mean_BKC.flatten(0, 1), second_BKCC.flatten(0, 1))


def moments_gradient(
    features_BCHW: Tensor, by_second_BCC: Tensor, by_mean_BC: Tensor | None, factor: float
) -> FeatureGradient:
    """Return the gradient with respect to the features from those with respect to their moments.

    With dL/dS = Q and dL/dm = g it is (2 Q F + g 1ᵀ) / M.
    """
    share = factor / (features_BCHW.shape[2] * features_BCHW.shape[3])
    dtype = features_BCHW.dtype
    matrix_BCC = (by_second_BCC + by_second_BCC.transpose(1, 2)) * share
    bias_BC = None if by_mean_BC is None else (by_mean_BC * share).to(dtype)
    return FeatureGradient(features_BCHW, matrix_BCC.to(dtype), bias_BC)


def guided_moments_gradient(
    features_BCHW: Tensor, guide: Guide, by_second: Tensor, by_mean: Tensor | None, factor: float
) -> FeatureGradient:
    """Return the gradient with respect to the features from those with respect to the regions' moments.

    With dL/dS = Q, dL/dm = g and a guide's weights t it is Σ_k t_k ⊙ (2 Q_k F + g_k 1ᵀ) / M: a region's loss
    has the share Σ t_k / M, and its moments are divided by Σ t_k, which cancels out.
    """
    features_BMC, dtype = _rows(features_BCHW), features_BCHW.dtype
    B, C, H, W = features_BCHW.shape
    regions = guide.share.shape[1]
    weights_BMK = (guide.weights * (factor / (H * W))).to(dtype).transpose(1, 2).contiguous()
    matrix = (by_second + by_second.transpose(1, 2)).to(dtype)
    if by_mean is None:
        total_BMC = features_BMC.new_zeros(features_BMC.shape)
    else:
        total_BMC = weights_BMK @ by_mean.view(B, regions, C).to(dtype)
    for region in range(regions):
        # Expanded first: in bfloat16, broadcasting the weights takes ten times as long.
        expanded_BMC = weights_BMK[:, :, region, None].expand_as(features_BMC).contiguous()
        total_BMC.baddbmm_(expanded_BMC.mul_(features_BMC), matrix[region::regions])
    return FeatureGradient(total_BMC.view(B, H, W, C).permute(0, 3, 1, 2))


def pixel_gradient(
    image_BCHW: Tensor, tv_weight: float, tv_chroma: float, range_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted total variation and range losses (B), and the gradient of their sum (BCHW)."""
    B, C, rows, columns = image_BCHW.shape
    # Weights of a squared difference of rows, and of columns, and of a squared distance from the range.
    shares = (
        tv_weight / max(1, C * (rows - 1) * columns),
        tv_weight / max(1, C * rows * (columns - 1)),
        range_weight / (C * rows * columns),
    )
    gradient_BCHW = empty_map(image_BCHW.shape, image_BCHW.dtype, image_BCHW.device)
    tv_B, outside_B = image_BCHW.new_zeros(B), image_BCHW.new_zeros(B)
    at_once = max(1, STRIP // (C * columns))
    for top in range(0, rows, at_once):
        # Its rows, and one beside them, where there is one.
        above, bottom = max(0, top - 1), min(top + at_once, rows)
        strip_BCHW = image_BCHW[:, :, above : bottom + 1]
        inner = slice(top - above, bottom - above)
        tv, outside, gradient_BCHW[:, :, top:bottom] = _strip_gradient(
            strip_BCHW, inner, shares, tv_chroma**0.5
        )
        tv_B += tv
        outside_B += outside
    return tv_B, outside_B, gradient_BCHW


def _strip_gradient(
    strip_BCHW: Tensor, inner: slice, shares: tuple[float, float, float], chroma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `pixel_gradient` does, for some inner rows of a strip; its other rows are neighbours."""
    scaled_BCHW = scale_chroma(strip_BCHW, chroma)
    gradient = torch.zeros_like(strip_BCHW)
    tv_B = strip_BCHW.new_zeros(len(strip_BCHW))
    for dim, share in ((2, shares[0]), (3, shares[1])):
        steps = scaled_BCHW.diff(dim=dim)
        tv_B += share * steps[:, :, inner].square().flatten(1).sum(1)
        gradient.narrow(dim, 1, steps.shape[dim]).add_(steps, alpha=2 * share)
        gradient.narrow(dim, 0, steps.shape[dim]).sub_(steps, alpha=2 * share)
    pixels_BCHW = strip_BCHW[:, :, inner]
    outside = pixels_BCHW - pixels_BCHW.clamp(0, 1)
    gradient = scale_chroma(gradient[:, :, inner], chroma).add(outside, alpha=2 * shares[2])
    return tv_B, shares[2] * outside.square().flatten(1).sum(1), gradient


def sum_of_squares(values_BCHW: Tensor) -> Tensor:
    """Return the sum of squares per picture (B), in float32 at least."""
    rows = _rows(values_BCHW).flatten(1)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=_wide(rows.dtype))
    return norms.square()


def _rows(x_BCHW: Tensor) -> Tensor:
    """Return a view (BMC) of a tensor laid out as channels last."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _gram(wide_BMC: Tensor, as_bfloat16: bool) -> Tensor:
    """Return Fᵀ F (BCC), with factors in float32 or bfloat16."""
    if not as_bfloat16:
        return wide_BMC.transpose(1, 2) @ wide_BMC
    with _bfloat16_factors:
        return torch.stack([wide_MC.T @ wide_MC for wide_MC in wide_BMC])


@contextmanager
def _round_factors_to_bfloat16() -> Iterator[None]:
    """Let products of float32 matrices round their factors: exact where they were bfloat16 before."""
    backend: Any = torch.backends.mkldnn  # its module does not declare its attributes
    before, backend.matmul.fp32_precision = backend.matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        backend.matmul.fp32_precision = before


# The setting is the process's.
_bfloat16_factors = SharedContext(_round_factors_to_bfloat16)
