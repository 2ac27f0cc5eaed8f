"""Crashes, faults of the machine, signals, several daemons: whatever happens, the promises hold."""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import picture_bytes
from watching import MODES, Daemon, Forks, Watched, wait_until

from pipeline.storage.files import TEMPORARY_PREFIX
from pipeline.storage.outbox import BatchFolder

Record = Callable[[str, object], None]
Each = Callable[[Callable[[Forks, int], None], Iterable[int]], int]

# Quick to settle: nothing here writes slowly.
SETTLE_S = 0.01
# One mode in the quick part, all three in the long.
EACH_MODE = ["off", *(pytest.param(mode, marks=pytest.mark.faults) for mode in MODES if mode != "off")]


@pytest.fixture(scope="module")
def servers() -> Iterator[queue.SimpleQueue[Forks]]:
    """One server of forks for each of two cores."""
    free: queue.SimpleQueue[Forks] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(2):
            free.put(stack.enter_context(Forks()))
        yield free


@pytest.fixture
def forks(servers: queue.SimpleQueue[Forks]) -> Iterator[Forks]:
    server = servers.get()
    yield server
    servers.put(server)


@pytest.fixture
def each(servers: queue.SimpleQueue[Forks], record_property: Record) -> Each:
    """Return a function that does something for many numbers, two at a time."""

    def run(act: Callable[[Forks, int], None], numbers: Iterable[int]) -> int:
        def one(number: int) -> None:
            server = servers.get()
            try:
                act(server, number)
            except AssertionError as error:
                raise AssertionError(f"at {number}: {error}") from error
            finally:
                servers.put(server)

        with ThreadPoolExecutor(2) as pool:
            times = len(list(pool.map(one, numbers)))
        record_property("times", times)
        return times

    return run


@dataclass(frozen=True)
class Scenario:
    """What is dropped, and what must become of it. `bad` fails; `done` are the pictures published."""

    watch: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    batch: str = "inbox"
    done: tuple[str, ...] = ("a--s.png", "b--s.png")
    bad: tuple[str, ...] = ()

    def prepare(self, folder: Path, mode: str = "off") -> Watched:
        folder.mkdir()
        watched = Watched(folder, mode, settle_s=SETTLE_S, **self.watch)
        if self.batch == "inbox":
            watched.drop("a.png")
            watched.drop("b.png")
        else:
            drop_manifest(watched, self.batch)
        return watched

    def check_now(self, watched: Watched) -> None:
        """What must hold at every moment."""
        watched.assert_nothing_partial()
        watched.assert_attempts_within(3)
        if self.keeps_originals:
            watched.assert_nothing_lost()
        found = [path.relative_to(watched.outbox / self.batch).as_posix() for path in watched.images()]
        assert set(found) <= set(self.done)

    def check_end(self, watched: Watched) -> None:
        """What must hold when nothing is left to do."""
        self.check_now(watched)
        found = [path.relative_to(watched.outbox / self.batch).as_posix() for path in watched.images()]
        assert found == sorted(self.done)
        records = [record["image"] for record in watched.records() if record["status"] == "done"]
        assert sorted(records) == sorted(self.done)
        assert sorted(path.name for path in watched.quarantine.glob("*/*.png")) == sorted(self.bad)
        reports = [json.loads(path.read_bytes()) for path in watched.quarantine.glob("*/error.json")]
        assert sorted(report["file"] for report in reports) == sorted(self.bad)
        assert watched.attempts() == []
        assert leftovers(watched) == []
        kept = {path.parent for path in watched.originals() if watched.quarantine not in path.parents}
        assert kept == ({watched.archive} if self.watch.get("originals", "archive") == "archive" else set())

    @property
    def keeps_originals(self) -> bool:
        return self.watch.get("originals") != "delete"


