"""What is tried, in order, when jobs do not fit the memory or fail together."""

from __future__ import annotations

import errno
import os
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_jobs import pixels, run

from pipeline.errors import DiskError
from pipeline.execution import executors
from pipeline.execution.attempts import Attempt, Refusal
from pipeline.execution.executors import InProcessExecutor
from pipeline.execution.inputs import Prepared
from pipeline.spec.jobs import JobResult, StepProgress, Task
from pipeline.transfer.checkpoints import RunState
from pipeline.transfer.memory import LargeStyle, OutOfMemory
from pipeline.transfer.pyramid import Level
from pipeline.transfer.session import Session
from pipeline.transfer.stepper import Stepper
from pipeline.transfer.tile_planning import History, Tiling


class Cramped:
    """Stands before `Session.stylize`: what `fits` refuses is out of memory. Keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fits: Callable[[Sequence[Any]], bool]) -> None:
        self.asked: list[tuple[int, int]] = []
        stylize = Session.stylize

        def cramped(session: Session, requests: Sequence[Any], *rest: Any) -> Any:
            self.asked.append((len(requests), requests[0].recipe.history))
            if not fits(requests):
                raise OutOfMemory(foreseen=True)
            return stylize(session, requests, *rest)

        monkeypatch.setattr(Session, "stylize", cramped)


def test_what_does_not_fit_together_is_halved(executor, make_task, monkeypatch) -> None:
    cramped = Cramped(monkeypatch, lambda requests: len(requests) <= 2)
    results = run(executor, [make_task(number) for number in (1, 2, 4, 5, 6)])
    assert [count for count, _ in cramped.asked] == [5, 3, 2, 1, 2]
    assert [result.micro_batch for result in results] == [2, 2, 1, 2, 2]
    assert all(result.status == "done" and result.adjusted == () for result in results)


def test_what_does_not_fit_alone_gets_a_shorter_history(executor, make_task, monkeypatch) -> None:
    cramped = Cramped(monkeypatch, lambda requests: requests[0].recipe.history <= 3)
    (result,) = run(executor, [make_task(1)])
    assert cramped.asked == [(1, 10), (1, 3)]
    assert result.status == "done"
    assert result.adjusted == ("history 3: the memory was too small for more",)


def test_what_never_fits_fails_and_nothing_is_tried_twice(executor, make_task, monkeypatch) -> None:
    cramped = Cramped(monkeypatch, lambda requests: False)
    one, two = run(executor, [make_task(1), make_task(2)])
    assert cramped.asked == [(2, 10), (1, 10), (1, 3), (1, 10), (1, 3)]
    for number, result in ((1, one), (2, two)):
        assert result.status == "failed"
        assert result.out_of_memory
        assert f"{number}.png: 48 x 36 pixels do not fit the memory of cpu" in result.error
        assert result.next_step == "Lower size."


def test_beside_others_nothing_is_made_worse(executor, make_task, monkeypatch) -> None:
    """The runner tries it again without them."""
    cramped = Cramped(monkeypatch, lambda requests: False)
    (result,) = run(executor, [replace(make_task(1), alone=False)])
    assert cramped.asked == [(1, 10)]
    assert result.out_of_memory


def test_beside_others_a_job_keeps_to_its_share_of_the_memory(executor, make_task, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 1 << 40)
    executor.share_bytes = 1000
    beside, alone = replace(make_task(1), alone=False), make_task(1)
    assert [run(executor, [task])[0].out_of_memory for task in (beside, alone)] == [True, False]


def test_a_picture_that_a_limit_keeps_from_being_made_says_so(executor, make_task, monkeypatch) -> None:
    executor.config = executor.config.model_copy(update={"memory_mb": 256, "tiles": "off"})
    monkeypatch.setattr("pipeline.transfer.memory.own_bytes", lambda: 256 << 20)
    (result,) = run(executor, [make_task(1)])
    assert result.out_of_memory
    assert "which do not fit the memory of cpu that a process may take (see memory_mb" in result.error


def test_memory_kept_for_later_is_freed_before_anything_is_made_worse(
    executor, make_task, monkeypatch
) -> None:
    cramped = Cramped(monkeypatch, lambda requests: len(cramped.asked) > 1)
    kept = iter([True, False])
    monkeypatch.setattr(Session, "free_memory", lambda session: next(kept))
    results = run(executor, [make_task(1), make_task(2)])
    assert cramped.asked == [(2, 10), (2, 10)]
    assert [result.micro_batch for result in results] == [2, 2]


def test_a_checkpoint_of_a_shorter_history_is_resumed(executor, make_task, monkeypatch) -> None:
    Cramped(monkeypatch, lambda requests: requests[0].recipe.history <= 3)
    task = make_task(1, steps=6)
    looks = iter([False, False, False, True, False])
    (stopped,) = run(executor, [task], lambda: next(looks))
    assert stopped.status == "stopped"
    (still_tight,) = run(executor, [task], lambda: next(looks, True))
    assert still_tight.status == "stopped"
    monkeypatch.undo()
    (result,) = run(executor, [task])
    assert (result.status, result.resumed_from_step) == ("done", 4)
    assert [row[0] for row in result.log_rows] == [1, 2, 3, 4, 5, 6]


def one_job(make_task: Callable[..., Task], **fields: Any) -> Prepared:
    """What an attempt needs to know of a job."""
    return Prepared(make_task(1, **fields), None, None, [], RunState())  # type: ignore[arg-type]


def test_the_last_attempt_is_on_the_cpu(make_task) -> None:
    prepared = one_job(make_task, history=10)
    (short,) = Attempt([prepared]).smaller(Refusal("cuda:0", foreseen=True))
    (cpu,) = short.smaller(Refusal("cuda:0", foreseen=True))
    recipe = prepared.task.job.recipe
    assert short == Attempt([prepared], history=3)
    assert short.recipe(recipe).history == 3
    assert cpu == Attempt([prepared], device="cpu")
    assert cpu.recipe(recipe) == recipe
    assert cpu.adjusted == ("device cpu: the memory of the other was too small",)
    with_adam = Attempt([one_job(make_task, optimizer="adam")])
    refused = Refusal("cuda:0", foreseen=True)
    assert with_adam.smaller(refused) == [replace(with_adam, device="cpu")]
    assert short.smaller(replace(refused, device="cpu")) == []
    assert cpu.smaller(Refusal("cpu", LargeStyle(0, (9, 9)))) == []


def test_what_was_tried_in_vain_is_tried_in_smaller_and_smaller_tiles(make_task) -> None:
    attempt, halved = Attempt([one_job(make_task)]), []
    while attempt.history is None:
        (attempt,) = attempt.smaller(Refusal("cpu"))
        halved.append(attempt.halved)
    assert halved == [1, 2, 3, 4, 0]
    foreseen = Refusal("cpu", foreseen=True)
    assert replace(attempt, history=None, halved=2).smaller(foreseen) == [attempt]


def test_a_picture_that_does_not_fit_is_made_in_tiles(executor, make_task, monkeypatch) -> None:
    task = make_task(1, size=300, steps=2)
    (whole,) = run(executor, [task])
    monkeypatch.setattr("pipeline.transfer.tile_planning.SMALLEST", 64)
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 70_000_000)
    (tiled,) = run(executor, [task])
    assert (whole.status, whole.adjusted) == ("done", ())
    assert tiled.status == "done"
    assert tiled.adjusted[0].startswith("tiles of ")
    assert tiled.adjusted[0].endswith("pixels: the memory was too small for the whole picture")
    assert np.abs(pixels(tiled) - pixels(whole)).max() <= 2
    executor.config = executor.config.model_copy(update={"tiles": "off"})
    assert run(executor, [task])[0].out_of_memory


def test_tiles_of_a_given_size_are_always_used(executor, make_task) -> None:
    task = make_task(1, size=200)
    (whole,) = run(executor, [task])
    executor.config = executor.config.model_copy(update={"tiles": 64})
    (tiled,) = run(executor, [task])
    assert (tiled.status, tiled.adjusted) == ("done", ())
    assert np.abs(pixels(tiled) - pixels(whole)).max() <= 2


def stopped_after(executor: InProcessExecutor, task: Task, steps: int) -> JobResult:
    """Stop a job when it has taken so many steps; in tiles it is asked more often."""
    taken: list[int] = []

    def on_step(progress: StepProgress) -> None:
        taken.append(progress.step)

    (result,) = executor.run([task], on_step, lambda: taken[-1:] >= [steps])
    return result


def test_a_picture_in_tiles_that_was_stopped_comes_out_as_if_it_had_not_been(executor, make_task) -> None:
    executor.config = executor.config.model_copy(update={"tiles": 64})
    task = make_task(1, size=150, steps=5)
    (whole,) = run(executor, [task])
    executor.forget(task.key)
    assert stopped_after(executor, task, 3).status == "stopped"
    (resumed,) = run(executor, [task])
    assert (resumed.status, resumed.resumed_from_step) == ("done", 3)
    assert resumed.image == whole.image


@pytest.mark.parametrize("history", [History.ROUNDED, History.FILE])
def test_a_picture_with_a_rounded_history_that_was_stopped_comes_out_as_if_it_had_not_been(
    history, executor, make_task, monkeypatch
) -> None:
    monkeypatch.setattr(Tiling, "_ways", lambda self, recipe: [(history, True)])
    executor.config = executor.config.model_copy(update={"tiles": 64, "checkpoint_s": 0})
    task = make_task(1, size=150, steps=(3, 5), pyramid=80)
    (whole,) = run(executor, [task])
    executor.forget(task.key)
    assert stopped_after(executor, task, 6).status == "stopped"
    (resumed,) = run(executor, [task])
    assert (resumed.status, resumed.resumed_from_step) == ("done", 6)
    assert resumed.image == whole.image
    assert resumed.adjusted == (f"history in {history.value}: the memory was too small for float32",)
    scratch = executor.config.state_dir / "scratch"
    assert not scratch.exists() or list(scratch.iterdir()) == []


class SmallDisk:
    """Lets files that are larger than `free` be refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float) -> None:
        self.asked: list[int] = []
        reserve = os.posix_fallocate

        def limited(descriptor: int, start: int, size: int) -> None:
            self.asked.append(size)
            if size > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            reserve(descriptor, start, size)

        monkeypatch.setattr(os, "posix_fallocate", limited)
        monkeypatch.setattr(Tiling, "_ways", lambda self, recipe: [(History.FILE, False)])


