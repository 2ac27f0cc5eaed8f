from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from pipeline.neural.checkpoints import pack_state, unpack_state
from pipeline.neural.optimizers import Optimizer, build_optimizer
from pipeline.recipe import Recipe


def quadratic(canvas_BN: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Losses and gradients of a quadratic around 0.3."""
    curvature = torch.linspace(1, 30, canvas_BN.shape[1], dtype=canvas_BN.dtype)
    apart = canvas_BN - 0.3
    return scale * (curvature * apart.square()).sum(1), scale * 2 * curvature * apart


def take_steps(canvas_BN: Tensor, optimizer: Optimizer, steps: int, scale: float = 1.0) -> list[float]:
    losses = []
    for _ in range(steps):
        loss_B, gradient_BN = quadratic(canvas_BN, scale)
        losses.append(float(loss_B))
        optimizer.step(canvas_BN, loss_B, gradient_BN)
    return losses


def start() -> Tensor:
    return torch.rand(1, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [({"optimizer": "lbfgs"}, 60), ({"optimizer": "adam", "learning_rate": 0.02}, 400)],
)
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_reaches_the_minimum_of_a_quadratic_whatever_its_scale(fields, steps, scale) -> None:
    canvas_BN = start()
    losses = take_steps(canvas_BN, build_optimizer(Recipe(**fields), canvas_BN), steps, scale)
    assert losses[-1] < 1e-4 * losses[0]


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_the_state_survives_json_and_tensors(name: str) -> None:
    recipe = Recipe(optimizer=name, learning_rate=0.1)
    canvas_BN = start().float()
    optimizer = build_optimizer(recipe, canvas_BN)
    take_steps(canvas_BN, optimizer, 5)
    tensors: dict[str, Tensor] = {}
    packed = json.loads(json.dumps(pack_state(optimizer.state_dict(), tensors)))

    twin_BN = canvas_BN.clone()
    restored = build_optimizer(recipe, twin_BN)
    restored.load_state_dict(unpack_state(packed, tensors))
    take_steps(canvas_BN, optimizer, 5)
    take_steps(twin_BN, restored, 5)
    assert torch.equal(canvas_BN, twin_BN)
