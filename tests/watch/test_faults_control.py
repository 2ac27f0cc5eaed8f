"""Requests of people and SIGKILL: a pause outlives the daemon; what is cancelled is quarantined, once."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from crashes import Each, Scenario
from faults import running
from watching import Forks, Watched, wait_until

from pipeline.spec.config import read_config
from pipeline.storage.control import Control, Drop
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.storage.paths import HIDDEN
from pipeline.watch.quarantine import Quarantine, try_again
from pipeline.watch.status import read_status

CANCEL = (26, "a cancel, SIGKILL at every other point, then restart, twice")
PAUSE = (27, "a pause, SIGKILL, then resume")


@dataclass(frozen=True)
class CancelledEarly(Scenario):
    """`a.png` was cancelled before a daemon saw it."""

    done: tuple[str, ...] = ("b--s.png",)
    bad: tuple[str, ...] = ("a.png",)

    def prepare(self, folder: Path, mode: str = "off") -> Watched:
        watched = super().prepare(folder, mode)
        (watched.inbox / HIDDEN).mkdir()
        self.cancel(watched)
        return watched

    def cancel(self, watched: Watched) -> None:
        Control(watched.inbox).cancel(Drop("a.png"))

    def check_end(self, watched: Watched) -> None:
        super().check_end(watched)
        (report,) = watched.quarantine.glob("*/error.json")
        assert json.loads(report.read_bytes())["cancelled"] is True
        assert Control(watched.inbox).requests() == []

    def check_attempts(self, watched: Watched) -> None:
        """Those of a job that was killed, and then cancelled, count for when it is brought back."""
        watched.assert_attempts_within(2)


@dataclass(frozen=True)
class CancelledRunning(CancelledEarly):
    """`a.png` is cancelled while it is being made."""

    def cancel(self, watched: Watched) -> None:
        pass


SCENARIOS = {
    "waiting": CancelledEarly(),
    "running": CancelledRunning(setup={"asks": [["started", "a--s", "cancel", "a.png"]]}),
    "waiting while another runs": CancelledRunning(
        setup={"asks": [["started", "a--s", "cancel", "b.png"]]}, done=("a--s.png",), bad=("b.png",)
    ),
}


def count_points(forks: Forks, scenario: Scenario, folder: Path) -> int:
    watched = scenario.prepare(folder)
    ended = watched.fork(forks, once=True, kill_at=-1, **scenario.setup)
    assert ended.code == 0, ended
    assert ended.said("ended") == ["ended: 1 done, 0 quarantined, 1 cancelled, 0 left for the next time"]
    scenario.check_end(watched)
    return len(ended.said("point"))


def kill_twice(forks: Forks, scenario: Scenario, folder: Path, point: int) -> None:
    """SIGKILL at a point, start again, SIGKILL there again, start again; then bring it back."""
    watched = scenario.prepare(folder)
    for _ in range(2):
        ended = watched.fork(forks, once=True, kill_at=point, **scenario.setup)
        assert ended.code in {-signal.SIGKILL, 0}, ended
        scenario.check_now(watched)
    assert watched.fork(forks, once=True, **scenario.setup).code == 0
    scenario.check_end(watched)
    bring_back(watched)
    assert watched.fork(forks, once=True).code == 0
    watched.assert_done(["a--s.png", "b--s.png"])
    assert watched.attempts() == []
    shutil.rmtree(folder)


def bring_back(watched: Watched) -> None:
    """What `retry` does."""
    config = read_config(watched.folder / "config.yaml")
    quarantine = Quarantine(watched.inbox, config.watch.quarantine_dir, Disk())
    ledger = Ledger(config.state_dir)
    for one in quarantine.files():
        try_again(quarantine, one, ledger)
    ledger.close()


@pytest.mark.case(*CANCEL)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_some_points_of_a_cancel(forks: Forks, each: Each, name: str, tmp_path: Path) -> None:
    points = count_points(forks, SCENARIOS[name], tmp_path / "count")
    kill_at(each, name, tmp_path, range(20, points, 35))


@pytest.mark.case(*CANCEL)
@pytest.mark.faults
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_other_point_of_a_cancel(forks: Forks, each: Each, name: str, tmp_path: Path) -> None:
    points = count_points(forks, SCENARIOS[name], tmp_path / "count")
    kill_at(each, name, tmp_path, range(0, points + 1, 2))


def kill_at(each: Each, name: str, folder: Path, points: range) -> None:
    each(lambda server, point: kill_twice(server, SCENARIOS[name], folder / str(point), point), points)


@pytest.mark.case(*PAUSE)
def test_a_pause_outlives_a_killed_daemon_and_a_resumed_one_continues(tmp_path: Path) -> None:
    """What was being made when the pause came is done once, and so is what was dropped meanwhile."""
    watched = Watched(tmp_path)
    control = Control(watched.inbox)
    watched.drop("a.png")
    first = watched.start(worker=True, faults={"a": "wait"})
    first.until("started", name="a--s")
    control.pause()
    first.until("stopped", name="a--s")
    first.kill()
    watched.assert_promises()
    watched.drop("b.png")
    with running(watched, worker=True) as daemon:
        daemon.until("paused_by_user")
        daemon.until("settled", path="b.png")
        status = read_daemon(watched)
        assert status["paused_by_user"] is not None
        assert [one["path"] for one in status["begun"]] == ["a.png"]
        assert watched.images() == []
        control.resume()
        daemon.until("done", name="a--s")
        daemon.until("done", name="b--s")
        wait_until(lambda: len(os.listdir(watched.archive)) == 2, "both are archived")
    assert "started" not in daemon.kinds[: daemon.kinds.index("resumed_by_user")]
    watched.assert_done(["a--s.png", "b--s.png"])
    assert watched.attempts() == []


def read_daemon(watched: Watched) -> dict[str, object]:
    config = read_config(watched.folder / "config.yaml")
    ledger = Ledger(config.state_dir)
    try:
        return read_status(config, ledger)
    finally:
        ledger.close()


@pytest.mark.case(*CANCEL)
def test_a_job_in_a_worker_stops_when_it_is_cancelled_and_the_next_begins(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.drop("a.png")
    with running(watched, worker=True, faults={"a": "wait"}) as daemon:
        daemon.until("started", name="a--s")
        watched.drop("b.png")
        watched.drop("c.png")
        daemon.until("settled", path="c.png")
        control = Control(watched.inbox)
        control.put_first(Drop("c.png"))
        control.cancel(Drop("a.png"))
        daemon.until("cancelled", path="a.png")
        daemon.until("done", name="c--s")
        daemon.until("done", name="b--s")
    assert daemon.kinds.count("worker") == 0
    watched.assert_promises()
    assert [path.name for path in watched.images()] == ["b--s.png", "c--s.png"]
