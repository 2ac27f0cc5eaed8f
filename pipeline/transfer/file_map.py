"""Feature maps in files, read and written by boxes.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .stored import FileTensor
from .tiles import Box


class FileMap:
    """A map whose values are in a file (BHWC); what is read is on a `device`."""

    def __init__(self, stored: FileTensor, device: torch.device) -> None:
        self._stored = stored
        self._device = device

    def write(self, box: Box, values_BCHW: Tensor) -> None:
        """Overwrite what the map has in a box.

        Raises:
            DiskError: it cannot be written.
        """
        rows = values_BCHW.permute(0, 2, 3, 1).flatten(2).flatten(0, 1)
        for first, row in zip(self._starts(box), rows, strict=True):
            self._stored.write(first, row)

    def read(self, box: Box) -> Tensor:
        """Return what the map has in a box (BCHW), channels last.

        Raises:
            DiskError: it cannot be read.
        """
        B, _, _, C = self._stored.shape
        rows = [self._stored.read(first, box.columns * C) for first in self._starts(box)]
        values_BHWC = torch.cat(rows).view(B, box.rows, box.columns, C)
        return values_BHWC.permute(0, 3, 1, 2).to(self._device)

    def _starts(self, box: Box) -> Iterator[int]:
        """Yield where the rows of a box begin, in numbers."""
        B, H, W, C = self._stored.shape
        for picture in range(B):
            for row in range(box.top, box.bottom):
                yield ((picture * H + row) * W + box.left) * C
