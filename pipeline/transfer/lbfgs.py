"""L-BFGS for a batch of pictures, each with a history, a step length and a best canvas of its own.

There is no line search: a step is one evaluation. If a picture's loss is far above its best, that picture
returns to its best canvas, forgets its curvature and halves its learning rate; its neighbours are not
touched. No step reads a number from the device, and the state lives in buffers that are allocated once and
changed in place, so that a step never waits and can be captured in a CUDA graph.

This is the two-loop recursion (Nocedal 1980, algorithm in section 4) on inner products instead of vectors,
as in Chen, Wang, Zhou 2014: a step takes two matrix products with the history (new pair and gradient; the
direction), where the loop on vectors also rewrites the direction 2 · history times. Memory: 2 · history + 4
canvases.

Shapes in names: B pictures, N numbers of a canvas, P = 2 · history vectors of the history.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .stored import Stored, copy_stored

# A pair is kept if y·s exceeds this fraction of |y||s|. torch's bound is absolute.
CURVATURE = 1e-8
# A loss above this multiple of the best comes from a step that was far too long.
OVERSHOOT = 2.0

# Numbers of a canvas that move at once, to bound the memory.
CHUNK = 1 << 24

STATE = (
    "SY", "products", "valid", "newest", "gamma", "learning_rate", "fresh", "last", "best_BN", "best_loss_B"
)  # fmt: skip


class QuasiNewton:
    """What L-BFGS knows of the curvature beside the vectors of its history, and what follows from it."""

    def __init__(self, canvas_BN: Tensor, learning_rate: float, history: int) -> None:
        B = len(canvas_BN)

        def full(*shape: int, value: float = 0.0, dtype: torch.dtype = canvas_BN.dtype) -> Tensor:
            return torch.full((B, *shape), value, dtype=dtype, device=canvas_BN.device)

        self.history = history
        self.products = full(2 * history, 2 * history)  # SY · SYᵀ
        self.valid = full(history)  # 1 where the pair in a slot is used
        self.newest = full(value=-1, dtype=torch.int64)  # the slot of the newest pair
        self.gamma = full(value=1)  # y·s / y·y of the newest valid pair
        self.learning_rate = full(value=learning_rate)
        self.fresh = full(value=1, dtype=torch.bool)  # there is no last step to learn from
        self.best_loss_B = full(value=torch.inf)
        # Constants on the device, so that no step has to copy them there.
        self._picture_B = torch.arange(B, device=canvas_BN.device)
        self._ages = torch.arange(1, history + 1, device=canvas_BN.device)

    def _judge(self, ss: Tensor, ys: Tensor, yy: Tensor) -> Tensor:
        """Make the last step's pair the newest one; return whether its curvature is of use (B)."""
        good_B = (ys > CURVATURE * (ss * yy).sqrt()) & ~self.fresh
        self.gamma.copy_(torch.where(good_B, ys / yy, self.gamma))
        self.newest.add_(1).remainder_(self.history)
        self.valid.scatter_(1, self.newest[:, None], good_B[:, None].to(self.valid.dtype))
        return good_B

    def _lengths(self, norm_B: Tensor) -> Tensor:
        """Return how far to go (B1), given the sum of the absolute values of the gradient."""
        first_B = (1 / norm_B).clamp(max=1)
        return (self.learning_rate * torch.where(self.fresh, first_B, 1.0))[:, None]

    def _weights(self, by_gradient_BP: Tensor) -> Tensor:
        """Return the weight of every vector in the direction (BP); the gradient's own weight is gamma.

        With SᵀY's upper triangle R and diagonal D, oldest pair first (Byrd, Nocedal, Schnabel 1994, eq. 3.1),
        the weights of Y are -γ R⁻¹ Sᵀg =: -γ p, those of S are R⁻ᵀ (D p + γ YᵀY p - γ Yᵀg).
        """
        h = self.history
        slots = (self.newest[:, None] + self._ages).remainder(h)  # oldest first
        order = torch.cat([slots, slots + h], 1)
        valid = self.valid.gather(1, slots)
        products = self.products[self._picture_B[:, None, None], order[:, :, None], order[:, None]]
        sy, yy = products[:, :h, h:], products[:, h:, h:]
        sg, yg = by_gradient_BP.gather(1, order).chunk(2, 1)
        # An unused slot is a row and a column of the identity.
        triangle = sy.triu() * valid[:, :, None] * valid[:, None] + torch.diag_embed(1 - valid)
        gamma = self.gamma[:, None]
        p = torch.linalg.solve_triangular(triangle, (valid * sg)[:, :, None], upper=True)
        diagonal = torch.diagonal(sy, dim1=1, dim2=2)
        right = diagonal * p[:, :, 0] + gamma * ((yy @ p)[:, :, 0] - yg)
        of_s = torch.linalg.solve_triangular(triangle.mT, (valid * right)[:, :, None], upper=False)
        weights = torch.cat([of_s[:, :, 0], -gamma * p[:, :, 0]], 1)
        return torch.zeros_like(weights).scatter_(1, order, weights)

    def _forget(self, overshot_B: Tensor) -> None:
        """Forget the curvature of pictures that went too far, and shorten their steps."""
        self.valid.masked_fill_(overshot_B[:, None], 0)
        self.gamma.masked_fill_(overshot_B, 1)
        self.learning_rate.copy_(torch.where(overshot_B, self.learning_rate / 2, self.learning_rate))
        self.fresh.copy_(overshot_B)


