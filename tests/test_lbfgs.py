from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.neural.lbfgs import LBFGS

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
    """Of fourth order, like a Gram loss: long steps make it explode."""
    return (canvas_BN.square() - 2).square().sum(1)


def run(
    problem: Problem, canvas_BN: Tensor, steps: int, rate: float = 1.0, history: int = 5
) -> tuple[LBFGS, Tensor]:
    """Return the optimiser and the canvases evaluated (steps, B, N)."""
    canvas_BN = canvas_BN.clone()
    optimizer, seen = LBFGS(canvas_BN, rate, history), []
    for _ in range(steps):
        advance(optimizer, problem, canvas_BN, seen)
    return optimizer, torch.stack(seen)


def advance(optimizer: LBFGS, problem: Problem, canvas_BN: Tensor, seen: list[Tensor]) -> None:
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


def test_pictures_together_go_as_each_alone() -> None:
    problems = [quadratic(seed) for seed in (1, 2)]
    canvas_BN = start(2)

    def both(together_BN: Tensor) -> Tensor:
        return torch.cat([problem(together_BN[i : i + 1]) for i, problem in enumerate(problems)])

    together = run(both, canvas_BN, 15)[1]
    for index, problem in enumerate(problems):
        alone = run(problem, canvas_BN[index : index + 1], 15)[1]
        assert torch.allclose(together[:, index], alone[:, 0], rtol=1e-7, atol=1e-10)


def test_a_picture_that_overshoots_goes_back_and_leaves_its_neighbour_alone() -> None:
    calm = quadratic(1)

    def both(canvas_BN: Tensor) -> Tensor:
        return torch.cat([quartic(canvas_BN[:1]), calm(canvas_BN[1:])])

    canvas_BN = torch.cat([3 * start(seed=4), start(seed=5)])
    optimizer, seen = run(both, canvas_BN, 40, rate=3.0)
    losses = torch.stack([both(canvas) for canvas in seen])
    best = losses[:, 0].cummin(0).values
    overshoots = (losses[1:, 0] > 2 * best[:-1]).sum()
    assert overshoots > 0
    assert float(optimizer.rate[0]) == 3.0 / 2 ** int(overshoots)
    assert best[-1] < 0.2 * losses[0, 0]
    assert torch.equal(seen[:, 1], run(lambda c: calm(c), canvas_BN[1:], 40, rate=3.0)[1][:, 0])


def test_a_loss_that_is_no_number_is_stepped_back_from() -> None:
    problem = quadratic(1)

    def broken_at_three(canvas_BN: Tensor) -> Tensor:
        calls.append(1)
        return problem(canvas_BN) * (float("nan") if len(calls) == 3 else 1.0)

    calls: list[int] = []
    optimizer, seen = run(broken_at_three, start(), 30)
    assert torch.equal(seen[3], seen[1])
    assert torch.isfinite(optimizer.best_BN).all()
    assert problem(optimizer.best_BN) < 0.1 * problem(start())


def test_the_best_is_kept() -> None:
    optimizer, seen = run(quartic, 3 * start(seed=4), 30, rate=3.0)
    losses = torch.stack([quartic(canvas) for canvas in seen])[:, 0]
    assert float(optimizer.best_loss_B) == float(losses.min())
    assert torch.equal(optimizer.best_BN, seen[losses.argmin()])


def test_it_goes_on_from_a_saved_state_as_if_never_stopped() -> None:
    problem, canvas_BN = quadratic(3), start()
    whole = run(problem, canvas_BN, 20)[1]
    first, seen = LBFGS(canvas_BN, 1.0, 5), []
    moving = canvas_BN.clone()
    for _ in range(8):
        advance(first, problem, moving, seen)
    saved = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in first.state_dict().items()
    }
    second = LBFGS(moving, 1.0, 5)
    second.load_state_dict(saved)
    for _ in range(12):
        advance(second, problem, moving, seen)
    assert torch.equal(torch.stack(seen), whole)


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
