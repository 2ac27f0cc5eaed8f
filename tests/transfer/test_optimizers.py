from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.spec.recipe import Recipe
from pipeline.transfer.checkpoints import RunState, read_checkpoint, write_checkpoint
from pipeline.transfer.optimizers import Adam, Optimizer, build_optimizer
from pipeline.transfer.stored import loaded


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
def test_the_state_survives_a_checkpoint(name: str, tmp_path: Path) -> None:
    recipe = Recipe(optimizer=name, learning_rate=0.1)
    canvas_BN = start().float()
    optimizer = build_optimizer(recipe, canvas_BN)
    take_steps(canvas_BN, optimizer, 5)
    path = tmp_path / "key.safetensors"
    write_checkpoint(path, RunState(canvas=canvas_BN, optimizer=optimizer.state_dict()))

    state = read_checkpoint(path)
    assert state is not None
    assert state.canvas is not None
    assert state.optimizer is not None
    twin_BN = loaded(state.canvas)
    restored = build_optimizer(recipe, twin_BN)
    restored.load_state_dict(state.optimizer)
    take_steps(canvas_BN, optimizer, 5)
    take_steps(twin_BN, restored, 5)
    assert torch.equal(canvas_BN, twin_BN)


def test_adam_takes_the_steps_of_torch() -> None:
    ours_BN, theirs_BN = start(), start()
    optimizer = Adam(ours_BN, 0.1)
    reference = torch.optim.Adam([theirs_BN], lr=0.1)
    for _ in range(30):
        optimizer.step(ours_BN, *quadratic(ours_BN, 1.0))
        theirs_BN.grad = quadratic(theirs_BN, 1.0)[1]
        reference.step()
        assert torch.allclose(ours_BN, theirs_BN, rtol=1e-12, atol=1e-14)


def test_adam_counts_the_steps_of_each_picture() -> None:
    canvas_BN = torch.cat([start(), start() - 0.2])
    optimizers = [Adam(canvas_BN[i : i + 1], 0.1) for i in range(2)]
    for index, steps in enumerate((3, 9)):
        for _ in range(steps):
            alone_BN = canvas_BN[index : index + 1]
            optimizers[index].step(alone_BN, *quadratic(alone_BN, 1.0))
    together_BN = canvas_BN.clone()
    both = Adam(together_BN, 0.1)
    states = [optimizer.state_dict() for optimizer in optimizers]
    both.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    for _ in range(4):
        both.step(together_BN, *quadratic(together_BN, 1.0))
        for index, optimizer in enumerate(optimizers):
            alone_BN = canvas_BN[index : index + 1]
            optimizer.step(alone_BN, *quadratic(alone_BN, 1.0))
    assert torch.allclose(together_BN, canvas_BN, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_a_step_stays_in_place_and_reads_no_number_from_the_device(name: str) -> None:
    recipe = Recipe(optimizer=name)
    meta_BN = torch.empty(2, 48, device="meta")
    build_optimizer(recipe, meta_BN).step(meta_BN, meta_BN[:, 0], meta_BN)
    canvas_BN = start()
    optimizer = build_optimizer(recipe, canvas_BN)
    places = [value.data_ptr() for value in optimizer.state_dict().values()]
    take_steps(canvas_BN, optimizer, 3)
    assert [value.data_ptr() for value in optimizer.state_dict().values()] == places
    assert all(len(value) == 1 for value in optimizer.state_dict().values())
