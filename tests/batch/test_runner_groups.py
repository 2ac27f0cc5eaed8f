"""Which jobs run in a row, together, and side by side."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fakes import QUICK, FakeExecutor, MakeManifest, MakePicture, Recorder, Workshop
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch.deadline import Deadline
from pipeline.batch.estimate import megapixel_steps
from pipeline.batch.planner import RunOptions, group_jobs
from pipeline.batch.runner import Runner
from pipeline.batch.summary import Summary
from pipeline.errors import DeviceError, WorkerLost
from pipeline.execution.lanes import Lanes
from pipeline.spec.jobs import Job, Style
from pipeline.spec.recipe import Recipe
from pipeline.storage import outbox
from pipeline.storage.ledger import Ledger

ALL = ["a--s", "b--s", "a--t", "b--t"]


# Grouping


STYLES = [Style(name, ((Path(f"/{name}"), 1.0),)) for name in "stuv"]


RECIPES = [Recipe(size=size) for size in (32, 64)]


JOBS = st.lists(
    st.builds(
        Job,
        st.just("night"),
        st.sampled_from([Path("/a"), Path("/b")]),
        st.sampled_from(STYLES),
        st.sampled_from(RECIPES),
        st.just("name"),
    ),
    max_size=40,
)


def group(job: Job) -> tuple[str, int]:
    return job.style.name, job.recipe.size


def runs(jobs: Sequence[Job]) -> int:
    """How often the style or the size changes, and once for the first."""
    return sum(index == 0 or group(job) != group(jobs[index - 1]) for index, job in enumerate(jobs))


@given(JOBS, st.integers(1, 50))
def test_grouping_loses_nothing_and_puts_one_style_in_a_row(jobs: list[Job], window: int) -> None:
    grouped = list(group_jobs(iter(jobs), window))
    assert Counter(map(id, grouped)) == Counter(map(id, jobs))
    assert runs(grouped) <= runs(jobs)
    for start in range(0, len(jobs), window):
        chunk = jobs[start : start + window]
        part = grouped[start : start + window]
        assert runs(part) == len({group(job) for job in chunk})
        for key in {group(job) for job in chunk}:
            assert [id(job) for job in part if group(job) == key] == [
                id(job) for job in chunk if group(job) == key
            ]


def test_grouping_reads_no_further_than_its_window() -> None:
    taken: list[int] = []

    def jobs() -> Any:
        for number in range(100):
            taken.append(number)
            yield Job("night", Path("/a"), STYLES[number % 2], RECIPES[0], "name")

    grouped = group_jobs(jobs(), window=10)
    next(grouped)
    assert len(taken) <= 11


def test_a_run_makes_all_pictures_of_a_style_before_the_next(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    pairs = [{"content": f"photos/{c}.png", "style": f"styles/{s}.png"} for c in "ab" for s in "st"]
    make_manifest({"pairs": pairs})
    ran = workshop.run()
    assert ran.observer.started == ["a--s", "b--s", "a--t", "b--t"]


# Together and side by side


def test_jobs_of_one_recipe_run_together(workshop: Workshop, make_picture: MakePicture) -> None:
    make_picture("photos/c.png", 7)
    executor = FakeExecutor(width=4)
    ran = workshop.run(executor)
    assert executor.groups == [["a", "b", "c", "a"], ["b", "c"]]
    assert ran.summary.done == 6
    again = FakeExecutor(width=4)
    assert workshop.run(again).summary.skipped == 6
    assert again.groups == []


def test_another_recipe_runs_apart(workshop: Workshop, make_manifest: MakeManifest) -> None:
    make_manifest({"contents": ["photos/*.png"], "styles": ["styles/s.png"], "sweep": {"tv_weight": [1, 2]}})
    executor = FakeExecutor(width=8)
    workshop.run(executor)
    assert executor.groups == [["a", "b"], ["a", "b"]]


def test_a_job_that_fails_does_not_fail_those_beside_it(workshop: Workshop) -> None:
    ran = workshop.run(FakeExecutor({"a": "fail"}, width=4))
    assert ran.observer.statuses == {"a--s": "failed", "a--t": "failed", "b--s": "done", "b--t": "done"}


def test_several_workers_make_what_one_makes(workshop: Workshop) -> None:
    workshop.run()
    alone = workshop.pictures()
    shutil.rmtree(workshop.outbox)
    workers = [FakeExecutor() for _ in range(3)]
    ran = workshop.run(workers=workers)
    assert workshop.pictures() == alone
    assert sum(len(worker.ran) for worker in workers) == 4
    assert ran.summary.done == 4
    assert Counter(name for name, _ in ran.observer.named_steps) == dict.fromkeys(ALL, 4)
    assert workshop.attempts() == 0


def test_workers_work_at_the_same_time(workshop: Workshop) -> None:
    """Each waits in its first step until the other is in its own."""
    both = threading.Barrier(2, timeout=30)
    workers = [FakeExecutor(after_step=lambda job, step: both.wait() and None) for _ in range(2)]
    assert workshop.run(workers=workers).summary.done == 4


@pytest.mark.parametrize("attempts_allowed", [1, 3])
def test_a_worker_that_dies_costs_only_the_job_that_killed_it(
    workshop: Workshop, attempts_allowed: int
) -> None:
    workers = [FakeExecutor({"a": "lost"}, width=2) for _ in range(2)]
    ran = workshop.run(FakeExecutor(width=2), workers=workers, max_attempts=attempts_allowed)
    assert ran.observer.statuses == {"a--s": "failed", "a--t": "failed", "b--s": "done", "b--t": "done"}
    # Each of two groups of two is lost once; then, by itself, each job of `a` as often as it may.
    assert len(ran.observer.lost) == 2 * 2 + 2 * attempts_allowed
    assert workshop.attempts() == 2 * attempts_allowed


class Apart(Lanes):
    """Lanes whose executors have a device each, as on a cluster."""

    @property
    def at_once(self) -> int:
        return 1


def test_a_lost_job_does_not_wait_for_others_where_each_has_a_device(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    make_manifest({"contents": ["photos/*.png"], "styles": ["styles/s.png"]})
    lost_twice = threading.Event()

    class Observer(Recorder):
        def worker_lost(self, job: Job, error: WorkerLost) -> None:
            super().worker_lost(job, error)
            if len(self.lost) == 2:
                lost_twice.set()

    def wait_for_a(job: Job, step: int) -> None:
        assert lost_twice.wait(30)

    workers = [FakeExecutor({"a": "lost"}, after_step=wait_for_a) for _ in "12"]
    ran = workshop.run(workers=workers, lanes=Apart, observer=Observer(), max_attempts=2)
    assert ran.observer.statuses == {"a--s": "failed", "b--s": "done"}
    assert len(ran.observer.lost) == 2


def test_a_double_waits_for_its_other_where_each_has_a_device(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    make_manifest({"contents": ["photos/a.png", "photos/a.png"], "styles": ["styles/s.png"]})
    workers = [FakeExecutor(), FakeExecutor()]
    ran = workshop.run(workers=workers, lanes=Apart)
    assert sum(len(worker.ran) for worker in workers) == 1
    assert ran.summary.done == 1


def test_what_had_no_memory_beside_others_runs_again_when_they_are_done(
    workshop: Workshop, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_manifest({"contents": ["photos/*.png"], "styles": ["styles/s.png"]})
    taken_back = threading.Event()
    take_back = Ledger.take_back
    monkeypatch.setattr(Ledger, "take_back", lambda *key: take_back(*key) or taken_back.set())

    def wait_for_a(job: Job, step: int) -> None:
        if job.content.stem == "b":
            assert taken_back.wait(30)

    crowded = FakeExecutor({"a": "crowded"}, after_step=wait_for_a)
    ran = workshop.run(workers=[crowded, FakeExecutor(after_step=wait_for_a)])
    assert ran.observer.statuses == {"a--s": "done", "b--s": "done"}
    assert ran.observer.started == ["a--s", "b--s", "a--s"]
    assert workshop.attempts() == 0


def test_what_has_no_memory_alone_fails(workshop: Workshop) -> None:
    ran = workshop.run(FakeExecutor({"a": "crowded"}))
    assert ran.observer.statuses == {"a--s": "failed", "a--t": "done", "b--s": "done", "b--t": "done"}


def test_the_machines_fault_stops_the_others_and_costs_no_attempt(workshop: Workshop) -> None:
    begun = threading.Event()
    waiting = FakeExecutor({"a": "wait", "b": "wait"}, after_step=lambda job, step: begun.set())
    broken = FakeExecutor({"a": "machine", "b": "machine"})
    with pytest.raises(DeviceError):
        workshop.run(workers=[waiting, broken])
    assert workshop.attempts() == 0
    assert workshop.run().summary.done == 4


def test_a_stop_stops_every_worker(workshop: Workshop) -> None:
    stopped: list[str] = []
    workers = [
        FakeExecutor({"a": "wait", "b": "wait"}, after_step=lambda *_: stopped.append("")) for _ in "12"
    ]
    ran = workshop.run(workers=workers, should_stop=lambda: len(stopped) >= 2)
    assert sorted(ran.observer.statuses.values()) == ["stopped", "stopped"]
    assert ran.summary.stopped
    assert ran.summary.remaining == 4
    assert workshop.attempts() == 0


def test_the_speed_of_several_workers_is_the_machines(workshop: Workshop) -> None:
    """A job takes longer beside another, and the batch does not."""
    fields = {"size": 1024, "steps": 8}
    workshop.run(flags=fields)
    with closing(Ledger(workshop.state)) as ledger:
        alone = ledger.speed("fake")
    workshop.run(flags=fields, force=True, workers=[FakeExecutor(), FakeExecutor()])
    with closing(Ledger(workshop.state)) as ledger:
        beside = ledger.speed("fake")
    assert alone is not None
    assert beside == (alone[0], alone[1] / 2)


@pytest.mark.parametrize(("device", "count"), [("fake0:1", 0), ("other", 4)])
def test_only_a_speed_of_the_same_kind_of_device_postpones(
    workshop: Workshop, device: str, count: int
) -> None:
    with closing(Ledger(workshop.state)) as ledger:
        ledger.note_speed("fake", device, 1e12)
    executor = FakeExecutor()
    workshop.run(executor, deadline=Deadline(3600, lambda: 0.0))
    assert len(executor.ran) == count


def test_a_job_that_is_resumed_is_postponed_only_by_what_is_left_of_it(workshop: Workshop) -> None:
    """A job takes four seconds, the rest of it one. It never ended if every run had only two."""
    with closing(Ledger(workshop.state)) as ledger:
        ledger.note_speed("fake", "fake0", 4 / megapixel_steps(Recipe(**QUICK), 1.0))
    executor, deadline = FakeExecutor(), Deadline(2, lambda: 0.0)
    begun = workshop.run(executor, deadline=deadline)
    assert set(begun.observer.statuses.values()) == {"postponed"}
    executor.checkpoints = {finished.key: 3 for finished in begun.observer.finished}
    assert workshop.run(executor, deadline=deadline).summary.done == 4


def test_a_job_listed_twice_is_made_once(workshop: Workshop, make_manifest: MakeManifest) -> None:
    make_manifest({"contents": ["photos/a.png", "photos/*.png"], "styles": ["styles/s.png"]})
    executor = FakeExecutor(width=4)
    ran = workshop.run(executor)
    assert executor.groups == [["a", "b"]]
    assert sorted(finished.status for finished in ran.observer.finished) == ["done", "done", "skipped"]


def test_a_job_by_itself_ignores_max_failures(workshop: Workshop) -> None:
    """The daemon's: every style of a picture is tried."""
    batch, executor = workshop.read(), FakeExecutor({"a": "fail"})
    folder, ledger = outbox.BatchFolder(workshop.outbox, batch.name), Ledger(workshop.state)
    runner = Runner(folder, ledger, executor, Recorder(), RunOptions(max_failures=1))
    summary = Summary("night", 4)
    try:
        statuses = [runner.run_job(job, summary).status for job in batch.jobs()]
    finally:
        ledger.close()
    assert Counter(statuses) == {"failed": 2, "done": 2}


def test_one_picture_under_two_names_is_not_made_twice_at_once(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    pair = {"content": "photos/a.png", "style": "styles/s.png"}
    make_manifest({"pairs": [pair, {**pair, "recipe": {"name": "other"}}]})
    executor = FakeExecutor(width=4)
    assert workshop.run(executor).summary.done == 2
    assert executor.groups == [["a"], ["a"]]
    assert len(set(workshop.pictures().values())) == 1
