from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.errors import DeviceError
from pipeline.execution.lanes import Lanes
from pipeline.spec.jobs import Job, JobResult, StepProgress, Style, Task
from pipeline.spec.recipe import Recipe


class Fake:
    """An executor that records the threads it runs on and is closed by."""

    def __init__(self, error: BaseException | None = None, until: threading.Event | None = None) -> None:
        self.error, self.until = error, until
        self.threads: list[int] = []

    def run(
        self,
        tasks: Sequence[Task],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[JobResult]:
        self.threads.append(threading.get_ident())
        on_step(StepProgress(1, 1, 2, 2, 0.5, 0.5, 0.5, key=tasks[0].key))
        if self.error:
            raise self.error
        while self.until is not None and not self.until.wait(0.001):
            if should_stop():
                return [JobResult("stopped") for _ in tasks]
        return [JobResult("done", image=task.key.encode()) for task in tasks]

    def close(self) -> None:
        self.threads.append(threading.get_ident())


def task(key: str) -> Task:
    path = Path("/in/a.png")
    return Task(Job("night", path, Style("s", ((path, 1.0),)), Recipe(), key), key, {})


def lanes(*executors: Fake, seen: list[str] | None = None) -> Lanes:
    def on_step(progress: StepProgress) -> None:
        assert threading.current_thread() is threading.main_thread()
        if seen is not None:
            seen.append(progress.key)

    return Lanes(lambda: executors, on_step, lambda: False)  # type: ignore[arg-type,return-value]


def test_nothing_is_made_before_it_is_needed() -> None:
    with Lanes(pytest.fail, lambda progress: None, lambda: False) as made:  # type: ignore[arg-type]
        assert made.idle
        assert not made.busy


def test_one_executor_works_in_the_callers_thread_and_is_left_open() -> None:
    executor, seen = Fake(), []
    with lanes(executor, seen=seen) as made:
        made.submit([task("a"), task("b")])
        assert (made.idle, made.busy, seen) == (False, True, ["a"])
        done = made.wait()
        assert [result.image for result in done.results] == [b"a", b"b"]
        assert (made.idle, made.busy, seen) == (True, False, ["a"])
    assert executor.threads == [threading.get_ident()]


def test_several_have_a_thread_each_that_closes_them() -> None:
    executors, seen = [Fake(), Fake()], []
    with lanes(*executors, seen=seen) as made:
        assert made.width == 2
        for key in "ab":
            made.submit([task(key)])
        assert not made.idle
        assert {made.wait().results[0].image for _ in "ab"} == {b"a", b"b"}
        made.submit([task("c")])
        assert made.wait().tasks[0].key == "c"
        assert not made.busy
    assert sorted(seen) == ["a", "b", "c"]
    used = [set(executor.threads) for executor in executors]
    assert all(len(threads) == 1 for threads in used)
    assert len(set.union(*used, {threading.get_ident()})) == 3


@pytest.mark.parametrize("count", [1, 2])
def test_what_an_executor_raises_is_handed_on(count: int) -> None:
    error = DeviceError("The device is gone.", "Plug it in.")
    with lanes(*[Fake(error) for _ in range(count)]) as made:
        made.submit([task("a")])
        done = made.wait()
    assert done.error is error
    assert done.results == ()


def test_leaving_stops_what_still_runs() -> None:
    never = threading.Event()
    executors = [Fake(until=never), Fake(until=never)]
    with lanes(*executors) as made:
        made.submit([task("a")])
        made.submit([task("b")])
    assert all(len(executor.threads) == 2 for executor in executors)
