"""Events of the file system that fail: the scans find what they miss."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from faults import Passing, case, of_kind, running
from watching import Watched

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
@pytest.mark.parametrize("mode", ["native"])
def test_pictures_are_taken_when_no_event_is_read_any_more(tmp_path: Path, mode: str) -> None:
    """A thread of watchdog's that reads for its emitters may end unseen: then the clock alone is left."""
    watched = Watched(tmp_path, mode, rescan_s=0.5)
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
