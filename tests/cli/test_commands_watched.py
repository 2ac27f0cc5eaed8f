"""`status`, `retry`, `health` and `service`, with an engine that costs nothing."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest


# status, retry, health, service
def test_status_of_a_folder_that_nobody_watches(studio):
    (id,) = studio.quarantined("a.png")
    studio.drop("b.png")
    assert studio.once()[0] == 0
    code, out, err = studio.cli("status", "--json")
    assert (code, err) == (0, "")
    status = json.loads(out)
    assert (status["alive"], status["done"], status["throughput_per_hour"]) == (False, 1, 1)
    assert [(one["id"], one["path"]) for one in status["quarantined"]] == [(id, "a.png")]
    code, out, _ = studio.cli("status")
    assert code == 0
    assert out.startswith(f"inbox        {studio.inbox}\ndaemon       not running")
    assert f"{id}  a.png: " in out


def test_status_while_a_job_runs(studio):
    studio.drop("a.png")
    seen = []

    def look(job, step):
        if step == 3:
            done = subprocess.run(
                [sys.executable, "-m", "pipeline", "status", "--json"], capture_output=True, check=True
            )
            seen.append(json.loads(done.stdout))

    studio.executor.after_step = look
    assert studio.once()[0] == 0
    (status,) = seen
    assert status["alive"] is True
    assert status["holder"]["pid"] == os.getpid()
    assert status["claimed"] == 1


def test_names_of_any_kind_can_be_shown_and_retried(studio):
    studio.quarantined("b\udce9\n.png")
    code, out, err = studio.cli("status")
    assert (code, err) == (0, "")
    assert "b\\udce9\\n.png: " in out
    code, out, err = studio.cli("retry", "--all-quarantined")
    assert (code, err) == (0, "")
    assert out.endswith("b\\udce9\\n.png\n")
    assert (studio.inbox / "b\udce9\n.png").is_file()


@pytest.mark.parametrize("by", ["id", "start of the id", "name", "path"])
def test_retry_one(studio, by):
    ids = studio.quarantined("sub/a.png", "b.png")
    found = json.loads(studio.cli("status", "--json")[1])["quarantined"]
    id = next(one["id"] for one in found if one["path"] == "sub/a.png")
    # The other's id may well begin with the same second.
    word = {"id": id, "start of the id": id[:-1], "name": "a.png", "path": "sub/a.png"}[by]
    code, out, err = studio.cli("retry", word)
    assert (code, err) == (0, "")
    assert out == f"{id} is back: {studio.inbox}/sub/a.png\n"
    assert (studio.inbox / "sub/a.png").is_file()
    assert not (studio.inbox / "b.png").exists()
    assert [path.name for path in Path("quarantine").iterdir()] == [one for one in ids if one != id]
    assert studio.once()[0] == 0
    assert Path("outbox/inbox/sub/a--s.png").is_file()


def test_retry_all(studio):
    ids = studio.quarantined("a.png", "b.png")
    code, out, _ = studio.cli("retry", "--all-quarantined")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ids
    assert list(Path("quarantine").iterdir()) == []
    assert studio.cli("retry", "--all-quarantined") == (0, "Nothing is quarantined.\n", "")
    assert studio.once()[0] == 0


def test_retry_all_continues_after_one_that_cannot_go_back(studio):
    studio.quarantined("a.png", "b.png")
    ids = {one["path"]: one["id"] for one in json.loads(studio.cli("status", "--json")[1])["quarantined"]}
    first, second = ids["a.png"], ids["b.png"]
    studio.drop("a.png", b"newer")
    code, out, err = studio.cli("retry", "--all-quarantined")
    assert code == 1
    assert out == f"{second} is back: {studio.inbox}/b.png\n"
    assert err.startswith(f"{first} stays: ")
    assert "a.png: exists already. Move it elsewhere" in err
    assert (studio.inbox / "a.png").read_bytes() == b"newer"
    assert [path.name for path in Path("quarantine").iterdir()] == [first]


def test_retry_of_a_name_that_several_have_lists_their_ids(studio):
    ids = studio.quarantined("a.png", "sub/a.png")
    for word in ("a.png", ids[0][:2]):
        code, out, err = studio.cli("retry", word)
        assert (code, out) == (2, "")
        assert f"'{word}' means 2 quarantined files" in err
        assert all(id in err for id in ids)
    assert studio.cli("retry", "sub/a.png")[0] == 0  # a path is but one's
    assert not (studio.inbox / "a.png").exists()


def test_retry_of_a_whole_id_means_that_one(studio):
    """Though another's id begins so, and a third is called so."""
    (id,) = studio.quarantined("a.png")
    longer = Path("quarantine", f"{id}0")
    longer.mkdir()
    report = json.loads(Path("quarantine", id, "error.json").read_text())
    (longer / "error.json").write_text(json.dumps({**report, "path": "b.png", "file": id}))
    (longer / id).write_bytes(b"")
    assert studio.cli("retry", id)[:2] == (0, f"{id} is back: {studio.inbox}/a.png\n")


