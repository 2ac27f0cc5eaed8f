"""What moves the pixels: L-BFGS of our own, and torch's Adam."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..recipe import Recipe
from .lbfgs import LBFGS


class Optimizer(Protocol):
    """Moves canvases, in place, by their losses (B) and gradients (BN)."""

    def step(self, canvas_BN: Tensor, loss_B: Tensor, gradient_BN: Tensor) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Adam:
    """torch's Adam over `canvas_BN`."""

    def __init__(self, canvas_BN: Tensor, learning_rate: float) -> None:
        self._parameter = canvas_BN.detach().requires_grad_()
        self._adam = torch.optim.Adam([self._parameter], lr=learning_rate)

    def step(self, canvas_BN: Tensor, loss_B: Tensor, gradient_BN: Tensor) -> None:
        self._parameter.grad = gradient_BN
        self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state)


def build_optimizer(recipe: Recipe, canvas_BN: Tensor) -> Optimizer:
    """Return the recipe's optimiser over `canvas_BN`, whose memory it may keep."""
    if recipe.optimizer == "adam":
        return Adam(canvas_BN, recipe.learning_rate)
    return LBFGS(canvas_BN, recipe.learning_rate, recipe.history)
