"""Content, style, total variation and range loss as pure functions, for autograd: the reference.

Shapes in names: B pictures, C channels, H rows, W columns, M = H·W positions, K regions of a picture. Every
loss is per picture and never averaged over pictures, so that a picture's gradient is the same alone or in a
batch. Moments are float32 (or float64, of float64 features), whatever the encoder runs in.

With N channels, M positions and features F (N x M), three conventions are in use in the field, and a weight
means nothing unless the convention is named (Gatys et al. 2015, eq. 1, 4):

===========  ========================  ========================
convention   style, per layer          content, per layer
===========  ========================  ========================
gatys        Σ(G-A)² / (4N²M²), G=FFᵀ   Σ(F-P)² / (2N)
mean         mean (G-A)², G=FFᵀ/(NM)    mean (F-P)²
normalized   Σ(G-A)² / ΣA²              Σ(F-P)² / ΣP²
===========  ========================  ========================
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

Convention = Literal["gatys", "mean", "normalized"]

# Keeps the targets of a flat, black picture from dividing by zero; far below any real target.
TINY = 1e-12
# The least variance of a channel that a style is taken to have, as a fraction of its mean square: a style of
# one colour has none, and the rounding of bfloat16 would weigh without bound.
LEAST_SPREAD = 1e-5
# ε of the Bures loss. In the weakest directions of a style, a canvas is far from it, and the second order
# overestimates the distance many times: docs/quality.md.
BURES_EPSILON = 10.0


@dataclass(frozen=True)
class Moments:
    """What describes a style: the mean of the features (BC) and their second moment F Fᵀ / M (BCC).

    `spectrum` holds the eigenvalues (BC, float64) and eigenvectors (BCC) of the covariance, if they are
    already known.
    """

    mean: Tensor
    second: Tensor
    spectrum: tuple[Tensor, Tensor] | None = None

    @property
    def covariance(self) -> Tensor:
        return self.second - self.mean[:, :, None] * self.mean[:, None, :]

    def plus(self, other: Moments) -> Moments:
        """Return the sum with the moments of other positions; both count as parts of one whole."""
        return Moments(self.mean + other.mean, self.second + other.second)

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Return the spectrum; compute it if it is not known."""
        if self.spectrum is not None:
            return self.spectrum
        # A float32 decomposition loses the weak directions, which are the point of `bures_style_loss`.
        values, vectors = torch.linalg.eigh(self.covariance.cpu().double())
        return values.clamp_min(0), vectors.to(self.mean)

    def decomposed(self) -> Moments:
        """Return the same with its spectrum."""
        return replace(self, spectrum=self.eigen())


def gram_matrix(features_BCHW: Tensor) -> Tensor:
    """Return the Gram matrix F Fᵀ (BCC), not normalised (Gatys et al. 2015, eq. 3)."""
    flat = features_BCHW.flatten(2)
    return flat @ flat.transpose(1, 2)


def moments(features_BCHW: Tensor) -> Moments:
    """Return the mean over positions (BC) and the second moment F Fᵀ / (H·W) (BCC)."""
    if features_BCHW.dtype != torch.float64:
        features_BCHW = features_BCHW.float()
    positions = features_BCHW.shape[2] * features_BCHW.shape[3]
    return Moments(features_BCHW.mean((2, 3)), gram_matrix(features_BCHW) / positions)


@dataclass(frozen=True)
class Guide:
    """How much each position of a layer belongs to each region of a picture, which has a style of its own.

    `weights` (BKM), their sum `total` (BK), and the `share` (BK) of the layer's positions. A region that is
    left out has weights and share 0, and total 1. Moments, targets and losses of regions are in a batch of
    B·K, with those of a picture next to each other.
    """

    weights: Tensor
    total: Tensor
    share: Tensor

    def combined(self, losses: Tensor) -> Tensor:
        """Return the loss per picture (B) from those of its regions (B·K): every position counts the same."""
        return (losses.view_as(self.share) * self.share).sum(1)


def guided_moments(features_BCHW: Tensor, guide: Guide) -> Moments:
    """Return the moments over each region, in a batch of B·K.

    Σ t f / Σ t and Σ t f fᵀ / Σ t with weights t ≥ 0: the guided Gram matrices of Gatys et al. 2017
    ("Controlling Perceptual Factors in Neural Style Transfer"), whose guides are √t.
    """
    if features_BCHW.dtype != torch.float64:
        features_BCHW = features_BCHW.float()
    flat_BMC = features_BCHW.flatten(2).transpose(1, 2)
    parts_BKM = guide.weights / guide.total[:, :, None]
    second_BKCC = torch.einsum("bkm,bmc,bmd->bkcd", parts_BKM, flat_BMC, flat_BMC)
    return Moments((parts_BKM @ flat_BMC).flatten(0, 1), second_BKCC.flatten(0, 1))


def content_loss(features_BCHW: Tensor, target_BCHW: Tensor, convention: Convention) -> Tensor:
    """Return the content loss per picture (B), by the table above."""
    target_BCHW = target_BCHW.to(features_BCHW.dtype)
    squared = (features_BCHW - target_BCHW).square().flatten(1).sum(1)
    if convention == "gatys":
        return squared / (2 * features_BCHW.shape[1])
    if convention == "mean":
        return squared / features_BCHW[0].numel()
    return squared / target_BCHW.square().flatten(1).sum(1).clamp_min(TINY)


