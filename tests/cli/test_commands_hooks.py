"""Hooks of `run` and `watch`, as real commands: they are told, and never do harm."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from watching import Watched, wait_until

TELL = ["sh", "-c", "cat >> told.jsonl"]
EVERYTHING = ["done", "failed", "batch_ended", "paused", "resumed"]


def told(folder: Path = Path()) -> list[dict[str, Any]]:
    path = folder / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kinds(folder: Path = Path()) -> list[tuple[str, str]]:
    return [(event["event"], event["name"]) for event in told(folder)]


# run


def configure(*hooks: dict[str, Any], **keys: Any) -> None:
    document = {"state_dir": "state", "cache_dir": "cache", "hooks": list(hooks), **keys}
    Path("config.yaml").write_text(json.dumps(document))


def test_a_run_tells_its_hooks_and_its_log_has_what_they_write(studio, night) -> None:
    configure({"when": EVERYTHING, "run": ["sh", "-c", "tee -a told.jsonl | wc -l; echo hello >&2"]})
    studio.executor.faults = {"b": "fail"}
    code, out, err = studio.cli("run", night)
    assert code == 1
    assert kinds() == [("done", "a--s"), ("failed", "b--s"), ("batch_ended", "night")]
    done, failed, ended = told()
    assert Path(done["path"]).is_file()
    assert Path(done["record"]).is_file()
    assert Path(failed["record"]).is_file()
    assert Path(ended["sheet"]).is_file()  # it was written before
    assert ended["failed"] == 1
    assert (done["folder"], ended["folder"]) == (str(Path("outbox/night").resolve()),) * 2
    assert err.count(": hello") == 3
    assert "hook" not in out


def test_a_second_run_that_has_nothing_to_do_tells_nothing(studio, night) -> None:
    configure({"when": EVERYTHING, "run": TELL})
    assert studio.cli("run", night)[0] == 0
    before = told()
    assert studio.cli("run", night)[0] == 0
    assert told() == before


def test_hooks_that_fail_or_hang_change_nothing_of_a_run(studio, night) -> None:
    configure(
        {"when": EVERYTHING, "run": ["sh", "-c", "echo why; exit 7"]},
        {"when": EVERYTHING, "run": "sleep 1000", "timeout_s": 0.2},
        {"when": EVERYTHING, "run": "true", "folder": "."},
    )
    began = time.monotonic()
    code, out, err = studio.cli("run", night)
    assert code == 0
    assert "2 done" in out
    assert "it ended with exit code 7" in err
    assert "its time was over" in err
    assert time.monotonic() - began < 20
    assert {path.name for path in Path("outbox/night").glob("*.png")} == {"a--s.png", "b--s.png"}


def test_a_fault_that_ends_a_run_is_told(studio, night) -> None:
    configure({"when": "batch_ended", "run": TELL})
    studio.executor.faults = {"b": "machine"}
    assert studio.cli("run", night)[0] == 3
    (event,) = told()
    assert (event["status"], event["done"], event["left"]) == ("fault", 1, 1)
    assert "The device is gone." in event["error"]


def test_a_stopped_run_does_not_wait_for_a_hook_that_hangs(studio, night, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.hooks.queues.STOP_S", 0.2)
    monkeypatch.setattr("pipeline.hooks.command.TERM_S", 0.1)
    configure({"when": ["done", "batch_ended"], "run": "sleep 1000"})
    studio.executor.after_step = lambda job, step: (
        signal.raise_signal(signal.SIGTERM) if job.content.stem == "b" else None
    )
    began = time.monotonic()
    code, _, err = studio.cli("run", night)
    assert code == 128 + signal.SIGTERM
    assert time.monotonic() - began < 20
    assert "it was ended, as style-pipeline ends" in err
    assert "left out: they were not told before the end" in err


@pytest.mark.parametrize("command", ["run night.yaml", "watch --once"])
def test_a_hook_that_cannot_be_run_is_found_before_anything_begins(studio, night, command) -> None:
    configure({"when": "done", "run": "no-such-program"})
    studio.drop("c.png")
    code, _, err = studio.cli(*command.split())
    assert code == 2
    assert "hooks: no-such-program: not found on the PATH." in err
    assert not Path("outbox").exists()


def test_other_commands_do_not_mind_it(studio) -> None:
    configure({"when": "done", "run": "no-such-program"})
    assert studio.cli("status")[0] == 0


# hooks


def test_hooks_are_listed_and_tried(studio) -> None:
    assert studio.cli("hooks")[1:] == ("", "No hooks in the configuration; see docs/hooks.md.\n")
    configure({"when": ["failed", "paused"], "run": [*TELL]}, {"when": "done", "run": "no-such-program"})
    code, out, _ = studio.cli("hooks")
    assert (code, out) == (0, "failed, paused: sh -c 'cat >> told.jsonl'\ndone: no-such-program\n")
    for event in ("failed", "paused"):
        code, out, err = studio.cli("hooks", event)
        assert (code, out) == (0, "")
        assert "it succeeded" in err
    assert kinds() == [("failed", "photo--monet"), ("paused", "inbox")]
    assert studio.cli("hooks", "done")[0] == 2
    assert "No hooks for resumed" in studio.cli("hooks", "resumed")[2]


def test_a_trial_of_a_hook_that_fails_fails(studio) -> None:
    configure({"when": "done", "run": "true"}, {"when": ["done", "failed"], "run": "false"})
    for event in ("done", "failed"):
        code, out, err = studio.cli("hooks", event)
        assert (code, out) == (1, "")
        assert "it ended with exit code 1" in err


@pytest.mark.parametrize("kind", EVERYTHING)
def test_an_example_has_the_fields_of_an_event(studio, kind) -> None:
    configure({"when": EVERYTHING, "run": TELL})
    assert studio.cli("hooks", kind)[0] == 0
    (event,) = told()
    assert event["event"] == kind
    assert event["text"]


# watch


def test_a_daemon_tells_its_hooks(studio) -> None:
    studio.configure(settle_max_s=0.01, hooks=[{"when": EVERYTHING, "run": TELL}])
    for name in ("a.png", "b.png"):
        studio.drop(name)
    studio.drop("c.png", b"no picture")
    studio.drop("many.yaml", b"contents: [styles/s.png]\nstyles: [styles/s.png]\n")
    studio.executor.faults = {"b": "fail"}
    assert studio.once()[0] == 1
    assert sorted(kinds()) == [
        ("batch_ended", "many"),
        ("done", "a--s"),
        ("done", "s--s"),
        ("failed", "b.png"),
        ("failed", "c.png"),
    ]
    for event in told():
        if event["event"] == "failed":
            assert Path(event["quarantine"]).is_file()
            assert event["error"]
            assert event["next_step"]


def test_a_pause_is_told_by_a_daemon_that_cannot_work(tmp_path: Path) -> None:
    """Its fault is the machine's; then it is stopped, while another hook hangs and ignores TERM."""
    watched = Watched(tmp_path)
    hang = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('hangs', 'w').close()"
    hooks = [
        {"when": EVERYTHING, "run": TELL},
        {"when": "paused", "run": [sys.executable, "-c", f"{hang}; time.sleep(1000)"]},
    ]
    watched.configure(hooks=hooks)
    daemon = watched.start(faults={"a": "machine"}, first_pause_s=60)
    watched.drop("a.png")
    daemon.until("paused")
    wait_until((tmp_path / "hangs").exists, "the hook hangs")
    began = time.monotonic()
    assert daemon.stop() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 15
    assert kinds(tmp_path) == [("paused", "inbox")]
    assert told(tmp_path)[0]["error"] == "The device is gone."
    assert "it was ended, as style-pipeline ends" in " ".join(daemon.texts)
    watched.assert_promises()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs HUP")
def test_a_configuration_that_is_read_again_brings_its_hooks(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    daemon = watched.start()
    daemon.until("device")
    watched.configure(hooks=[{"when": "done", "run": "no-such-program"}])
    daemon.signal(signal.SIGHUP)
    assert "not found on the PATH" in daemon.until("reload")["text"]
    watched.configure(hooks=[{"when": "done", "run": TELL}])
    daemon.signal(signal.SIGHUP)
    daemon.until("reload", text="the configuration was read again")
    watched.drop("a.png")
    daemon.until("done")
    assert daemon.stop() == 128 + signal.SIGTERM
    assert kinds(tmp_path) == [("done", "a--s")]
