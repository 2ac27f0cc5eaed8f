"""Activations in a fraction of their memory, for as long as they wait for a backward pass.

Of most layers it needs only where the ReLU let something through, which is a bit a value, and of a max
pooling which of four values was the largest.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of the same width: where floats are positive, integers are, and they are in the same order. Arithmetic with
# integers takes a CPU a tenth of the time of comparisons, or of anything with bfloat16.
INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
# An integer of eight bytes that are 0 or 1, times GATHER, has these bits in its highest byte. A byte times
# REPEAT is eight copies of it, of which SELECT leaves one bit each, in the same order.
GATHER, REPEAT, SELECT = 0x0102040810204080, 0x0101010101010101, 0x8040201008040201 - (1 << 64)


@dataclass(frozen=True)
class Mask:
    """Where a tensor is positive: a bit for each of its values, in the order of channels last."""

    bits: Tensor
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, x_BCHW: Tensor) -> Mask:
        integers = x_BCHW.permute(0, 2, 3, 1).flatten().view(INTEGERS[x_BCHW.dtype])
        positive = integers.clamp(0, 1).to(torch.uint8)
        positive = torch.nn.functional.pad(positive, (0, -len(positive) % 8))
        bits = (positive.view(torch.int64) * GATHER >> 56).to(torch.uint8)
        return cls(bits, x_BCHW.shape, x_BCHW.dtype)

    def unpacked(self) -> Tensor:
        """Return a tensor of the same shape and type, channels last: 1 where it was positive, else 0."""
        B, C, H, W = self.shape
        spread = (self.bits.long() * REPEAT & SELECT).view(torch.uint8)
        positive = spread[: self.shape.numel()].clamp(max=1).to(INTEGERS[self.dtype])
        one = torch.ones((), dtype=self.dtype, device=positive.device).view(INTEGERS[self.dtype])
        return positive.mul_(one).view(self.dtype).view(B, H, W, C).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Maxima:
    """The indices of a 2 x 2 max pooling, a byte each: which of four values; `width` is the input's."""

    codes: Tensor
    width: int

    @classmethod
    def of(cls, x_BCHW: Tensor, pooled_BCHW: Tensor) -> Maxima:
        """Compare the input of a pooling, which is not negative, with its output.

        Of equal values, a pooling takes the first.
        """
        x, largest = (each.view(INTEGERS[each.dtype]) for each in (x_BCHW, pooled_BCHW))
        H, W = (2 * size for size in largest.shape[2:])
        places = (x[:, :, 0:H:2, 0:W:2], x[:, :, 0:H:2, 1:W:2], x[:, :, 1:H:2, 0:W:2])
        # 1 where it is not this one. NaN may be negative, and must not lead to a place that does not exist.
        first, second, third = ((largest - each).clamp_(0, 1) for each in places)
        codes = third.add_(1).mul_(second).add_(1).mul_(first)
        return cls(codes.to(torch.uint8), x.shape[3])

    def unpacked(self) -> Tensor:
        """Return the indices as max pooling returns them."""
        H, W = self.codes.shape[2:]
        device = self.codes.device
        first_HW = 2 * (self.width * torch.arange(H, device=device)[:, None] + torch.arange(W, device=device))
        # Codes 0 to 3 are 0, 1, `width` and `width` + 1 after the first.
        return (first_HW + self.codes).add_(self.codes >> 1, alpha=self.width - 2)