def gram_style_loss(second_BCC: Tensor, target_BCC: Tensor, convention: Convention) -> Tensor:
    """Return the style loss per picture (B), by the table above, from second moments F Fᵀ / M.

    In second moments S the `gatys` row is Σ(S-Ŝ)² / 4N²: G = MS, so M² cancels. A style of another size than
    the canvas is thereby compared as if it had the canvas's M. Its raw Gram matrix would not be comparable;
    in the paper both have one size.
    """
    squared_B11 = (second_BCC - target_BCC).square().sum((1, 2), keepdim=True)
    return (squared_B11 / gram_divisor(target_BCC, convention))[:, 0, 0]


def gram_divisor(target_BCC: Tensor, convention: Convention) -> Tensor | float:
    """Return what a convention divides the squared distance of second moments by; a tensor is B11."""
    channels = target_BCC.shape[1]
    if convention == "gatys":
        return 4 * channels**2
    if convention == "mean":
        return channels**4
    return target_BCC.square().sum((1, 2), keepdim=True).clamp_min(TINY)


@dataclass(frozen=True)
class BuresTarget:
    """A style's mean m̂ (BC), covariance Σ̂ and its eigenvectors V (both BCC), and the divisors of the loss."""

    mean: Tensor
    covariance: Tensor
    eigenvectors: Tensor
    divisor: Tensor
    scale: Tensor


def bures_target(style: Moments, epsilon: float = BURES_EPSILON) -> BuresTarget:
    """Decompose a style's covariance Σ̂ = V diag(λ) Vᵀ once, for `bures_style_loss`.

    `divisor` is λᵢ + λⱼ + ε·mean λ (BCC), with a lower bound that matters for styles of one colour only;
    `scale` is tr Σ̂ + |m̂|² (B).
    """
    values, vectors = style.eigen()
    # Dead channels leave rounding errors; a CPU takes ten times as long for their subnormal products.
    vectors = vectors.masked_fill(vectors.abs() < 1e-12, 0)
    scale = values.sum(1) + style.mean.cpu().double().square().sum(1)
    floor = torch.maximum(epsilon * values.mean(1), LEAST_SPREAD / values.shape[1] * scale)
    divisor = values[:, :, None] + values[:, None, :] + floor[:, None, None] + TINY
    like: dict[str, Any] = {"device": style.mean.device, "dtype": style.mean.dtype}
    return BuresTarget(
        style.mean, style.covariance, vectors.to(**like), divisor.to(**like), scale.clamp_min(TINY).to(**like)
    )


def bures_style_loss(current: Moments, target: BuresTarget) -> Tensor:
    """Return the style loss per picture (B), normalised.

    (|m - m̂|² + ½ Σᵢⱼ Dᵢⱼ² / (λᵢ + λⱼ + ε·mean λ)) / (tr Σ̂ + |m̂|²) with D = Vᵀ(Σ - Σ̂)V. With ε = 0, it is
    the Wasserstein-2 distance to second order, the Bures metric (Bhatia, Jain, Lim 2019); larger ε weakens
    directions in which the style varies little. The exact distance needs matrix square roots at every step.
    """
    vectors = target.eigenvectors
    rotated = vectors.transpose(1, 2) @ (current.covariance - target.covariance) @ vectors
    spread = 0.5 * (rotated.square() / target.divisor).sum((1, 2))
    return ((current.mean - target.mean).square().sum(1) + spread) / target.scale


@dataclass(frozen=True)
class GramTarget:
    """A style's second moment F Fᵀ / M (BCC)."""

    second: Tensor


StyleTarget = BuresTarget | GramTarget


def style_target(style: Moments, style_loss: Literal["gram", "bures"]) -> StyleTarget:
    """Return what a recipe's style loss compares with."""
    return bures_target(style) if style_loss == "bures" else GramTarget(style.second)


def total_variation(image_BCHW: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels per picture (B), summed over both directions.

    Squared, as in Mahendran and Vedaldi 2015 with β = 2, and a mean, so that a weight fits any size.
    """
    rows = (image_BCHW[:, :, 1:] - image_BCHW[:, :, :-1]).square().flatten(1).mean(1)
    columns = (image_BCHW[:, :, :, 1:] - image_BCHW[:, :, :, :-1]).square().flatten(1).mean(1)
    return rows + columns


def scale_chroma(image_BCHW: Tensor, factor: float) -> Tensor:
    """Multiply the difference of each pixel's channels from their mean by `factor`.

    The map is linear and symmetric, and so maps gradients with respect to its output to those with respect
    to its input.
    """
    if factor == 1:
        return image_BCHW
    return torch.lerp(image_BCHW.mean(1, keepdim=True).expand_as(image_BCHW), image_BCHW, factor)


def out_of_range(image_BCHW: Tensor) -> Tensor:
    """Return the mean squared distance of the pixels from [0, 1] per picture (B).

    A soft bound: clamping the canvas between steps would invalidate the curvature that L-BFGS collects.
    """
    return (image_BCHW - image_BCHW.clamp(0, 1)).square().flatten(1).mean(1)
