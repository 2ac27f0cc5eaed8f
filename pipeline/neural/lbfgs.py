"""L-BFGS for a batch of pictures, each with a history, a step length and a best canvas of its own.

No line search: a step is one evaluation. A loss far above the best of its picture takes that picture back
to its best, forgets its curvature and halves its step, and does not touch its neighbours. Nothing here asks
the device for a number, so a step never waits for it.

Two-loop recursion (Nocedal 1980, algorithm in section 4) on inner products instead of vectors, as in Chen,
Wang, Zhou 2014: three matrix products with the history a step (the new pair, the gradient, the direction),
where the loop on vectors also rewrites the direction 2 · history times. Memory: 2 · history + 4 canvases.

Shapes in names: B pictures, N numbers of a canvas, M pairs of history.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# A pair is kept if y·s exceeds this part of |y||s|: relative, where torch's bound is absolute.
CURVATURE = 1e-8
# A loss above so many times the best is a step far too long.
OVERSHOOT = 2.0


class LBFGS:
    """Moves canvases by their gradients; `step` is called once per evaluation.

    `best_BN` and `best_loss_B` hold the best canvas evaluated so far and its loss.
    """

    def __init__(self, canvas_BN: Tensor, learning_rate: float, history: int) -> None:
        B, N = canvas_BN.shape
        like: dict[str, Any] = {"device": canvas_BN.device, "dtype": canvas_BN.dtype}
        self.history = history
        self.pairs = torch.zeros(B, 2 * history, N, **like)  # s in the first half, y in the second
        self.products = torch.zeros(B, 2 * history, 2 * history, **like)
        self.valid = torch.zeros(B, history, **like)  # 1 where a slot holds a pair of use
        self.gamma = torch.ones(B, **like)
        self.rate = torch.full((B,), learning_rate, **like)
        self.fresh = torch.ones(B, dtype=torch.bool, device=canvas_BN.device)  # no step to learn from
        self.moved = torch.zeros(B, N, **like)
        self.gradient = torch.zeros(B, N, **like)
        self.best_BN = canvas_BN.clone()
        self.best_loss_B = torch.full((B,), torch.inf, **like)
        self.count = 0

    @torch.no_grad()
    def step(self, canvas_BN: Tensor, loss_B: Tensor, gradient_BN: Tensor) -> None:
        """Move `canvas_BN`, in place, given its losses and their gradients."""
        self._keep_best(canvas_BN, loss_B)
        self._learn(gradient_BN)
        direction_BN, length_B = self._direction(gradient_BN)
        self.moved = direction_BN * length_B[:, None]
        self.gradient = gradient_BN.clone()
        canvas_BN += self.moved
        self.fresh = torch.zeros_like(self.fresh)
        self._step_back(canvas_BN, ~(loss_B <= OVERSHOOT * self.best_loss_B))

    def _keep_best(self, canvas_BN: Tensor, loss_B: Tensor) -> None:
        better = loss_B < self.best_loss_B
        self.best_loss_B = torch.where(better, loss_B, self.best_loss_B)
        self.best_BN = torch.where(better[:, None], canvas_BN, self.best_BN)

    def _learn(self, gradient_BN: Tensor) -> None:
        """Take the last step and what it changed as a new pair, in the place of the oldest."""
        if self.count == 0:
            self.count = 1
            return
        slot = (self.count - 1) % self.history
        self.count += 1
        s_BN, y_BN = self.moved, gradient_BN - self.gradient
        ss, ys, yy = (s_BN * s_BN).sum(1), (s_BN * y_BN).sum(1), (y_BN * y_BN).sum(1)
        good = (ys > CURVATURE * (ss * yy).sqrt()) & ~self.fresh
        # Zeros, so that nothing infinite stays in a slot that counts for nothing.
        pair = torch.where(good[:, None, None], torch.stack([s_BN, y_BN], 1), 0.0)
        self.pairs[:, slot], self.pairs[:, self.history + slot] = pair[:, 0], pair[:, 1]
        products = pair @ self.pairs.transpose(1, 2)
        for row, place in enumerate((slot, self.history + slot)):
            self.products[:, place] = products[:, row]
            self.products[:, :, place] = products[:, row]
        self.valid[:, slot] = good.to(self.valid.dtype)
        self.gamma = torch.where(good, ys / yy, self.gamma)

    def _direction(self, gradient_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the quasi-Newton direction and the length of the step along it."""
        h = self.history
        # Inner products of q with every s and y, kept up to date while q changes.
        q_dot = (self.pairs @ gradient_BN[:, :, None])[:, :, 0]
        weights = torch.zeros_like(q_dot)
        ys = torch.diagonal(self.products[:, h:, :h], dim1=1, dim2=2)
        rho = torch.where(self.valid > 0, 1 / ys, 0.0)
        newest_first = [(self.count - 2 - age) % h for age in range(min(h, self.count - 1))]
        alpha = {}
        for slot in newest_first:
            alpha[slot] = rho[:, slot] * q_dot[:, slot]
            weights[:, h + slot] -= alpha[slot]
            q_dot = q_dot - alpha[slot][:, None] * self.products[:, h + slot]
        weights, q_dot = weights * self.gamma[:, None], q_dot * self.gamma[:, None]
        for slot in reversed(newest_first):
            change = self.valid[:, slot] * (alpha[slot] - rho[:, slot] * q_dot[:, h + slot])
            weights[:, slot] += change
            q_dot = q_dot + change[:, None] * self.products[:, slot]
        combined_BN = (weights[:, None] @ self.pairs)[:, 0]
        direction_BN = -(combined_BN + self.gamma[:, None] * gradient_BN)
        first = (1 / gradient_BN.abs().sum(1)).clamp(max=1)
        return direction_BN, self.rate * torch.where(self.fresh, first, 1.0)

    def _step_back(self, canvas_BN: Tensor, overshot_B: Tensor) -> None:
        keep = (~overshot_B).to(self.valid.dtype)
        canvas_BN.copy_(torch.where(overshot_B[:, None], self.best_BN, canvas_BN))
        self.valid *= keep[:, None]
        self.gamma = torch.where(overshot_B, 1.0, self.gamma)
        self.rate = torch.where(overshot_B, self.rate / 2, self.rate)
        self.fresh |= overshot_B

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on exactly here."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
