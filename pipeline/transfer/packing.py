"""Activations in a fraction of their memory, for as long as they wait for a backward pass.

Of most layers it needs only where the ReLU let something through, which is a bit a value, and of a max
pooling which of four values was the largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """Where a tensor is positive: a bit for each of its values, in the order of channels last."""

    bits: Tensor
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, x_BCHW: Tensor) -> Mask:
        positive = (x_BCHW > 0).permute(0, 2, 3, 1).flatten().view(torch.uint8)
        positive = torch.nn.functional.pad(positive, (0, -len(positive) % 8))
        bits = positive.new_zeros(len(positive) // 8)
        for bit in range(8):
            bits += positive[bit::8] << bit
        return cls(bits, x_BCHW.shape, x_BCHW.dtype)

    def unpacked(self) -> Tensor:
        """Return a tensor of the same shape and type, channels last: 1 where it was positive, else 0."""
        B, C, H, W = self.shape
        ones = self.bits.new_empty(len(self.bits), 8)
        for bit in range(8):
            torch.bitwise_and(self.bits >> bit, 1, out=ones[:, bit])
        values = ones.flatten()[: self.shape.numel()].to(self.dtype)
        return values.view(B, H, W, C).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Maxima:
    """The indices of a 2 x 2 max pooling, a byte each: which of four values; `width` is the input's."""

    codes: Tensor
    width: int

    @classmethod
    def of(cls, indices_BCHW: Tensor, width: int) -> Maxima:
        row, column = indices_BCHW // width, indices_BCHW % width
        return cls((2 * (row % 2) + column % 2).to(torch.uint8), width)

    def unpacked(self) -> Tensor:
        """Return the indices as max pooling returns them."""
        H, W = self.codes.shape[2:]
        device = self.codes.device
        rows = 2 * torch.arange(H, device=device)[:, None] + (self.codes >> 1)
        columns = 2 * torch.arange(W, device=device) + (self.codes & 1)
        return rows * self.width + columns
