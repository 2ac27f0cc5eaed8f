from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from heartbeats import JOB, Beating, step
from watching import Watched, wait_until

from pipeline.batch.summary import Finished
from pipeline.errors import DiskError
from pipeline.spec.config import Config, read_config
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.watch.claims import Claims
from pipeline.watch.owner import Owner
from pipeline.watch.quarantine import Quarantine
from pipeline.watch.routes import Router
from pipeline.watch.status import LATE_S, RECENT_S, examine_daemon, read_status, status_lines

# Holds an inbox and beats once, says so, and lives until its stdin ends.
DAEMON = """
import sys
from pathlib import Path
from pipeline.cli.display import Display
from pipeline.storage.files import Disk
from pipeline.spec.jobs import EncoderInfo, StepProgress
from pipeline.storage.ledger import Ledger
from pipeline.watch.owner import Owner
from pipeline.watch.service import ServiceManager
from pipeline.watch.heartbeat import Heartbeat
from heartbeats import JOB, QUEUE, make_config

config = make_config(Path(sys.argv[1]))
with Owner(config.watch.inbox, Disk()).held():
    display = Display()
    heartbeat = Heartbeat(Ledger(config.state_dir), config, display, ServiceManager({}))
    heartbeat.encoder_chosen(EncoderInfo("vgg19-slim", "0" * 64))
    heartbeat.device_chosen("cpu")
    heartbeat.job_started(JOB, "a--s")
    heartbeat.job_step("a--s", StepProgress(25, 100, 64, 48, 0.5, 0.2, 0.3, left_s=0.3))
    heartbeat.beat(QUEUE, True, {})
    print("beating", flush=True)
    sys.stdin.read()
"""


@contextmanager
def daemon(config: Config) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DAEMON, str(config.outbox.parent)]
    here = Path(__file__).parents[1]  # where Python looks for heartbeats
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "beating\n"
            yield process
        finally:
            process.kill()


def checks(config: Config, ledger: Ledger) -> dict[str, tuple[bool, str]]:
    """What `health` finds, by label; of the two disks the worse."""
    found: dict[str, tuple[bool, str]] = {}
    for check in examine_daemon(config, ledger):
        if found.get(check.label, (True, ""))[0]:
            found[check.label] = (check.ok, check.text)
    return found


def bad(config: Config, ledger: Ledger) -> set[str]:
    return {label for label, (ok, _) in checks(config, ledger).items() if not ok}


# What `status` and `health` say


def test_where_no_daemon_ever_was(config: Config, ledger: Ledger) -> None:
    status = read_status(config, ledger)
    assert status["alive"] is False
    unknown = ("since", "last_beat_s", "watching", "waiting", "settling", "running")
    assert {key: status[key] for key in unknown} == dict.fromkeys(unknown)
    assert (status["holder"], status["paused"], status["quarantined"]) == ({}, "", [])
    assert (status["done"], status["claimed"], status["throughput_per_hour"]) == (0, 0, 0)
    assert json.loads(json.dumps(status)) == status
    lines = status_lines(status)
    assert lines[0] == f"inbox        {config.watch.inbox}"
    assert lines[1].startswith("daemon       not running")
    assert bad(config, ledger) == {"daemon", "heartbeat"}
    assert checks(config, ledger)["events"] == (True, "not watched yet")
    assert not (config.watch.inbox / ".style-pipeline").exists()  # it only looks


def test_a_living_daemon(config: Config, ledger: Ledger) -> None:
    with daemon(config) as process:
        status = read_status(config, ledger)
        assert status["alive"] is True
        assert status["holder"]["pid"] == process.pid
        assert time.time() - 60 < status["since"] <= time.time()
        assert 0 <= status["last_beat_s"] < 60
        assert (status["encoder"], status["device"], status["watching"]) == ("vgg19-slim", "cpu", True)
        assert (status["waiting"], status["settling"]) == (3, 2)
        assert (status["running"]["name"], status["running"]["step"], status["running"]["steps"]) == (
            "a--s",
            25,
            100,
        )
        assert json.loads(json.dumps(status)) == status
        lines = status_lines(status)
        assert f"process {process.pid} (vgg19-slim on cpu)" in lines[1]
        assert lines[2] == "queue        3 waiting, 2 settling"
        assert lines[3].startswith("running      a--s, step 25 of 100, about 0.")
        assert bad(config, ledger) == set()
        process.kill()
        process.wait()
        status = read_status(config, ledger)
        assert status["alive"] is False
        assert status["last_beat_s"] is not None
        assert (status["since"], status["running"], status["waiting"]) == (None, None, None)
        assert bad(config, ledger) == {"daemon"}


@contextmanager
def held(config: Config) -> Iterator[None]:
    """Hold the inbox in this process."""
    with Owner(config.watch.inbox, Disk()).held():
        yield


