from __future__ import annotations

import json

import pytest
import torch

from pipeline.neural.checkpoints import pack_state, unpack_state
from pipeline.neural.optimizers import build_optimizer, loss_scale
from pipeline.recipe import Recipe


def quadratic(canvas: torch.Tensor, scale: float) -> torch.Tensor:
    curvature = torch.linspace(1, 30, canvas.numel(), dtype=canvas.dtype)
    return scale * (curvature * (canvas.flatten() - 0.3).square()).sum()


@pytest.mark.parametrize(
    ("fields", "steps"),
    [({"optimizer": "lbfgs"}, 60), ({"optimizer": "adam", "learning_rate": 0.02}, 400)],
)
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_reaches_the_minimum_of_a_quadratic_whatever_its_scale(fields, steps, scale):
    scale *= loss_scale(Recipe(**fields))
    canvas = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    canvas.requires_grad_()
    optimizer = build_optimizer(Recipe(**fields), canvas)
    evaluations = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = quadratic(canvas, scale)
        loss.backward()
        evaluations.append(loss.item())
        return loss.item()

    for _ in range(steps):
        optimizer.step(closure)
    assert len(evaluations) == steps  # one evaluation a step: what a step costs is known
    assert evaluations[-1] < 1e-4 * evaluations[0]


def take_steps(canvas: torch.Tensor, optimizer: torch.optim.Optimizer, steps: int) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        loss = quadratic(canvas, 1.0)
        loss.backward()
        return loss.item()

    for _ in range(steps):
        optimizer.step(closure)


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_the_state_survives_json_and_tensors(name):
    recipe = Recipe(optimizer=name, learning_rate=0.1)
    canvas = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = build_optimizer(recipe, canvas)
    take_steps(canvas, optimizer, 5)
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack_state(optimizer.state_dict(), tensors)))

    twin = canvas.detach().clone().requires_grad_()
    restored = build_optimizer(recipe, twin)
    restored.load_state_dict(unpack_state(packed, tensors))
    take_steps(canvas, optimizer, 5)
    take_steps(twin, restored, 5)
    assert torch.equal(canvas, twin)
