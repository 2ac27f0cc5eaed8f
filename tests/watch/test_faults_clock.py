"""A clock that jumps, and a ledger that is torn or deleted."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from crashes import EACH_MODE, PLAIN, Each, count_points, kill_twice
from fakes import picture_bytes
from watching import Forks, Watched

# 24: the clock, and the ledger
CLOCK = (24, "clock jumps of a day; a torn ledger")


@pytest.mark.case(*CLOCK)
@pytest.mark.parametrize("mode", EACH_MODE)
@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_changes_nothing(days: int, mode: str, forks: Forks, tmp_path: Path) -> None:
    watched = Watched(tmp_path, mode, settle_max_s=600)
    daemon = watched.start(clock_jump_s=days * 86_400)
    data = picture_bytes("b")
    slow = watched.inbox / "b.png"
    with slow.open("wb") as file:
        file.write(data[:40])
        file.flush()
        watched.drop("a.png")
        daemon.until("done", name="a--s")
        watched.drop("c.png")
        daemon.until("done", name="c--s")
        assert slow.exists()  # not taken, though a day has passed
        file.write(data[40:])
    watched.inputs[data] += 1
    daemon.until("done", name="b--s")
    assert daemon.stop() == 143
    assert watched.fork(forks, once=True).code == 0
    watched.assert_done(["a--s.png", "b--s.png", "c--s.png"])


def tear_garbage(state: Path) -> None:
    (state / "ledger.sqlite3").write_bytes(b"no ledger" * 999)


def tear_in_half(state: Path) -> None:
    for path in state.glob("ledger.sqlite3*"):
        os.truncate(path, path.stat().st_size // 2)


def tear_middle(state: Path) -> None:
    path = state / "ledger.sqlite3"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"?" * (len(data) - len(data) // 2))


def tear_to_nothing(state: Path) -> None:
    os.truncate(state / "ledger.sqlite3", 0)


def tear_all_to_nothing(state: Path) -> None:
    for path in state.glob("ledger.sqlite3*"):
        os.truncate(path, 0)


def tear_away(state: Path) -> None:
    shutil.rmtree(state)


def tear_from_its_wal(state: Path) -> None:
    (state / "ledger.sqlite3").unlink()


def tear_stale_wal(state: Path) -> None:
    """Put the write-ahead log of another day beside it."""
    other = state / "other.sqlite3"
    database = sqlite3.connect(other, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE drops (id)")
    shutil.copy(state / "other.sqlite3-wal", state / "ledger.sqlite3-wal")
    database.close()
    other.unlink()


TEARS = [
    tear_garbage, tear_in_half, tear_middle, tear_to_nothing, tear_all_to_nothing, tear_away,
    tear_from_its_wal, tear_stale_wal,
]  # fmt: skip


def torn(forks: Forks, folder: Path, point: int, tear: Callable[[Path], None]) -> None:
    def between(watched: Watched) -> None:
        if (watched.state / "ledger.sqlite3").exists():
            tear(watched.state)

    kill_twice(forks, PLAIN, folder, point, between=between)


@pytest.mark.case(*CLOCK)
@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_ledger_loses_nothing(
    forks: Forks, each: Each, tear: Callable[[Path], None], tmp_path: Path
) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")
    each(lambda server, point: torn(server, tmp_path / str(point), point, tear), [points // 2, points])


@pytest.mark.case(*CLOCK)
@pytest.mark.faults
@pytest.mark.parametrize("tear", TEARS)
def test_a_ledger_torn_at_many_points_loses_nothing(
    forks: Forks, each: Each, tear: Callable[[Path], None], tmp_path: Path
) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")
    each(lambda server, point: torn(server, tmp_path / str(point), point, tear), range(0, points + 1, 12))


def delete_ledger_at(forks: Forks, folder: Path, point: int) -> None:
    watched = PLAIN.prepare(folder)
    ended = watched.fork(forks, stop_after=2, no_ledger_at=point, first_pause_s=0.01)
    assert ended.code == 143, ended
    watched.assert_done(["a--s.png", "b--s.png"])
    watched.drop("c.png")
    ended = watched.fork(forks, once=True)
    assert ended.code == 0, ended
    assert len(ended.said("started")) == 1
    watched.assert_done(["a--s.png", "b--s.png", "c--s.png"])
    shutil.rmtree(folder)


@pytest.mark.case(*CLOCK)
def test_a_ledger_deleted_in_a_run_loses_nothing(forks: Forks, each: Each, tmp_path: Path) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")
    each(lambda server, point: delete_ledger_at(server, tmp_path / str(point), point), range(2, points, 60))


@pytest.mark.case(*CLOCK)
@pytest.mark.faults
def test_a_ledger_deleted_at_any_point_of_a_run_loses_nothing(
    forks: Forks, each: Each, tmp_path: Path
) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")
    each(lambda server, point: delete_ledger_at(server, tmp_path / str(point), point), range(0, points, 6))
