from __future__ import annotations

import math

import pytest
import torch
from small_transfers import (
    RECIPES,
    leaping,
    recipe_for,
    run_one,
    transfer_for,
)
from tiny import random_image

from pipeline.transfer.checkpoints import RunState
from pipeline.transfer.pyramid import Level
from pipeline.transfer.reports import Progress


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_checkpoints_come_by_the_clock():
    now = iter(range(10_000))
    states: list[tuple[int, RunState]] = []
    hooks = {"on_checkpoint": lambda *state: states.append(state), "clock": lambda: next(now)}
    run_one(transfer_for(RECIPES["lbfgs"], **hooks, checkpoint_s=5.0))
    assert states
    assert all(index == 0 and state.optimizer is not None for index, state in states)


@pytest.mark.parametrize(
    ("write_s", "apart_s"),
    [(0.1, 5.0), (1.0, 20.0), (3.0, 60.0), (5.0, 60.0), (9.0, 90.0)],
)
def test_checkpoints_are_a_minute_apart_unless_they_take_a_tenth_of_the_time(write_s, apart_s):
    """However long a step takes: here 2.5 seconds."""
    clock, written = Clock(), []

    def on_checkpoint(index: int, state: RunState) -> None:
        written.append((clock.now, state.step))
        clock.now += write_s

    def on_progress(progress: Progress) -> None:
        clock.now += 2.5

    hooks = {"on_checkpoint": on_checkpoint, "on_progress": on_progress, "clock": clock, "checkpoint_s": 5.0}
    levels = [Level(32, 32, int(2 * apart_s / 2.5 + 5))]
    run_one(transfer_for(recipe_for(optimizer="adam"), levels, **hooks))
    (first, _), (second, _), *_ = written
    assert second - first - write_s == pytest.approx(apart_s)


def test_progress_has_step_size_and_loss():
    seen = []
    run_one(transfer_for(RECIPES["adam"], on_progress=seen.append))
    assert [(p.step, p.steps) for p in seen] == [(step, 11) for step in range(1, 12)]
    assert (seen[-1].width, seen[-1].height) == (46, 40)
    assert all(p.row.total > 0 and p.image_BCHW is None for p in seen)


def test_snapshots_where_the_recipe_asks():
    seen = []
    run_one(transfer_for(recipe_for(snapshot_every=4), on_progress=seen.append))
    assert [p.step for p in seen if p.image_BCHW is not None] == [4, 8]


@pytest.mark.parametrize("style_loss", ["gram", "bures"])
def test_a_loss_that_is_not_finite_names_layer_and_step_and_keeps_the_last_good_canvas(style_loss):
    recipe = leaping(recipe_for(optimizer="adam", style_loss=style_loss))
    (result,) = transfer_for(recipe).run([RunState()])
    assert result.status == "diverged"
    message = str(result.error)
    assert "relu" in message
    assert "step 2" in message
    state = result.state
    assert state.canvas is not None
    assert torch.equal(state.canvas, random_image(32, 32, seed=30))
    assert math.isfinite(state.best_loss)


def test_losses_read_in_bunches_are_the_same(monkeypatch, tmp_path):
    """As on a GPU, where reading every step would make it wait."""
    recipe, levels = recipe_for(snapshot_every=4), [Level(32, 32, 11), Level(46, 40, 7)]
    expected = transfer_for(recipe, levels).run([RunState(), RunState()])
    monkeypatch.setattr("pipeline.transfer.level_run.read_every", lambda stepper: 3)
    seen: list[Progress] = []
    results = transfer_for(recipe, levels, on_progress=seen.append).run([RunState(), RunState()])
    for one, other in zip(results, expected, strict=True):
        assert torch.equal(one.image_BCHW, other.image_BCHW)
        assert [row.total for row in one.state.rows] == [row.total for row in other.state.rows]
        assert [row.seconds for row in one.state.rows] == sorted(row.seconds for row in one.state.rows)
    assert [p.step for p in seen if p.index == 0] == [3, 4, 7, 8, 11, 12, 15, 16, 18]
    assert [p.step for p in seen if p.index == 1 and p.image_BCHW is not None] == [4, 8, 12, 16]

    # Stopped after such a read, the job resumes to the same picture.
    seen.clear()
    stopping = transfer_for(recipe, levels, on_progress=seen.append, should_stop=lambda: len(seen) >= 6)
    stopped = stopping.run([RunState(), RunState()])
    assert {(result.status, result.state.level, result.state.step) for result in stopped} == {
        ("stopped", 0, 7)
    }
    resumed = transfer_for(recipe, levels).run([result.state for result in stopped])
    for one, other in zip(resumed, expected, strict=True):
        assert torch.equal(one.image_BCHW, other.image_BCHW)


def test_a_loss_not_finite_in_the_middle_of_a_bunch_ends_there(monkeypatch):
    monkeypatch.setattr("pipeline.transfer.level_run.read_every", lambda stepper: 5)
    (result,) = transfer_for(leaping(recipe_for(optimizer="adam"))).run([RunState()])
    assert result.status == "diverged"
    assert "step 2" in str(result.error)
    assert [row.step for row in result.state.rows] == [1]
