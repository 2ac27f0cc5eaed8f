from __future__ import annotations

from contextlib import closing

import pytest
from fakes import FakeExecutor

from pipeline.execution.pool import batch_executors, plan_workers, watch_executor
from pipeline.execution.worker import WorkerExecutor
from pipeline.spec.config import Config, read_config


@pytest.fixture
def config() -> Config:
    return read_config(None).model_copy(update={"device": "cpu"})


def test_workers_share_the_cores(config, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.execution.pool.usable_cores", lambda: 8)
    monkeypatch.setattr("pipeline.transfer.memory._system_bytes", lambda: None)

    def planned(jobs: int, workers: int | str = "auto") -> list[int]:
        plans = plan_workers(config.model_copy(update={"workers": workers}), jobs)
        assert {plan.device for plan in plans} == {"cpu"}
        return [plan.threads for plan in plans]

    assert planned(100) == [2] * 4
    assert planned(2) == [4] * 2
    assert planned(1) == [8]
    assert planned(100, 3) == [3, 3, 2]
    assert planned(100, 16) == [1] * 16


@pytest.mark.parametrize(
    ("free_mb", "memory_mb", "count"),
    [(9000, "auto", 4), (1100, "auto", 2), (9000, 1600, 3), (9000, 700, 1), (300, "auto", 1)],
)
def test_there_are_no_more_workers_than_fit_the_memory(
    config, monkeypatch, free_mb, memory_mb, count
) -> None:
    monkeypatch.setattr("pipeline.execution.pool.usable_cores", lambda: 8)
    monkeypatch.setattr("pipeline.transfer.memory._system_bytes", lambda: free_mb << 20)
    limited = config.model_copy(update={"memory_mb": memory_mb})
    assert len(plan_workers(limited, 100)) == count
    assert len(plan_workers(limited.model_copy(update={"workers": 5}), 100)) == 5


def test_workers_share_the_memory(config, monkeypatch) -> None:
    """Each would otherwise take all that is free for itself."""
    monkeypatch.setattr("pipeline.transfer.memory.free_bytes", lambda plan: 9000 << 20)
    monkeypatch.setattr("pipeline.transfer.memory.own_bytes", lambda: 0)

    def shares(jobs: int, **fields: object) -> list[int]:
        settings = config.model_copy(update={"workers": 3, **fields})
        executors = batch_executors(settings, jobs, None)
        return [executor.make.keywords["share_bytes"] >> 20 for executor in executors]

    assert shares(100) == [3000] * 3
    assert shares(2) == [4500] * 2
    assert shares(100, memory_mb=6000) == [2000] * 3
    assert shares(100, memory_mb=60_000) == [3000] * 3
    assert plan_workers(config, 1)[0].share_bytes is None


@pytest.mark.parametrize(("workers", "jobs"), [(1, 100), ("auto", 1), (4, 1)])
def test_one_process_is_this_one(config, workers, jobs) -> None:
    here = FakeExecutor()
    assert batch_executors(config.model_copy(update={"workers": workers}), jobs, here) == [here]


def test_several_processes_are_all_beside_this_one(config) -> None:
    """No process is started before it is needed."""
    here = FakeExecutor()
    made = batch_executors(config.model_copy(update={"workers": 3}), 100, here)
    assert [type(executor) for executor in made] == [WorkerExecutor] * 3
    assert here not in made
    assert all(executor.timeout_s == executor.stop_s == config.watch.job_timeout_s for executor in made)


def test_a_daemon_has_one_process_for_its_jobs(config) -> None:
    ticks: list[None] = []
    with closing(watch_executor(config, lambda: ticks.append(None))) as made:
        assert isinstance(made, WorkerExecutor)
        made.tick()
    assert len(ticks) == 1
