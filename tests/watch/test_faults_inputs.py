"""What is dropped, and how: inputs in every state that tools and people leave them in."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import QUICK, FakeExecutor, Workshop, picture_bytes
from watching import MODES, Daemon, Watched, wait_until

from pipeline.batch.deadline import Deadline
from pipeline.batch.estimate import megapixel_steps
from pipeline.cli.main import main
from pipeline.errors import ImageError
from pipeline.execution.executors import InProcessExecutor
from pipeline.spec.config import Config
from pipeline.spec.jobs import Job
from pipeline.spec.recipe import Recipe
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder
from pipeline.watch.markers import marker_path
from pipeline.watch.quarantine import Quarantine

NAMES = {
    5: "a slow writer",
    6: "full size preallocated",
    7: "a truncated picture",
    8: "zero bytes, filled later",
    9: "renamed, linked and moved in",
    10: "odd times, overwritten",
    11: "present at start and being copied",
    12: "the same name or bytes twice",
    13: "unusual names",
    14: "neither file nor folder",
    15: "bombs, unknown formats, a decoder that hangs",
    19: "events that fail",
    20: "folders in one another",
    22: "deadlines",
    23: "a manifest edited",
    25: "a soak",
}
IN_ALL_MODES = pytest.mark.parametrize(
    "mode", [mode if mode == "native" else pytest.param(mode, marks=pytest.mark.faults) for mode in MODES]
)
# A file that is no whole picture is given up only where a test wants that.
PATIENT = {"settle_max_s": 100}


def case(number: int) -> pytest.MarkDecorator:
    return pytest.mark.case(number, NAMES[number])


@contextmanager
def running(watched: Watched, **setup: Any) -> Iterator[Daemon]:
    """A daemon that is stopped at the end, as it should be: by TERM."""
    daemon = watched.start(**setup)
    try:
        yield daemon
        assert daemon.stop() == 128 + signal.SIGTERM
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


class Passing:
    """Drops healthy pictures: when one is done, files that were there before it have been looked at."""

    def __init__(self, watched: Watched, daemon: Daemon) -> None:
        self.watched = watched
        self.daemon = daemon
        self.names: list[str] = []

    def __call__(self) -> None:
        stem = f"well{len(self.names)}"
        self.watched.drop(f"{stem}.png")
        self.daemon.until("done", name=f"{stem}--s")
        self.names.append(f"{stem}--s.png")


class Writer:
    """Writes a file in the inbox piece by piece and keeps it open. Its bytes count once it is closed."""

    def __init__(self, watched: Watched, name: str) -> None:
        self.watched = watched
        self.path = watched.inbox / name
        self.file = self.path.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        self.file.write(data)

    def close(self) -> None:
        self.file.close()
        self.watched.inputs[self.path.read_bytes()] += 1


def thirds(data: bytes) -> list[bytes]:
    part = len(data) // 3
    return [data[:part], data[part : 2 * part], data[2 * part :]]


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def outputs(watched: Watched) -> list[str]:
    return [path.relative_to(watched.outbox).as_posix() for path in watched.images()]


def archived(watched: Watched) -> list[bytes]:
    """The names in the archive."""
    return sorted(os.fsencode(path.name) for path in watched.archive.rglob("*") if path.is_file())


def of_kind(daemon: Daemon, kind: str, key: str = "path") -> list[Any]:
    return [event.get(key) for event in daemon.events if event["event"] == kind]


# 5, 6: slow writers


@case(5)
@IN_ALL_MODES
def test_a_file_that_is_open_for_writing_is_never_taken(tmp_path: Path, mode: str) -> None:
    """Not even when its bytes so far are a whole picture, and not after settle_max_s."""
    watched = Watched(tmp_path, mode, settle_max_s=0.1)
    with running(watched) as daemon:
        passing, writer = Passing(watched, daemon), Writer(watched, "slow.png")
        for piece in (*thirds(picture_bytes("slow")), b"and more"):
            writer.write(piece)
            passing()
            passing()
            assert writer.path.exists()
        writer.close()
        daemon.until("done", name="slow--s")
    watched.assert_done(["slow--s.png", *passing.names])


@pytest.mark.faults
@case(5)
@IN_ALL_MODES
def test_a_writer_that_closes_and_opens_again(tmp_path: Path, mode: str) -> None:
    """As some cameras and file servers write: no descriptor is held in the pauses."""
    watched = Watched(tmp_path, mode, **PATIENT)
    first, *rest = thirds(picture_bytes("slow"))
    path = watched.inbox / "slow.png"
    path.write_bytes(first)
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        for piece in rest:
            passing()
            with path.open("ab") as file:
                file.write(piece)
        watched.inputs[path.read_bytes()] += 1
        daemon.until("done", name="slow--s")
    watched.assert_done(["slow--s.png", *passing.names])


@case(5)
@IN_ALL_MODES
def test_a_file_that_is_opened_again_after_it_settled(tmp_path: Path, mode: str) -> None:
    """It is found open at the moment it is taken, and goes back to its place."""
    watched = Watched(tmp_path, mode, routes={"new": {"styles": ["later"]}})
    path = watched.drop("new/a.png")
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        daemon.until("waits", path="new/a.png")
        with path.open("ab") as file:
            style(watched, "later.png")
            passing()
            passing()
            assert of_kind(daemon, "started", "name") == [
                f"well{n}--{s}" for n in range(2) for s in ("later", "s")
            ]
            watched.inputs[path.read_bytes()] -= 1
            file.write(b"and more")
        watched.inputs[path.read_bytes()] += 1
        daemon.until("done", name="a--later")
    watched.inputs = +watched.inputs
    watched.assert_promises()
    assert "new/a--later.png" in outputs(watched)


@case(6)
@IN_ALL_MODES
def test_full_size_first_and_content_later(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, **PATIENT)
    names = ["truncated.png", "allocated.png"]
    data = {name: picture_bytes(name) for name in names}
    for name in names:
        (watched.inbox / name).touch()
    os.truncate(watched.inbox / names[0], len(data[names[0]]))
    with (watched.inbox / names[1]).open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, len(data[names[1]]))
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        daemon.until("waits", path="allocated.png")
        daemon.until("waits", path="truncated.png")
        for name in names:
            pieces = thirds(data[name])
            with (watched.inbox / name).open("r+b", buffering=0) as file:
                for piece in pieces[:2]:
                    file.write(piece)
                    passing()
            with (watched.inbox / name).open("r+b", buffering=0) as file:
                file.seek(len(data[name]) - len(pieces[2]))
                file.write(pieces[2])
            watched.inputs[data[name]] += 1
            daemon.until("done", name=f"{Path(name).stem}--s")
    watched.assert_done(["truncated--s.png", "allocated--s.png", *passing.names])


# 7, 8: not a whole picture yet


@case(7)
@IN_ALL_MODES
def test_a_truncated_picture_is_completed_later(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, **PATIENT)
    data = picture_bytes("cut", "jpeg", (60, 40))
    path = watched.inbox / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        daemon.until("waits", path="cut.jpg")
        passing()
        path.write_bytes(data)
        watched.inputs[data] += 1
        daemon.until("done", name="cut--s")
    watched.assert_done(["cut--s.png", *passing.names])
    assert of_kind(daemon, "waits") == ["cut.jpg"], "said more than once"


@case(7)
@IN_ALL_MODES
def test_a_picture_that_stays_truncated_is_quarantine(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, settle_max_s=0.2)
    data = picture_bytes("cut", "jpeg", (60, 40))[:-200]
    watched.drop("album/cut.jpg", data)
    with running(watched) as daemon:
        event = daemon.until("quarantined", path="album/cut.jpg")
        Passing(watched, daemon)()
    assert str(watched.inbox / "album" / "cut.jpg") in event["error"]
    assert event["next_step"]
    watched.assert_promises()
    assert outputs(watched) == ["inbox/well0--s.png"]
    report = json.loads((watched.quarantine / event["id"] / "error.json").read_bytes())
    assert report["error"] == event["error"]
    assert (watched.quarantine / event["id"] / "cut.jpg").read_bytes() == data


@pytest.mark.faults
@case(7)
def test_cron_gives_a_truncated_picture_its_time_over_several_runs(tmp_path: Path) -> None:
    watched = Watched(tmp_path, **PATIENT)
    watched.drop("cut.jpg", picture_bytes("cut", "jpeg", (60, 40))[:-200])
    assert watched.once().process.returncode == 0
    assert (watched.inbox / "cut.jpg").exists()
    watched.watch["settle_max_s"] = 0.001
    watched.configure()
    run = watched.once()
    assert run.process.returncode == 1
    assert of_kind(run, "quarantined") == ["cut.jpg"]
    watched.assert_promises()


@case(8)
@IN_ALL_MODES
def test_zero_bytes_that_are_filled_later(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, **PATIENT)
    path = watched.inbox / "empty.png"
    path.touch()
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        daemon.until("waits", path="empty.png")
        passing()
        path.write_bytes(picture_bytes("full"))
        watched.inputs[picture_bytes("full")] += 1
        daemon.until("done", name="empty--s")
    watched.assert_done(["empty--s.png", *passing.names])


# 9: ways in


@case(9)
@IN_ALL_MODES
def test_a_temporary_name_becomes_the_final_one(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        names = ["x.png.part", "y.crdownload", "z.tmp", "~w.png", ".v.png"]
        paths = [watched.drop(name) for name in names]
        passing()
        assert all(path.exists() for path in paths)
        finals = ["x.png", "y.png", "z.png", "w.png", "v.png"]
        for path, final in zip(paths, finals, strict=True):
            path.rename(path.with_name(final))
            daemon.until("done", name=f"{final[0]}--s")
    watched.assert_done([*(f"{final[0]}--s.png" for final in finals), *passing.names])
    assert sorted(of_kind(daemon, "ignored")) == sorted(names)


@case(9)
@IN_ALL_MODES
def test_a_hard_link_is_taken_and_the_other_link_stays(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    data = picture_bytes("linked")
    other = tmp_path / "mine.png"
    other.write_bytes(data)
    with running(watched) as daemon:
        os.link(other, watched.inbox / "linked.png")
        watched.inputs[data] += 1
        daemon.until("done", name="linked--s")
        passing = Passing(watched, daemon)
        passing()
    watched.assert_done(["linked--s.png", *passing.names])
    assert other.read_bytes() == data


@case(9)
@IN_ALL_MODES
def test_a_folder_is_moved_in_and_filled_further(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    tree = tmp_path / "album"
    for name in ("a.png", "deep/er/b.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(picture_bytes(name))
        watched.inputs[picture_bytes(name)] += 1
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        passing()
        tree.rename(watched.inbox / "album")
        daemon.until("done", name="album/a--s")
        daemon.until("done", name="album/deep/er/b--s")
        watched.drop("album/deep/er/c.png")
        watched.drop("album/new/d.png")
        daemon.until("done", name="album/deep/er/c--s")
        daemon.until("done", name="album/new/d--s")
    made = ["a", "deep/er/b", "deep/er/c", "new/d"]
    watched.assert_done([*(f"album/{name}--s.png" for name in made), *passing.names])
    assert (watched.archive / "album" / "deep" / "er" / "b.png").exists()


# 10: times, and files that are replaced


@case(10)
@IN_ALL_MODES
def test_times_in_the_past_and_the_future(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    times = {"before": -1e9, "epoch": 0, "long": 1e9, "future": 4e9}
    for name, at in times.items():
        path = watched.drop(f"{name}.png")
        os.utime(path, (at, at))
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        passing()
        path = watched.drop("late.png")
        os.utime(path, (time.time() + 86400,) * 2)
        daemon.until("done", name="late--s")
    watched.assert_done([*(f"{name}--s.png" for name in times), "late--s.png", *passing.names])


@case(10)
@IN_ALL_MODES
def test_overwritten_while_it_settles(tmp_path: Path, mode: str) -> None:
    """Only the last content is taken, whether the file was replaced or written again."""
    watched = Watched(tmp_path, mode)
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        for name in ("replaced", "rewritten"):
            writer = Writer(watched, f"{name}.png")  # open, so that it cannot settle
            writer.write(picture_bytes("old"))
            passing()
            if name == "replaced":
                watched.drop("replaced.png")
                writer.file.close()
            else:
                os.truncate(writer.path, 0)
                os.pwrite(writer.file.fileno(), picture_bytes("new"), 0)
                writer.close()
            daemon.until("done", name=f"{name}--s")
    watched.assert_done(["replaced--s.png", "rewritten--s.png", *passing.names])


@case(10)
@IN_ALL_MODES
def test_a_new_file_of_the_same_name_while_the_job_runs(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    daemon = watched.start(worker=True, faults={"a": "wait"})
    first, second = picture_bytes("first"), picture_bytes("second")
    watched.drop("a.png", first)
    daemon.until("started", name="a--s")
    watched.drop("a.png", second)
    watched.drop("well.png")
    daemon.until("settled", path="a.png")
    assert (watched.inbox / "a.png").read_bytes() == second
    daemon.stop()
    watched.assert_promises()
    assert watched.once().process.returncode == 0
    watched.assert_promises()
    made = {record["content"]["sha256"]: record["image"] for record in watched.records()}
    assert made[hashlib.sha256(first).hexdigest()] == "a--s.png"
    assert made[hashlib.sha256(second).hexdigest()].startswith("a--s-")
    assert outputs(watched) == sorted(f"inbox/{image}" for image in made.values())
    assert len(made) == 3


# 11, 12


@case(11)
@IN_ALL_MODES
def test_present_at_start_and_being_copied(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    watched.drop("whole.png")
    writer = Writer(watched, "copied.png")
    begin, *rest = thirds(picture_bytes("copied"))
    writer.write(begin)
    with running(watched) as daemon:
        daemon.until("done", name="whole--s")
        passing = Passing(watched, daemon)
        for piece in rest:
            writer.write(piece)
            passing()
            assert writer.path.exists()
        writer.close()
        daemon.until("done", name="copied--s")
    watched.assert_done(["whole--s.png", "copied--s.png", *passing.names])


@pytest.mark.faults
@case(11)
def test_cron_leaves_what_is_being_copied_for_its_next_run(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.drop("whole.png")
    writer = Writer(watched, "copied.png")
    writer.write(picture_bytes("copied"))
    run = watched.once()
    assert run.process.returncode == 0
    assert of_kind(run, "done", "name") == ["whole--s"]
    writer.close()
    watched.assert_promises()
    run = watched.once()
    assert of_kind(run, "done", "name") == ["copied--s"]
    watched.assert_done(["whole--s.png", "copied--s.png"])


@case(12)
@IN_ALL_MODES
def test_the_same_name_and_the_same_bytes_twice(tmp_path: Path, mode: str) -> None:
    """Every drop has its result, and no result is ever replaced."""
    watched = Watched(tmp_path, mode)
    same = picture_bytes("same")
    watched.drop("a.png", same)
    watched.drop("b.png", same)
    watched.drop("a.jpg", picture_bytes("other", "jpeg"))
    watched.drop("A.png")
    with running(watched) as daemon:
        Passing(watched, daemon)()
        before = held(watched)
        watched.drop("a.png", picture_bytes("third"))
        daemon.until("done")
        watched.drop("a.png", same)
        daemon.until("skipped")
    watched.assert_promises()
    assert len(before) == 5
    assert len(held(watched)) == 6
    assert before.items() <= held(watched).items()
    digests = Counter(record["content"]["sha256"] for record in watched.records())
    assert digests == {hashlib.sha256(data).hexdigest(): 2 if data == same else 1 for data in watched.inputs}
    assert len(archived(watched)) == watched.inputs.total()


def held(watched: Watched) -> dict[Path, tuple[int, bytes]]:
    """Every result with its inode and its bytes."""
    return {path: (path.stat().st_ino, path.read_bytes()) for path in watched.images()}


# 13, 14, 15: odd things


ODD = [
    b"\xff\xfe latin \xe9.png",
    b"x" * 251 + b".png",
    b"a." + b"y" * 253,
    b"new\nline\r.png",
    b"-rf.png",
    b"--help.png",
    "e\u0301.png".encode(),
    "\u00e9.png".encode(),
    b" spaces and 'quotes\" .png",
    b"{content} %s $HOME.png",
    b"\x1b[31mred.png",
    b"\\back\\slash.png",
    "\u202e right to left \U0001f3a8.PNG".encode(),
    b"od\ndd \xff/-x/in.png",
    b"logs/a.png",
    b"con.png",
]


@case(13)
@IN_ALL_MODES
def test_unusual_names(tmp_path: Path, mode: str) -> None:
    """Twice each, with other bytes: originals keep their names, all results are there, each line is one."""
    watched = Watched(tmp_path, mode)
    for name in ODD:
        watched.drop(name)
    run = watched.once()
    assert run.process.returncode == 0, run.texts
    watched.assert_promises()
    assert archived(watched) == sorted(os.path.basename(name) for name in ODD)
    for name in ODD:
        watched.drop(name, picture_bytes(f"again {name!r}"))
    run = watched.once()
    assert run.process.returncode == 0, run.texts
    watched.assert_promises()
    assert len(of_kind(run, "done")) == len(ODD)
    assert len(watched.images()) == 2 * len(ODD)
    assert len({record["image"].casefold() for record in watched.records()}) == 2 * len(ODD)
    assert all(path.is_relative_to(watched.archive) for path in watched.originals())
    assert all(text.isprintable() for kind in ("settled", "done") for text in of_kind(run, kind, "text"))


@case(13)
def test_a_name_that_cannot_be_used_is_quarantined_or_stays_and_the_others_go_on(tmp_path: Path) -> None:
    """A file where a folder of the outbox should be, and a path with no room for that of a claimed file."""
    watched = Watched(tmp_path)
    watched.drop("a.png")
    assert watched.once().process.returncode == 0
    (watched.outbox / "inbox/sub").write_bytes(b"in the way")
    watched.drop("sub/b.png")
    watched.drop("c.png")
    room = 4_080 - len(os.fsencode(watched.inbox)) - len("/x.png")
    long = "/".join(["d" * 200] * (room // 201) + ["e" * (room % 201 - 1)])
    watched.drop(f"{long}/x.png")
    stray = watched.outbox / "inbox/.staged/.DS_Store"
    stray.write_bytes(b"theirs")
    run = watched.once()
    assert run.process.returncode == 1, run.texts[-5:]
    assert of_kind(run, "paused") == []
    (aside,) = of_kind(run, "quarantined", "error")
    assert str(watched.outbox / "inbox/sub") in aside
    assert "cannot be written (Not a directory)" in aside
    (refused,) = of_kind(run, "refused", "text")
    assert "cannot be taken (File name too long)" in refused
    assert str(stray) in " ".join(of_kind(run, "ignored", "text"))
    assert [path.name for path in watched.images()] == ["a--s.png", "c--s.png"]
    watched.assert_promises()
    assert stray.read_bytes() == b"theirs"


@pytest.mark.faults
@case(13)
def test_unusual_names_are_quarantined_and_tried_again(tmp_path: Path) -> None:
    watched = Watched(tmp_path, settle_max_s=0.001)
    for name in ODD:
        watched.drop(name, b"no picture, " + name)
    run = watched.once()
    if run.process.returncode == 0:  # too young at the first look
        run = watched.once()
    assert run.process.returncode == 1, run.texts
    watched.assert_promises()
    quarantine = Quarantine(watched.inbox, watched.quarantine, Disk())
    aside = quarantine.files()
    assert sorted(os.fsencode(one.file.name) for one in aside) == sorted(os.path.basename(n) for n in ODD)
    for one in aside:
        quarantine.retry(one)
    found = {os.fsencode(path.relative_to(watched.inbox)): path.read_bytes() for path in watched.originals()}
    assert found == {name: b"no picture, " + name for name in ODD}


@case(13)
def test_a_style_is_found_however_its_accents_are_spelt(tmp_path: Path) -> None:
    """Systems compose them or not; a file from one, a folder from another, and the configuration by hand."""
    watched = Watched(tmp_path, styles=["caf\u00e9"], routes={"no\u00ebl": {"styles": ["cafe\u0301"]}})
    (watched.inbox / "styles" / "cafe\u0301.png").write_bytes(picture_bytes("cafe"))
    watched.drop("a.png")
    watched.drop("caf\u00e9/b.png")
    watched.drop("cafe\u0301/c.png")
    watched.drop("noe\u0308l/d.png")
    run = watched.once()
    watched.assert_promises()
    assert outputs(watched) == [
        "inbox/a--caf\u00e9.png", "inbox/caf\u00e9/b--caf\u00e9.png", "inbox/caf\u00e9/c--caf\u00e9.png",
        "no\u00ebl/d--caf\u00e9.png",
    ], run.texts  # fmt: skip


@case(14)
@IN_ALL_MODES
def test_what_is_no_file_is_left_alone_and_said_once(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, mode)
    inbox, target = watched.inbox, tmp_path / "target.png"
    target.write_bytes(picture_bytes("target"))
    (inbox / "link.png").symlink_to(target)
    (inbox / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (inbox / "round.png").symlink_to(inbox)
    (inbox / "styles" / "link.png").symlink_to(target)
    os.mkfifo(inbox / "fifo.png")
    os.mkfifo(inbox / "styles" / "fifo.png")
    monkeypatch.chdir(inbox)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
    (inbox / "folder.png").mkdir()
    watched.drop("folder.png/in.png")
    left = sorted(path for path in inbox.rglob("*") if path.name != "in.png")
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        passing()
        passing()
    odd = [
        "dangling.png",
        "fifo.png",
        "link.png",
        "round.png",
        "socket.png",
        "styles/fifo.png",
        "styles/link.png",
    ]
    assert sorted(of_kind(daemon, "ignored")) == odd
    assert outputs(watched) == ["inbox/folder_png/in--s.png", "inbox/well0--s.png", "inbox/well1--s.png"]
    watched.assert_promises()
    there = {path for path in inbox.rglob("*") if ".style-pipeline" not in path.parts}
    assert sorted(there - {inbox / ".style-pipeline"}) == left
    assert target.read_bytes() == picture_bytes("target")


@case(15)
@IN_ALL_MODES
def test_bombs_and_unknown_formats_are_quarantine(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, settle_max_s=0.2)
    watched.drop("bomb.png", bomb())
    watched.drop("notes.txt", b"to do: pictures")
    watched.drop("noise.png", os.urandom(5000))
    with running(watched, worker=True) as daemon:
        passing = Passing(watched, daemon)
        for _ in range(3):
            daemon.until("quarantined")
        passing()
    watched.assert_promises()
    assert sorted(of_kind(daemon, "quarantined")) == ["bomb.png", "noise.png", "notes.txt"]
    assert outputs(watched) == ["inbox/well0--s.png"]


@case(15)
@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("bomb.png", bomb(), "pixels"),
        ("notes.txt", b"to do: pictures", "not a picture"),
        ("empty.png", b"", "empty"),
        ("cut.jpg", picture_bytes("cut", "jpeg", (60, 40))[:-200], "cut short"),
        ("allocated.png", bytes(5000), "not a picture"),
    ],
    ids=["bomb", "unknown", "empty", "cut", "allocated"],
)
def test_the_real_decoder_says_what_is_wrong(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError, match=says) as caught:
        InProcessExecutor(Config()).check(path)
    assert str(path) in caught.value.message
    assert caught.value.next_step


@pytest.mark.faults
@case(15)
@IN_ALL_MODES
def test_a_decoder_that_hangs_costs_one_picture(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, job_timeout_s=1.5)
    watched.drop("bad.png")
    watched.drop("well.png")
    with running(watched, worker=True, faults={"bad": "check_hang"}) as daemon:
        event = daemon.until("quarantined", path="bad.png")
        daemon.until("done", name="well--s")
    assert "3 times" in event["error"]
    watched.assert_promises()
    assert outputs(watched) == ["inbox/well--s.png"]


# 19: events are hints


@case(19)
@pytest.mark.parametrize("mode", ["native", pytest.param("polling", marks=pytest.mark.faults)])
def test_no_watch_can_be_had(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode)
    with running(watched, break_events="limit") as daemon:
        note = daemon.until("events")["text"]
        passing = Passing(watched, daemon)
        passing()
        watched.drop("new/a.png")
        daemon.until("done", name="new/a--s")
    assert "max_user_watches" in note
    assert len(of_kind(daemon, "events")) == 1
    watched.assert_done(["new/a--s.png", *passing.names])


@case(19)
@pytest.mark.parametrize(
    ("mode", "which"),
    [
        ("native", "emitter"),
        pytest.param("polling", "emitter", marks=pytest.mark.faults),
    ],
)
def test_threads_that_watch_are_replaced(tmp_path: Path, mode: str, which: str) -> None:
    watched = Watched(tmp_path, mode)
    with running(watched, break_events=which) as daemon:
        passing = Passing(watched, daemon)
        for number in range(2):
            passing()
            daemon.signal(signal.SIGUSR1)
            assert "watched again" in daemon.until("events")["text"]
            watched.drop(f"new{number}/a.png")
            daemon.until("done", name=f"new{number}/a--s")
    watched.assert_done(["new0/a--s.png", "new1/a--s.png", *passing.names])


@case(19)
@pytest.mark.faults
def test_pictures_are_taken_when_no_event_is_read_any_more(tmp_path: Path) -> None:
    """A thread of watchdog's that reads for its emitters may end unseen: then the clock alone is left."""
    watched = Watched(tmp_path, rescan_s=0.5)
    with running(watched, break_events="reader") as daemon:
        passing = Passing(watched, daemon)
        passing()
        daemon.signal(signal.SIGUSR1)
        for _ in range(3):
            passing()
    watched.assert_done(passing.names)