def test_retry_forgets_the_attempts(studio):
    """Else what was quarantined for ending the worker would be quarantined again at once."""
    studio.quarantined("a.png")
    (report,) = Path("quarantine").glob("*/error.json")
    (key,) = json.loads(report.read_text())["keys"]
    with closing(studio.ledger()) as ledger:
        for _ in range(3):
            ledger.begin(key)
    studio.cli("retry", "a.png")
    assert studio.once()[0] == 0
    assert Path("outbox/inbox/a--s.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--all-quarantined"),
        (["a.png", "--all-quarantined"], "--all-quarantined"),
        (["unknown.png"], "called 'unknown.png'"),
        ([""], "called ''"),
    ],
)
def test_retry_of_both_neither_or_nothing_known_is_exit_code_2(studio, arguments, words):
    studio.quarantined("a.png")
    code, out, err = studio.cli("retry", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "status" in err
    assert not (studio.inbox / "a.png").exists()


def test_retry_replaces_nothing(studio):
    studio.quarantined("a.png")
    studio.drop("a.png", b"newer")
    code, _, err = studio.cli("retry", "a.png")
    assert code == 2
    assert "a.png: exists already" in err
    assert (studio.inbox / "a.png").read_bytes() == b"newer"
    assert len(list(Path("quarantine").glob("*/a.png"))) == 1


def test_health_without_a_daemon_is_exit_code_3(studio):
    Path("outbox").mkdir()
    code, out, err = studio.cli("health")
    assert code == 3
    assert "BAD  daemon       nobody watches the inbox" in out
    assert "BAD  heartbeat    none yet" in out
    assert "ok   pause        none" in out
    assert "needs attention" in err
    assert studio.once()[0] == 0
    assert "BAD  daemon" in studio.cli("health")[1]


def test_health_with_a_daemon_is_exit_code_0(studio):
    studio.drop("a.png")
    seen = []

    def look(job, step):
        if step == 1:
            command = [sys.executable, "-m", "pipeline", "health"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seen.append((done.returncode, done.stdout))

    studio.executor.after_step = look
    assert studio.once()[0] == 0
    ((code, out),) = seen
    assert code == 0, out
    assert "BAD" not in out
    assert "ok   daemon       is running" in out


def test_the_unit_starts_this_program_with_this_configuration(studio, cli):
    code, out, err = cli("service", "systemd", "--config", "config.yaml")
    assert (code, err) == (0, "")
    (start,) = [line for line in out.splitlines() if line.startswith("ExecStart=")]
    assert start.endswith(f"style-pipeline watch --config {Path('config.yaml').resolve()}")
    assert f"WorkingDirectory={Path.cwd()}" in out
    assert "WantedBy=multi-user.target" in out
    assert f"\nUser={getpass.getuser()}\n" in out
    own = cli("service", "systemd", "--user")[1]
    assert "WantedBy=default.target" in own
    assert "User=" not in own
    for folder in ("inbox", "outbox", "archive", "quarantine", "state", "cache"):
        assert str(Path(folder).resolve()) in out
