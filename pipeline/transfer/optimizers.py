"""What moves the pixels: L-BFGS and Adam, for batches, without reading a number from the device.

Shapes in names: B pictures, N numbers of a canvas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from ..spec.recipe import Recipe
from .large_lbfgs import LargeLBFGS, Storage
from .lbfgs import LBFGS
from .stored import Stored, copy_stored

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Optimizer(Protocol):
    """Moves canvases by their losses and gradients."""

    def step(self, canvas_BN: Tensor, loss_B: Tensor, gradient_BN: Tensor) -> None:
        """Move `canvas_BN`, in place."""

    def state_dict(self) -> Mapping[str, Stored]:
        """Return the state: the buffers themselves, each with B first."""

    def load_state_dict(self, state: Mapping[str, Stored]) -> None:
        """Copy a state into the buffers."""


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) with a count of steps for each picture.

    torch's Adam counts on the host, or once for all pictures.
    """

    def __init__(self, canvas_BN: Tensor, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.mean_BN = torch.zeros_like(canvas_BN)
        self.square_BN = torch.zeros_like(canvas_BN)
        self.steps_B = canvas_BN.new_zeros(len(canvas_BN))

    @torch.no_grad()
    def step(self, canvas_BN: Tensor, loss_B: Tensor, gradient_BN: Tensor) -> None:
        self.steps_B += 1
        self.mean_BN.lerp_(gradient_BN, 1 - BETAS[0])
        self.square_BN.mul_(BETAS[1]).addcmul_(gradient_BN, gradient_BN, value=1 - BETAS[1])
        # Both averages start at zero; these correct their bias towards it.
        mean_bias_B1, square_bias_B1 = ((1 - beta**self.steps_B)[:, None] for beta in BETAS)
        divisor_BN = (self.square_BN / square_bias_B1).sqrt_().add_(EPSILON)
        canvas_BN.addcdiv_(self.mean_BN / mean_bias_B1, divisor_BN, value=-self.learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean_BN": self.mean_BN, "square_BN": self.square_BN, "steps_B": self.steps_B}

    def load_state_dict(self, state: Mapping[str, Stored]) -> None:
        for name, buffer in self.state_dict().items():
            copy_stored(state[name], buffer)


def build_optimizer(recipe: Recipe, canvas_BN: Tensor, storage: Storage | None = None) -> Optimizer:
    """Return the recipe's optimiser for canvases like `canvas_BN`, of which a `storage` allows only one."""
    if recipe.optimizer == "adam":
        return Adam(canvas_BN, recipe.learning_rate)
    if storage is not None:
        return LargeLBFGS(canvas_BN, recipe.learning_rate, recipe.history, storage)
    return LBFGS(canvas_BN, recipe.learning_rate, recipe.history)