def test_a_daemon_that_fell_silent_is_unhealthy(
    config: Config, ledger: Ledger, beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating.beat()
    now = time.time()
    with held(config):
        monkeypatch.setattr(time, "time", lambda: now + LATE_S - 1)
        assert bad(config, ledger) == set()
        monkeypatch.setattr(time, "time", lambda: now + LATE_S + 1)
        assert bad(config, ledger) == {"heartbeat"}
        assert read_status(config, ledger)["last_beat_s"] == pytest.approx(LATE_S + 1, abs=0.2)


def test_a_daemon_without_events_is_unhealthy(config: Config, ledger: Ledger, beating: Beating) -> None:
    beating.beat(watching=False)
    with held(config):
        assert bad(config, ledger) == {"events"}
        assert checks(config, ledger)["events"] == (False, "stopped")


def test_a_paused_daemon_says_why(config: Config, ledger: Ledger, beating: Beating) -> None:
    beating.heartbeat.job_started(JOB, "a--s")
    beating.heartbeat.paused(DiskError("/out: full.", "Free space."))
    beating.beat()
    with held(config):
        status = read_status(config, ledger)
        assert status["paused"] == "/out: full."
        assert status["running"] is None  # the fault has ended it
        assert "paused       /out: full." in status_lines(status)
        assert checks(config, ledger)["pause"] == (False, "/out: full.")
        beating.heartbeat.resumed()
        beating.beat()
        assert read_status(config, ledger)["paused"] == ""
        assert bad(config, ledger) == set()


def test_a_daemon_that_ended_while_it_was_paused_is_no_longer_paused(
    config: Config, ledger: Ledger, beating: Beating
) -> None:
    beating.heartbeat.paused(DiskError("/out: full.", "Free space."))
    with held(config):
        beating.beat()
    assert read_status(config, ledger)["paused"] == ""
    assert bad(config, ledger) == {"daemon"}


def test_a_daemon_whose_inbox_went_away_is_paused(
    config: Config, ledger: Ledger, beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is gone with the inbox; its last state is not."""
    with held(config):
        beating.heartbeat.paused(DiskError("/in: is not the folder used before.", "Mount it again."))
        beating.beat()
    config.watch.inbox.rename(config.watch.inbox.with_name("elsewhere"))
    config.watch.inbox.mkdir()  # the mount point
    status = read_status(config, ledger)
    assert status["alive"] is True
    assert status["paused"] == "/in: is not the folder used before."
    assert status["holder"]["pid"] == os.getpid()
    lines = status_lines(status)
    assert lines[1].startswith("daemon       running for ")
    assert "paused       /in: is not the folder used before." in lines
    assert bad(config, ledger) == {"pause"}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + RECENT_S + 1)
    assert read_status(config, ledger)["alive"] is False
    assert read_status(config, ledger)["paused"] == ""


def test_a_running_job_has_its_remaining_time(config: Config, ledger: Ledger, beating: Beating) -> None:
    beating.heartbeat.working_on("a.png", "id")
    beating.heartbeat.job_started(JOB, "a--s")
    beating.beat()
    with held(config):
        assert "running      a--s, step 0 of 100" in status_lines(read_status(config, ledger))
        beating.clock.now += 50
        beating.heartbeat.job_step("a--s", step(25))
        beating.beat()
        status = read_status(config, ledger)
        times = {"step": 25, "steps": 100, "seconds": 51, "left_s": 153}
        assert status["running"] == {"name": "a--s", "path": "a.png", "id": "id", **times}
        assert "running      a--s, step 25 of 100, about 3 min left" in status_lines(status)
        beating.heartbeat.job_step("a--s", replace(step(25), tile=3, tiles=8))
        beating.beat()
        status = read_status(config, ledger)
        assert (status["running"]["tile"], status["running"]["tiles"]) == (3, 8)
        running = "running      a--s, step 25 of 100, tile 3 of 8, about 3 min left"
        assert running in status_lines(status)
        beating.heartbeat.job_step("a--s", step(26))
        beating.beat()
        assert "tile" not in read_status(config, ledger)["running"]
        beating.heartbeat.job_finished(Finished(JOB, "a--s", "done"))
        beating.beat()
        assert read_status(config, ledger)["running"] is None


def test_drops_are_counted(config: Config, ledger: Ledger) -> None:
    now = time.time()
    for id, state, ended in (
        ("1", "done", 9),
        ("2", "done", 3500),
        ("3", "done", 3700),
        ("4", "quarantined", 9),
        ("0", "done", 31 * 86_400),
    ):
        ledger.claim(id, config.watch.inbox, "a.png", 1.0)
        ledger.finish(id, state, now - ended)  # type: ignore[arg-type]
    ledger.claim("5", config.watch.inbox, "a.png", 1.0)
    ledger.claim("6", Path("/another/inbox"), "a.png", 1.0)
    status = read_status(config, ledger)
    assert (status["done"], status["throughput_per_hour"], status["claimed"]) == (3, 2, 1)
    lines = status_lines(status)
    assert "done         3 in the last 30 days, 2 in the last hour" in lines
    assert "daemon       not running; 1 file begun, to be resumed when it starts" in lines


def test_what_was_quarantined_is_listed(config: Config, ledger: Ledger) -> None:
    watch = config.watch
    (watch.inbox / "sub").mkdir()
    (watch.inbox / "sub/a.png").write_bytes(b"")
    claim = Claims(watch.inbox, watch.archive_dir, Disk()).take(Path("sub/a.png"), "ID")
    assert claim is not None
    report = {"error": "It broke.", "next_step": "Correct it."}
    Quarantine(watch.inbox, watch.quarantine_dir, Disk()).add(claim, report)
    status = read_status(config, ledger)
    more = {"next_step": "Correct it.", "cancelled": False}
    assert status["quarantined"] == [{"id": "ID", "path": "sub/a.png", "error": "It broke.", **more}]
    assert status_lines(status)[-2:] == ["quarantined  1", "             ID  sub/a.png: It broke."]


def test_what_another_inbox_quarantined_is_not_listed(config: Config, ledger: Ledger) -> None:
    """Two may share a quarantine."""
    watch = config.watch
    for inbox in (watch.inbox, watch.inbox.with_name("another")):
        inbox.mkdir(exist_ok=True)
        (inbox / "a.png").write_bytes(b"")
        claim = Claims(inbox, watch.archive_dir, Disk()).take(Path("a.png"), f"of-{inbox.name}")
        assert claim is not None
        Quarantine(inbox, watch.quarantine_dir, Disk()).add(claim, {"error": "It broke."})
    assert [one["id"] for one in read_status(config, ledger)["quarantined"]] == ["of-inbox"]
    report = watch.quarantine_dir / "of-another/error.json"
    old = json.loads(report.read_text())
    del old["inbox"]  # as reports were once
    report.write_text(json.dumps(old))
    assert len(read_status(config, ledger)["quarantined"]) == 2


def test_too_little_free_space_is_unhealthy(config: Config, ledger: Ledger, beating: Beating) -> None:
    beating.beat()
    with held(config):
        greedy = config.model_copy(update={"watch": config.watch.model_copy(update={"min_free_mb": 1 << 40})})
        assert bad(greedy, ledger) == {"disk"}
        looked_at = {check.text.split(": ")[0] for check in examine_daemon(greedy, ledger) if not check.ok}
        assert looked_at == {str(folder) for folder in (config.watch.inbox, config.outbox, config.state_dir)}
        shutil.rmtree(config.outbox)
        ok, text = checks(config, ledger)["disk"]
        assert not ok
        assert str(config.outbox) in text


def test_the_checks_of_a_daemon_read_no_inbox(
    config: Config, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for every few seconds, and there may be 100,000 files."""

    def scanned(*_: object) -> None:
        pytest.fail("the inbox was scanned")

    monkeypatch.setattr("pipeline.watch.status.scan_inbox", scanned)
    assert checks(config, ledger)["daemon"] == (False, "nobody watches the inbox")


def test_what_a_folder_asks_for_is_worked_out_once(
    config: Config, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inbox may have thousands of pictures, and a library hundreds of styles."""
    (config.watch.inbox / "styles").mkdir(parents=True, exist_ok=True)
    (config.watch.inbox / "styles" / "s.png").touch()
    for number in range(20):
        (config.watch.inbox / f"{number}.png").touch()
    planned, plan = [], Router.plan

    def counted(router: Router, relative: Path, *more: Any) -> Any:
        planned.append(relative)
        return plan(router, relative, *more)

    monkeypatch.setattr(Router, "plan", counted)
    assert len(read_status(config, ledger)["waits"]) == 20
    assert len(planned) == 1


def test_what_waits_is_named_with_its_reason_with_and_without_a_daemon(tmp_path: Path) -> None:
    watched = Watched(tmp_path, settle_s=0.001, routes={"prints": {"styles": ["missing"]}})
    (watched.inbox / "styles" / "s.jpg").write_bytes(b"another")
    for name in ("a.png", "fixed.png", "half.png", "prints/p.png", "night.yaml"):
        watched.drop(name)
    config = read_config(watched.folder / "config.yaml")
    with closing(Ledger(config.state_dir)) as ledger:
        broken = {"half.png": "to become a whole picture: cut short", "fixed.png": "cannot be taken."}
        ledger.write_daemon(config.watch.inbox, {"broken": broken})
        ledger.note_speed("vgg19-slim", "cpu", 1e6)
        wait_until(
            lambda: all(one["reason"] != "to settle" for one in read_status(config, ledger)["waits"]),
            "settle",
        )
        status = read_status(config, ledger)
    assert {one["path"]: one["reason"] for one in status["waits"]} == {
        "a.png": "its turn",
        "night.yaml": "its turn",
        "fixed.png": "cannot be taken.",
        "half.png": "to become a whole picture: cut short",
        "prints/p.png": "the style 'missing' is not in styles/, or still being copied",
    }
    not_used = "not used, as s.jpg has the same name but for its suffix; rename one of them"
    assert status["unused"] == [{"path": "styles/s.png", "reason": not_used}]
    assert status["eta_s"] > 0
    lines = status_lines(status)
    assert any(line.startswith("waits        5 files, about ") for line in lines)
    assert f"unused       styles/s.png: {not_used}" in lines
    assert lines.index("             half.png: to become a whole picture: cut short") < lines.index(
        "             a.png: its turn"
    )
