"""L-BFGS for a batch of pictures, each with a history, a step length and a best canvas of its own.

No line search: a step is one evaluation. A loss far above the best of its picture takes that picture back
to its best, forgets its curvature and halves its step, and does not touch its neighbours. Nothing here asks
the device for a number, and the state lies in tensors allocated once and changed in place: a step never
waits and can be captured in a CUDA graph.

Two-loop recursion (Nocedal 1980, algorithm in section 4) on inner products instead of vectors, as in Chen,
Wang, Zhou 2014: two matrix products with the history a step (the new pair and the gradient, the direction),
where the loop on vectors also rewrites the direction 2 · history times. Memory: 2 · history + 4 canvases.

Shapes in names: B pictures, N numbers of a canvas, P = 2 · history vectors remembered.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A pair is kept if y·s exceeds this part of |y||s|: relative, where torch's bound is absolute.
CURVATURE = 1e-8
# A loss above so many times the best is a step far too long.
OVERSHOOT = 2.0

STATE = (
    "pairs", "products", "valid", "newest", "gamma", "rate", "fresh", "latest", "best_BN", "best_loss_B"
)  # fmt: skip


class LBFGS:
    """Moves canvases by their gradients; `step` is called once per evaluation.

    `best_BN` and `best_loss_B` hold the best canvas evaluated so far and its loss.
    """

    def __init__(self, canvas_BN: Tensor, learning_rate: float, history: int) -> None:
        B, N = canvas_BN.shape

        def full(*shape: int, value: float = 0.0, dtype: torch.dtype = canvas_BN.dtype) -> Tensor:
            return torch.full((B, *shape), value, dtype=dtype, device=canvas_BN.device)

        self.history = history
        self.pairs = full(2 * history, N)  # a ring: s in the first half, y in the second
        self.products = full(2 * history, 2 * history)
        self.valid = full(history)  # 1 where a slot holds a pair of use
        self.newest = full(value=-1, dtype=torch.int64)  # the newest pair's slot
        self.gamma = full(value=1)
        self.rate = full(value=learning_rate)
        self.fresh = full(value=1, dtype=torch.bool)  # no step to learn from
        self.latest = full(3, N)  # the last step, what it changed in the gradient, the gradient
        self.best_BN = canvas_BN.detach().clone()
        self.best_loss_B = full(value=torch.inf)
        # Constants on the device, so that no step has to bring any.
        self._first_row_B = 2 * history * torch.arange(B, device=canvas_BN.device)
        self._ages = torch.arange(1, history + 1, device=canvas_BN.device)

    @torch.no_grad()
    def step(self, canvas_BN: Tensor, loss_B: Tensor, gradient_BN: Tensor) -> None:
        """Move `canvas_BN`, in place, given its losses and their gradients."""
        self._keep_best(canvas_BN, loss_B)
        self._take_pair(gradient_BN)
        self._move(canvas_BN, self._learn())
        self._step_back(canvas_BN, ~(loss_B <= OVERSHOOT * self.best_loss_B))

    def _keep_best(self, canvas_BN: Tensor, loss_B: Tensor) -> None:
        better = loss_B < self.best_loss_B
        self.best_loss_B.copy_(torch.where(better, loss_B, self.best_loss_B))
        self.best_BN.copy_(torch.where(better[:, None], canvas_BN, self.best_BN))

    def _take_pair(self, gradient_BN: Tensor) -> None:
        """Make a pair of the last step and what it changed; zeros where it would be of no use."""
        s_BN, y_BN, last_BN = self.latest.unbind(1)
        torch.sub(gradient_BN, last_BN, out=y_BN)
        last_BN.copy_(gradient_BN)
        ss, ys, yy = (torch.linalg.vecdot(*both) for both in ((s_BN, s_BN), (s_BN, y_BN), (y_BN, y_BN)))
        good = (ys > CURVATURE * (ss * yy).sqrt()) & ~self.fresh
        self.gamma.copy_(torch.where(good, ys / yy, self.gamma))
        # Zeros, so that nothing infinite stays in a slot that counts for nothing.
        self.latest[:, :2].masked_fill_(~good[:, None, None], 0)
        self.newest.add_(1).remainder_(self.history)
        self.valid.scatter_(1, self.newest[:, None], good[:, None].to(self.valid.dtype))

    def _learn(self) -> Tensor:
        """Put the pair in the place of the oldest; return every pair's product with the gradient (BP)."""
        B, P, N = self.pairs.shape
        places_B2 = torch.stack([self.newest, self.newest + self.history], 1)
        rows = (self._first_row_B[:, None] + places_B2).flatten()
        self.pairs.view(B * P, N).index_copy_(0, rows, self.latest[:, :2].reshape(2 * B, N))
        products_B3P = self.latest @ self.pairs.transpose(1, 2)
        new_B2P = products_B3P[:, :2]
        self.products.scatter_(1, places_B2[:, :, None].expand(-1, -1, P), new_B2P)
        self.products.scatter_(2, places_B2[:, None].expand(-1, P, -1), new_B2P.transpose(1, 2))
        return products_B3P[:, 2]

    def _move(self, canvas_BN: Tensor, by_pairs_BP: Tensor) -> None:
        """Take the quasi-Newton step."""
        gradient_BN = self.latest[:, 2]
        first = (1 / torch.linalg.vector_norm(gradient_BN, 1, dim=1)).clamp(max=1)
        length_B1 = (self.rate * torch.where(self.fresh, first, 1.0))[:, None]
        weights_BP = -length_B1 * self._weights(by_pairs_BP)
        combined_BN = (weights_BP[:, None] @ self.pairs)[:, 0]
        moved_BN = combined_BN.addcmul_(gradient_BN, -length_B1 * self.gamma[:, None])
        self.latest[:, 0] = moved_BN
        canvas_BN += moved_BN

    def _weights(self, by_pairs_BP: Tensor) -> Tensor:
        """Return the weight of every pair in the direction (BP), the gradient's own being gamma.

        With SᵀY's upper triangle R and diagonal D, oldest pair first (Byrd, Nocedal, Schnabel 1994, eq. 3.1),
        the weights of Y are -γ R⁻¹ Sᵀg =: -γ p, those of S are R⁻ᵀ (D p + γ YᵀY p - γ Yᵀg).
        """
        h = self.history
        slots = (self.newest[:, None] + self._ages).remainder(h)  # oldest first
        order = torch.cat([slots, slots + h], 1)
        valid = self.valid.gather(1, slots)
        products = self.products.gather(1, order[:, :, None].expand(-1, -1, 2 * h))
        products = products.gather(2, order[:, None].expand(-1, 2 * h, -1))
        sy, yy = products[:, :h, h:], products[:, h:, h:]
        by_s, by_y = by_pairs_BP.gather(1, order).chunk(2, 1)
        # A slot of no use is a row and a column of the identity.
        triangle = sy.triu() * valid[:, :, None] * valid[:, None] + torch.diag_embed(1 - valid)
        gamma = self.gamma[:, None]
        p = torch.linalg.solve_triangular(triangle, (valid * by_s)[:, :, None], upper=True)
        diagonal = torch.diagonal(sy, dim1=1, dim2=2)
        right = diagonal * p[:, :, 0] + gamma * ((yy @ p)[:, :, 0] - by_y)
        of_s = torch.linalg.solve_triangular(
            triangle.transpose(1, 2), (valid * right)[:, :, None], upper=False
        )
        weights = torch.cat([of_s[:, :, 0], -gamma * p[:, :, 0]], 1)
        return torch.zeros_like(weights).scatter_(1, order, weights)

    def _step_back(self, canvas_BN: Tensor, overshot_B: Tensor) -> None:
        canvas_BN.copy_(torch.where(overshot_B[:, None], self.best_BN, canvas_BN))
        self.valid.masked_fill_(overshot_B[:, None], 0)
        self.gamma.masked_fill_(overshot_B, 1)
        self.rate.copy_(torch.where(overshot_B, self.rate / 2, self.rate))
        self.fresh.copy_(overshot_B)

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything needed to go on exactly here: the buffers themselves, each with B first."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a state of the same shapes into the buffers."""
        for name in STATE:
            getattr(self, name).copy_(state[name])
