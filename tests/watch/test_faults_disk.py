"""Operations that fail, disks that are full or dead, and folders that go away."""

from __future__ import annotations

import errno
import shutil
import signal
from pathlib import Path

import pytest
from crashes import EACH_MODE, PLAIN, SCENARIOS, Each, Scenario, count_points, leftovers
from fakes import picture_bytes
from watching import Forks, Watched

from pipeline.storage.files import TEMPORARY_PREFIX

# 16: faults of the disk
DISK = (16, "ENOSPC, EIO, EACCES, EROFS, EXDEV at each file operation")

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)


def fail_at(forks: Forks, scenario: Scenario, folder: Path, point: int, number: int, times: int) -> None:
    """Let some operations in a row fail: the daemon continues by itself when that is over."""
    watched = scenario.prepare(folder)
    setup = {**scenario.setup, "stop_after": len(watched.inputs), "first_pause_s": 0.01}
    ended = watched.fork(forks, fail_at=[point, number, times], **setup)
    if ended.code == 3:  # at the start a fault of the machine ends the daemon
        assert not ended.said("watching"), ended
        ended = watched.fork(forks, **setup)
    assert ended.code == 143, ended
    if left := leftovers(watched):  # empty folders only, until the next start
        files = [inner for path in left for inner in (path, *path.rglob("*")) if inner.is_file()]
        assert [file for file in files if not file.name.startswith(TEMPORARY_PREFIX)] == []
        assert watched.fork(forks, once=True).said("started") == []
    scenario.check_end(watched)
    shutil.rmtree(folder)


@pytest.mark.case(*DISK)
def test_an_operation_that_fails_costs_nothing(forks: Forks, each: Each, tmp_path: Path) -> None:
    points = count_points(forks, PLAIN, tmp_path / "count")

    def act(server: Forks, point: int) -> None:
        fail_at(server, PLAIN, tmp_path / str(point), point, ERRNOS[point % 4], 1 + point % 3)

    each(act, range(5, points, 13))


@pytest.mark.case(*DISK)
@pytest.mark.faults
@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize("name", ["plain", *SCENARIOS])
def test_many_operations_that_fail_cost_nothing(
    forks: Forks, each: Each, name: str, number: int, tmp_path: Path
) -> None:
    scenario = SCENARIOS.get(name, PLAIN)
    points = count_points(forks, scenario, tmp_path / "count")
    step = 4 if name == "plain" else 12

    def act(server: Forks, point: int) -> None:
        fail_at(server, scenario, tmp_path / str(point), point, number, 1 + point % 3)

    each(act, range(ERRNOS.index(number), points, step))


READS = [
    ["entries", "/inbox"],
    ["free_bytes", "/inbox"],
    ["free_bytes", "/outbox"],
    ["free_bytes", "/state"],
]


@pytest.mark.case(*DISK)
@pytest.mark.parametrize("number", [errno.EIO, pytest.param(errno.EACCES, marks=pytest.mark.faults)])
@pytest.mark.parametrize(("operation", "part"), READS)
def test_a_scan_or_check_that_fails_is_repeated(
    forks: Forks, operation: str, part: str, number: int, tmp_path: Path
) -> None:
    watched = PLAIN.prepare(tmp_path / "w")
    # The first look into the claimed folder is part of the start, which a fault ends.
    place = f"{watched.folder}{part}"
    ended = watched.fork(forks, fail=[[operation, number, place, 2]], stop_after=2, first_pause_s=0.01)
    if ended.code == 3:
        ended = watched.fork(forks, stop_after=2)
    else:
        assert ended.said("paused")
        assert ended.said("resumed")
    assert ended.code == 143, ended
    PLAIN.check_end(watched)


LEDGER = [
    "INSERT INTO attempts", "DELETE FROM attempts", "INSERT OR IGNORE INTO staged",
    "INSERT OR IGNORE INTO drops", "UPDATE drops", "DELETE FROM staged",
]  # fmt: skip


@pytest.mark.case(*DISK)
@pytest.mark.parametrize("query", LEDGER)
def test_a_ledger_on_a_full_disk_costs_no_picture_and_no_attempt(
    forks: Forks, query: str, tmp_path: Path
) -> None:
    watched = PLAIN.prepare(tmp_path / "w")
    ended = watched.fork(forks, fail=[["ledger", 0, query, 5]], stop_after=2, first_pause_s=0.01)
    assert ended.code == 143, ended
    assert "disk is full" in ended.said("paused")[0]
    assert not any("delete" in text for text in ended.said("paused"))
    if query != "INSERT INTO attempts":  # each was computed once
        assert len(ended.said("started")) == 2
    assert watched.fork(forks, once=True).said("started") == []
    PLAIN.check_end(watched)


