"""The page beside a daemon changes none of its promises: kills, faults of the disk, signals, uploads."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from crashes import Each, Scenario, count_points, kill_twice
from fakes import picture_bytes
from page_viewer import Viewer
from test_faults_disk import ERRNOS, fail_at
from watching import Daemon, Forks, Watched, wait_until

LOOKED_AT = Scenario(setup={"page": True})
PAGE = (28, "the page on: SIGKILL at any point, faults of the disk, signals, uploads cut off")
# A quiet machine takes less than two seconds, a busy one more; an upload that stalls is given 30.
END_S = 10

pytestmark = pytest.mark.case(*PAGE)


def viewer_of(daemon: Daemon) -> Viewer:
    viewer = Viewer(daemon.until("page")["address"])
    viewer.sign_in()
    return viewer


@contextmanager
def stalled_upload(viewer: Viewer, watched: Watched, name: str) -> Iterator[None]:
    """Send all of a picture but its last byte, and keep the connection open."""
    photo = picture_bytes(name) * 1000
    headers = {"Sec-Fetch-Site": "same-origin", "Cookie": viewer.cookie, "Content-Length": str(len(photo))}
    with closing(viewer.connect()) as connection:
        connection.putrequest("PUT", f"/api/photos?name={name}")
        for header in headers.items():
            connection.putheader(*header)
        connection.endheaders(photo[:-1])
        wait_until(lambda: any(watched.inbox.glob(".unfinished-*")), "the upload has begun")
        yield


def test_someone_looks_at_the_page_while_these_daemons_work(forks: Forks, tmp_path: Path) -> None:
    watched = LOOKED_AT.prepare(tmp_path / "looked at")
    assert watched.fork(forks, once=True, **LOOKED_AT.setup).code == 0
    assert (watched.state / "live/looked-at").is_file()


@pytest.mark.parametrize("step", [31, pytest.param(4, marks=pytest.mark.faults)])
def test_killed_at_any_point_twice_while_someone_looks(
    forks: Forks, each: Each, tmp_path: Path, step: int
) -> None:
    points = count_points(forks, LOOKED_AT, tmp_path / "count")
    each(
        lambda server, point: kill_twice(server, LOOKED_AT, tmp_path / str(point), point),
        range(3, points, step),
    )


@pytest.mark.parametrize("step", [41, pytest.param(6, marks=pytest.mark.faults)])
def test_operations_that_fail_cost_nothing_while_someone_looks(
    forks: Forks, each: Each, tmp_path: Path, step: int
) -> None:
    points = count_points(forks, LOOKED_AT, tmp_path / "count")

    def act(server: Forks, point: int) -> None:
        fail_at(server, LOOKED_AT, tmp_path / str(point), point, ERRNOS[point % 4], 1 + point % 3)

    each(act, range(5, points, step))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_although_pages_are_open(number: int, tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    daemon = watched.start(page=True)
    viewer = viewer_of(daemon)
    streams = [viewer.states() for _ in range(5)]
    for stream in streams:
        assert next(stream)["daemon"] is not None
    daemon.until("device")
    daemon.signal(number)
    assert daemon.wait() == 128 + number
    for stream in streams:
        assert all("daemon" in state for state in stream)  # and each comes to its end


def test_a_signal_ends_a_daemon_at_once_whatever_goes_on(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    daemon = watched.start(page=True, worker=True, faults={"slow": "wait"})
    viewer = viewer_of(daemon)
    streams = [viewer.states() for _ in range(5)]
    watched.drop("slow.png")
    for stream in streams:
        assert next(state for state in stream if state["running"])
    with stalled_upload(viewer, watched, "cut.png"):
        began = time.monotonic()
        assert daemon.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - began < END_S
    for stream in streams:
        assert all("daemon" in state for state in stream)
    assert not any(watched.inbox.glob(".unfinished-*"))
    watched.assert_promises()


def test_what_is_sent_to_the_page_is_painted_and_nothing_is_lost(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    daemon = watched.start(page=True)
    viewer = viewer_of(daemon)
    states = viewer.states()
    (style,) = next(states)["styles"]
    photo = picture_bytes("me")
    status, answer = viewer.ask("PUT", f"/api/photos?name=me.png&style={style['id']}", photo)
    assert (status, answer["folder"]) == (201, "s")
    watched.inputs[photo] += 1
    daemon.until("done", name="s/me--s")
    done = next(state["done"] for state in states if state["done"])
    assert [one["name"] for one in done] == ["s/me--s"]
    image = viewer.ask("GET", done[0]["image"])[1]
    assert image == (watched.outbox / "inbox/s/me--s.png").read_bytes()
    assert daemon.stop() == 128 + signal.SIGTERM
    watched.assert_promises()
    assert [path.name for path in watched.archive.rglob("*.png")] == ["me.png"]


def test_an_upload_is_in_the_inbox_whole_or_not_at_all_however_the_page_ends(tmp_path: Path) -> None:
    watched = Watched(tmp_path, settle_s=100)  # all stays in the inbox
    daemon = watched.start(page=True)
    viewer = viewer_of(daemon)
    photo = picture_bytes("me") * 1000
    with stalled_upload(viewer, watched, "cut.png"):
        assert viewer.ask("PUT", "/api/photos?name=whole.png", photo)[0] == 201
        watched.inputs[photo] += 1
        daemon.kill()
    assert [path.read_bytes() for path in watched.originals()] == [photo]
    again = watched.start(page=True)  # it sweeps what the other left
    again.until("page")
    wait_until(lambda: not any(watched.inbox.glob(".unfinished-*")), "the rest of the upload is removed")
    assert again.stop() == 128 + signal.SIGTERM
    watched.assert_promises()
