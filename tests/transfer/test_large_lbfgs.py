from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from test_lbfgs import advance, quadratic, quartic, run, start
from tiny import random_image
from torch import Tensor

from pipeline.spec.recipe import Recipe
from pipeline.transfer import large_lbfgs
from pipeline.transfer.explicit import ExplicitObjective
from pipeline.transfer.large_lbfgs import LargeLBFGS, Storage
from pipeline.transfer.lbfgs import LBFGS
from pipeline.transfer.stored import FileTensor, copy_stored, loaded
from pipeline.transfer.targets import gram_targets
from pipeline.vgg.encoder import Encoder
from pipeline.vgg.weights import bundled_weights, read_weights

EXACT = Storage(torch.float64)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LargeLBFGS, "_parts", lambda self: parts_of_seven(self._numbers))


def parts_of_seven(numbers: int) -> list[slice]:
    return [slice(first, min(first + 7, numbers)) for first in range(0, numbers, 7)]


def run_large(problem, canvas_1N, steps, storage, rate=1.0, history=5) -> tuple[LargeLBFGS, Tensor]:
    return run(problem, canvas_1N, steps, rate, history, partial(LargeLBFGS, storage=storage))


@pytest.mark.parametrize("in_a_file", [False, True])
@pytest.mark.parametrize("rate", [1.0, 0.7])
@pytest.mark.parametrize("history", [1, 3, 20])
def test_it_takes_the_steps_of_the_other(history: int, rate: float, in_a_file: bool, tmp_path: Path) -> None:
    storage = Storage(torch.float64, tmp_path if in_a_file else None)
    ours = run_large(quadratic(1), start(), 25, storage, rate, history)[1]
    assert torch.allclose(ours, run(quadratic(1), start(), 25, rate, history)[1], rtol=1e-7, atol=1e-9)


def test_parts_are_all_of_it_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(large_lbfgs, "PART_BYTES", 8 * 5 * 5000)
    canvas_1N = torch.zeros(1, 12_345)
    parts = list(LargeLBFGS(canvas_1N, 1.0, 5, Storage())._parts())
    assert [(part.start, part.stop) for part in parts] == [(0, 5000), (5000, 10_000), (10_000, 12_345)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_history_in_a_file_is_the_one_in_memory(dtype: torch.dtype, tmp_path: Path) -> None:
    canvas_1N = 3 * start(size=100, seed=4).float()  # overshoots on the way
    in_memory, seen = run_large(quartic, canvas_1N, 40, Storage(dtype), rate=3.0)
    in_a_file, also_seen = run_large(quartic, canvas_1N, 40, Storage(dtype, tmp_path), rate=3.0)
    assert torch.equal(seen, also_seen)
    for name, value in in_memory.state_dict().items():
        assert torch.equal(loaded(in_a_file.state_dict()[name]), value), name
    assert torch.equal(loaded(in_a_file.best_BN), loaded(in_memory.best_BN))


def test_every_product_is_one_of_what_is_in_the_history() -> None:
    optimizer, _ = run_large(quadratic(1), start(), 12, Storage())
    pairs_PN = optimizer.pairs.stored[0].double()
    newest = int(optimizer.newest)
    # The next step is already in the slot after the newest; its products come with its evaluation.
    settled = [slot for slot in range(10) if slot % 5 != (newest + 1) % 5]
    expected = (pairs_PN @ pairs_PN.T)[settled][:, settled]
    assert torch.allclose(optimizer.products[0][settled][:, settled].double(), expected, rtol=1e-5, atol=1e-9)


def painted(storage: Storage | None, steps: int = 40) -> float:
    """Return the least loss of a small picture with the real network; None is the optimiser of small ones."""
    recipe = Recipe(margin=0)
    layers = sorted({*recipe.content_layers, *recipe.style_layers})
    weights = read_weights(bundled_weights("vgg19-slim"), layers)
    encoder = Encoder(weights, layers, recipe.pooling, recipe.padding)
    targets = gram_targets(encoder, random_image(64, 96, seed=2), list(recipe.style_layers))
    objective = ExplicitObjective(encoder, recipe, random_image(64, 96, seed=1), targets, torch.float32)
    canvas_BCHW = random_image(64, 96, seed=1).clone()
    canvas_1N = canvas_BCHW.view(1, -1)
    optimizer = LBFGS(canvas_1N, 1.0, 10) if storage is None else LargeLBFGS(canvas_1N, 1.0, 10, storage)
    for _ in range(steps):
        losses, gradient_BCHW = objective.evaluate(canvas_BCHW)
        optimizer.step(canvas_1N, losses.total, gradient_BCHW.contiguous().view(1, -1))
    return float(optimizer.best_loss_B)


def test_a_rounded_history_descends_like_an_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    exact, rounded = painted(None), painted(Storage())
    assert rounded == pytest.approx(exact, rel=0.03)
    assert exact < 0.5 * painted(None, steps=1)


def test_a_picture_that_overshoots_returns_to_its_best(tmp_path: Path) -> None:
    for storage in (EXACT, Storage(torch.float64, tmp_path)):
        optimizer, seen = run_large(quartic, 3 * start(seed=4), 40, storage, rate=3.0)
        losses = torch.stack([quartic(canvas) for canvas in seen])[:, 0]
        overshoots = (losses[1:] > 2 * losses.cummin(0).values[:-1]).sum()
        assert overshoots > 0
        assert float(optimizer.learning_rate[0]) == 3.0 / 2 ** int(overshoots)
        assert float(optimizer.best_loss_B) == float(losses.min()) < 0.2 * float(losses[0])
        assert torch.equal(loaded(optimizer.best_BN), seen[losses.argmin()])


@pytest.mark.parametrize("files", [(False, False), (True, True), (False, True), (True, False)])
def test_it_resumes_from_a_saved_state_as_if_never_stopped(files: tuple[bool, bool], tmp_path: Path) -> None:
    """Also with its history elsewhere than before."""
    before, after = (Storage(torch.bfloat16, tmp_path if in_a_file else None) for in_a_file in files)
    whole = run_large(quadratic(3), start(), 20, before)[1]
    first, seen = run_large(quadratic(3), start(), 8, before)
    moving = start()
    first, seen = LargeLBFGS(moving, 1.0, 5, before), []
    for _ in range(8):
        advance(first, quadratic(3), moving, seen)
    second = LargeLBFGS(moving, 1.0, 5, after)
    second.load_state_dict(first.state_dict())
    copy_stored(first.best_BN, second.best_BN)
    second.best_loss_B.copy_(first.best_loss_B)
    for _ in range(12):
        advance(second, quadratic(3), moving, seen)
    assert torch.equal(torch.stack(seen), whole)


def test_a_history_in_a_file_takes_no_memory_and_leaves_nothing_behind(tmp_path: Path) -> None:
    optimizer, _ = run_large(quadratic(1), start(), 3, Storage(torch.bfloat16, tmp_path / "scratch"))
    stored = [optimizer.pairs.stored, optimizer.gradient.stored, optimizer.best_BN]
    assert all(isinstance(each, FileTensor) for each in stored)
    assert list((tmp_path / "scratch").iterdir()) == []
