"""Drops with unusual names, drops that are no files, and files that no decoder likes."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import pytest
from fakes import picture_bytes
from faults import IN_ALL_MODES, Passing, archived, case, of_kind, outputs, running
from watching import Watched

from pipeline.errors import ImageError
from pipeline.execution.executors import InProcessExecutor
from pipeline.spec.config import Config
from pipeline.storage.files import Disk
from pipeline.watch.quarantine import Quarantine


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


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
def test_a_name_that_cannot_be_used_is_quarantined_or_stays_and_the_others_continue(tmp_path: Path) -> None:
    """A file where a folder of the outbox should be, and a path that is too long below the claimed folder."""
    watched = Watched(tmp_path)
    watched.drop("a.png")
    assert watched.once().process.returncode == 0
    (watched.outbox / "inbox/sub").write_bytes(b"in the way")
    watched.drop("sub/b.png")
    watched.drop("c.png")
    length = 4_080 - len(os.fsencode(watched.inbox)) - len("/x.png")
    long = "/".join(["d" * 200] * (length // 201) + ["e" * (length % 201 - 1)])
    watched.drop(f"{long}/x.png")
    stray = watched.outbox / "inbox/.staged/.DS_Store"
    stray.write_bytes(b"theirs")
    run = watched.once()
    assert run.process.returncode == 1, run.texts[-5:]
    assert of_kind(run, "paused") == []
    (quarantined,) = of_kind(run, "quarantined", "error")
    assert str(watched.outbox / "inbox/sub") in quarantined
    assert "cannot be written (Not a directory)" in quarantined
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
    quarantined = quarantine.files()
    assert sorted(os.fsencode(one.file.name) for one in quarantined) == sorted(
        os.path.basename(n) for n in ODD
    )
    for one in quarantined:
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
def test_what_is_no_file_is_left_alone_and_reported_once(
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
def test_bombs_and_unknown_formats_are_quarantined(tmp_path: Path, mode: str) -> None:
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
