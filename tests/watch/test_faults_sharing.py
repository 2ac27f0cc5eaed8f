"""Several daemons on one inbox, and a consumer who takes results away at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crashes import EACH_MODE, PLAIN, Each, Record, count_points, leftovers
from watching import MODES, Forks, Watched

# 18: several processes on one inbox
MANY = (18, "two daemons; a daemon and a cron run; ten claimers")


@pytest.mark.case(*MANY)
@pytest.mark.parametrize("mode", EACH_MODE)
def test_a_second_process_names_the_first_and_ends(mode: str, forks: Forks, tmp_path: Path) -> None:
    watched = Watched(tmp_path, mode)
    daemon = watched.start()
    daemon.until("device")
    for once in (True, False):
        second = watched.fork(forks, once=once)
        assert second.code == 5
        [line] = second.said("error")
        assert f"process {daemon.process.pid} on " in line
        assert "\n" not in line
    watched.drop("a.png")
    daemon.until("done")
    assert daemon.stop() == 143
    watched.assert_done(["a--s.png"])


def race(forks: Forks, folder: Path) -> None:
    watched = PLAIN.prepare(folder)
    ended = forks.race(folder, {"once": True}, 10)
    assert {one.code for one in ended} <= {0, 5}, ended
    assert 0 in {one.code for one in ended}
    assert sum(len(one.said("started")) for one in ended) == 2
    assert sum(len(one.said("done")) for one in ended) == 2
    PLAIN.check_end(watched)


@pytest.mark.case(*MANY)
def test_of_ten_runs_at_once_one_does_the_work(forks: Forks, tmp_path: Path) -> None:
    race(forks, tmp_path / "w")


@pytest.mark.case(*MANY)
@pytest.mark.faults
def test_of_ten_runs_at_once_one_does_the_work_again_and_again(
    forks: Forks, tmp_path: Path, record_property: Record
) -> None:
    for number in range(20):
        race(forks, tmp_path / str(number))
    record_property("times", 20)


CLAIMERS = """
import os, sys
from pathlib import Path
from pipeline.watch.claims import Claims
from pipeline.storage.files import Disk

inbox, begin = Path(sys.argv[1]), os.pipe()
claims = Claims(inbox, inbox.parent / "archive", Disk())
claims.make_folders()
names = sorted(path.name for path in inbox.glob("*.png"))
pids = []
for number in range(10):
    pids.append(os.fork())
    if pids[-1] == 0:
        os.close(begin[1])
        os.read(begin[0], 1)
        taken = [name for name in names if claims.take(Path(name), f"{number}-{name}")]
        os.write(1, "".join(f"{name}\\n" for name in taken).encode())
        os._exit(0)
os.close(begin[1])
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
"""


@pytest.mark.case(*MANY)
def test_of_ten_claimers_one_gets_a_file(tmp_path: Path, record_property: Record) -> None:
    watched = Watched(tmp_path)
    names = [f"{number}.png" for number in range(20)]
    for name in names:
        watched.drop(name)
    command = [sys.executable, "-c", CLAIMERS, str(watched.inbox)]
    taken = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert sorted(taken) == sorted(names)
    watched.assert_nothing_lost()
    assert sum(path.is_file() for path in watched.claimed.rglob("*")) == len(names)
    record_property("times", len(names))


# 21: a consumer that takes results away at once
CONSUMER = (21, "outputs taken away at once, with SIGKILL")


def consume(forks: Forks, folder: Path, point: int, everything: bool, mode: str = "off") -> None:
    """SIGKILL at a point, twice, while a consumer takes what it sees; it gets everything once."""
    watched = PLAIN.prepare(folder, mode)
    bag = folder / "bag"
    setup = {"once": True, "consume": str(bag), "consume_all": everything}
    for _ in range(2):
        watched.fork(forks, kill_at=point, **setup)
        watched.assert_promises()
    ended = watched.fork(forks, **setup)
    assert ended.code == 0, ended
    got = [path.name.split("-", 2)[2] for path in bag.glob("*.png")]
    got += [path.name for path in watched.images()]
    assert sorted(got) == ["a--s.png", "b--s.png"], got
    assert leftovers(watched) == []
    watched.assert_promises()
    assert sorted(path.name for path in watched.archive.iterdir()) == ["a.png", "b.png"]
    shutil.rmtree(folder)


@pytest.mark.case(*CONSUMER)
@pytest.mark.parametrize("everything", [False, True])
def test_what_was_fetched_is_not_published_again(
    forks: Forks, each: Each, everything: bool, tmp_path: Path
) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")

    def act(server: Forks, point: int) -> None:
        consume(server, tmp_path / str(point), point, everything)

    # From the rename onto the stage to the end of the first picture.
    each(act, range(points // 2 - 18, points // 2 + 16, 6))


@pytest.mark.case(*CONSUMER)
@pytest.mark.faults
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_what_was_fetched_is_not_published_again_at_any_point(
    forks: Forks, each: Each, everything: bool, mode: str, tmp_path: Path
) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")

    def act(server: Forks, point: int) -> None:
        consume(server, tmp_path / str(point), point, everything, mode)

    each(act, range(0, points + 1, 2 if mode == "off" else 8))
