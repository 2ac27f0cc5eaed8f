"""The live pictures of an executor: what is in them, when they are written, and what they cost."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace as Namespace

import numpy as np
import pytest
from fakes import Clock, MakePicture
from PIL import Image
from small_jobs import run

from pipeline.execution.executors import InProcessExecutor
from pipeline.execution.live import ASK_S, LONG_EDGE, PICTURE_S, POINTS, SHARE, seconds_left, thinned
from pipeline.spec.jobs import StepProgress
from pipeline.storage import live as storage
from pipeline.storage.live import Live, look, read_live
from pipeline.transfer.checkpoints import LossRow, RunState
from pipeline.transfer.pyramid import Level
from pipeline.transfer.reports import Progress
from pipeline.transfer.run_work import RunWork


class Viewer:
    """Looks after every step, and keeps what it sees; `every_s` is how long a step takes."""

    def __init__(self, executor: InProcessExecutor, every_s: float) -> None:
        self.executor, self.every_s = executor, every_s
        self.clock = executor._live.clock = Clock()
        self.seen: list[list[Live]] = []
        self.pictures: list[bytes] = []

    def __call__(self, progress: StepProgress) -> None:
        """Called before the live picture of a step is written."""
        self.clock.now += self.every_s
        found = read_live(self.executor.config.state_dir)
        self.seen.append(found)
        self.pictures += [live.picture.read_bytes() for live in found if live.picture]


@pytest.fixture
def looked_at(executor: InProcessExecutor, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessExecutor]:
    """An executor at whose jobs someone looks for as long as the test takes."""
    monkeypatch.setattr(storage, "LOOK_S", math.inf)
    look(executor.config.state_dir)
    with closing(executor):
        yield executor


def test_whoever_looks_sees_picture_level_step_losses_and_time_left(looked_at, make_task) -> None:
    viewer = Viewer(looked_at, PICTURE_S)
    task = make_task(1, size=136, pyramid=96, steps=[3, 2])
    results = looked_at.run([task], viewer, lambda: False)
    assert results[0].status == "done"
    seen = [live for found in viewer.seen for live in found]
    assert [(live.step, live.level, (live.width, live.height)) for live in seen] == [
        (1, 1, (96, 72)), (2, 1, (96, 72)), (3, 1, (96, 72)), (4, 2, (136, 102)),
    ]  # fmt: skip
    for live in seen:
        assert (live.batch, live.name, live.content) == ("night", "1", task.job.content)
        assert (live.steps, live.levels, live.styles) == (5, 2, task.job.style.images)
        assert live.losses["step"] == tuple(range(1, live.step + 1))
        assert live.losses["total"] == tuple(row[2] for row in results[0].log_rows[: live.step])
        assert live.left_s is not None
        assert live.left_s > 0
    sizes = [Image.open(io.BytesIO(data)).size for data in viewer.pictures]
    assert sizes == [(96, 72)] * 3 + [(136, 102)]
    assert read_live(looked_at.config.state_dir) == []


def test_a_picture_is_small_and_shows_the_canvas(looked_at, make_task, make_picture: MakePicture) -> None:
    task = make_task(1, size=300, init="content", style_weight=0, steps=2, margin=8)
    viewer = Viewer(looked_at, PICTURE_S)
    looked_at.run([task], viewer, lambda: False)
    (data,) = viewer.pictures
    shown = Image.open(io.BytesIO(data))
    assert (shown.format, shown.size) == ("JPEG", (LONG_EDGE, LONG_EDGE * 3 // 4))
    content = Image.open(task.job.content).convert("RGB").resize(shown.size, Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(shown, int) - np.asarray(content, int)).mean() < 12


@pytest.mark.parametrize("color", ["content", "luminance"])
def test_a_picture_has_the_colours_of_the_result(looked_at, make_task, color: str) -> None:
    task = make_task(1, init="style", color=color)
    Image.open(task.job.content).convert("L").save(task.job.content)
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.job.input_paths}
    viewer = Viewer(looked_at, PICTURE_S)
    looked_at.run([replace(task, digests=digests)], viewer, lambda: False)
    shown = np.asarray(Image.open(io.BytesIO(viewer.pictures[-1])).convert("RGB"), int)
    assert np.ptp(shown, axis=2).max() < 8  # grey, but for what JPEG does to it


def test_nothing_is_written_while_nobody_looks(executor, make_task) -> None:
    executor._live.clock = Clock(ASK_S)
    run(executor, [make_task(1)])
    assert not (executor.config.state_dir / "live").exists()


def test_whether_someone_looks_is_asked_now_and_then_only(executor, make_task, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("pipeline.execution.live.is_looked_at", lambda folder: asked.append(folder) or False)
    viewer = Viewer(executor, ASK_S / 4)
    executor.run([make_task(1, steps=12)], viewer, lambda: False)
    assert len(asked) == 3


def test_pictures_are_apart_and_take_a_small_share_of_the_time(looked_at, make_task) -> None:
    """A second of every 150, where a picture takes a second; else one every two seconds."""
    viewer = Viewer(looked_at, 0.5)
    looked_at.run([make_task(1, steps=10)], viewer, lambda: False)
    assert len({live.step for found in viewer.seen for live in found}) == 3  # after 0, 2 and 4 s
    viewer = Viewer(looked_at, 10.0)
    viewer.clock.step_s = 0.25  # between the readings before and after a picture
    looked_at.run([make_task(1, steps=40)], viewer, lambda: False)
    steps = sorted({live.step for found in viewer.seen for live in found})
    assert len(steps) > 5
    assert all(10 * (later - earlier) > SHARE * 0.25 for earlier, later in pairwise(steps))


def test_pictures_that_share_a_tensor_take_turns(looked_at, make_task) -> None:
    """Even where the time is too short for all of them."""
    viewer = Viewer(looked_at, 1.0)
    tasks = [make_task(number, steps=20) for number in (1, 2, 4)]
    looked_at.run(tasks, viewer, lambda: False)
    assert {live.key for found in viewer.seen for live in found} == {task.key for task in tasks}
    assert read_live(looked_at.config.state_dir) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), NotImplementedError("not on mps")])
def test_a_job_is_made_even_if_it_cannot_be_shown(looked_at, make_task, monkeypatch, caplog, error) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(storage.LiveFolder, "write", refuse)
    viewer = Viewer(looked_at, PICTURE_S)
    (result,) = looked_at.run([make_task(1)], viewer, lambda: False)
    assert result.status == "done"
    assert [record.getMessage() for record in caplog.records if "live" in record.getMessage()] == [
        f"live pictures cannot be written: {type(error).__name__}: {error}"
    ]


def test_a_resumed_job_has_its_earlier_losses(looked_at, make_task) -> None:
    viewer = Viewer(looked_at, PICTURE_S)
    task, stops = make_task(1, steps=6), iter([False, False, True])
    (stopped,) = looked_at.run([task], lambda progress: None, lambda: next(stops, True))
    assert stopped.status == "stopped"
    looked_at.run([task], viewer, lambda: False)
    seen = [live for found in viewer.seen for live in found]
    assert seen[0].step > 1
    assert seen[0].losses["step"] == tuple(range(1, seen[0].step + 1))


def test_time_left_counts_pixels_and_only_the_steps_of_this_run() -> None:
    levels = [Level(10, 10, steps=4), Level(20, 10, steps=3)]

    def left_s(earlier: list[tuple[int, float]], step: int, seconds: float) -> float:
        rows = [LossRow(number, 20, 1, 1, 1, 1, {}, at_s) for number, at_s in [*earlier, (step, seconds)]]
        prepared = Namespace(state=RunState(rows=rows[:-1]))
        return seconds_left(prepared, Progress(0, step, 7, 20, 10, RunWork(levels, [1.0, 1.0]), rows[-1]))

    assert left_s([], 2, 2.0) == 2 + 3 * 2
    assert left_s([], 6, 16.0) == 16 / 8 * 2
    assert left_s([(1, 90.0), (2, 100.0)], 3, 101.0) == 1 + 3 * 2
    assert left_s([(6, 90.0)], 7, 95.0) == 0


def test_a_long_curve_keeps_its_ends() -> None:
    rows = [(float(number),) for number in range(12345)]
    short = thinned(rows)
    assert (len(short), short[0], short[-1]) == (POINTS, rows[0], rows[-1])
    gaps = np.diff([row[0] for row in short])
    assert gaps.max() - gaps.min() <= 1
    assert thinned(rows[:POINTS]) == rows[:POINTS]


def test_a_tile_shows_how_far_a_long_step_is(looked_at, make_task, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.transfer.tile_progress.TILE_EVERY_S", 0.0)
    looked_at.config = looked_at.config.model_copy(update={"tiles": 64})
    viewer, told = Viewer(looked_at, PICTURE_S), []

    def on_step(progress: StepProgress) -> None:
        viewer(progress)
        told.append(progress)

    (result,) = looked_at.run([make_task(1, size=96, steps=3)], on_step, lambda: False)
    assert result.status == "done"
    steps = [progress for progress in told if not progress.tiles]
    assert [progress.step for progress in steps] == [1, 2, 3]
    first, *_, last = [progress for progress in told if progress.tiles]
    assert (first.step, first.tile, first.left_s) == (0, 1, None)
    assert np.isnan(first.loss)
    assert (last.step, last.tile) == (2, last.tiles)
    assert last.loss == steps[1].loss
    assert last.left_s == pytest.approx(0.0, abs=1e-6)
    within = [live for lives in viewer.seen for live in lives if live.tiles]
    assert {live.step for live in within} == {0, 1, 2}
    assert all(len(live.losses["total"]) == live.step for live in within)
    assert all((live.picture is None) == (live.step == 0) for live in within)


def test_time_left_counts_the_tiles_of_the_next_step() -> None:
    work = RunWork([Level(10, 10, 4), Level(20, 20, 2)], [1.0, 1.5])
    prepared = Namespace(state=RunState())
    row = LossRow(4, 10, 1, 1, 1, 1, {}, 4.0)
    progress = Progress(0, 4, 6, 20, 20, work, row, tile=3, tiles=4)
    assert seconds_left(prepared, progress) == pytest.approx(1.5 * 4.0 * (2 - 0.75))
    assert seconds_left(prepared, Progress(0, 0, 6, 10, 10, work, tile=3, tiles=4)) is None
