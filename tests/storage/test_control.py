"""The requests to a daemon, as files: what is written, read again, refused and removed."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from watching import put

from pipeline.errors import DiskError, UsageError
from pipeline.storage.control import Control, Drop
from pipeline.storage.paths import HIDDEN, claimed_folder

ID = "20240229-120000-0000000a"
ODD_NAMES = [
    "a.png",
    "monet/a b.png",
    os.fsdecode(b"caf\xe9.png"),
    "a\nb.png",
    "-rf",
    "ü" * 127,
    "{0}",
    "cancel-x.json",
]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    (tmp_path / "inbox" / HIDDEN).mkdir(parents=True)
    return Control(tmp_path / "inbox")


def claimed(control: Control, path: str, id: str = ID) -> Path:
    return put(claimed_folder(control.inbox) / id / path)


def asked(control: Control) -> list[tuple[str, str, str]]:
    return [(request.kind, request.path, request.id) for request in control.requests()]


# The pause


def test_a_pause_lasts_until_it_is_ended(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1234.5)
    assert control.paused_since() is None
    assert control.pause()
    assert not control.pause()
    assert Control(control.inbox).paused_since() == 1234.5
    assert control.requests() == []
    assert control.resume()
    assert not control.resume()
    assert control.paused_since() is None


def test_a_pause_written_by_hand_is_one(control: Control) -> None:
    path = put(control.folder / "paused.json", b"\xff")
    os.utime(path, (50, 50))
    assert control.paused_since() == 50
    assert control.resume()


# Requests


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_request_names_what_waits_or_was_taken(control: Control, name: str) -> None:
    file = put(control.inbox / name)
    control.cancel(Drop(name))
    control.cancel(Drop(name))
    assert asked(control) == [("cancel", name, "")]
    (request,) = control.requests()
    assert request.is_about(Path(name), "", file.stat().st_ino)
    assert request.is_about(Path(name), ID, file.stat().st_ino)  # taken since
    assert not request.is_about(Path(name), "", file.stat().st_ino + 1)  # another file of its name
    assert not request.is_about(Path(f"{name}2"), "", file.stat().st_ino)
    control.remove(request)
    file.unlink()
    claimed(control, name)
    for drop in (Drop(name), Drop("", ID), Drop(name, ID)):
        control.cancel(drop)
        assert asked(control) == [("cancel", name, ID)]
    (request,) = control.requests()
    assert request.is_about(Path(name), ID, 0)
    assert not request.is_about(Path(name), "", request.inode)


def test_the_last_one_asked_for_comes_first(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10, 20, 30, 40])
    monkeypatch.setattr("time.time_ns", lambda: next(times))
    for name in "abc":
        put(control.inbox / name)
        control.put_first(Drop(name))
    assert [request.path for request in control.requests()] == ["c", "b", "a"]
    before = control.listing()
    control.put_first(Drop("a"))
    assert control.listing() != before
    assert [request.path for request in control.requests()] == ["a", "c", "b"]


def test_what_is_being_made_cannot_be_put_first(control: Control) -> None:
    claimed(control, "a.png")
    with pytest.raises(UsageError, match=r"a\.png: is being made already, as a--s\."):
        control.put_first(Drop("a.png", ID, "a--s"))


@pytest.mark.parametrize(
    "drop",
    [
        Drop("gone.png"),
        Drop("gone.png", ID),
        Drop("", "20240229"),
        Drop(""),
        Drop("folder"),
        Drop("../outside.png"),
        Drop(f"{HIDDEN}/lock"),
        Drop("link.png"),
        Drop("a\0b"),
        Drop("a.png/b"),
    ],
    ids=str,
)
def test_what_is_not_there_is_refused(control: Control, drop: Drop) -> None:
    put(control.inbox.parent / "outside.png")
    put(control.inbox / "folder/a.png")
    put(control.inbox / HIDDEN / "lock")
    put(control.inbox / "a.png")
    (control.inbox / "link.png").symlink_to("a.png")
    claimed(control, "other.png")
    with pytest.raises(UsageError, match="neither waits nor is being made"):
        control.cancel(drop)
    assert asked(control) == []


def test_what_is_claimed_may_not_be_known_now(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    file = claimed(control, "a.png")
    control.cancel(Drop("a.png"))
    (request,) = control.requests()
    assert control.is_claimed(request)

    def refuse(path: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        with pytest.raises(DiskError, match="Too many open files"):
            control.is_claimed(request)
    file.unlink()
    assert not control.is_claimed(request)


def test_an_empty_mount_point_does_not_become_a_watched_folder(tmp_path: Path) -> None:
    control = Control(tmp_path)
    put(tmp_path / "a.png")
    for ask in (control.pause, lambda: control.cancel(Drop("a.png"))):
        with pytest.raises(UsageError, match="no daemon has watched this folder"):
            ask()
    assert control.paused_since() is None
    assert control.requests() == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_many_may_ask_at_once(control: Control) -> None:
    put(control.inbox / "a.png")

    def ask(number: int) -> None:
        for act in (control.pause, lambda: control.cancel(Drop("a.png")), control.resume, control.requests):
            act()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(40)))
    assert asked(control) == [("cancel", "a.png", "")]
    assert [path.name for path in control.folder.iterdir() if path.name.startswith(".")] == []


def test_what_a_killed_command_left_is_removed_when_a_daemon_starts(control: Control) -> None:
    left = put(control.folder / ".unfinished-0")
    assert control.requests() == []
    control.make_folder()
    assert not left.exists()


def test_a_folder_that_is_a_file_is_said(control: Control) -> None:
    put(control.folder)
    with pytest.raises(DiskError, match="control"):
        control.pause()


def test_requests_about_a_path_are_withdrawn(control: Control) -> None:
    for name in ("a.png", "b.png"):
        put(control.inbox / name)
        control.cancel(Drop(name))
        control.put_first(Drop(name))
    control.withdraw("a.png")
    assert {path for _, path, _ in asked(control)} == {"b.png"}


@given(st.binary() | st.sampled_from([b"{}", b'{"path": 1}', b'{"path": "a", "id": "", "inode": "x"}']))
def test_whatever_else_lies_there_is_no_request(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    control = Control(tmp_path_factory.mktemp("inbox"))
    for name in ("cancel-0.json", "first-1.json", "stray", "cancel-", ".unfinished-0"):
        put(control.folder / name, data)
    assert control.requests() == []


@pytest.mark.parametrize("path", ["a\0b", "\ud800.png", "", ".", "/"], ids=ascii)
def test_what_no_file_can_be_called_is_no_request(control: Control, path: str) -> None:
    facts = {"path": path, "id": "", "inode": control.inbox.stat().st_ino, "asked": 1}
    put(control.folder / "cancel-0.json", json.dumps(facts).encode())
    assert control.requests() == []
