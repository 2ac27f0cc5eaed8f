"""L-BFGS for one large picture, in a third of the memory of `LBFGS`, or with hardly any.

The pairs of the history are kept in bfloat16, and in a file if the memory does not hold them. Vectors are
read in parts, and computed with in float32. Steps are rounded before they are taken, and gradient changes
before their inner products are computed, so that every product is one of vectors that are in the history.

Shapes in names: N numbers of a canvas, n of a part of it, P = 2 · history vectors of the history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .lbfgs import OVERSHOOT, QuasiNewton
from .stored import FileTensor, Stored, copy_stored, temporary_tensor

# What the vectors of a part of the history take, in float32: little enough for the processor's cache.
PART_BYTES = 16 << 20
SMALL = ("products", "valid", "newest", "gamma", "learning_rate", "fresh")


@dataclass(frozen=True)
class Storage:
    """How the pairs of the history are kept: in which type, and in which folder if they are in a file."""

    dtype: torch.dtype = torch.bfloat16
    folder: Path | None = None

    def zeros(self, rows: int, canvas_1N: Tensor, dtype: torch.dtype) -> Rows:
        """Return vectors of zeros like a canvas.

        Raises:
            DiskError: they do not fit the disk.
        """
        shape = (1, rows, canvas_1N.shape[1])
        if self.folder is None:
            return Rows(canvas_1N.new_zeros(shape, dtype=dtype), canvas_1N)
        return Rows(temporary_tensor(self.folder, shape, dtype), canvas_1N)


class Rows:
    """Vectors (1RN) in memory or in a file; in parts, they have the type and the device of a canvas."""

    def __init__(self, stored: Stored, canvas_1N: Tensor) -> None:
        self.stored = stored
        self._numbers = canvas_1N.shape[1]
        self._like = canvas_1N

    def read(self, part: slice) -> Tensor:
        """Return a part of all of them (Rn); in memory it may be a view."""
        if not isinstance(self.stored, FileTensor):
            return self.stored[0, :, part].to(self._like)
        numbers = part.stop - part.start
        values_Rn = self._like.new_empty(self.stored.shape[1], numbers)
        for row, values_n in enumerate(values_Rn):
            values_n.copy_(self.stored.read(row * self._numbers + part.start, numbers))
        return values_Rn

    def write(self, row: int, part: slice, values_n: Tensor) -> None:
        """Overwrite a part of one of them, rounded to what they are kept in."""
        if isinstance(self.stored, FileTensor):
            self.stored.write(row * self._numbers + part.start, values_n)
        else:
            self.stored[0, row, part] = values_n


class LargeLBFGS(QuasiNewton):
    """Moves one canvas by its gradients, as `LBFGS` does; `best_BN` and `best_loss_B` are the best so far.

    A step that went too far is not learnt from at all. Only the history is rounded, never the canvas.
    """

    def __init__(self, canvas_1N: Tensor, learning_rate: float, history: int, storage: Storage) -> None:
        super().__init__(canvas_1N, learning_rate, history)
        self._rounds_to = storage.dtype
        # A ring of pairs as in `LBFGS`. The step being evaluated is already in the slot after the newest.
        self.pairs = storage.zeros(2 * history, canvas_1N, storage.dtype)
        self.gradient = storage.zeros(1, canvas_1N, canvas_1N.dtype)
        self.best_BN = storage.zeros(1, canvas_1N, canvas_1N.dtype).stored.view(canvas_1N.shape)
        self._numbers = canvas_1N.shape[1]
        copy_stored(canvas_1N.detach(), self.best_BN)

    @torch.no_grad()
    def step(self, canvas_1N: Tensor, loss_1: Tensor, gradient_1N: Tensor) -> None:
        """Move the canvas, in place, given its loss and its gradient."""
        if bool(loss_1 < self.best_loss_B):
            self.best_loss_B.copy_(loss_1)
            copy_stored(canvas_1N, self.best_BN)
        overshot_1 = ~(loss_1 <= OVERSHOOT * self.best_loss_B)
        if bool(overshot_1):
            copy_stored(self.best_BN, canvas_1N)
        else:
            self._move(canvas_1N, gradient_1N, *self._learn(gradient_1N))
        self._forget(overshot_1)

    def _learn(self, gradient_1N: Tensor) -> tuple[Tensor, Tensor]:
        """Complete the pair of the last step.

        Return the gradient's product with every vector (1P), and the sum of its absolute values (1).
        """
        slot = self._next_slot
        added = torch.zeros(3, 2 * self.history, dtype=torch.float64)
        norm = torch.zeros(1, dtype=torch.float64)
        for part in self._parts():
            gradient_n = gradient_1N[0, part]
            # What is read includes y, as it was rounded.
            self.pairs.write(slot + self.history, part, gradient_n - self.gradient.read(part)[0])
            self.gradient.write(0, part, gradient_n)
            vectors_Pn = self.pairs.read(part)
            last_3n = torch.stack([vectors_Pn[slot], vectors_Pn[slot + self.history], gradient_n])
            added += (last_3n @ vectors_Pn.T).double().cpu()
            norm += gradient_n.abs().sum().double().cpu()
        products_3P = added.to(self.products)
        ends = [slot, slot + self.history]
        (ss, ys), (_, yy) = products_3P[0, ends], products_3P[1, ends]
        if not bool(self._judge(ss[None], ys[None], yy[None])):
            self._clear(slot)
            products_3P[:2], products_3P[2, ends] = 0, 0
        self.products[0, ends] = products_3P[:2]
        self.products[0, :, ends] = products_3P[:2].T
        return products_3P[2:], norm.to(self.products)

    def _clear(self, slot: int) -> None:
        """Set a pair to zeros, so that nothing infinite stays in a slot that is not used."""
        for part in self._parts():
            zeros_n = torch.zeros(part.stop - part.start)
            self.pairs.write(slot, part, zeros_n)
            self.pairs.write(slot + self.history, part, zeros_n)

    def _move(self, canvas_1N: Tensor, gradient_1N: Tensor, by_gradient_1P: Tensor, norm_1: Tensor) -> None:
        """Take the quasi-Newton step, and keep it in the next slot."""
        slot, length_11 = self._next_slot, self._lengths(norm_1)
        weights_1P = -length_11 * self._weights(by_gradient_1P)
        of_gradient = (-length_11 * self.gamma)[0]
        for part in self._parts():
            step_n = (weights_1P @ self.pairs.read(part))[0]
            step_n.addcmul_(gradient_1N[0, part], of_gradient)
            step_n = step_n.to(self._rounds_to)
            self.pairs.write(slot, part, step_n)
            canvas_1N[0, part] += step_n.to(canvas_1N.dtype)

    @property
    def _next_slot(self) -> int:
        return (int(self.newest) + 1) % self.history

    def _parts(self) -> Iterator[slice]:
        size = max(1 << 12, PART_BYTES // (8 * self.history))
        for start in range(0, self._numbers, size):
            yield slice(start, min(start + size, self._numbers))

    def state_dict(self) -> dict[str, Stored]:
        """Return what is needed to continue exactly here, but for the canvas and the best one."""
        vectors = {"pairs": self.pairs.stored, "gradient": self.gradient.stored}
        return {**vectors, **{name: getattr(self, name) for name in SMALL}}

    def load_state_dict(self, state: Mapping[str, Stored]) -> None:
        """Copy a state of the same shapes."""
        for name, own in self.state_dict().items():
            copy_stored(state[name], own)
