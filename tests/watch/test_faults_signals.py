"""Signals that end a daemon, and the one that reloads its configuration."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from crashes import EACH_MODE
from watching import Forks, Watched

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
def test_hup_reloads_the_configuration_and_keeps_the_old_one_if_it_is_wrong(
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