class Left(Scenario):
    """Originals stay in the inbox, each with a marker."""

    def check_now(self, watched: Watched) -> None:
        markers = [path for path in watched.inbox.iterdir() if path.name.endswith(".done")]
        for marker in markers:
            assert set(json.loads(marker.read_bytes())) == {"inode", "size", "mtime_ns"}
        originals = [path for path in watched.originals() if not path.name.endswith(".done")]
        assert {path.read_bytes() for path in originals} == set(watched.inputs)
        assert len(originals) == len(watched.inputs)
        watched.assert_nothing_partial()
        watched.assert_attempts_within(3)

    def check_end(self, watched: Watched) -> None:
        self.check_now(watched)
        assert [path.name for path in watched.images()] == sorted(self.done)
        assert sorted(path.name for path in watched.inbox.iterdir() if path.is_file()) == [
            ".a.png.done", ".b.png.done", "a.png", "b.png",
        ]  # fmt: skip


@dataclass(frozen=True)
class Changed(Scenario):
    """A manifest of which one picture was made before, from another content: its result has to move."""

    batch: str = "night"
    done: tuple[str, ...] = ("a--s.png", "b--s.png", f"older/a--s-{'e' * 8}.png")

    def prepare(self, folder: Path, mode: str = "off") -> Watched:
        watched = super().prepare(folder, mode)
        style = {"images": [{"path": str(watched.inbox / "styles/s.png")}]}
        record = {"status": "done", "key": "e" * 64, "content": {"path": str(folder / "a.png")}}
        batch = BatchFolder(watched.outbox, self.batch)
        batch.publish("a--s", ".png", picture_bytes("old"), b"", {**record, "style": style})
        return watched

    def check_now(self, watched: Watched) -> None:
        super().check_now(watched)
        assert picture_bytes("old") in [path.read_bytes() for path in watched.images()]


def drop_manifest(watched: Watched, batch: str) -> None:
    """Drop a manifest of two pictures that lie elsewhere."""
    for name in ("a", "b"):
        (watched.folder / f"{name}.png").write_bytes(picture_bytes(name))
    style = watched.inbox / "styles" / "s.png"
    contents = [str(watched.folder / "a.png"), str(watched.folder / "b.png")]
    manifest = {"batch": batch, "contents": contents, "styles": [str(style)]}
    watched.drop("list.yaml", yaml.safe_dump(manifest).encode())


def leftovers(watched: Watched) -> list[Path]:
    """Whatever of a step that was cut off is still there when all is done."""
    stages = [path for stage in watched.outbox.glob("*/.staged") for path in stage.iterdir()]
    unfinished = watched.folder.rglob(".unfinished-*")
    return [*stages, *unfinished, *watched.claimed.iterdir()]


PLAIN = Scenario()
SCENARIOS = {
    "a picture fails": Scenario(setup={"faults": {"a": "fail"}}, done=("b--s.png",), bad=("a.png",)),
    "delete": Scenario({"originals": "delete"}),
    "leave": Left({"originals": "leave"}),
    "manifest": Scenario(batch="night"),
    "manifest, changed": Changed(),
    "other file system": Scenario(setup={"across": ["/claimed/"]}),
    "other file system, leave": Left({"originals": "leave"}, {"across": ["/claimed/"]}),
}


COUNTED: dict[int, int] = {}


def count_points(forks: Forks, scenario: Scenario, folder: Path) -> int:
    """Return how many points an undisturbed run passes."""
    if id(scenario) not in COUNTED:
        watched = scenario.prepare(folder)
        ended = watched.fork(forks, once=True, kill_at=-1, **scenario.setup)
        assert ended.code == (1 if scenario.bad else 0), ended
        scenario.check_end(watched)
        COUNTED[id(scenario)] = len(ended.said("point"))
    return COUNTED[id(scenario)]


# 1: SIGKILL at every named point


