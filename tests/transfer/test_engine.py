from __future__ import annotations

import math

import pytest
import torch
from small_transfers import (
    LEVELS,
    RECIPES,
    alone_as,
    mirrored,
    recipe_for,
    rolled,
    run_one,
    stop_after,
    transfer_for,
)
from tiny import asking_for_nothing, random_image

from pipeline.spec.schedule import at_level
from pipeline.transfer.checkpoints import RunState, read_checkpoint, write_checkpoint
from pipeline.transfer.engine import LevelInputs
from pipeline.transfer.objective import ReferenceObjective
from pipeline.transfer.pyramid import Level

# Nearly quadratic, so that L-BFGS does not carry a last bit to the first.
SMOOTH = {"content_layers": ["relu1_1"], "style_weight": 0.0, "tv_weight": 20.0}


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_and_the_best_picture_is_returned(name):
    transfer = transfer_for(RECIPES[name])
    image, rows = run_one(transfer)
    assert [row.step for row in rows] == list(range(1, 12))
    assert [row.size for row in rows] == [32] * 6 + [46] * 5
    assert image.shape == (1, 3, 40, 46)
    first, last = rows[6], min(row.total for row in rows[6:])
    assert last < first.total
    if transfer.recipe.margin == 0:
        inputs = transfer.inputs[0].at(LEVELS[-1])
        recipe = at_level(transfer.recipe, 46)
        objective = ReferenceObjective(transfer.encoder, recipe, inputs.content_BCHW, inputs.style)
        assert float(objective.losses(image).total) == pytest.approx(last, rel=1e-5)


def test_lbfgs_steps_back_from_a_step_far_too_long(tmp_path):
    """A factor of 30 on every step makes plain L-BFGS overshoot; the job recovers, and resumes alike."""
    recipe = recipe_for(learning_rate=30.0, style_loss="gram", loss="mean", style_weight=1e6)
    levels = [Level(32, 32, 30)]
    image, rows = run_one(transfer_for(recipe, levels))
    best = float("inf")
    overshoots = 0
    for row in rows:
        overshoots += row.total > 2 * best
        best = min(best, row.total)
    assert overshoots > 0
    assert best < 0.5 * rows[0].total

    write_checkpoint(tmp_path / "state", stop_after(recipe, 20, levels))
    resumed, _ = run_one(transfer_for(recipe, levels), read_checkpoint(tmp_path / "state"))
    assert torch.equal(resumed, image)


def test_the_row_adds_up():
    recipe = RECIPES["lbfgs"]
    _, rows = run_one(transfer_for(recipe))
    for row in rows:
        style = at_level(recipe, row.size).style_weight * sum(
            weight * row.layers[f"style_{layer}"] for layer, weight in recipe.style_layers.items()
        )
        assert row.style == pytest.approx(style, rel=1e-5)
        content = sum(
            weight * row.layers[f"content_{layer}"] for layer, weight in recipe.content_layers.items()
        )
        assert row.content == pytest.approx(content, rel=1e-5)
        assert row.total >= (row.content + row.style + row.tv) * (1 - 1e-5)


def test_an_encoders_style_factor_is_a_larger_style_weight():
    transfer, larger = (transfer_for(recipe_for(style_weight=weight)) for weight in (10.0, 15.0))
    transfer.encoder.style_factor = 1.5
    assert torch.equal(run_one(transfer)[0], run_one(larger)[0])


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_twice(name):
    first, _ = run_one(transfer_for(RECIPES[name]))
    second, _ = run_one(transfer_for(RECIPES[name]))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", RECIPES)
def test_stopped_and_resumed_from_a_file_is_as_if_it_had_not_been(name, tmp_path):
    expected, expected_rows = run_one(transfer_for(RECIPES[name], carried=mirrored))
    for stop_at in (1, 4, 6, 9):
        write_checkpoint(tmp_path / "state", stop_after(RECIPES[name], stop_at, carried=mirrored))
        transfer = transfer_for(RECIPES[name], carried=mirrored)
        image, rows = run_one(transfer, read_checkpoint(tmp_path / "state"))
        assert torch.equal(image, expected), stop_at
        assert [row.total for row in rows] == [row.total for row in expected_rows], stop_at


def test_diverged_at_a_levels_first_step_it_resumes_from_the_levels_start(tmp_path):
    recipe = RECIPES["lbfgs"]
    expected, rows = run_one(transfer_for(recipe))
    transfer = transfer_for(recipe)
    inputs = transfer.inputs[0].at

    def broken(level: Level, *reports: object) -> LevelInputs:
        given = inputs(level)
        factor = math.nan if level is LEVELS[1] else 1.0
        return LevelInputs(given.content_BCHW * factor, given.style)

    transfer.inputs[0].at = broken
    (result,) = transfer.run([RunState()])
    assert result.status == "diverged"
    assert f"step {LEVELS[0].steps + 1}" in str(result.error)
    write_checkpoint(tmp_path / "state.safetensors", result.state)
    state = read_checkpoint(tmp_path / "state.safetensors")
    assert (state.level, state.step, len(state.rows)) == (1, 0, LEVELS[0].steps)
    image, gone_on = run_one(transfer_for(recipe), state)
    assert torch.equal(image, expected)
    assert [row.total for row in gone_on] == [row.total for row in rows]


