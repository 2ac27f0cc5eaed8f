"""Jobs that run together, with the bundled encoder on very small pictures."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakePicture
from PIL import Image

from pipeline.config import read_config
from pipeline.executors import Fit, InProcessExecutor, plan_workers
from pipeline.jobs import Job, JobResult, StepProgress, Style, Task
from pipeline.neural.memory import OutOfMemory
from pipeline.neural.session import Session
from pipeline.recipe import Recipe

SMALL = {"encoder": "vgg19-slim", "size": 48, "pyramid": 0, "steps": 3, "margin": 0, "precision": "float32"}


@pytest.fixture
def executor(environment: Path) -> InProcessExecutor:
    paths = {"cache_dir": environment / "cache", "state_dir": environment / "state"}
    return InProcessExecutor(read_config(None).model_copy(update={"device": "cpu", **paths}))


@pytest.fixture
def make_task(make_picture: MakePicture) -> Callable[..., Task]:
    """Return a function that makes a task from the number of a picture; number 3 is upright."""
    style = make_picture("style.png", 99, (48, 48))

    def make(number: int, **fields: Any) -> Task:
        size = (36, 48) if number == 3 else (48, 36)
        content = make_picture(f"{number}.png", number, size)
        job = Job("night", content, Style("s", ((style, 1.0),)), Recipe(**{**SMALL, **fields}), str(number))
        digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in job.input_paths}
        return Task(job, f"{number:064x}", digests)

    return make


def run(
    executor: InProcessExecutor, tasks: Sequence[Task], should_stop: Callable[[], bool] = lambda: False
) -> list[JobResult]:
    return executor.run(tasks, lambda progress: None, should_stop)


def pixels(result: JobResult) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(result.image)), int)


def test_pictures_of_one_size_share_a_tensor_and_come_out_as_alone(executor, make_task) -> None:
    tasks = [make_task(number) for number in (1, 2, 3, 4)]
    seen: list[StepProgress] = []
    results = executor.run(tasks, seen.append, lambda: False)
    assert [(result.status, result.together) for result in results] == [
        ("done", 3), ("done", 3), ("done", 1), ("done", 3),
    ]  # fmt: skip
    assert {(progress.key, progress.step) for progress in seen} == {
        (task.key, step) for task in tasks for step in (1, 2, 3)
    }
    for task, result in zip(tasks, results, strict=True):
        (alone,) = run(executor, [task])
        assert (alone.width, alone.height) == (result.width, result.height)
        assert np.abs(pixels(alone) - pixels(result)).max() <= 2


def test_another_recipe_does_not_share_but_another_seed_or_format_does(executor, make_task) -> None:
    tasks = [make_task(1), make_task(2, tv_weight=1.0), make_task(4, init="noise", seed=5, format="jpeg")]
    assert [result.together for result in run(executor, tasks)] == [2, 1, 2]


@pytest.mark.parametrize("color", ["content", "luminance"])
def test_snapshots_and_results_have_the_contents_colours(executor, make_task, color) -> None:
    """A grey content's are none; without it, the style's come out."""
    fields = {"color": color, "init": "style", "snapshot_every": 1, "margin": 4}
    task = make_task(1, **fields)
    Image.open(task.job.content).convert("L").save(task.job.content)
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in task.job.input_paths}
    seen: list[StepProgress] = []
    (result,) = executor.run([replace(task, digests=digests)], seen.append, lambda: False)
    shots = [np.asarray(Image.open(io.BytesIO(progress.snapshot or b"")), int) for progress in seen]
    assert [np.ptp(shot, axis=2).max() for shot in (*shots, pixels(result))] == [0, 0, 0, 0]
    (plain,) = run(executor, [make_task(2, init="style")])
    assert np.ptp(pixels(plain), axis=2).max() > 20


def test_a_picture_that_cannot_be_read_leaves_its_company_alone(executor, make_task) -> None:
    tasks = [make_task(number) for number in (1, 2)]
    changed, fine = tasks
    changed.job.content.write_bytes(b"no picture any more")
    broken, done = run(executor, [changed, fine])
    assert (broken.status, done.status, done.together) == ("failed", "done", 1)
    assert "changed while it was waiting" in broken.error


class Cramped:
    """Stands before `Session.stylize`: what `fits` refuses is out of memory. Keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fits: Callable[[Sequence[Any]], bool]) -> None:
        self.asked: list[tuple[int, int]] = []
        stylize = Session.stylize

        def cramped(session: Session, requests: Sequence[Any], *rest: Any) -> Any:
            self.asked.append((len(requests), requests[0].recipe.history))
            if not fits(requests):
                raise OutOfMemory
            return stylize(session, requests, *rest)

        monkeypatch.setattr(Session, "stylize", cramped)


