"""Frozen 3 x 3 convolutions on pictures padded by one pixel: the output, and the gradient of the input.

The gradient of the input of such a convolution is a convolution with flipped, transposed weights. Where a
picture is large, its border is convolved separately, which saves a padded copy of it.

Shapes in names: B pictures, C input channels, K output channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..vgg.encoder import Padding

# From this many values of a picture on, a padded copy costs more than convolving its border separately. The
# bound of backward is lower, as backward also has to fold the copy.
SEPARATE_BORDER, SEPARATE_BORDER_BACKWARD = 2_000_000, 500_000


@dataclass(frozen=True)
class Kernel:
    """Weights (KCHW), channels last, and their outer rows and columns for what lies beyond the border."""

    weight: Tensor
    rows: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]

    @classmethod
    def of(cls, weight: Tensor) -> Kernel:
        rows, columns = (weight[:, :, :1], weight[:, :, 2:]), (weight[..., :1], weight[..., 2:])
        return cls(_laid_out(weight), tuple(map(_laid_out, rows)), tuple(map(_laid_out, columns)))

    def flipped(self) -> Kernel:
        """Return the kernel of the input's gradient: every part flipped and transposed."""
        return Kernel(
            _flipped(self.weight), tuple(map(_flipped, self.rows)), tuple(map(_flipped, self.columns))
        )


def _laid_out(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _flipped(weight: Tensor) -> Tensor:
    return _laid_out(weight.flip(2, 3).transpose(0, 1))


class FrozenConvolution:
    """A convolution with `weight` (KCHW, 3 x 3) and `bias` (K), computed in `dtype`, channels last."""

    def __init__(self, weight: Tensor, bias: Tensor, padding: Padding, dtype: torch.dtype) -> None:
        self.kernel = Kernel.of(weight.to(dtype))
        self.flipped = self.kernel.flipped()
        self.bias = bias.to(dtype)
        self.padding = padding

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the output (BKHW)."""
        weight, bias, padding = self.kernel.weight, self.bias, self.padding
        if padding == "zeros":
            return F.conv2d(x_BCHW, weight, bias, padding=1)
        if x_BCHW[0].numel() < SEPARATE_BORDER:
            return F.conv2d(F.pad(x_BCHW, (1, 1, 1, 1), padding), weight, bias)
        y_BKHW = F.conv2d(x_BCHW, weight, bias, padding=1)
        for edge, source, row, column in self._edges(self.kernel):
            beyond = F.pad(x_BCHW[:, :, source, None], (1, 1, 0, 0), padding)
            y_BKHW[:, :, edge] += F.conv2d(beyond, row)[:, :, 0]
            y_BKHW[:, :, :, edge] += F.conv2d(x_BCHW[:, :, :, source, None], column, padding=(1, 0))[..., 0]
        return y_BKHW

    def backward(self, gradient_BKHW: Tensor) -> Tensor:
        """Return the gradient with respect to the input (BCHW) from that with respect to the output."""
        weight, padding = self.flipped.weight, self.padding
        if padding == "zeros":
            return F.conv2d(gradient_BKHW, weight, padding=1)
        if gradient_BKHW[0].numel() < SEPARATE_BORDER_BACKWARD:
            return self._fold(F.conv2d(gradient_BKHW, weight, padding=2))
        by_x = F.conv2d(gradient_BKHW, weight, padding=1)
        for edge, source, row, column in self._edges(self.flipped):
            beyond = F.conv2d(gradient_BKHW[:, :, edge, None], row, padding=(0, 2))[:, :, 0]
            by_row = beyond[:, :, 1:-1]
            by_row[:, :, self._inset] += beyond[:, :, 0]
            by_row[:, :, -1 - self._inset] += beyond[:, :, -1]
            by_x[:, :, source] += by_row
            by_column = F.conv2d(gradient_BKHW[:, :, :, edge, None], column, padding=(1, 0))[..., 0]
            by_x[:, :, :, source] += by_column
        return by_x

    @property
    def _inset(self) -> int:
        """How far inside the picture the row or column lies that is repeated beyond its border."""
        return 1 if self.padding == "reflect" else 0

    def _edges(self, kernel: Kernel) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """Yield for both ends: the outermost index, the one repeated beyond it, the weights out there."""
        yield 0, self._inset, kernel.rows[0], kernel.columns[0]
        yield -1, -1 - self._inset, kernel.rows[1], kernel.columns[1]

    def _fold(self, padded: Tensor) -> Tensor:
        """Crop a border of one pixel, and add it to the pixels that it was copied from."""
        rows = padded[:, :, 1:-1].clone(memory_format=torch.channels_last)
        rows[:, :, self._inset] += padded[:, :, 0]
        rows[:, :, -1 - self._inset] += padded[:, :, -1]
        columns = rows[:, :, :, 1:-1]
        columns[:, :, :, self._inset] += rows[:, :, :, 0]
        columns[:, :, :, -1 - self._inset] += rows[:, :, :, -1]
        return columns.contiguous(memory_format=torch.channels_last)
