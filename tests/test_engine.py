from __future__ import annotations

import math

import pytest
import torch
from tiny import random_image, tiny_encoder

from pipeline.neural.checkpoints import RunState, read_checkpoint, write_checkpoint
from pipeline.neural.engine import Diverged, Level, LevelInputs, Stopped, StyleTransfer
from pipeline.neural.objective import ReferenceObjective
from pipeline.neural.targets import gram_targets
from pipeline.recipe import Recipe

LEVELS = [Level(32, 32, 6), Level(46, 40, 5)]


def recipe_for(**fields) -> Recipe:
    return Recipe(**{"size": 46, "pyramid": 32, "history": 5, "margin": 0, **fields})


def transfer_for(recipe: Recipe, levels=LEVELS, start_seed: int = 3, **hooks) -> StyleTransfer:
    encoder = tiny_encoder(recipe)
    style = gram_targets(encoder, random_image(seed=2), list(recipe.style_layers))

    def inputs(level: Level) -> LevelInputs:
        return LevelInputs(random_image(level.height, level.width, seed=1), style)

    def first(level: Level) -> torch.Tensor:
        return random_image(level.height, level.width, seed=start_seed)

    return StyleTransfer(encoder, recipe, levels, inputs, first, **hooks)


RECIPES = {
    "lbfgs": recipe_for(),
    "adam": recipe_for(optimizer="adam", learning_rate=0.004),
    "margin": recipe_for(margin=7),
    "gram": recipe_for(style_loss="gram", loss="mean", style_weight=1e3),
    "imagenet": recipe_for(optimizer="adam", learning_rate=0.05, canvas="imagenet"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_and_the_best_picture_is_returned(name):
    transfer = transfer_for(RECIPES[name])
    image, rows = transfer.run()
    assert [row.step for row in rows] == list(range(1, 12))
    assert [row.size for row in rows] == [32] * 6 + [46] * 5
    assert image.shape == (1, 3, 40, 46)
    first, last = rows[6], min(row.total for row in rows[6:])
    assert last < first.total
    if transfer.recipe.margin == 0:
        inputs = transfer.level_inputs(LEVELS[-1])
        objective = ReferenceObjective(transfer.encoder, transfer.recipe, inputs.content_BCHW, inputs.style)
        assert float(objective(image).total) == pytest.approx(last, rel=1e-5)


def test_lbfgs_steps_back_from_a_step_far_too_long(tmp_path):
    """A factor of 30 on every step makes plain L-BFGS overshoot; the job recovers, and resumes alike."""
    recipe = recipe_for(learning_rate=30.0, style_loss="gram", loss="mean", style_weight=1e6)
    levels = [Level(32, 32, 30)]
    image, rows = transfer_for(recipe, levels).run()
    best = float("inf")
    overshoots = 0
    for row in rows:
        overshoots += row.total > 2 * best
        best = min(best, row.total)
    assert overshoots > 0
    assert best < 0.5 * rows[0].total

    count = []
    stopping = transfer_for(recipe, levels, on_progress=count.append, should_stop=lambda: len(count) == 20)
    with pytest.raises(Stopped) as stop:
        stopping.run()
    write_checkpoint(tmp_path / "state", stop.value.state)
    resumed, _ = transfer_for(recipe, levels).run(read_checkpoint(tmp_path / "state"))
    assert torch.equal(resumed, image)


def test_the_row_adds_up():
    recipe = RECIPES["lbfgs"]
    _, rows = transfer_for(recipe).run()
    for row in rows:
        style = recipe.style_weight * sum(
            weight * row.layers[f"style_{layer}"] for layer, weight in recipe.style_layers.items()
        )
        assert row.style == pytest.approx(style, rel=1e-5)
        assert row.content == pytest.approx(row.layers["content_relu4_2"], rel=1e-5)
        assert row.total >= (row.content + row.style + row.tv) * (1 - 1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_twice(name):
    first, _ = transfer_for(RECIPES[name]).run()
    second, _ = transfer_for(RECIPES[name]).run()
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("stop_at", [1, 4, 6, 9])
def test_stopped_and_resumed_from_a_file_is_as_if_it_had_not_been(name, stop_at, tmp_path):
    expected, expected_rows = transfer_for(RECIPES[name]).run()
    count = []
    stopping = transfer_for(
        RECIPES[name], on_progress=count.append, should_stop=lambda: len(count) == stop_at
    )
    with pytest.raises(Stopped) as stop:
        stopping.run()
    write_checkpoint(tmp_path / "state", stop.value.state)
    state = read_checkpoint(tmp_path / "state")
    image, rows = transfer_for(RECIPES[name]).run(state)
    assert torch.equal(image, expected)
    assert [row.total for row in rows] == [row.total for row in expected_rows]


def test_checkpoints_come_by_the_clock():
    now = iter(range(10_000))
    states: list[RunState] = []
    transfer_for(
        RECIPES["lbfgs"], on_checkpoint=states.append, clock=lambda: next(now), checkpoint_s=5.0
    ).run()
    assert states
    assert all(state.optimizer is not None for state in states)


def test_progress_tells_step_size_and_loss():
    seen = []
    transfer_for(RECIPES["adam"], on_progress=seen.append).run()
    assert [(p.step, p.steps) for p in seen] == [(step, 11) for step in range(1, 12)]
    assert (seen[-1].width, seen[-1].height) == (46, 40)
    assert all(p.row.total > 0 and p.image_BCHW is None for p in seen)


def test_snapshots_where_the_recipe_asks():
    seen = []
    transfer_for(recipe_for(snapshot_every=4), on_progress=seen.append).run()
    assert [p.step for p in seen if p.image_BCHW is not None] == [4, 8]


@pytest.mark.parametrize("style_loss", ["gram", "bures"])
def test_a_loss_that_is_not_finite_names_layer_and_step_and_keeps_the_last_good_canvas(style_loss):
    recipe = recipe_for(optimizer="adam", learning_rate=1e30, style_loss=style_loss)
    with pytest.raises(Diverged) as caught:
        transfer_for(recipe).run()
    message = str(caught.value.error)
    assert "relu" in message
    assert "step 2" in message
    state = caught.value.state
    assert state.canvas is not None
    assert torch.equal(state.canvas, random_image(32, 32, seed=3))
    assert math.isfinite(state.best_loss)


def test_a_margin_is_mirrored_and_cut_off_again():
    """With nothing to optimise for, what comes out is what went in, at its own size."""
    still = {"content_weight": 0.0, "style_weight": 0.0, "tv_weight": 0.0, "range_weight": 0.0}
    image, _ = transfer_for(recipe_for(margin=9, **still), levels=LEVELS[:1]).run()
    assert torch.equal(image, random_image(32, 32, seed=3))


def test_the_canvas_is_never_clamped_between_steps():
    recipe = recipe_for(
        range_weight=0.0, tv_weight=0.0, content_weight=0.0, optimizer="adam", learning_rate=0.5
    )
    image, _ = transfer_for(recipe).run()
    assert image.min() < 0 or image.max() > 1


def test_the_range_loss_keeps_pixels_near_the_visible():
    loose, _ = transfer_for(recipe_for(range_weight=0.0, style_weight=100.0)).run()
    tight, _ = transfer_for(recipe_for(range_weight=1000.0, style_weight=100.0)).run()
    excess = [float((image - image.clamp(0, 1)).abs().mean()) for image in (loose, tight)]
    assert excess[1] < excess[0]


def test_a_checkpoint_that_cannot_be_read_is_none(tmp_path):
    assert read_checkpoint(tmp_path / "absent") is None
    (tmp_path / "bad").write_bytes(b"\x00" * 100)
    assert read_checkpoint(tmp_path / "bad") is None
    write_checkpoint(tmp_path / "cut", RunState(canvas=torch.zeros(1, 3, 4, 4)))
    data = (tmp_path / "cut").read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    assert read_checkpoint(tmp_path / "cut") is None
