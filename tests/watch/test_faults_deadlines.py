"""Deadlines: nothing is begun that would overrun, and what was stopped is resumed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from fakes import QUICK, FakeExecutor, Workshop, picture_bytes
from faults import IN_ALL_MODES, case, of_kind
from watching import Watched

from pipeline.batch.deadline import Deadline
from pipeline.batch.estimate import megapixel_steps
from pipeline.spec.jobs import Job
from pipeline.spec.recipe import Recipe
from pipeline.storage.ledger import Ledger

# 22: deadlines


def note_speed(state: Path, seconds: float) -> None:
    """Make every job of the fake encoder seem to take about so long."""
    with closing(Ledger(state)) as ledger:
        ledger.note_speed("fake", "fake0", seconds / megapixel_steps(Recipe(**QUICK), 1.0))


@pytest.mark.faults
@case(22)
@IN_ALL_MODES
def test_nothing_is_begun_that_would_overrun(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    note_speed(watched.state, 3600)
    watched.drop("a.png")
    watched.drop("b.png")
    daemon = watched.start(for_="1s")
    assert daemon.wait() == 4
    assert of_kind(daemon, "started") == []
    assert sorted(of_kind(daemon, "postponed", "name")) == ["a--s", "b--s"]
    watched.assert_promises()
    assert watched.images() == []
    assert watched.once().process.returncode == 0
    watched.assert_done(["a--s.png", "b--s.png"])


@case(22)
def test_cron_with_a_deadline_says_that_something_is_left(tmp_path: Path) -> None:
    """It need not wait for its end to know."""
    watched = Watched(tmp_path)
    note_speed(watched.state, 3 * 3600)
    watched.drop("a.png")
    run = watched.once(for_="2h")
    assert run.process.returncode == 4
    assert of_kind(run, "postponed", "name") == ["a--s"]
    watched.assert_promises()
    run = watched.once(for_="4h")
    assert run.process.returncode == 0
    watched.assert_done(["a--s.png"])


@case(22)
def test_a_picture_that_waits_for_its_style_does_not_wait_for_time(tmp_path: Path) -> None:
    """What is left for another reason than the deadline is no matter of time."""
    watched = Watched(tmp_path)
    watched.configure(watch={"inbox": "inbox", **watched.watch, "styles": ["t"]})
    watched.drop("a.png")
    assert watched.once().process.returncode == 0
    run = watched.once(for_="50min")
    assert run.process.returncode == 0
    assert run.events[-1]["text"] == "ended: 0 done, 0 quarantined, 1 left for the next time"


@pytest.mark.faults
@case(22)
@IN_ALL_MODES
def test_a_job_stopped_at_the_deadline_is_resumed_next_time(tmp_path: Path, mode: str) -> None:
    """And what was done of a drop before is not done again."""
    watched = Watched(tmp_path, mode)
    (watched.inbox / "styles" / "t.png").write_bytes(picture_bytes("another style"))
    watched.drop("a.png")
    watched.drop("b.png")
    daemon = watched.start(for_="1.5s", faults={"b": "wait"})
    assert daemon.wait() == 4
    assert of_kind(daemon, "done", "name") == ["a--s", "a--t"]
    assert of_kind(daemon, "stopped", "name") == ["b--s"]
    watched.assert_promises()
    assert watched.attempts() == []
    run = watched.once()
    assert run.process.returncode == 0
    assert of_kind(run, "done", "name") == ["b--s", "b--t"]
    watched.assert_done(["a--s.png", "a--t.png", "b--s.png", "b--t.png"])


@case(22)
def test_a_run_begins_nothing_that_would_overrun(workshop: Workshop) -> None:
    """Half of it fits: a job takes an hour, and there are two and a half."""
    note_speed(workshop.state, 3600)
    now = [0.0]
    executor = FakeExecutor(after_step=lambda job, step: now.__setitem__(0, now[0] + 900))
    ran = workshop.run(executor, deadline=Deadline(9000, lambda: now[0]))
    assert list(ran.observer.statuses.values()) == ["done", "done", "postponed", "postponed"]
    assert (ran.summary.postponed, ran.summary.remaining, ran.summary.reason) == (2, 2, "deadline")
    assert len(executor.ran) == 2
    assert now[0] <= 9000
    ran = workshop.run()
    assert sorted(ran.observer.statuses.values()) == ["done", "done", "skipped", "skipped"]


@case(22)
def test_a_run_stops_a_job_at_the_deadline(workshop: Workshop) -> None:
    now = [0.0]

    def work(job: Job, step: int) -> None:
        now[0] += 1

    ran = workshop.run(FakeExecutor(after_step=work), deadline=Deadline(6, lambda: now[0]))
    assert list(ran.observer.statuses.values()) == ["done", "stopped"]
    assert ran.summary.stopped
    assert len(workshop.pictures()) == 1
    ran = workshop.run()
    assert sorted(ran.observer.statuses.values()) == ["done", "done", "done", "skipped"]