def kill_twice(
    forks: Forks,
    scenario: Scenario,
    folder: Path,
    point: int,
    mode: str = "off",
    between: Callable[[Watched], None] = lambda watched: None,
) -> None:
    """SIGKILL at a point, start again, SIGKILL there again, start again: all ends well."""
    watched = scenario.prepare(folder, mode)
    for _ in range(2):
        ended = watched.fork(forks, once=True, kill_at=point, **scenario.setup)
        assert ended.code in {-signal.SIGKILL, 0, 1}, ended
        scenario_now(scenario, watched)
        between(watched)
    ended = watched.fork(forks, once=True, **scenario.setup)
    assert ended.code in ({0, 1} if scenario.bad else {0}), ended
    scenario.check_end(watched)
    shutil.rmtree(folder)


def scenario_now(scenario: Scenario, watched: Watched) -> None:
    """Check what must hold after a kill. A file copied to another file system may be there twice by then."""
    if "across" not in scenario.setup:
        scenario.check_now(watched)
    else:
        watched.assert_nothing_partial()
        assert {path.read_bytes() for path in watched.originals()} >= set(watched.inputs)


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
def test_killed_at_many_points_of_other_ways(forks: Forks, each: Each, name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    points = count_points(forks, scenario, tmp_path / "count")
    each(
        lambda server, point: kill_twice(server, scenario, tmp_path / str(point), point),
        range(0, points + 1, 4),
    )


@pytest.mark.case(*KILL)
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_some_points_of_other_ways(forks: Forks, each: Each, name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    points = count_points(forks, scenario, tmp_path / "count")
    each(
        lambda server, point: kill_twice(server, scenario, tmp_path / str(point), point),
        [points // 2 - 10, points - 25],
    )


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
    ("fault", "says"),
    [
        ("kill", ["3 times", "signal 9 (SIGKILL)"]),
        ("check_kill", ["3 times", "signal 9 (SIGKILL)"]),
        pytest.param("check_hang", ["3 times", "was silent"], marks=pytest.mark.faults),
    ],
)
def test_a_picture_that_ends_the_worker_is_quarantine(fault: str, says: list[str], tmp_path: Path) -> None:
    watched = Watched(tmp_path, "off", job_timeout_s=3)
    watched.drop("a.png")
    watched.drop("b.png")
    daemon = watched.once(worker=True, faults={"a": fault})
    assert daemon.process.returncode == 1
    assert daemon.kinds.count("worker") == 3
    assert_quarantined(watched, "a.png", *says)


@pytest.mark.case(*WORKER)
@pytest.mark.parametrize("fault", ["kill", "check_kill"])
def test_a_picture_that_ends_the_daemon_is_quarantine(fault: str, forks: Forks, tmp_path: Path) -> None:
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


# 4: signals

SIGNALS = (4, "TERM idle, mid-job, twice; INT; HUP")


@pytest.mark.case(*SIGNALS)
@pytest.mark.parametrize("mode", EACH_MODE)
def test_a_signal_ends_an_idle_daemon(mode: str, forks: Forks, tmp_path: Path) -> None:
    watched = Watched(tmp_path, mode, rescan_s=60)
    daemon = watched.start()
    daemon.until("device")
    assert daemon.stop() == 128 + signal.SIGTERM
    watched.drop("a.png")
    assert watched.fork(forks, once=True).code == 0
    watched.assert_done(["a--s.png"])


@pytest.mark.case(*SIGNALS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_job_leaves_it_to_the_next_daemon(number: int, forks: Forks, tmp_path: Path) -> None:
    watched = Watched(tmp_path, "off")
    watched.drop("a.png")
    daemon = watched.start(worker=True, faults={"a": "wait"})
    daemon.until("started")
    watched.drop("b.png")
    daemon.signal(number)
    assert daemon.wait() == 128 + number
    assert "stopped" in daemon.kinds
    assert [path.name for path in watched.claimed.rglob("*.png")] == ["a.png"]
    assert watched.attempts() == []
    watched.assert_promises()
    assert watched.fork(forks, once=True).code == 0
    watched.assert_done(["a--s.png", "b--s.png"])


@pytest.mark.case(*SIGNALS)
def test_a_second_signal_ends_at_once(forks: Forks, tmp_path: Path) -> None:
    watched = Watched(tmp_path, "off")
    watched.drop("a.png")
    daemon = watched.start(worker=True, faults={"a": "hang"}, tells_signals=True)
    daemon.until("started")
    daemon.signal(signal.SIGTERM)
    daemon.until("signal")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == -signal.SIGTERM
    watched.assert_promises()
    watched.drop("b.png")
    assert watched.fork(forks, once=True).code == 0
    watched.assert_done(["a--s.png", "b--s.png"])


@pytest.mark.case(*SIGNALS)
@pytest.mark.faults
def test_a_worker_that_does_not_stop_is_ended_and_costs_no_attempt(forks: Forks, tmp_path: Path) -> None:
    watched = Watched(tmp_path, "off")
    watched.drop("a.png")
    daemon = watched.start(worker=True, faults={"a": "hang"})
    daemon.until("started")
    assert daemon.stop() == 143
    assert watched.attempts() == []
    watched.drop("b.png")
    assert watched.fork(forks, once=True).code == 0
    watched.assert_done(["a--s.png", "b--s.png"])


@pytest.mark.case(*SIGNALS)
@pytest.mark.parametrize("mode", EACH_MODE)
def test_hup_takes_up_a_new_configuration_and_keeps_the_old_one_if_that_is_wrong(
    mode: str, tmp_path: Path
) -> None:
    watched = Watched(tmp_path, mode, settle_s=1000)
    good = watched.configure().read_text()
    watched.drop("a.png")
    daemon = watched.start()
    daemon.until("device")

    watched.watch["settle_s"] = 0.06
    watched.watch["routes"] = {"poster": {"batch": "posters"}}
    watched.configure()
    daemon.signal(signal.SIGHUP)
    assert "read again" in daemon.until("reload")["text"]
    daemon.until("done", name="a--s")
    watched.drop("poster/b.png")
    daemon.until("done", name="b--s")
    assert (watched.outbox / "posters" / "b--s.png").is_file()

    for wrong in ("watch: {setle_s: 3}", good.replace("inbox: inbox", "inbox: other")):
        (tmp_path / "config.yaml").write_text(wrong)
        daemon.signal(signal.SIGHUP)
        assert "old configuration stays" in daemon.until("reload")["text"]
    watched.drop("poster/c.png")
    daemon.until("done", name="c--s")
    assert daemon.stop() == 143
    assert (watched.outbox / "posters" / "c--s.png").is_file()
    watched.assert_promises()


# 16: faults of the disk

DISK = (16, "ENOSPC, EIO, EACCES, EROFS, EXDEV at each file operation")
ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)


def fail_at(forks: Forks, scenario: Scenario, folder: Path, point: int, number: int, times: int) -> None:
    """Let some operations in a row fail: the daemon goes on by itself when that is over."""
    watched = scenario.prepare(folder)
    setup = {**scenario.setup, "stop_after": len(watched.inputs), "first_pause_s": 0.01}
    ended = watched.fork(forks, fail_at=[point, number, times], **setup)
    if ended.code == 3:  # at the start a fault of the machine is said and done with
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


LOOKS = [
    ["entries", "/inbox"],
    ["free_bytes", "/inbox"],
    ["free_bytes", "/outbox"],
    ["free_bytes", "/state"],
]


@pytest.mark.case(*DISK)
@pytest.mark.parametrize("number", [errno.EIO, pytest.param(errno.EACCES, marks=pytest.mark.faults)])
@pytest.mark.parametrize(("operation", "part"), LOOKS)
def test_a_look_that_fails_is_repeated(
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
def test_nothing_is_taken_while_there_is_little_room(tmp_path: Path) -> None:
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
    assert {one.code for one in ended} <= {0, 5}
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