def stat_fails(forks: Forks, folder: Path, part: str, number: int, point: int) -> None:
    """Let a mount be dead for a while: whatever asks for a path below it gets an error."""
    watched = PLAIN.prepare(folder)
    fault = [point, number, f"{folder}/{part}", 1 + point % 4]
    ended = watched.fork(forks, stat_fails=fault, stop_after=2, first_pause_s=0.01)
    assert ended.code == 143, ended
    PLAIN.check_end(watched)
    shutil.rmtree(folder)


@pytest.mark.case(*DISK)
@pytest.mark.parametrize("part", ["outbox", "inbox/.style-pipeline"])
def test_a_dead_mount_is_waited_for(forks: Forks, each: Each, part: str, tmp_path: Path) -> None:
    first, points = first_point_of_work(forks, PLAIN, tmp_path / "count")

    def act(server: Forks, point: int) -> None:
        stat_fails(server, tmp_path / str(point), part, errno.ESTALE, point)

    each(act, range(first, points - 1, 30))


@pytest.mark.case(*DISK)
@pytest.mark.faults
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN])
@pytest.mark.parametrize("part", ["outbox", "inbox", "archive"])
def test_a_dead_mount_is_waited_for_at_many_points(
    forks: Forks, each: Each, part: str, number: int, tmp_path: Path
) -> None:
    first, points = first_point_of_work(forks, PLAIN, tmp_path / "count")

    def act(server: Forks, point: int) -> None:
        stat_fails(server, tmp_path / str(point), part, number, point)

    each(act, range(first, points - 1, 3))


@pytest.mark.case(*DISK)
@pytest.mark.parametrize("originals", ["archive", "leave", "delete"])
def test_another_file_system_is_copied_to(forks: Forks, originals: str, tmp_path: Path) -> None:
    setup = {"across": ["/claimed/"], "faults": {"a": "fail"}}
    watched = Scenario({"originals": originals}).prepare(tmp_path / "w")
    ended = watched.fork(forks, once=True, kill_at=-1, **setup)
    assert ended.code == 1, ended
    assert sum("after copy" in point for point in ended.said("point")) >= 3
    assert [path.name for path in watched.images()] == ["b--s.png"]
    assert [path.name for path in watched.quarantine.glob("*/*.png")] == ["a.png"]
    there = {"archive": [watched.archive / "b.png"], "leave": [watched.inbox / "b.png"], "delete": []}
    assert [path for path in watched.originals() if path.name == "b.png"] == there[originals]
    assert watched.fork(forks, once=True).said("started") == []


@pytest.mark.case(*DISK)
def test_nothing_is_taken_while_there_is_little_free_space(tmp_path: Path) -> None:
    watched = Watched(tmp_path, "off", min_free_mb=10**9)
    watched.drop("a.png")
    daemon = watched.start(first_pause_s=0.05)
    assert "MB free" in daemon.until("paused")["error"]
    assert (watched.inbox / "a.png").is_file()
    assert list(watched.claimed.iterdir()) == []
    watched.watch["min_free_mb"] = 0
    watched.configure()
    daemon.signal(signal.SIGHUP)
    daemon.until("done")
    assert daemon.stop() == 143
    watched.assert_done(["a--s.png"])


# 17: folders that go away
GONE = (17, "inbox unmounted, emptied, recreated; outbox gone")


def vanish_at(forks: Forks, folder: Path, which: str, left: str, scenario: Scenario, point: int) -> bool:
    """Let a folder go away at a point until the daemon has paused; tell whether the point was reached."""
    watched = scenario.prepare(folder)
    setup = {**scenario.setup, "stop_after": len(watched.inputs), "first_pause_s": 0.01}
    ended = watched.fork(forks, vanish=[point, str(watched.folder / which), left], **setup)
    made = [path for text in ended.said("made") for path in text.split()]
    if left == "nothing":
        assert made == []
    # A folder that goes away between a look at it and the next operation may get what that one makes.
    assert {Path(path).name for path in made} <= {
        "inbox",
        "night",
        "logs",
        ".lock",
        ".a.png.done",
        ".b.png.done",
    }
    if (folder / f"{which}.away").exists():  # the last point of all: no time was left to notice
        assert not ended.said("paused"), ended
        shutil.rmtree(folder / which, ignore_errors=True)
        (folder / f"{which}.away").rename(folder / which)
        ended = watched.fork(forks, once=True, **scenario.setup)
        assert ended.code == 0, ended
    else:
        assert ended.code == 143, ended
    scenario.check_end(watched)
    shutil.rmtree(folder)
    return True


