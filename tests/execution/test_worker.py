from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fakes import QUICK, FakeExecutor, Fault, PidExecutor, picture_bytes

from pipeline import errors
from pipeline.errors import DeviceError, ImageError, Interrupted, PipelineError, WorkerLost
from pipeline.execution.executors import InProcessExecutor
from pipeline.execution.worker import WorkerExecutor
from pipeline.spec.config import read_config
from pipeline.spec.jobs import Job, JobResult, StepProgress, Style, Task
from pipeline.spec.recipe import Recipe

HERE = Path(__file__).parents[1]
FAULTS: tuple[Fault, ...] = ("fail", "machine", "kill", "hang", "check_kill", "check_hang")
LONG = 20.0
MANY = 1_000_000

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, PipelineError) and value is not Interrupted
]


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerExecutor]:
    """One worker for all tests, as starting a process takes a while. It must survive all they do to it."""
    make = partial(PidExecutor, {fault: fault for fault in FAULTS})
    with closing(WorkerExecutor(make, LONG, MANY, tick_s=0.01)) as made:
        yield made


@pytest.fixture(autouse=True)
def nobody_left_but_the_shared_worker() -> Iterator[None]:
    yield
    assert len(multiprocessing.active_children()) <= 1


def job_for(folder: Path, stem: str = "a", **fields: Any) -> Job:
    content, style = folder / f"{stem}.png", folder / "style.png"
    for path in (content, style):
        path.write_bytes(picture_bytes(path.stem))
    return Job("night", content, Style("s", ((style, 1.0),)), Recipe(**{**QUICK, **fields}), f"{stem}--s")


def digests_of(job: Job) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in job.input_paths}


