"""`pause`, `resume`, `cancel` and `first`, with no daemon, and with one that is a process of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from faults import running
from watching import Watched, wait_until

from pipeline.cli.commands import control
from pipeline.storage.control import Control
from pipeline.watch.status import current_status


@pytest.fixture
def watched(studio):
    """A studio that a daemon has watched."""
    assert studio.once()[0] == 0
    return studio


def test_pause_and_resume_without_a_daemon(watched):
    watched.drop("a.png")
    code, out, err = watched.cli("pause")
    assert (code, err) == (0, "")
    assert out == "Paused: a daemon that starts takes nothing until `style-pipeline resume`.\n"
    assert watched.cli("pause")[:2] == (0, "Paused already; `style-pipeline resume` ends the pause.\n")
    assert "paused       by a user, " in watched.cli("status")[1]
    code, said = watched.once()
    assert code == 0
    assert "paused by a user; nothing is begun until `style-pipeline resume`" in said
    assert (watched.inbox / "a.png").exists()
    assert watched.cli("resume")[:2] == (
        0,
        "Resumed.\nNo daemon is running; `style-pipeline watch` starts one.\n",
    )
    assert watched.cli("resume")[1].startswith("Nobody paused the daemon.\n")
    assert watched.once()[0] == 0
    assert Path("outbox/inbox/a--s.png").exists()


def test_cancel_and_first_without_a_daemon(watched):
    for name in ("a.png", "b.png", "sub/c.png"):
        watched.drop(name)
    assert watched.cli("cancel", "b.png")[:2] == (0, "b.png is cancelled as soon as a daemon starts.\n")
    assert watched.cli("first", "c.png")[:2] == (0, "sub/c.png comes first when a daemon starts.\n")
    out = watched.cli("status")[1]
    assert "b.png: to be cancelled\n" in out
    assert "sub/c.png: to settle, first\n" in out or "sub/c.png: its turn, first\n" in out
    code, said = watched.once()
    assert code == 0
    assert watched.executor.ran == ["c", "a"]
    assert "cancelled b.png; it is in " in said
    (quarantined,) = json.loads(watched.cli("status", "--json")[1])["quarantined"]
    assert quarantined["cancelled"] is True
    code, out, err = watched.cli("cancel", "b.png")
    assert code == 2
    assert f"It is quarantined; `style-pipeline retry {quarantined['id']}` brings it back." in err
    assert watched.cli("retry", "b.png")[0] == 0
    assert watched.once()[0] == 0
    assert watched.executor.ran == ["c", "a", "b"]


@pytest.mark.parametrize("command", ["cancel", "first"])
def test_a_name_that_nobody_has_is_an_error(watched, command):
    watched.drop("a.png")
    code, out, err = watched.cli(command, "a.pgn")
    assert (code, out) == (2, "")
    assert err == (
        "Error: No picture that waits or is being made is called 'a.pgn'.\n"
        "Did you mean a.png? See `style-pipeline status`.\n"
    )


@pytest.mark.parametrize("command", [["pause"], ["cancel", "a.png"], ["first", "a.png"]])
def test_a_folder_that_was_never_watched_is_left_as_it_is(studio, command):
    studio.drop("a.png")
    code, out, err = studio.cli(*command)
    assert (code, out) == (2, "")
    assert "no daemon has watched this folder" in err
    assert not (studio.inbox / ".style-pipeline").exists()


# With a daemon


@pytest.fixture
def daemons(cli, tmp_path):
    """A watched folder, and a function that runs a command about it."""
    made = Watched(tmp_path / "watched")
    return made, lambda *words: cli(*words, "--config", made.folder / "config.yaml")


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / "watched").mkdir()


def is_running(run) -> bool:
    return json.loads(run("status", "--json")[1])["running"] is not None


def test_what_runs_is_paused_resumed_and_cancelled(daemons):
    watched, run = daemons
    watched.drop("a.png")
    with running(watched, worker=True, faults={"a": "wait"}) as daemon:
        daemon.until("started", name="a--s")
        wait_until(lambda: is_running(run), "status knows it")
        code, out, _ = run("pause")
        assert (code, out.partition(".")[0]) == (0, "Paused: a--s stops soon")
        daemon.until("stopped", name="a--s")
        wait_until(lambda: not is_running(run), "status knows it")
        assert run("first", "a.png")[1] == "a.png comes first after `style-pipeline resume`.\n"
        assert run("resume")[:2] == (0, "Resumed.\n")
        daemon.until("started", name="a--s")
        wait_until(lambda: is_running(run), "status knows it")
        code, out, err = run("first", "a--s")
        assert (code, out) == (2, "")
        assert "a.png: is being made already, as a--s." in err
        watched.drop("b.png")
        daemon.until("settled", path="b.png")
        assert run("first", "b.png")[:2] == (0, "b.png comes next.\n")
        code, out, _ = run("cancel", "a--s")
        assert code == 0
        assert out.startswith("a.png is cancelled. `style-pipeline retry ")
        daemon.until("done", name="b--s")
        wait_until(lambda: not is_running(run), "status knows it")
        assert run("pause")[1] == "Paused: nothing is taken until `style-pipeline resume`.\n"
    watched.assert_promises()


def test_cancel_does_not_wait_for_ever(daemons, monkeypatch):
    """For a file that is still being copied, say."""
    watched, run = daemons
    monkeypatch.setattr(control, "PATIENCE_S", 0.0)
    with running(watched) as daemon:
        daemon.until("watching")
        with (watched.inbox / "slow.png").open("wb") as file:
            file.write(b"the beginning")
            file.flush()
            code, out, _ = run("cancel", "slow.png")
            assert (code, out) == (
                0,
                "slow.png is to be cancelled; `style-pipeline status` shows when it is.\n",
            )
        daemon.until("cancelled", path="slow.png")
    shutil.rmtree(watched.quarantine)


def test_what_is_finished_meanwhile_is_said(watched, monkeypatch):
    """As if a daemon had made the picture between the look at it and the request."""
    watched.drop("a.png")

    def status_of_a_daemon(settings):
        return {**current_status(settings), "alive": True}

    def is_obeyed(requests, drop):
        assert watched.once()[0] == 0
        requests.withdraw(drop.path)
        return True

    monkeypatch.setattr("pipeline.watch.status.current_status", status_of_a_daemon)
    monkeypatch.setattr(control, "_is_obeyed", is_obeyed)
    monkeypatch.setattr(Control, "cancel", lambda control, drop: None)
    assert watched.cli("cancel", "a.png") == (1, "", "a.png was finished before it could be cancelled.\n")
