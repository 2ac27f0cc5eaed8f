from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.transfer.large_lbfgs import LargeLBFGS, Storage
from pipeline.transfer.lbfgs import LBFGS

# Both optimisers, for what they have in common.
LARGE = partial(LargeLBFGS, storage=Storage(torch.float64))
BOTH = pytest.mark.parametrize("make", [LBFGS, LARGE], ids=["small", "large"])

Problem = Callable[[Tensor], Tensor]  # losses (B) of canvases (BN)


def quadratic(seed: int, size: int = 30, pictures: int = 1) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(pictures, size, size, generator=generator, dtype=torch.float64) / size**0.5
    matrix = root @ root.transpose(1, 2) + 0.05 * torch.eye(size, dtype=torch.float64)
    offset = torch.randn(pictures, size, generator=generator, dtype=torch.float64)

    def losses(canvas_BN: Tensor) -> Tensor:
        apart = canvas_BN - offset
        return 0.5 * torch.einsum("bi,bij,bj->b", apart, matrix, apart)

    return losses


def quartic(canvas_BN: Tensor) -> Tensor:
    """Of fourth order, like a Gram loss: it explodes after long steps."""
    return (canvas_BN.square() - 2).square().sum(1)


def run(
    problem: Problem,
    canvas_BN: Tensor,
    steps: int,
    rate: float = 1.0,
    history: int = 5,
    make: Callable[..., Any] = LBFGS,
) -> tuple[Any, Tensor]:
    """Return the optimiser and the canvases evaluated (steps, B, N)."""
    canvas_BN = canvas_BN.clone()
    optimizer, seen = make(canvas_BN, rate, history), []
    for _ in range(steps):
        advance(optimizer, problem, canvas_BN, seen)
    return optimizer, torch.stack(seen)


def advance(optimizer: Any, problem: Problem, canvas_BN: Tensor, seen: list[Tensor]) -> None:
    variable = canvas_BN.clone().requires_grad_()
    loss_B = problem(variable)
    (gradient_BN,) = torch.autograd.grad(loss_B.sum(), variable)
    seen.append(canvas_BN.clone())
    optimizer.step(canvas_BN, loss_B.detach(), gradient_BN)


def run_torch(problem: Problem, canvas_BN: Tensor, steps: int, rate: float, history: int) -> Tensor:
    canvas_BN = canvas_BN.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [canvas_BN], lr=rate, max_iter=1, history_size=history, tolerance_grad=0, tolerance_change=0
    )
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem(canvas_BN).sum()
        loss.backward()
        return loss

    for _ in range(steps):
        seen.append(canvas_BN.detach().clone())
        optimizer.step(closure)
    return torch.stack(seen)


