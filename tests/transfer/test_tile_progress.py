from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from fakes import Clock
from small_transfers import LEVELS, recipe_for, transfer_for
from tiny import random_image, tiny_encoder

from pipeline.transfer.checkpoints import LossRow, RunState
from pipeline.transfer.engine import StyleTransfer
from pipeline.transfer.level_run import PictureRun
from pipeline.transfer.pyramid import Level
from pipeline.transfer.reports import Hooks, Outcome, Progress
from pipeline.transfer.run_work import RunWork
from pipeline.transfer.targets import gram_targets
from pipeline.transfer.tile_planning import Tiling
from pipeline.transfer.tile_progress import TILE_EVERY_S, TileReports


def in_tiles(transfer: StyleTransfer, edge: int = 32) -> StyleTransfer:
    transfer.tiling = Tiling(edge=edge)
    return transfer


def test_quick_steps_report_no_tiles() -> None:
    seen: list[Progress] = []
    in_tiles(transfer_for(recipe_for(), on_progress=seen.append, clock=Clock(TILE_EVERY_S / 100))).run(
        [RunState()]
    )
    assert [(p.step, p.tiles) for p in seen] == [(step, 0) for step in range(1, 12)]


def test_a_long_step_reports_its_tiles_and_the_losses_of_the_step_before() -> None:
    seen: list[Progress] = []
    clock = Clock(TILE_EVERY_S)
    in_tiles(transfer_for(recipe_for(), on_progress=seen.append, clock=clock)).run([RunState()])
    steps = [p for p in seen if not p.tiles]
    assert [p.step for p in steps] == list(range(1, 12))
    assert {p.read_image is None for p in steps} == {False}
    at_last = [p for p in seen if p.tiles and p.step == 10]
    assert [p.tile for p in at_last] == list(range(2, at_last[0].tiles + 1))
    assert {(p.width, p.height, p.steps) for p in at_last} == {(46, 40, 11)}
    assert {p.row.step for p in at_last if p.row} == {10}
    first = [p for p in seen if p.step == 0]
    assert first
    assert all(p.row is None and p.tiles for p in first)


def test_tiles_are_all_of_both_passes_and_come_in_order() -> None:
    """Those of style and content come before the steps of a level."""
    counted: list[tuple[int, int]] = []
    transfer = in_tiles(transfer_for(recipe_for(), [Level(46, 40, 2)], indices=[0]))
    picture = PictureRun(0, RunState(canvas=random_image(40, 46)))
    level = transfer.levels[0]
    plan = transfer._tile_plan(level)
    stepper = transfer._stepper(level, [picture], plan, lambda *tile: counted.append(tile))
    before = len(counted)
    assert counted == [(i + 1, before) for i in range(before)]
    counted.clear()
    stepper.step()
    first = list(counted)
    assert first == [(i + 1, 2 * before) for i in range(2 * before)]
    stepper.step()
    assert counted == 2 * first


def test_tiles_of_a_style_are_reported() -> None:
    counted: list[tuple[int, int]] = []
    recipe = recipe_for()
    gram_targets(
        tiny_encoder(recipe),
        random_image(70, 70),
        list(recipe.style_layers),
        32,
        lambda *t: counted.append(t),
    )
    assert counted == [(i + 1, len(counted)) for i in range(len(counted))]
    assert len(counted) > 9


def test_a_picture_that_has_ended_is_not_reported() -> None:
    seen: list[Progress] = []
    row = LossRow(3, 46, 1.0, 0.5, 0.5, 0.0, {}, 9.0)
    pictures = [PictureRun(0, RunState(rows=[row])), PictureRun(1, RunState(rows=[row]))]
    pictures[0] = replace(pictures[0], outcome=Outcome("stopped", pictures[0].state))
    hooks = Hooks(on_progress=seen.append, clock=Clock(TILE_EVERY_S))
    reports = TileReports(LEVELS[1], pictures, hooks, 6, RunWork(LEVELS, [1.0, 1.0]))
    reports(1, 8)
    reports(2, 8)
    assert [(p.index, p.step, p.tile, p.tiles) for p in seen] == [(1, 3, 2, 8)]


def test_reports_do_not_keep_the_memory_of_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the tensors of a level are freed when it ends, without a search for cycles."""
    made: list[weakref.ref[torch.Tensor]] = []
    transfer = in_tiles(transfer_for(recipe_for(), indices=[0]))
    fetch = transfer.steppers.fetch

    def fetched(*arguments: object) -> object:
        stepper = fetch(*arguments)  # type: ignore[arg-type]
        made.append(weakref.ref(stepper.canvas_BCHW))
        return stepper

    monkeypatch.setattr(transfer.steppers, "fetch", fetched)
    gc.disable()
    try:
        transfer.run([RunState()])
        assert [each() for each in made] == [None, None]
    finally:
        gc.enable()
