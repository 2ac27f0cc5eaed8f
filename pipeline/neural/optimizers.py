"""What moves the pixels: L-BFGS and Adam."""

from __future__ import annotations

import torch
from torch import Tensor

from ..recipe import Recipe


def loss_scale(recipe: Recipe) -> float:
    """Return the factor on the loss whose gradient the recipe's optimiser is given.

    torch's L-BFGS ignores curvature below an absolute 1e-10, which late steps of a normalised loss
    reach; the factor lifts them out of it. It changes no minimum, and Adam does not need it.
    """
    return 1e4 if recipe.optimizer == "lbfgs" else 1.0


def build_optimizer(recipe: Recipe, canvas: Tensor) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over `canvas`; each `step(closure)` evaluates the loss once.

    L-BFGS takes full quasi-Newton steps without a line search, like the programs it is compared with
    in the field. Its tolerances are zero: torch's absolute ones would stop it early, because the
    gradient of a normalised loss over many pixels is tiny everywhere.
    """
    if recipe.optimizer == "adam":
        return torch.optim.Adam([canvas], lr=recipe.learning_rate)
    return torch.optim.LBFGS(
        [canvas],
        lr=recipe.learning_rate,
        max_iter=1,
        history_size=recipe.history,
        tolerance_grad=0.0,
        tolerance_change=0.0,
    )