def test_a_margin_is_mirrored_and_cut_off_again():
    """With nothing to optimise for, what comes out is what went in, at its own size."""
    image, _ = run_one(transfer_for(asking_for_nothing(recipe_for(margin=9)), levels=LEVELS[:1]))
    assert torch.equal(image, random_image(32, 32, seed=30))


def test_a_level_starts_from_what_is_made_of_the_one_before():
    image, _ = run_one(transfer_for(asking_for_nothing(recipe_for(margin=9)), carried=mirrored))
    larger = torch.nn.functional.interpolate(
        random_image(32, 32, seed=30), (40, 46), mode="bicubic", align_corners=False
    )
    assert torch.equal(image, larger.flip(3))


def test_the_canvas_is_never_clamped_between_steps():
    recipe = recipe_for(
        canvas="imagenet", tv_weight=0.0, content_weight=0.0, optimizer="adam", learning_rate=0.5
    )
    image, _ = run_one(transfer_for(recipe))
    assert image.min() < 0 or image.max() > 1


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_range_loss_brings_pixels_back_to_the_visible(optimizer, monkeypatch):
    """A content beyond it, which the canvas starts from, holds the canvas there but for that loss."""

    def beyond(level: Level) -> torch.Tensor:
        return 2 * random_image(level.height, level.width, seed=30) - 0.5

    excess = []
    for weight in (0.0, 1000.0):
        fields = {"optimizer": optimizer, "learning_rate": 1.0 if optimizer == "lbfgs" else 0.05}
        monkeypatch.setattr("pipeline.spec.recipe.RANGE_WEIGHTS", {"rgb": weight})
        recipe = recipe_for(**SMOOTH | {"tv_weight": 0.0}, **fields)
        transfer = transfer_for(recipe, [Level(32, 32, 20)])
        inputs = transfer.inputs[0]
        style = inputs.at(LEVELS[0]).style
        inputs.first_image = beyond
        inputs.at = lambda level, *reports, style=style: LevelInputs(beyond(level), style)
        image, _ = run_one(transfer)
        excess.append(float((image - image.clamp(0, 1)).abs().mean()))
    assert excess[0] > 0.05
    assert excess[1] < 0.1 * excess[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_picture_is_the_same_alone_and_in_company(name):
    """In float64, where rounding is small enough to be distinguished from pictures that get mixed up.

    Sums of a batch differ in their last bits, by the processor. Adam moves a pixel whose gradient is nearly
    nothing by a whole step, wherever those bits point, and a ReLU or a pooling that turns makes more of it:
    in float32 one total of eleven may be 0.3 % off, or far more.
    """
    recipe, kind = RECIPES[name], {"carried": rolled, "dtype": torch.float64}
    together = transfer_for(recipe, **kind).run([RunState() for _ in range(3)])
    for index, result in enumerate(together):
        alone = alone_as(recipe, index, **kind)
        totals = [row.total for row in result.state.rows]
        assert totals == pytest.approx([row.total for row in alone.state.rows], rel=1e-6)
        assert (result.image_BCHW - alone.image_BCHW).abs().max() < 1e-6


@pytest.mark.parametrize("name", RECIPES)
def test_in_float32_the_first_step_is_the_same_alone_and_in_company(name):
    """Nothing is carried on yet: the losses of one evaluation differ by its roundings."""
    recipe, levels = RECIPES[name], [Level(46, 40, 1)]
    together = transfer_for(recipe, levels).run([RunState() for _ in range(3)])
    for index, result in enumerate(together):
        (row,), (alone,) = result.state.rows, alone_as(recipe, index, levels=levels).state.rows
        assert row.layers == pytest.approx(alone.layers, rel=1e-4)
        assert row.total == pytest.approx(alone.total, rel=1e-4)


def test_one_that_diverges_does_not_touch_its_company():
    """Nor does the last picture take its place: each resumes from a start of its own."""
    recipe, kind = RECIPES["lbfgs"], {"carried": rolled, "dtype": torch.float64}
    transfer = transfer_for(recipe, **kind)
    transfer.inputs[1].factor = math.nan
    results = transfer.run([RunState() for _ in range(3)])
    assert [result.status for result in results] == ["done", "diverged", "done"]
    assert "step 1" in str(results[1].error)
    for index in (0, 2):
        alone = alone_as(recipe, index, **kind).image_BCHW
        assert (results[index].image_BCHW - alone).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_stopped_together_each_resumes_by_itself(name, tmp_path):
    recipe, seen = RECIPES[name], []
    expected = transfer_for(recipe).run([RunState() for _ in range(2)])
    stopping = transfer_for(recipe, on_progress=seen.append, should_stop=lambda: len(seen) == 2 * 8)
    stopped = stopping.run([RunState() for _ in range(2)])
    assert [(result.status, result.state.level, result.state.step) for result in stopped] == [
        ("stopped", 1, 2)
    ] * 2
    for index, result in enumerate(stopped):
        write_checkpoint(tmp_path / str(index), result.state)
    states = [read_checkpoint(tmp_path / str(index)) for index in range(2)]
    for one, other in zip(transfer_for(recipe).run(states), expected, strict=True):
        assert torch.equal(one.image_BCHW, other.image_BCHW)
        assert [row.total for row in one.state.rows] == [row.total for row in other.state.rows]