@case(19)
@pytest.mark.parametrize("rescan_s", [0.1, pytest.param(2, marks=pytest.mark.faults)])
def test_an_overflow_of_the_kernels_queue(tmp_path: Path, rescan_s: float) -> None:
    """The daemon stands still while more happens than the kernel keeps; then everything is found."""
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    if not limit.exists():
        pytest.skip("only Linux has this queue")
    watched = Watched(tmp_path, "native", rescan_s=rescan_s)
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        passing()
        daemon.signal(signal.SIGSTOP)
        noise = [(watched.inbox / f"{name}.part").open("wb", buffering=0) for name in "xy"]
        for _ in range(int(limit.read_text()) // 2 + 1000):
            for file in noise:  # by turns: the kernel makes one of two equal events in a row
                file.write(b".")
        for file in noise:
            file.close()
            Path(file.name).unlink()
        names = ["late.png", "new/folder/a.png", "new/b.png"]
        for name in names:
            watched.drop(name)
        daemon.signal(signal.SIGCONT)
        for name in sorted(names):
            daemon.until("done", name=name.replace(".png", "--s"))
        watched.drop("new/folder/later.png")
        daemon.until("done", name="new/folder/later--s")
    made = [name.replace(".png", "--s.png") for name in (*names, "new/folder/later.png")]
    watched.assert_done([*made, *passing.names])


# 20: folders in one another

PLACES = ["outbox", "state_dir", "cache_dir", "archive", "quarantine"]


def nested_config(folder: Path, key: str, place: str) -> Path:
    """A configuration with one folder at `place`, the others where they belong."""
    config: dict[str, Any] = {
        "outbox": "outbox", "state_dir": "state", "cache_dir": "cache", "recipe": {"encoder": "vgg19-slim"},
        "watch": {"inbox": "inbox", "notify": "off"},
    }  # fmt: skip
    (config["watch"] if key in {"archive", "quarantine", "inbox"} else config)[key] = place
    (folder / "inbox").mkdir()
    (folder / "inbox" / "a.png").write_bytes(picture_bytes("a"))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@case(20)
@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("how", ["inside", "the same", "through a link", "inbox inside", "a link to above"])
def test_folders_in_one_another_are_refused(
    tmp_path: Path, key: str, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"inside": "inbox/deep/er", "the same": "inbox", "inbox inside": "."}.get(how, "way")
    config = nested_config(tmp_path, key, place)
    if how == "through a link":
        (tmp_path / "way").symlink_to(tmp_path / "inbox")
    if how == "a link to above":
        (tmp_path / "way").symlink_to(tmp_path)
    before = tree(tmp_path)
    monkeypatch.setattr(sys, "argv", ["style-pipeline", "watch", "--once", "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "inbox") in error
    assert key.removesuffix("_dir") in error
    assert tree(tmp_path) == before, "something was made"


@case(20)
def test_the_command_itself_refuses_them(tmp_path: Path) -> None:
    """An inbox that is a link into the outbox, as a process."""
    config = nested_config(tmp_path, "inbox", "way")
    (tmp_path / "outbox" / "in").mkdir(parents=True)
    (tmp_path / "way").symlink_to(tmp_path / "outbox" / "in")
    before = tree(tmp_path)
    command = [sys.executable, "-m", "pipeline", "watch", "--once", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "outbox" in done.stderr
    assert tree(tmp_path) == before


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
def test_a_job_stopped_at_the_deadline_goes_on_next_time(tmp_path: Path, mode: str) -> None:
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


# 23: manifests


@case(23)
def test_a_run_does_only_what_changed_in_its_manifest(workshop: Workshop) -> None:
    workshop.run()
    first = workshop.pictures()
    manifest = yaml.safe_load(workshop.manifest.read_text())
    manifest["pairs"] = [{"content": "photos/a.png", "style": "styles/s.png", "recipe": {"steps": 6}}]
    workshop.manifest.write_text(yaml.safe_dump(manifest))
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == ["a"]
    assert ran.summary.skipped == 4
    assert first.items() <= workshop.pictures().items()
    assert len(workshop.pictures()) == 5
    manifest["styles"] = ["styles/t.png"]
    workshop.manifest.write_text(yaml.safe_dump(manifest))
    assert set(workshop.run().observer.statuses.values()) == {"skipped"}


def drop_manifest(watched: Watched, name: str, **manifest: Any) -> None:
    watched.drop(name, yaml.safe_dump(manifest).encode())


def make_photos(folder: Path, names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / f"{name}.png").write_bytes(picture_bytes(name))


@case(23)
@IN_ALL_MODES
def test_a_manifest_is_dropped_again_after_an_edit(tmp_path: Path, mode: str) -> None:
    """Relative paths start where it was dropped, and styles of the inbox may be used."""
    watched = Watched(tmp_path, mode)
    make_photos(tmp_path / "photos", "ab")
    with running(watched) as daemon:
        passing = Passing(watched, daemon)
        drop_manifest(watched, "sub/night.yaml", contents=["../../photos/a.png"], styles=["../styles/s.png"])
        daemon.until("done", name="a--s")
        drop_manifest(watched, "sub/night.yaml", contents=["../../photos/*.png"], styles=["../styles/s.png"])
        daemon.until("skipped", name="a--s")
        daemon.until("done", name="b--s")
        passing()
    watched.assert_promises()
    assert outputs(watched) == ["inbox/well0--s.png", "night/a--s.png", "night/b--s.png"]
    names = archived(watched)
    assert len([name for name in names if name.startswith(b"night")]) == 2
    assert (tmp_path / "photos" / "a.png").exists()


@case(23)
@IN_ALL_MODES
def test_manifests_that_cannot_be_done_are_quarantine(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, styles=["later"])
    make_photos(tmp_path / "photos", "a")
    watched.drop("pic.png")  # stays in the inbox: its style is not there
    good = "../photos/a.png"
    drop_manifest(watched, "content.yaml", contents=["pic.png"], styles=["styles/s.png"])
    drop_manifest(watched, "style.yaml", contents=[good], styles=["pic.png"])
    drop_manifest(watched, "way.yml", contents=[good], styles=["styles/../pic.png"])
    drop_manifest(watched, "init.yaml", contents=[good], styles=["styles/s.png"], recipe={"init": "pic.png"})
    drop_manifest(watched, "missing.yaml", contents=["nowhere.png"], styles=["styles/s.png"])
    watched.drop("broken.yaml", b"contents: [")
    watched.drop("empty.yaml", b"")
    drop_manifest(watched, "well.yaml", contents=[good], styles=["styles/s.png"])
    with running(watched) as daemon:
        for _ in range(7):
            daemon.until("quarantined")
        daemon.until("done", name="a--s")
    errors = {event["path"]: event["error"] for event in daemon.events if event["event"] == "quarantined"}
    for name in ("content.yaml", "style.yaml", "way.yml", "init.yaml"):
        assert f"{watched.inbox / 'pic.png'} lies in the inbox" in errors[name]
    assert "nowhere.png" in errors["missing.yaml"]
    assert all(str(watched.inbox / name) in error for name, error in errors.items())
    watched.assert_promises()
    assert outputs(watched) == ["well/a--s.png"]


# 25: many


@case(15)
def test_a_manifest_that_ends_its_reader_is_quarantine(tmp_path: Path) -> None:
    """It is read in the worker, at most so often, and the pictures beside it are made."""
    watched = Watched(tmp_path)
    watched.drop("kill.yaml", b"contents: [x.png]\n")
    watched.drop("a.png")
    run = watched.once(worker=True, faults={"kill": "check_kill"})
    assert run.process.returncode == 1
    assert len(of_kind(run, "worker")) == 3
    (text,) = [event["text"] for event in run.events if event["event"] == "quarantined"]
    assert "kill.yaml: reading it ended the worker 3 times" in text
    assert outputs(watched) == ["inbox/a--s.png"]
    watched.assert_promises()
    assert watched.attempts() == []


@case(23)
def test_a_manifest_with_a_mistake_is_told_of_before_earlier_pictures_are_made(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for name in ("a.png", "b.png"):
        watched.drop(name)
    watched.drop("bad.yaml", b"contnets: [a.png]\n")
    run = watched.once()
    assert run.kinds.index("quarantined") < run.kinds.index("started")


def resources(pid: int) -> tuple[int, int, int]:
    """Memory in kB, open descriptors and threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"])


def soak(watched: Watched, count: int, ahead: int, record_property: Any) -> None:
    """Drop files, `ahead` at a time; the last tenth takes no more of anything than the second."""
    begun = time.monotonic()
    samples = []
    with running(watched, no_sync=True) as daemon:
        for first in range(0, count, ahead):
            for number in range(first, first + ahead):
                watched.drop(f"{number % 7}/p{number}.png", picture_bytes("same") + str(number).encode())
            for _ in range(ahead):
                daemon.until("done")
            samples.append(resources(daemon.process.pid))
    record_property("seconds", round(time.monotonic() - begun, 1))
    record_property("kB, descriptors, threads", f"{samples[0]} ... {samples[-1]}")
    watched.assert_promises()
    assert len(watched.images()) == count
    assert len(archived(watched)) == count
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth], samples[-tenth:]
    assert max(threads for _, _, threads in late) <= max(threads for _, _, threads in early)
    assert max(files for _, files, _ in late) <= max(files for _, files, _ in early) + 1
    assert max(memory for memory, _, _ in late) <= 1.1 * max(memory for memory, _, _ in early)


@case(25)
@IN_ALL_MODES
def test_a_soak_of_a_few(tmp_path: Path, mode: str, record_property: Any) -> None:
    soak(Watched(tmp_path, mode), 150, 10, record_property)


@case(25)
@pytest.mark.faults
def test_a_soak(tmp_path: Path, record_property: Any) -> None:
    soak(Watched(tmp_path), 10_000, 100, record_property)


# Which styles, which recipe, where to


def style(watched: Watched, name: str, text: str = "") -> None:
    outside = watched.folder / "outside style"
    outside.write_bytes(picture_bytes(text or name))
    outside.rename(watched.inbox / "styles" / name)


def record_of(watched: Watched, name: str) -> dict[str, Any]:
    """The record of `BATCH/NAME`."""
    batch, _, rest = name.partition("/")
    return dict(json.loads((watched.outbox / batch / "logs" / f"{rest}.json").read_bytes()))


def test_folders_mean_styles_routes_or_themselves(tmp_path: Path) -> None:
    routes = {
        "posters": {"styles": ["t"], "recipe": {"steps": 6}, "batch": "large"},
        "plain": {"recipe": {"preset": "draft", "size": 16, "pyramid": 0, "steps": 2}},
        "mixed": {"styles": ["s", {"name": "mix", "blend": {"s": 0.75, "t": 0.25}}]},
    }
    watched = Watched(tmp_path, routes=routes)
    style(watched, "t.jpg")
    drops = [
        "a.png", "t/b.png", "t/deep/c.png", "album/d.png", "posters/e.png", "posters/deep/f.png",
        "plain/g.png", "mixed/h.png",
    ]  # fmt: skip
    for name in drops:
        watched.drop(name)
    assert watched.once().process.returncode == 0
    watched.assert_promises()
    assert outputs(watched) == [
        "inbox/a--s.png", "inbox/a--t.png", "inbox/album/d--s.png", "inbox/album/d--t.png",
        "inbox/t/b--t.png", "inbox/t/deep/c--t.png", "large/deep/f--t.png", "large/e--t.png",
        "mixed/h--mix.png", "mixed/h--s.png", "plain/g--s.png", "plain/g--t.png",
    ]  # fmt: skip
    assert sorted(str(path.relative_to(watched.archive)) for path in watched.originals()) == sorted(drops)
    assert record_of(watched, "large/e--t")["recipe"]["steps"] == [6]
    assert record_of(watched, "plain/g--s")["recipe"]["preset"] == "draft"
    assert record_of(watched, "inbox/a--s")["recipe"]["steps"] == [QUICK["steps"]]
    blend = record_of(watched, "mixed/h--mix")["style"]["images"]
    assert [(Path(image["path"]).name, image["share"]) for image in blend] == [
        ("s.png", 0.75),
        ("t.jpg", 0.25),
    ]


def test_a_changed_style_counts_for_later_drops(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    data = picture_bytes("a")
    watched.drop("a.png", data)
    with running(watched) as daemon:
        daemon.until("done", name="a--s")
        before = held(watched)
        style(watched, "s.png", "changed")
        watched.drop("a.png", data)
        daemon.until("done")
        watched.drop("a.png", data)
        daemon.until("skipped")
    watched.assert_promises()
    assert before.items() <= held(watched).items()
    digests = {record["key"]: record["style"]["images"][0]["sha256"] for record in watched.records()}
    wanted = [hashlib.sha256(picture_bytes(text)).hexdigest() for text in ("the style", "changed")]
    assert sorted(digests.values()) == sorted(wanted)


@IN_ALL_MODES
def test_a_picture_waits_for_its_style(tmp_path: Path, mode: str) -> None:
    watched = Watched(tmp_path, mode, routes={"new": {"styles": ["s", "later"]}})
    watched.drop("new/a.png")
    with running(watched) as daemon:
        assert "'later'" in daemon.until("waits", path="new/a.png")["text"]
        passing = Passing(watched, daemon)
        passing()
        passing()
        assert (watched.inbox / "new" / "a.png").exists()
        style(watched, "later.png")
        daemon.until("done", name="a--s")
        daemon.until("done", name="a--later")
    watched.assert_promises()
    assert of_kind(daemon, "waits") == ["new/a.png"]
    assert outputs(watched) == [
        "inbox/well0--s.png", "inbox/well1--s.png", "new/a--later.png", "new/a--s.png",
    ]  # fmt: skip


def test_a_claimed_picture_whose_style_went_away_waits(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.drop("a.png")
    daemon = watched.start(faults={"a": "kill"})
    daemon.wait()
    watched.assert_promises()
    (watched.inbox / "styles" / "s.png").unlink()
    with running(watched) as daemon:
        daemon.until("waits", path="a.png")
        watched.drop("b.png")
        daemon.until("waits", path="b.png")
        style(watched, "s.png")
        daemon.until("done", name="a--s")
        daemon.until("done", name="b--s")
    waits = of_kind(daemon, "waits", "text")
    assert len(set(waits)) == len(waits), "said more than once"
    watched.assert_done(["a--s.png", "b--s.png"])


@pytest.mark.parametrize("place", ["t/a.png", "a.png"])
def test_a_style_that_is_being_copied_is_waited_for(tmp_path: Path, place: str) -> None:
    """Else a picture in its folder would get all other styles, and one in the root all but this."""
    watched = Watched(tmp_path, routes={"well": {"styles": ["s"]}})
    path = watched.inbox / "styles" / "t.png"
    watched.drop(place)
    with path.open("wb", buffering=0) as file:
        file.write(picture_bytes("t")[:20])
        with running(watched) as daemon:
            daemon.until("waits", path=place)
            watched.drop("well/b.png")
            daemon.until("done", name="b--s")
            assert (watched.inbox / place).exists()
            file.write(picture_bytes("t")[20:])
            file.close()
            daemon.until("done", name=place.replace(".png", "--t"))
    watched.assert_promises()
    folder = Path("inbox") / Path(place).parent
    wanted = [str(folder / "a--s.png")] if place == "a.png" else []
    assert outputs(watched) == sorted([*wanted, str(folder / "a--t.png"), "well/b--s.png"])


def test_a_folder_of_a_style_that_went_away_waits_for_it(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    style(watched, "t.png")
    watched.drop("t/a.png")
    with running(watched) as daemon:
        daemon.until("done", name="t/a--t")
        (watched.inbox / "styles" / "t.png").unlink()
        watched.drop("b.png")
        daemon.until("done", name="b--s")
        watched.drop("t/c.png")
        assert "'t'" in daemon.until("waits", path="t/c.png")["text"]
        style(watched, "t.png", "anew")
        daemon.until("done", name="t/c--t")
    watched.assert_promises()
    assert outputs(watched) == ["inbox/b--s.png", "inbox/t/a--t.png", "inbox/t/c--t.png"]


def test_a_batch_that_another_process_works_on_holds_up_nothing_else(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    make_photos(tmp_path / "photos", "a")
    batch = BatchFolder(watched.outbox, "night")
    with running(watched, locked_s=0.01) as daemon:
        with batch.locked():
            drop_manifest(watched, "night.yaml", contents=["../photos/a.png"], styles=["styles/s.png"])
            assert "another process" in daemon.until("waits", path="night.yaml")["text"]
            watched.drop("b.png")
            daemon.until("done", name="b--s")
        daemon.until("done", name="a--s")
    watched.assert_promises()
    assert outputs(watched) == ["inbox/b--s.png", "night/a--s.png"]


# What becomes of originals


def test_what_is_no_picture_is_no_style(tmp_path: Path) -> None:
    """A stray file in the library is said, and spoils no picture; once it is a picture, it counts."""
    watched = Watched(tmp_path)
    stray = watched.inbox / "styles" / "readme.txt"
    stray.write_text("Styles go here.")
    watched.drop("a.png")
    daemon = watched.start()
    assert "not used as a style" in daemon.until("ignored", path="styles/readme.txt")["text"]
    daemon.until("done", name="a--s")
    (tmp_path / "whole").write_bytes(picture_bytes("another style"))
    (tmp_path / "whole").rename(stray)
    watched.drop("b.png")
    daemon.until("done", name="b--readme")
    daemon.until("done", name="b--s")
    daemon.stop()
    watched.assert_promises()


def test_a_folder_called_like_a_result_is_no_hindrance(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.drop("a.png")
    watched.once()
    watched.drop("a--s.png/b.png")
    assert watched.once().process.returncode == 0
    assert outputs(watched) == ["inbox/a--s.png", "inbox/a--s_png/b--s.png"]
    watched.assert_promises()


@IN_ALL_MODES
def test_originals_that_are_left(tmp_path: Path, mode: str) -> None:
    """A marker keeps them from being taken again, until they change; it goes when they go."""
    watched = Watched(tmp_path, mode, originals="leave")
    path = watched.drop("sub/a.png")
    marker = marker_path(path)
    with running(watched) as daemon:
        daemon.until("done", name="sub/a--s")
        wait_until(marker.exists, "the marker")
        wait_until(path.exists, "the original is back")
        watched.drop("b.png")
        daemon.until("done", name="b--s")
    watched.assert_promises()
    assert watched.once().process.returncode == 0
    assert len(watched.images()) == 2
    assert path.read_bytes() == picture_bytes("'sub/a.png'")
    with running(watched) as daemon:
        watched.inputs[path.read_bytes()] -= 1
        path.write_bytes(picture_bytes("changed"))
        watched.inputs[path.read_bytes()] += 1
        daemon.until("done")
        wait_until(lambda: path.exists() and marker.exists(), "the changed original is back")
        watched.inputs[path.read_bytes()] -= 1
        path.unlink()
        wait_until(lambda: not marker.exists(), "the marker is gone")
    watched.inputs = +watched.inputs
    watched.assert_nothing_partial()
    assert len(watched.images()) == 3
    left = {name for name in os.listdir(watched.inbox) if name != ".style-pipeline"}
    assert left == {"b.png", marker_path(Path("b.png")).name, "styles", "sub"}
    assert os.listdir(watched.inbox / "sub") == []
    assert archived(watched) == []


def test_originals_that_are_deleted(tmp_path: Path) -> None:
    watched = Watched(tmp_path, originals="delete")
    watched.drop("a.png")
    watched.drop("bad.png")
    run = watched.once(faults={"bad": "fail"})
    assert run.process.returncode == 1
    assert outputs(watched) == ["inbox/a--s.png"]
    assert [path.name for path in watched.originals()] == ["bad.png"], "only what is done is deleted"
    assert watched.quarantine in watched.originals()[0].parents


def test_names_that_are_ignored(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    files = [
        "Thumbs.db", "desktop.ini", ".DS_Store", "~lock.png", "a.part", "b.PNG.tmp", "c.crdownload",
        "__MACOSX/d.png", "@eaDir/e.png", ".hidden/f.png", "sub/.g.png",
    ]  # fmt: skip
    paths = [watched.drop(name) for name in files]
    with running(watched) as daemon:
        Passing(watched, daemon)()
    assert all(path.exists() for path in paths)
    said = [f"{name.split('/')[0]}" if name[0] in "_@." else name for name in files]
    assert sorted(of_kind(daemon, "ignored")) == sorted(said)
    assert outputs(watched) == ["inbox/well0--s.png"]


def test_a_picture_is_settled_and_then_started(tmp_path: Path) -> None:
    """In this order, with the settings of a local disk; no scan but those that events ask for."""
    watched = Watched(tmp_path, settle_s=0.2, rescan_s=1000)
    with running(watched) as daemon:
        daemon.until("device")
        watched.drop("a.png")
        daemon.until("settled", path="a.png")
        daemon.until("started", name="a--s")
        daemon.until("done", name="a--s")
    watched.assert_done(["a--s.png"])