def first_point_of_work(forks: Forks, scenario: Scenario, folder: Path) -> tuple[int, int]:
    """Return the number of the first point after the start, and that of all points."""
    watched = scenario.prepare(folder)
    events = watched.fork(forks, once=True, kill_at=-1, **scenario.setup).events
    kinds = [event["event"] for event in events]
    return kinds[: kinds.index("watching")].count("point"), kinds.count("point")


@pytest.mark.case(*GONE)
@pytest.mark.parametrize("left", ["nothing", "empty"])
@pytest.mark.parametrize("which", ["inbox", "outbox"])
def test_a_folder_that_goes_away_is_waited_for(
    forks: Forks, each: Each, which: str, left: str, tmp_path: Path
) -> None:
    first, points = first_point_of_work(forks, PLAIN, tmp_path / "count")

    def act(server: Forks, point: int) -> None:
        vanish_at(server, tmp_path / str(point), which, left, PLAIN, point)

    each(act, range(first, points, 45))


@pytest.mark.case(*GONE)
@pytest.mark.faults
@pytest.mark.parametrize("left", ["nothing", "empty"])
@pytest.mark.parametrize("which", ["inbox", "outbox"])
@pytest.mark.parametrize("name", ["plain", "leave", "manifest", "a picture fails"])
def test_a_folder_that_goes_away_at_many_points_is_waited_for(
    forks: Forks, each: Each, name: str, which: str, left: str, tmp_path: Path
) -> None:
    scenario = SCENARIOS.get(name, PLAIN)
    first, points = first_point_of_work(forks, scenario, tmp_path / "count")

    def act(server: Forks, point: int) -> None:
        vanish_at(server, tmp_path / str(point), which, left, scenario, point)

    each(act, range(first, points, 2 if name == "plain" else 8))


@pytest.mark.case(*GONE)
@pytest.mark.parametrize("mode", EACH_MODE)
def test_an_inbox_that_was_emptied_or_made_anew_is_not_taken_for_the_old_one(
    mode: str, forks: Forks, tmp_path: Path
) -> None:
    watched = Watched(tmp_path, mode)
    daemon = watched.start(first_pause_s=0.05)
    daemon.until("device")
    shutil.rmtree(watched.inbox)
    watched.inbox.mkdir()
    assert "is not the folder" in daemon.until("paused")["error"]
    assert list(watched.inbox.iterdir()) == []
    (watched.inbox / ".style-pipeline").mkdir()  # as its message says
    (watched.inbox / "styles").mkdir()
    (watched.inbox / "styles" / "s.png").write_bytes(picture_bytes("the style"))
    daemon.until("resumed")
    watched.drop("a.png")
    daemon.until("done")
    assert watched.fork(forks, once=True).code == 5  # it holds the new one, too
    assert daemon.stop() == 143
    watched.assert_done(["a--s.png"])


@pytest.mark.case(*GONE)
@pytest.mark.parametrize("left", ["nothing", "empty"])
@pytest.mark.parametrize("which", ["inbox", "outbox"])
def test_a_known_folder_that_is_missing_at_the_start_ends_it(
    forks: Forks, which: str, left: str, tmp_path: Path
) -> None:
    watched = PLAIN.prepare(tmp_path / "w")
    assert watched.fork(forks, once=True).code == 0
    folder, away = watched.folder / which, tmp_path / "away"
    folder.rename(away)
    if left == "empty":
        folder.mkdir()
    for once in (True, False):
        ended = watched.fork(forks, once=once)
        assert ended.code == 3, ended
        assert str(folder) in ended.said("error")[0]
        assert list(folder.iterdir()) == [] if left == "empty" else not folder.exists()
    if left == "empty":
        folder.rmdir()
    away.rename(folder)
    watched.drop("c.png")
    assert watched.fork(forks, once=True).code == 0
    watched.assert_done(["a--s.png", "b--s.png", "c--s.png"])
