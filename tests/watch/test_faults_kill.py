"""SIGKILL at any point, of a daemon and of its worker: the promises hold, and all is done once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from crashes import EACH_MODE, PLAIN, SCENARIOS, Each, Scenario, count_points, kill_twice
from watching import MODES, Daemon, Forks, Watched, wait_until

KILL = (1, "SIGKILL at every point, then restart, twice")


@pytest.mark.case(*KILL)
def test_killed_at_any_point_twice_and_all_is_done_once(forks: Forks, each: Each, tmp_path: Path) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")
    assert points > 100
    each(lambda server, point: kill_twice(server, PLAIN, tmp_path / str(point), point), range(3, points, 14))


@pytest.mark.case(*KILL)
@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES)
def test_killed_at_every_point_twice(forks: Forks, each: Each, mode: str, tmp_path: Path) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")
    each(
        lambda server, point: kill_twice(server, PLAIN, tmp_path / str(point), point, mode),
        range(0, points + 1, 1 if mode == "off" else 4),
    )


@pytest.mark.case(*KILL)
@pytest.mark.faults
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_many_points_of_other_scenarios(
    forks: Forks, each: Each, name: str, tmp_path: Path
) -> None:
    points = count_points(forks, SCENARIOS[name], tmp_path / "count")
    kill_at(each, name, tmp_path, range(0, points + 1, 4))


@pytest.mark.case(*KILL)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_some_points_of_other_scenarios(
    forks: Forks, each: Each, name: str, tmp_path: Path
) -> None:
    points = count_points(forks, SCENARIOS[name], tmp_path / "count")
    kill_at(each, name, tmp_path, [points // 2 - 10, points - 25])


def kill_at(each: Each, name: str, folder: Path, points: Iterable[int]) -> None:
    each(lambda server, point: kill_twice(server, SCENARIOS[name], folder / str(point), point), points)


# 2: SIGKILL the daemon while its worker lives


def worker_of(daemon: Daemon) -> int:
    """Return the pid of a daemon's worker."""
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    [pid] = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(pid)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def kill_with_worker(daemon: Daemon) -> None:
    worker = worker_of(daemon)
    assert is_alive(worker)
    daemon.kill()
    wait_until(lambda: not is_alive(worker), "the worker is gone")


@pytest.mark.case(2, "SIGKILL while the worker lives")
@pytest.mark.parametrize("mode", EACH_MODE)
def test_a_worker_dies_with_its_daemon_and_the_next_daemon_does_the_job(
    mode: str, forks: Forks, tmp_path: Path
) -> None:
    watched = Watched(tmp_path, mode)
    watched.drop("a.png")
    daemon = watched.start(worker=True, faults={"a": "hang"})
    daemon.until("started")
    kill_with_worker(daemon)
    watched.assert_promises()
    watched.drop("b.png")
    assert watched.fork(forks, once=True).code == 0
    watched.assert_done(["a--s.png", "b--s.png"])


@pytest.mark.case(2, "SIGKILL while the worker lives")
@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["hang", "check_hang"])
def test_a_worker_dies_with_its_daemon_again_and_again(mode: str, fault: str, tmp_path: Path) -> None:
    watched = Watched(tmp_path, mode)
    watched.drop("a.png")
    for _ in range(2):
        daemon = watched.start(worker=True, faults={"a": fault})
        if fault == "hang":
            daemon.until("started")
        else:
            wait_until(lambda: watched.attempts() != [], "the picture is being checked")
        kill_with_worker(daemon)
        watched.assert_promises()
        shutil.rmtree(watched.state)  # else its attempts would soon be spent
    watched.drop("b.png")
    assert watched.once(worker=True).process.returncode == 0
    watched.assert_done(["a--s.png", "b--s.png"])


# 3: a worker that dies at every attempt
WORKER = (3, "a worker killed at every attempt")


def assert_quarantined(watched: Watched, name: str, *says: str) -> None:
    """One picture is in quarantine, with a report that says why; `b` is done."""
    [report] = [json.loads(path.read_bytes()) for path in watched.quarantine.glob("*/error.json")]
    assert report["path"] == report["file"] == name
    assert all(text in report["error"] for text in says), report
    assert (watched.quarantine / report["id"] / name).is_file()
    assert [path.name for path in watched.images()] == ["b--s.png"]
    assert [path.name for path in watched.archive.rglob("*.png")] == ["b.png"]
    watched.assert_promises()


@pytest.mark.case(*WORKER)
@pytest.mark.parametrize(
    ("fault", "timeout_s", "says"),
    [
        ("kill", 60, ["3 times", "signal 9 (SIGKILL)"]),
        ("check_kill", 60, ["3 times", "signal 9 (SIGKILL)"]),
        # To start a worker takes some of this time.
        pytest.param("check_hang", 5, ["3 times", "was silent"], marks=pytest.mark.faults),
    ],
)
def test_a_picture_that_ends_the_worker_is_quarantined(
    fault: str, timeout_s: int, says: list[str], tmp_path: Path
) -> None:
    watched = Watched(tmp_path, "off", job_timeout_s=timeout_s)
    watched.drop("a.png")
    watched.drop("b.png")
    daemon = watched.once(worker=True, faults={"a": fault})
    assert daemon.process.returncode == 1
    assert daemon.kinds.count("worker") == 3
    assert_quarantined(watched, "a.png", *says)


@pytest.mark.case(*WORKER)
@pytest.mark.parametrize("fault", ["kill", "check_kill"])
def test_a_picture_that_ends_the_daemon_is_quarantined(fault: str, forks: Forks, tmp_path: Path) -> None:
    watched = Scenario().prepare(tmp_path / "w")
    codes = [watched.fork(forks, once=True, faults={"a": fault}).code for _ in range(4)]
    assert codes == [-9, -9, -9, 1]
    assert_quarantined(watched, "a.png", "3 times")


@pytest.mark.case(*WORKER)
@pytest.mark.faults
@pytest.mark.parametrize("mode", MODES)
def test_a_worker_killed_at_every_attempt_in_a_daemon(mode: str, tmp_path: Path) -> None:
    watched = Watched(tmp_path, mode)
    daemon = watched.start(worker=True, faults={"a": "kill"})
    watched.drop("a.png")
    daemon.until("quarantined")
    watched.drop("b.png")
    daemon.until("done")
    assert daemon.stop() == 143
    assert_quarantined(watched, "a.png", "signal 9 (SIGKILL)")
