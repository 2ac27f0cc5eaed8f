"""What people do on the page, with a real daemon: pause, resume, cancel, put first, try again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_viewer import Viewer
from watching import Daemon, Watched


class Looking:
    """Someone who looks at the page of a daemon, and acts on it."""

    def __init__(self, daemon: Daemon) -> None:
        self.viewer = Viewer(daemon.until("page")["address"])
        self.viewer.sign_in()
        self._states = self.viewer.states()
        self.state = next(self._states)

    def until(self, condition: Callable[[dict[str, Any]], Any]) -> Any:
        """Return what a condition says of the first state of which it is true, be it the last one seen."""
        while not (found := condition(self.state)):
            self.state = next(self._states)
        return found

    def act(self, target: str, status: int = 204) -> Any:
        found, answer = self.viewer.ask("POST", f"/api/{target}")
        assert found == status, answer
        return answer


def waiting(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return a condition that finds a waiting picture."""
    return lambda state: next((one for one in state["waiting"] if one["name"] == name), None)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path, rescan_s=0.05)


@pytest.fixture
def daemon(watched: Watched) -> Iterator[Daemon]:
    """One whose jobs of pictures called `slow` run until they are stopped."""
    started = watched.start(page=True, worker=True, faults={"slow": "wait", "bad": "fail"})
    yield started
    if started.process.poll() is None:
        assert started.stop() == 128 + signal.SIGTERM
    watched.assert_promises()


def test_pause_and_resume(watched: Watched, daemon: Daemon) -> None:
    looking = Looking(daemon)
    looking.act("daemon/pause")
    looking.until(lambda state: state["daemon"]["state"] == "paused")
    watched.drop("a.png")
    assert looking.until(waiting("a.png"))
    assert watched.images() == []
    looking.act("daemon/resume")
    assert looking.until(lambda state: state["done"])[0]["name"] == "a--s"
    assert looking.until(lambda state: state["daemon"]["state"] == "idle")


def test_the_running_picture_is_cancelled_and_tried_again(watched: Watched, daemon: Daemon) -> None:
    looking = Looking(daemon)
    watched.drop("slow.png")
    running = looking.until(lambda state: state["running"])[0]
    assert running["canCancel"]
    looking.act(f"running/{running['id']}/cancel")
    failed = looking.until(lambda state: state["failed"])[0]
    assert (failed["name"], failed["cancelled"], failed["canRetry"]) == ("slow.png", True, True)
    looking.act("daemon/pause")
    looking.act(f"failed/{failed['id']}/retry")
    assert looking.until(waiting("slow.png"))
    looking.until(lambda state: not state["failed"])


def test_a_waiting_picture_is_cancelled_and_another_put_first(watched: Watched, daemon: Daemon) -> None:
    looking = Looking(daemon)
    watched.drop("slow.png")
    running = looking.until(lambda state: state["running"])[0]
    for name in ("a.png", "b.png", "c.png"):
        watched.drop(name)
    looking.act(f"waiting/{looking.until(waiting('a.png'))['id']}/cancel")
    looking.act(f"waiting/{looking.until(waiting('c.png'))['id']}/first")
    looking.until(lambda state: [one["name"] for one in state["waiting"]][:1] == ["c.png"])
    looking.act(f"running/{running['id']}/cancel")
    done = looking.until(lambda state: len(state["done"]) == 2 and state["done"])
    assert [one["name"] for one in done] == ["b--s", "c--s"]  # the newest first
    failed = looking.until(lambda state: len(state["failed"]) == 2 and state["failed"])
    assert {one["name"] for one in failed} == {"a.png", "slow.png"}


def test_a_picture_that_failed_says_why_and_is_tried_again(watched: Watched, daemon: Daemon) -> None:
    looking = Looking(daemon)
    watched.drop("bad.png")
    failed = looking.until(lambda state: state["failed"])[0]
    assert failed["error"]
    assert failed["nextStep"]
    assert not failed["cancelled"]
    answer = looking.act("failed/retry", status=200)
    assert answer == {"retried": 1, "errors": []}
    again = looking.until(
        lambda state: state["failed"] and state["failed"][0]["id"] != failed["id"] and state["failed"]
    )
    assert [one["name"] for one in again] == ["bad.png"]