def run(
    executor: WorkerExecutor | FakeExecutor,
    job: Job,
    on_step: Callable[[StepProgress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> JobResult:
    (result,) = executor.run([Task(job, "k" * 64, digests_of(job))], on_step, should_stop)
    return result


# Answers


def test_a_job_ends_as_in_this_process(worker: WorkerExecutor, tmp_path: Path) -> None:
    job = job_for(tmp_path, snapshot_every=2)
    ours: list[StepProgress] = []
    theirs: list[StepProgress] = []
    assert run(worker, job, theirs.append) == run(PidExecutor(), job, ours.append)
    assert theirs == ours
    assert [progress.step for progress in theirs] == [1, 2, 3, 4]
    assert theirs[1].snapshot is not None


def test_the_work_is_done_in_another_process(worker: WorkerExecutor) -> None:
    assert worker.device_name() == worker.device_name() != str(os.getpid())


def test_a_failed_job_is_a_result(worker: WorkerExecutor, tmp_path: Path) -> None:
    result = run(worker, job_for(tmp_path, "fail"))
    assert (result.status, result.next_step) == ("failed", "Tell it not to.")


def test_a_fault_of_ours_is_a_failed_job(worker: WorkerExecutor, tmp_path: Path) -> None:
    job, pid = job_for(tmp_path), worker.device_name()
    wrong = dict.fromkeys(digests_of(job), "0" * 64)
    (result,) = worker.run([Task(job, "k" * 64, wrong)], lambda progress: None, lambda: False)
    assert result.status == "failed"
    assert result.error.startswith(f"{job.content}: unexpected AssertionError")
    assert "in run" in result.details
    assert worker.device_name() == pid


def test_the_machines_fault_is_raised_here(worker: WorkerExecutor, tmp_path: Path) -> None:
    pid = worker.device_name()
    with pytest.raises(DeviceError) as caught:
        run(worker, job_for(tmp_path, "machine"))
    assert (caught.value.message, caught.value.next_step) == ("The device is gone.", "Plug it in.")
    assert worker.device_name() == pid


@pytest.mark.parametrize(
    "error", [*(made("It broke.", "Fix it.") for made in ERRORS), Interrupted(15)], ids=repr
)
def test_every_error_travels(error: PipelineError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    assert (str(arrived), arrived.exit_code) == (str(error), error.exit_code)


def test_a_picture_is_checked(worker: WorkerExecutor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes("a"))
    worker.check(path)
    path.write_bytes(picture_bytes("a")[:-30])
    with pytest.raises(ImageError, match=r"a\.png: no whole picture"):
        worker.check(path)
    with pytest.raises(ImageError, match="no path: unexpected AttributeError"):
        worker.check("no path")  # type: ignore[arg-type]


def test_the_real_one_checks_pictures_and_names_its_device(tmp_path: Path) -> None:
    executor = InProcessExecutor(read_config(None).model_copy(update={"device": "cpu"}))
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes("a"))
    executor.check(path)
    path.write_bytes(picture_bytes("a")[:-30])
    with pytest.raises(ImageError, match=r"a\.png: damaged or cut short"):
        executor.check(path)
    with pytest.raises(ImageError, match=r"b\.png: cannot be read"):
        executor.check(tmp_path / "b.png")
    assert executor.device_name() == "cpu"


# Deaths


def meet(worker: WorkerExecutor, fault: Fault, folder: Path) -> None:
    if fault in {"check_kill", "check_hang"}:
        worker.check(folder / f"{fault}.png")
    else:
        run(worker, job_for(folder, fault))


@pytest.mark.parametrize("fault", ["kill", "check_kill"])
def test_a_killed_worker_is_lost_and_replaced(fault: Fault, worker: WorkerExecutor, tmp_path: Path) -> None:
    pid = worker.device_name()
    with pytest.raises(WorkerLost, match=r"ended with signal 9 \(SIGKILL\); the system's memory") as caught:
        meet(worker, fault, tmp_path)
    assert caught.value.next_step
    assert run(worker, job_for(tmp_path)).status == "done"
    assert worker.device_name() != pid


@pytest.mark.parametrize("fault", ["hang", "check_hang"])
def test_a_worker_that_hangs_is_replaced(
    fault: Fault, worker: WorkerExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = worker.device_name()
    monkeypatch.setattr(worker, "timeout_s", 0.2)
    with pytest.raises(WorkerLost, match=r"was silent for 0\.2 s"):
        meet(worker, fault, tmp_path)
    # Asking for the device is not timed: starting the process alone takes longer.
    monkeypatch.setattr(worker, "timeout_s", 0.001)
    assert worker.device_name() != pid


def test_steps_are_heartbeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job as a whole takes longer than the timeout, each step less; the worker waits at the gate."""
    gate = multiprocessing.get_context("spawn").Semaphore(0)
    clock, since_step = Clock(), [1, 1, 1]

    def on_step(progress: StepProgress) -> None:
        since_step.clear()

    def tick() -> None:
        since_step.append(1)
        if len(since_step) <= 3:
            clock.added += LONG / 5
        if len(since_step) == 3:
            gate.release()

    monkeypatch.setattr("pipeline.execution.worker.time", clock)
    with closing(WorkerExecutor(partial(gated, gate), LONG, MANY, tick, tick_s=0.001)) as patient:
        assert run(patient, job_for(tmp_path), on_step).status == "done"
    assert clock.added > LONG


def test_a_process_that_was_frozen_waits_for_its_worker_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen container is no hang: neither of them could do anything meanwhile."""
    gate = multiprocessing.get_context("spawn").Semaphore(0)
    clock, ticks = Clock(), [0]

    def tick() -> None:
        ticks[0] += 1
        if ticks[0] == 2:
            clock.added += 100 * LONG
        if ticks[0] > 3:
            gate.release()

    monkeypatch.setattr("pipeline.execution.worker.time", clock)
    with closing(WorkerExecutor(partial(gated, gate), LONG, MANY, tick, tick_s=0.001)) as patient:
        assert run(patient, job_for(tmp_path)).status == "done"
    assert clock.added == 100 * LONG


def gated(gate: Semaphore) -> FakeExecutor:
    def wait(job: Job, step: int) -> None:
        gate.acquire()

    return FakeExecutor(after_step=wait)


class Clock:
    """The real one, and what is added to it."""

    def __init__(self) -> None:
        self.added = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.added


def test_a_worker_that_cannot_start_is_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(WorkerExecutor(partial(PidExecutor, no_such="argument"), LONG, MANY)) as broken:
        with pytest.raises(WorkerLost, match="ended with exit code 1") as caught:
            run(broken, job_for(tmp_path))
        assert caught.value.next_step
    assert "no_such" in capfd.readouterr().err


def test_a_worker_that_dies_between_jobs_costs_nothing_and_leaks_nothing(worker: WorkerExecutor) -> None:
    worker.device_name()
    before = (open_files(), threading.active_count())
    for _ in range(2):
        pid = worker.device_name()
        [process] = multiprocessing.active_children()
        process.kill()
        process.join(LONG)
        assert worker.device_name() != pid
    assert (open_files(), threading.active_count()) == before


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


# Stops


def test_a_stop_reaches_a_running_job(worker: WorkerExecutor, tmp_path: Path) -> None:
    pid = worker.device_name()
    steps: list[StepProgress] = []
    result = run(worker, job_for(tmp_path, steps=MANY), steps.append, lambda: len(steps) > 2)
    assert result.status == "stopped"
    assert 2 < len(steps) < MANY
    # It was the end of that job only.
    assert run(worker, job_for(tmp_path)).status == "done"
    assert worker.device_name() == pid


def test_a_stop_that_comes_too_late_does_not_stop_the_next_job(
    worker: WorkerExecutor, tmp_path: Path
) -> None:
    pid, ended = worker.device_name(), []

    def on_step(progress: StepProgress) -> None:
        if progress.step == progress.steps:
            assert worker._worker is not None
            ended.append(worker._worker.connection.poll(LONG))  # the result has been sent

    assert run(worker, job_for(tmp_path), on_step, lambda: bool(ended)).status == "done"
    assert ended == [True]
    assert run(worker, job_for(tmp_path)).status == "done"
    assert worker.device_name() == pid


def test_a_worker_that_does_not_stop_is_ended(
    worker: WorkerExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ticks, too, come while an answer is awaited; here they decide on the stop."""
    ticks: list[float] = []
    monkeypatch.setattr(worker, "tick", lambda: ticks.append(time.monotonic()))
    monkeypatch.setattr(worker, "stop_s", 0.2)
    pid = worker.device_name()
    ticks.clear()
    result = run(worker, job_for(tmp_path, "hang"), should_stop=lambda: len(ticks) >= 3)
    assert result == JobResult("stopped")
    assert all(later - sooner >= worker.tick_s for sooner, later in pairwise(ticks))
    assert worker.device_name() != pid


def test_what_a_tick_raises_ends_the_request(
    worker: WorkerExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tick() -> NoReturn:
        raise Interrupted(15)

    worker.device_name()
    with monkeypatch.context() as patch:
        patch.setattr(worker, "tick", tick)
        patch.setattr(worker, "_next_tick", 0.0)
        with pytest.raises(Interrupted):
            run(worker, job_for(tmp_path))
    # The answer to that request is not taken for one to this.
    assert worker.device_name().isdigit()


def test_a_tick_cannot_ask_the_worker(worker: WorkerExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "tick", worker.device_name)
    monkeypatch.setattr(worker, "_next_tick", 0.0)
    with pytest.raises(RuntimeError, match="asked for device_name while it works"):
        worker.check(Path("a.png"))


# Processes


def test_a_worker_is_replaced_after_so_many_jobs(tmp_path: Path) -> None:
    """What an encoder's name stands for is settled by the first process."""
    with closing(WorkerExecutor(PidExecutor, LONG, max_jobs=2)) as worker:
        pid, encoder = worker.device_name(), worker.encoder_info("auto")
        assert encoder.name == f"fake of {pid}"
        assert [run(worker, job_for(tmp_path)).status for _ in range(2)] == ["done", "done"]
        assert worker.device_name() != pid
        assert worker.encoder_info("auto") == encoder


def test_signals_are_for_the_parent(worker: WorkerExecutor) -> None:
    worker.close()
    assert multiprocessing.active_children() == []
    worker.start()
    [process] = multiprocessing.active_children()
    assert process.pid is not None
    for _ in ("while it starts", "and later"):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
        assert worker.device_name() == str(process.pid)
    worker.start()  # there is one already
    assert worker.device_name() == str(process.pid)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
