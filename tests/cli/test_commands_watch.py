"""`watch`, with an engine that costs nothing."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.batch.deadline import Deadline
from pipeline.storage.files import Disk
from pipeline.watch.events import Waker
from pipeline.watch.originals import Originals
from pipeline.watch.owner import Owner


def test_watch_once_makes_what_is_there(studio):
    studio.drop("a.png")
    studio.drop("s/b.png")
    code, err = studio.once()
    assert code == 0, err
    assert {path.name for path in Path("outbox/inbox").glob("*.png")} == {"a--s.png"}
    assert Path("outbox/inbox/s/b--s.png").is_file()
    assert Path("archive/a.png").is_file()
    assert Path("archive/s/b.png").is_file()
    for words in ("watching", "encoder fake", "settled a.png", "started a--s", "done a--s in 0.5 s: "):
        assert words in err
    assert studio.once()[0] == 0  # nothing to do is fine
    assert len(studio.executor.ran) == 2


def test_watch_once_with_a_failure_is_exit_code_1(studio):
    studio.drop("a.png")
    studio.drop("b.png")
    studio.executor.faults = {"a": "fail"}
    code, err = studio.once()
    assert code == 1
    assert "quarantined a.png" in err
    assert "told to fail" in err
    assert Path("outbox/inbox/b--s.png").is_file()
    assert len(list(Path("quarantine").glob("*/a.png"))) == 1


def test_a_watch_that_ends_in_time_with_a_failure_is_exit_code_1(studio, monkeypatch):
    studio.drop("a.png")
    studio.executor.faults = {"a": "fail"}
    reject = Originals.reject

    def reject_at_the_end(*arguments):
        reject(*arguments)
        monkeypatch.setattr(Deadline, "left_s", -1.0)

    monkeypatch.setattr(Originals, "reject", reject_at_the_end)
    code, _, err = studio.cli("watch", "--for", "1h")
    assert code == 1
    assert "ended: 0 done, 1 quarantined, 0 left" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--for", "soon"], "--for soon"),
        (["--until", "25:00"], "--until 25:00"),
        (["--outbox", "inbox/out"], "must not contain one another"),
        (["--set", "sise=3"], "did you mean 'size'"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--device", "banana"], "cuda"),
    ],
)
def test_watch_with_wrong_usage_is_exit_code_2(studio, flags, words):
    studio.drop("a.png")
    code, err = studio.once(*flags)
    assert code == 2
    assert words in err
    assert sorted(path.name for path in studio.inbox.iterdir()) == ["a.png", "styles"]


def test_watch_once_on_a_bad_machine_is_exit_code_3(studio):
    studio.drop("a.png")
    studio.executor.faults = {"a": "machine"}
    code, err = studio.once()
    assert code == 3
    assert "The device is gone." in err
    studio.executor.faults = {}
    assert studio.once()[0] == 0  # what was claimed is gone on with
    assert Path("outbox/inbox/a--s.png").is_file()


def test_a_deadline_in_the_middle_of_a_job_is_exit_code_4(studio, monkeypatch):
    studio.drop("a.png")
    with monkeypatch.context() as patch:
        studio.executor.after_step = lambda job, step: patch.setattr(Deadline, "left_s", -1.0)
        code, err = studio.once("--for", "1h")
        assert code == 4
        assert "1 file is left" in err
    studio.executor.after_step = lambda job, step: None
    assert studio.once("--for", "1h")[0] == 0
    assert Path("outbox/inbox/a--s.png").is_file()


def test_what_would_overrun_the_deadline_is_not_begun_and_exit_code_4(studio):
    studio.drop("a.png")
    with closing(studio.ledger()) as ledger:
        ledger.note_speed("fake", "fake0", 1e12)
    code, err = studio.once("--for", "1h")
    assert code == 4
    assert "not begun a--s" in err
    assert studio.executor.ran == []


def test_a_second_watch_is_exit_code_5_with_one_line_that_names_the_holder(studio):
    studio.drop("a.png")
    with Owner(studio.inbox, Disk()).held():
        code, err = studio.once()
    assert code == 5
    assert f"process {os.getpid()} on" in err.splitlines()[0]
    assert (studio.inbox / "a.png").is_file()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_watch_and_is_its_exit_code(studio, number):
    studio.drop("a.png")
    before = signal.getsignal(number)
    studio.executor.after_step = lambda job, step: signal.raise_signal(number) if step == 2 else None
    code, out, err = studio.cli("watch", "--log-json")  # without --once it would not end
    assert code == 128 + number
    assert out == ""
    events = [json.loads(line) for line in err.splitlines()]  # and nothing else, such as an error
    assert "stopped" in {event["event"] for event in events}
    assert signal.getsignal(number) == before
    studio.executor.after_step = lambda job, step: None
    assert studio.once()[0] == 0
    assert Path("outbox/inbox/a--s.png").is_file()


def test_hup_reads_the_configuration_again(studio):
    studio.drop("a.png")

    def change(job, step):
        if step == 1:
            studio.configure(outbox="there")
            studio.drop("b.png")
            signal.raise_signal(signal.SIGHUP)

    studio.executor.after_step = change
    code, err = studio.once()
    assert code == 0, err
    assert "the configuration was read again" in err
    studio.executor.after_step = lambda job, step: None
    assert studio.once()[0] == 0
    assert Path("outbox/inbox/a--s.png").is_file()
    assert Path("there/inbox/b--s.png").is_file()


def test_hup_with_a_wrong_configuration_keeps_the_old_one(studio):
    studio.drop("a.png")

    def change(job, step):
        if step == 1:
            studio.configure(outbx="there")
            signal.raise_signal(signal.SIGHUP)

    studio.executor.after_step = change
    code, err = studio.once()
    assert code == 0, err
    assert "the old configuration stays" in err
    assert "outbx" in err
    assert Path("outbox/inbox/a--s.png").is_file()


def test_flags_win_over_routes(studio):
    studio.drop("s/a.png")
    code, err = studio.once("--outbox", "there", "--set", "size=20", "--preset", "draft")
    assert code == 0, err
    record = json.loads(Path("there/inbox/logs/s/a--s.json").read_text())
    assert (record["recipe"]["size"], record["recipe"]["preset"]) == (20, "draft")


def test_log_json_is_one_object_a_line(studio):
    studio.drop("a.png")
    studio.drop("b\udce9\n.png")
    code, err = studio.once("--log-json")
    assert code == 0
    events = [json.loads(line) for line in err.splitlines()]
    assert [e["event"] for e in events if e["event"] in {"watching", "started", "done"}] == [
        "watching", "started", "done", "started", "done",
    ]  # fmt: skip
    assert [event["name"] for event in events if event["event"] == "done"] == ["a--s", "b__--s"]


def test_a_log_in_a_file_is_rotated(studio, monkeypatch):
    monkeypatch.setattr("pipeline.cli.logs.LOG_BYTES", 1500)
    monkeypatch.setattr("pipeline.cli.logs.LOG_FILES", 2)
    for name in "abcdef":
        studio.drop(f"{name}.png")
    code, err = studio.once("--log-json", "--log-file", "there/watch.log")
    assert (code, err) == (0, "")
    logs = sorted(Path("there").iterdir())
    assert [path.name for path in logs] == ["watch.log", "watch.log.1", "watch.log.2"]
    assert all(0 < path.stat().st_size <= 1500 for path in logs)
    lines = [line for path in logs[::-1] for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines]
    assert [Path(e["content"]).name for e in events if e["event"] == "done"][-1] == "f.png"


def test_a_log_file_is_appended_to(studio):
    for _ in range(2):
        assert studio.once("--log-file", "watch.log") == (0, "")
    assert Path("watch.log").read_text().count("watching ") == 2


def test_a_log_file_that_cannot_be_written_is_exit_code_3(studio):
    Path("file").touch()
    code, err = studio.once("--log-file", "file/watch.log")
    assert code == 3
    assert "file/watch.log: cannot be written" in err
    assert "--log-file" in err


if Path("/dev/full").exists():

    def test_a_full_disk_under_the_log_ends_no_watch(studio):
        studio.drop("a.png")
        code, err = studio.once("--log-file", "/dev/full")
        assert code == 0, err
        assert Path("outbox/inbox/a--s.png").is_file()
        assert err == ""

    def test_the_log_says_how_many_lines_a_full_disk_cost(studio):
        log = Path("watch.log")
        log.symlink_to("/dev/full")
        studio.executor.after_step = lambda job, step: (
            log.unlink() if job.name == "b--s" and step == 1 else None
        )
        studio.drop("a.png")
        studio.drop("b.png")
        assert studio.once("--log-json", "--log-file", "watch.log") == (0, "")
        events = [json.loads(line) for line in log.read_text().splitlines()]
        assert [event["event"] for event in events][:2] == ["lost", "done"]
        assert events[0]["lines"] >= 4  # at least that both began, a is done, and which encoder there is
        assert events[1]["name"] == "b--s"


@pytest.mark.parametrize(
    ("mode", "network", "chosen"),
    [("auto", False, "native"), ("auto", True, "polling"), ("native", True, "native"), ("off", True, "off")],
)
def test_how_the_inbox_is_watched(studio, mode, network, chosen, monkeypatch):
    modes = []

    def waker(inbox, mode):
        modes.append(mode)
        return Waker(inbox, "off")

    monkeypatch.setattr("pipeline.watch.watcher.is_network_file_system", lambda path: network)
    monkeypatch.setattr("pipeline.watch.events.Waker", waker)
    studio.configure(watch={"notify": mode, "settle_s": 0.03, "rescan_s": 0.03, "min_free_mb": 0})
    assert studio.once()[0] == 0
    assert modes == [chosen]


@pytest.mark.parametrize("flags", [(), ("--log-file", "watch.log")])
def test_a_quiet_watch_says_what_is_quarantined(studio, flags):
    studio.drop("a.png")
    studio.drop("b.png")
    studio.executor.faults = {"a": "fail"}
    code, err = studio.once("--quiet", *flags)
    assert code == 1
    (line,) = (Path("watch.log").read_text() if flags else err).splitlines()
    assert " quarantined a.png: told to fail." in line


def test_a_verbose_watch_says_every_step(studio):
    studio.drop("a.png")
    code, out, err = studio.cli("--verbose", "watch", "--once", "--log-json")
    assert (code, out) == (0, "")
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]


def test_watch_once_loads_no_encoder_for_pictures_that_wait_for_a_style(studio, monkeypatch):
    (studio.inbox / "styles/s.png").unlink()
    studio.drop("a.png")
    monkeypatch.setattr(studio.executor, "encoder_info", lambda name: pytest.fail("it was asked for"))
    code, err = studio.once()
    assert code == 0, err
    assert "a.png: waits" in err
    assert (studio.inbox / "a.png").is_file()