class LBFGS(QuasiNewton):
    """Moves canvases by their gradients; call `step` once per evaluation.

    `best_BN` and `best_loss_B` hold the best canvas evaluated so far and its loss.
    """

    def __init__(self, canvas_BN: Tensor, learning_rate: float, history: int) -> None:
        super().__init__(canvas_BN, learning_rate, history)
        B, N = canvas_BN.shape
        # A ring of pairs: the steps S, and what each step changed in the gradient, Y.
        self.SY = canvas_BN.new_zeros(B, 2 * history, N)
        self.S, self.Y = self.SY.chunk(2, dim=1)
        self.last = canvas_BN.new_zeros(B, 3, N)
        self.last_s, self.last_y, self.last_gradient = self.last.unbind(1)
        self.best_BN = canvas_BN.detach().clone()

    @torch.no_grad()
    def step(self, canvas_BN: Tensor, loss_B: Tensor, gradient_BN: Tensor) -> None:
        """Move `canvas_BN`, in place, given its losses and their gradients."""
        self._keep_best(canvas_BN, loss_B)
        self._update_last(gradient_BN)
        self._move(canvas_BN, self._store_pair())
        self._return_to_best(canvas_BN, ~(loss_B <= OVERSHOOT * self.best_loss_B))

    def _keep_best(self, canvas_BN: Tensor, loss_B: Tensor) -> None:
        better_B = loss_B < self.best_loss_B
        torch.where(better_B, loss_B, self.best_loss_B, out=self.best_loss_B)
        torch.where(better_B[:, None], canvas_BN, self.best_BN, out=self.best_BN)

    def _update_last(self, gradient_BN: Tensor) -> None:
        """Complete the pair of the last step; it becomes zeros where its curvature is of no use."""
        s, y = self.last_s, self.last_y
        torch.sub(gradient_BN, self.last_gradient, out=y)
        self.last_gradient.copy_(gradient_BN)
        ss, ys, yy = (torch.linalg.vecdot(*both) for both in ((s, s), (s, y), (y, y)))
        good_B = self._judge(ss, ys, yy)
        # Zeros, so that nothing infinite stays in a slot that is not used.
        self.last[:, :2].masked_fill_(~good_B[:, None, None], 0)

    def _store_pair(self) -> Tensor:
        """Overwrite the oldest pair with the last; return the gradient's product with every vector (BP)."""
        self.S[self._picture_B, self.newest] = self.last_s
        self.Y[self._picture_B, self.newest] = self.last_y
        products_B3P = self.last @ self.SY.transpose(1, 2)
        picture_B1 = self._picture_B[:, None]
        slots_B2 = torch.stack([self.newest, self.newest + self.history], 1)
        self.products[picture_B1, slots_B2] = products_B3P[:, :2]
        self.products.mT[picture_B1, slots_B2] = products_B3P[:, :2]
        return products_B3P[:, 2]

    def _move(self, canvas_BN: Tensor, by_gradient_BP: Tensor) -> None:
        """Take the quasi-Newton step."""
        gradient_BN = self.last_gradient
        length_B1 = self._lengths(torch.linalg.vector_norm(gradient_BN, 1, dim=1))
        weights_BP = -length_B1 * self._weights(by_gradient_BP)
        for start in range(0, canvas_BN.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            step_BN = (weights_BP[:, None] @ self.SY[:, :, part])[:, 0]
            step_BN.addcmul_(gradient_BN[:, part], -length_B1 * self.gamma[:, None])
            self.last_s[:, part] = step_BN
            canvas_BN[:, part] += step_BN

    def _return_to_best(self, canvas_BN: Tensor, overshot_B: Tensor) -> None:
        torch.where(overshot_B[:, None], self.best_BN, canvas_BN, out=canvas_BN)
        self._forget(overshot_B)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything needed to continue exactly here: the buffers themselves, each with B first."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: Mapping[str, Stored]) -> None:
        """Copy a state of the same shapes into the buffers."""
        for name in STATE:
            copy_stored(state[name], getattr(self, name))