def start(pictures: int = 1, size: int = 30, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(pictures, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rate", [1.0, 0.7])
@pytest.mark.parametrize("history", [3, 20])
def test_it_takes_the_steps_of_torch(history: int, rate: float) -> None:
    problem = quadratic(1)
    ours = run(problem, start(), 25, rate, history)[1]
    assert torch.allclose(ours, run_torch(problem, start(), 25, rate, history), rtol=1e-6, atol=1e-8)


def test_a_batch_moves_each_picture_as_alone() -> None:
    problems = [quadratic(seed) for seed in (1, 2)]
    canvas_BN = start(2)

    def both(together_BN: Tensor) -> Tensor:
        return torch.cat([problem(together_BN[i : i + 1]) for i, problem in enumerate(problems)])

    together = run(both, canvas_BN, 15)[1]
    for index, problem in enumerate(problems):
        alone = run(problem, canvas_BN[index : index + 1], 15)[1]
        assert torch.allclose(together[:, index], alone[:, 0], rtol=1e-7, atol=1e-10)


def test_a_picture_that_overshoots_returns_to_its_best_and_leaves_its_neighbour_alone() -> None:
    calm = quadratic(1)

    def both(canvas_BN: Tensor) -> Tensor:
        return torch.cat([quartic(canvas_BN[:1]), calm(canvas_BN[1:])])

    canvas_BN = torch.cat([3 * start(seed=4), start(seed=5)])
    optimizer, seen = run(both, canvas_BN, 40, rate=3.0)
    losses = torch.stack([both(canvas) for canvas in seen])
    best = losses[:, 0].cummin(0).values
    overshoots = (losses[1:, 0] > 2 * best[:-1]).sum()
    assert overshoots > 0
    assert float(optimizer.learning_rate[0]) == 3.0 / 2 ** int(overshoots)
    assert best[-1] < 0.2 * losses[0, 0]
    alone = run(lambda c: calm(c), canvas_BN[1:], 40, rate=3.0)[1]
    assert torch.allclose(seen[:, 1], alone[:, 0], rtol=1e-7, atol=1e-10)


@BOTH
def test_a_loss_that_is_nan_returns_to_the_best(make: Callable[..., Any]) -> None:
    problem = quadratic(1)

    def broken_at_three(canvas_BN: Tensor) -> Tensor:
        calls.append(1)
        return problem(canvas_BN) * (float("nan") if len(calls) == 3 else 1.0)

    calls: list[int] = []
    optimizer, seen = run(broken_at_three, start(), 30, make=make)
    assert torch.equal(seen[3], seen[1])
    assert torch.isfinite(optimizer.best_BN).all()
    assert problem(optimizer.best_BN) < 0.1 * problem(start())


def test_the_best_is_kept() -> None:
    optimizer, seen = run(quartic, 3 * start(seed=4), 30, rate=3.0)
    losses = torch.stack([quartic(canvas) for canvas in seen])[:, 0]
    assert float(optimizer.best_loss_B) == float(losses.min())
    assert torch.equal(optimizer.best_BN, seen[losses.argmin()])


def test_it_resumes_from_a_saved_state_as_if_never_stopped() -> None:
    problem, canvas_BN = quadratic(3), start()
    whole = run(problem, canvas_BN, 20)[1]
    first, seen = LBFGS(canvas_BN, 1.0, 5), []
    moving = canvas_BN.clone()
    for _ in range(8):
        advance(first, problem, moving, seen)
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    second = LBFGS(moving, 1.0, 5)
    second.load_state_dict(saved)
    for _ in range(12):
        advance(second, problem, moving, seen)
    assert torch.equal(torch.stack(seen), whole)


def test_pictures_can_be_regrouped_between_steps() -> None:
    """States are joined and split along the batch, whatever steps each picture has taken."""
    problems = [quadratic(seed) for seed in (1, 2)]
    moving, optimizers = [], []
    for seed, (problem, steps) in enumerate(zip(problems, (3, 8), strict=True)):
        canvas_BN = start(seed=seed)
        optimizers.append(LBFGS(canvas_BN, 1.0, 5))
        for _ in range(steps):
            advance(optimizers[-1], problem, canvas_BN, [])
        moving.append(canvas_BN)

    together_BN = torch.cat(moving)
    states = [optimizer.state_dict() for optimizer in optimizers]
    both = LBFGS(together_BN, 1.0, 5)
    both.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    for _ in range(4):
        advance(both, lambda c: torch.cat([p(c[i : i + 1]) for i, p in enumerate(problems)]), together_BN, [])

    for index, steps in enumerate((7, 12)):
        last = LBFGS(together_BN[index : index + 1], 1.0, 5)
        last.load_state_dict({name: value[index : index + 1] for name, value in both.state_dict().items()})
        canvas_BN, seen = together_BN[index : index + 1].clone(), []
        for _ in range(12 - steps):
            advance(last, problems[index], canvas_BN, seen)
        assert torch.allclose(
            canvas_BN, run(problems[index], start(seed=index), 13)[1][12], rtol=1e-7, atol=1e-9
        )


def test_its_state_stays_in_place_and_has_a_row_for_each_picture() -> None:
    canvas_BN = start(3)
    optimizer = LBFGS(canvas_BN, 1.0, 5)
    places = {name: value.data_ptr() for name, value in vars(optimizer).items() if isinstance(value, Tensor)}
    plain = {name: value for name, value in vars(optimizer).items() if not isinstance(value, Tensor)}
    for _ in range(8):
        advance(optimizer, quartic, canvas_BN, [])
    optimizer.load_state_dict({name: value.clone() for name, value in optimizer.state_dict().items()})
    for name, place in places.items():
        assert getattr(optimizer, name).data_ptr() == place, name
    assert plain == {"history": 5}
    assert all(len(value) == 3 for value in optimizer.state_dict().values())


def test_a_step_reads_no_number_from_the_device() -> None:
    canvas_BN = torch.empty(2, 30, device="meta")
    optimizer = LBFGS(canvas_BN, 1.0, 5)
    for _ in range(3):
        optimizer.step(canvas_BN, torch.empty(2, device="meta"), torch.empty(2, 30, device="meta"))


def test_a_history_of_one() -> None:
    _, seen = run(quadratic(1), start(), 20, history=1)
    assert quadratic(1)(seen[-1]) < quadratic(1)(seen[0])


@BOTH
def test_gradients_of_zero_move_nothing(make: Callable[..., Any]) -> None:
    still = start()
    optimizer = make(still, 1.0, 5)
    for _ in range(4):
        optimizer.step(still, still.new_ones(1), torch.zeros_like(still))
    assert torch.equal(still, start())


@pytest.mark.gpu
def test_a_step_never_waits_for_the_device() -> None:
    canvas_BN = start(4, 1000).float().cuda()
    optimizer = LBFGS(canvas_BN, 1.0, 5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            optimizer.step(canvas_BN, canvas_BN.square().sum(1), 2 * canvas_BN)
    finally:
        torch.cuda.set_sync_debug_mode("default")