def test_what_does_not_fit_together_is_halved(executor, make_task, monkeypatch) -> None:
    cramped = Cramped(monkeypatch, lambda requests: len(requests) <= 2)
    results = run(executor, [make_task(number) for number in (1, 2, 4, 5, 6)])
    assert [count for count, _ in cramped.asked] == [5, 3, 2, 1, 2]
    assert [result.together for result in results] == [2, 2, 1, 2, 2]
    assert all(result.status == "done" and result.adjusted == () for result in results)


def test_what_does_not_fit_alone_gets_a_shorter_history(executor, make_task, monkeypatch) -> None:
    cramped = Cramped(monkeypatch, lambda requests: requests[0].recipe.history <= 3)
    (result,) = run(executor, [make_task(1)])
    assert cramped.asked == [(1, 10), (1, 3)]
    assert result.status == "done"
    assert result.adjusted == ("history 3: the memory was too small for more",)


def test_what_never_fits_fails_and_never_the_same_is_tried_twice(executor, make_task, monkeypatch) -> None:
    cramped = Cramped(monkeypatch, lambda requests: False)
    one, two = run(executor, [make_task(1), make_task(2)])
    assert cramped.asked == [(2, 10), (1, 10), (1, 3), (1, 10), (1, 3)]
    for number, result in ((1, one), (2, two)):
        assert result.status == "failed"
        assert result.out_of_memory
        assert f"{number}.png: 48 x 36 pixels do not fit the memory of cpu" in result.error
        assert result.next_step == "Lower size."


def test_the_last_way_out_is_the_cpu() -> None:
    recipe = Recipe()
    short = Fit().smaller(recipe, "cuda:0")
    assert short is not None
    assert short.recipe(recipe).history == 3
    cpu = short.smaller(short.recipe(recipe), "cuda:0")
    assert cpu == Fit(device="cpu")
    assert cpu.recipe(recipe) == recipe
    assert cpu.words == ("device cpu: the memory of the other was too small",)
    adam = Fit().smaller(Recipe(optimizer="adam"), "cuda:0")
    assert adam == cpu


def test_a_fault_nobody_expected_fails_its_own_job_only(executor, make_task, monkeypatch) -> None:
    culprit = make_task(2)

    def fits(requests: Sequence[Any]) -> bool:
        if any(request.content.sha256 == culprit.digests[culprit.job.content] for request in requests):
            raise ZeroDivisionError("by whom?")
        return True

    Cramped(monkeypatch, fits)
    results = run(executor, [make_task(1), culprit, make_task(4)])
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert "unexpected ZeroDivisionError" in results[1].error


def test_stopped_together_they_go_on_together_or_apart(executor, make_task) -> None:
    tasks = [make_task(number) for number in (1, 2)]
    expected = [pixels(result) for result in run(executor, tasks)]
    looks = iter([False, True])
    assert {result.status for result in run(executor, tasks, lambda: next(looks))} == {"stopped"}
    (first,) = run(executor, tasks[:1])
    assert (first.status, first.resumed_from_step, first.together) == ("done", 2, 1)
    executor.forget(tasks[0].key)
    # The first starts anew now, so the two are no longer at one point.
    again, second = run(executor, tasks)
    assert (again.together, second.together, second.resumed_from_step) == (1, 1, 2)
    for result, wanted in ((first, expected[0]), (again, expected[0]), (second, expected[1])):
        assert np.abs(pixels(result) - wanted).max() <= 2


def test_a_cpu_makes_one_picture_at_a_time_unless_told_otherwise(executor) -> None:
    assert executor.together(Recipe()) == 1
    told = InProcessExecutor(executor.config.model_copy(update={"together": 5}))
    assert told.together(Recipe()) == 5


def test_workers_share_the_cores(executor, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.executors.usable_cores", lambda: 8)
    config = executor.config

    def planned(jobs: int, workers: int | str = "auto") -> list[int]:
        plans = plan_workers(config.model_copy(update={"workers": workers}), jobs)
        assert {plan.device for plan in plans} == {"cpu"}
        return [plan.threads for plan in plans]

    assert planned(100) == [2] * 4
    assert planned(2) == [4] * 2
    assert planned(1) == [8]
    assert planned(100, 3) == [2] * 3
    assert planned(100, 16) == [1] * 16