def test_a_disk_too_small_for_a_history_gets_a_shorter_one(executor, make_task, monkeypatch) -> None:
    executor.config = executor.config.model_copy(update={"tiles": 64})
    disk = SmallDisk(monkeypatch, 20 * 3 * 2 * 150**2 - 1)
    (result,) = run(executor, [make_task(1, size=150, square=True, margin=0, pyramid=0)])
    assert [size // (3 * 2 * 150**2) for size in disk.asked[:2]] == [20, 6]
    assert result.status == "done"
    assert "history 3: the memory was too small for more" in result.adjusted


def test_a_disk_too_small_for_any_history_costs_its_own_job_only(executor, make_task, monkeypatch) -> None:
    executor.config = executor.config.model_copy(update={"tiles": 64})
    SmallDisk(monkeypatch, 500_000)
    large, small = run(executor, [make_task(1, size=150), make_task(2, size=50)])
    assert (large.status, small.status) == ("failed", "done")
    assert re.search(
        r"1\.png: .*scratch: .* GB are needed there for the history of L-BFGS \(No space left", large.error
    )
    assert large.next_step.startswith("Free some space")


def test_a_folder_that_cannot_be_written_is_the_machines_fault(executor, make_task, monkeypatch) -> None:
    monkeypatch.setattr(Tiling, "_ways", lambda self, recipe: [(History.FILE, False)])
    executor.config = executor.config.model_copy(update={"tiles": 64})
    (executor.config.state_dir / "scratch").parent.mkdir(parents=True)
    (executor.config.state_dir / "scratch").write_text("no folder")
    with pytest.raises(DiskError, match=r"scratch: .* needed there for the history of L-BFGS"):
        run(executor, [make_task(1, size=150)])


def test_an_unexpected_error_fails_its_own_job_only(executor, make_task, monkeypatch) -> None:
    culprit = make_task(2)

    def fits(requests: Sequence[Any]) -> bool:
        if any(request.content.sha256 == culprit.digests[culprit.job.content] for request in requests):
            raise ZeroDivisionError("by whom?")
        return True

    Cramped(monkeypatch, fits)
    results = run(executor, [make_task(1), culprit, make_task(4)])
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert "unexpected ZeroDivisionError" in results[1].error


def test_an_unexpected_error_holds_no_memory_while_the_others_run(executor, make_task, monkeypatch) -> None:
    """What the failed attempt had allocated is free before the next begins."""

    class Tensors:
        pass

    held: list[weakref.ref[Tensors]] = []
    alive: list[bool] = []

    def fits(requests: Sequence[Any]) -> bool:
        alive.append(any(each() is not None for each in held))
        tensors = Tensors()
        held.append(weakref.ref(tensors))
        raise ZeroDivisionError("by whom?")

    Cramped(monkeypatch, fits)
    results = run(executor, [make_task(1), make_task(2)])
    assert alive == [False, False, False]
    assert all("in fits" in result.details and "by whom?" in result.error for result in results)


def test_a_style_that_does_not_fit_is_to_blame_and_not_its_content(executor, make_task, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 30_000_000)
    one, other = run(executor, [make_task(1, style_scale=10), make_task(2)])
    assert other.status == "done"
    assert (one.status, one.out_of_memory) == ("failed", True)
    style = make_task(1).job.style.images[0][0]
    assert one.error.startswith(f"{style}: this style is used at 480 x ")
    assert "do not fit the memory of cpu" in one.error
    assert one.next_step == "Lower style_scale or size."


def test_a_style_that_does_not_fit_needs_another_device_and_no_shorter_history(make_task) -> None:
    large, attempt = LargeStyle(0, (2880, 2160)), Attempt([one_job(make_task)])
    assert attempt.smaller(Refusal("cuda:0", large)) == [replace(attempt, device="cpu")]
    assert attempt.smaller(Refusal("cpu", large)) == []
    assert attempt.smaller(Refusal("cpu", foreseen=True)) == [replace(attempt, history=3)]


def test_what_fits_nowhere_names_the_device_it_was_tried_on_last(executor, make_task, monkeypatch) -> None:
    """Given up on the CPU after the GPU; here both are the CPU, by two names."""
    Cramped(monkeypatch, lambda requests: False)
    gpu = executor.session()
    monkeypatch.setattr(gpu, "device", replace(gpu.device, device="cuda:0"))
    (result,) = run(executor, [make_task(1)])
    assert "do not fit the memory of cpu." in result.error


class FailsAt:
    """Lets an allocation fail in a step, the first time that it is taken; counts the steps of every run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        self.taken: list[int] = []
        self.failed = False
        take = Stepper.step

        def step_or_fail(stepper: Stepper) -> torch.Tensor:
            self.taken[-1] += 1
            if self.taken[-1] == step and not self.failed:
                self.failed = True
                raise MemoryError
            return take(stepper)

        stylize = Session.stylize

        def stylize_and_count(session: Session, *arguments: Any) -> Any:
            self.taken.append(0)
            return stylize(session, *arguments)

        monkeypatch.setattr(Stepper, "step", step_or_fail)
        monkeypatch.setattr(Session, "stylize", stylize_and_count)


def test_after_a_failed_allocation_a_job_continues_from_its_last_checkpoint(
    executor, make_task, monkeypatch
) -> None:
    executor.config = executor.config.model_copy(update={"checkpoint_s": 0.0})
    monkeypatch.setattr("pipeline.transfer.level_run.CHECKPOINT_SHARE", 0)
    (whole,) = run(executor, [make_task(1, steps=8)])
    executor.forget(make_task(1, steps=8).key)
    failing = FailsAt(monkeypatch, 6)
    (result,) = run(executor, [make_task(1, steps=8)])
    assert failing.taken == [6, 3]
    assert (result.status, result.resumed_from_step) == ("done", 0)
    assert len(result.adjusted) == 2  # tiles, and a history in bfloat16, as it was too large untiled
    assert [row[0] for row in result.log_rows] == list(range(1, 9))
    # The rounded history changes single pixels of so small a picture; the picture stays the same.
    assert np.abs(pixels(result) - pixels(whole)).mean() <= 2


def test_pictures_whose_checkpoints_are_of_different_steps_continue_apart(
    executor, make_task, monkeypatch
) -> None:
    """An allocation may fail after some of them were written."""
    executor.config = executor.config.model_copy(update={"checkpoint_s": 0.0})
    monkeypatch.setattr("pipeline.transfer.level_run.CHECKPOINT_SHARE", 0)
    tasks = [make_task(number, steps=6) for number in (1, 2, 4)]
    write, written = executors.write_state, []

    def write_or_fail(path: Path, state: RunState) -> None:
        written.append(state.step)
        if len(written) == 3 * 3 + 2:  # the second of three in the fourth step
            raise MemoryError
        write(path, state)

    monkeypatch.setattr(executors, "write_state", write_or_fail)
    results = run(executor, tasks)
    assert [result.status for result in results] == ["done"] * 3
    assert [len(result.log_rows) for result in results] == [6] * 3
    assert [result.micro_batch for result in results] == [1, 1, 1]


def test_a_limit_of_the_process_is_named(make_task, monkeypatch) -> None:
    prepared = replace(one_job(make_task), levels=[Level(48, 36, 3)])
    plain = Refusal("cpu").result(prepared)
    assert "do not fit the memory of cpu." in plain.error
    monkeypatch.setattr("pipeline.transfer.usage.address_limit", lambda: 4_200_000_000)
    monkeypatch.setattr("pipeline.transfer.usage.used_addresses", lambda: 3_500_000_000)
    limited = Refusal("cpu").result(prepared)
    assert (
        "48 x 36 pixels do not fit the memory that `ulimit -v` allows this process "
        "(4,200 MB, of which libraries take 3,500; raise it if you can)."
    ) in limited.error
    by_estimate = Refusal("cpu", foreseen=True, by_limit=True).result(prepared)
    assert "that a process may take (see memory_mb and workers in config.yaml)." in by_estimate.error
    assert "do not fit the memory of cuda:0." in Refusal("cuda:0").result(prepared).error
