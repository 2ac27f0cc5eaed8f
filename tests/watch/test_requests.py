"""Requests of people to a daemon in this process; whole processes are in test_faults_control."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from disks import HookedDisk, When
from fakes import FakeExecutor, picture_bytes
from heartbeats import Shown
from watching import Watched, put

from pipeline.errors import DiskError
from pipeline.spec.config import read_config
from pipeline.spec.jobs import Job
from pipeline.storage.control import Control, Drop
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.storage.paths import HIDDEN
from pipeline.watch import daemon
from pipeline.watch.daemon import Tally, watch_inbox
from pipeline.watch.events import Waker
from pipeline.watch.quarantine import Quarantine
from pipeline.watch.setup import WatchOptions
from pipeline.watch.status import read_status, status_lines


class Acting(Shown):
    """Does something when an event of a kind comes."""

    def __init__(self) -> None:
        super().__init__()
        self.on_event: dict[str, Callable[[], None]] = {}

    def notify(self, kind: str, text: str, **facts: object) -> None:
        super().notify(kind, text, **facts)
        self.on_event.get(kind, lambda: None)()


class Closing(FakeExecutor):
    """Does something when its worker is ended, with the number of times."""

    closed = 0
    on_close: Callable[[int], object] = staticmethod(lambda times: None)

    def close(self) -> None:
        self.closed += 1
        self.on_close(self.closed)


class Watching:
    """An inbox, and runs of its daemon. `at` says what happens after a step, by the name of its job."""

    def __init__(self, folder: Path, **watch: Any) -> None:
        self.watched = Watched(folder, "off", **watch)
        (self.watched.inbox / HIDDEN).mkdir()
        self.control = Control(self.watched.inbox)
        self.at: dict[tuple[str, int], Callable[[], object]] = {}
        self.shown = Acting()
        self.executor = Closing(after_step=self._after_step)
        self.stopped = False
        self._tick: Callable[[], None] = lambda: None

    def _after_step(self, job: Job, step: int) -> None:
        self.at.pop((job.name, step), lambda: None)()
        self._tick()  # as the worker does

    def run(self, once: bool = True) -> Tally:
        config = read_config(self.watched.folder / "config.yaml")

        def make(config: object, tick: Callable[[], None]) -> FakeExecutor:
            self._tick = tick
            return self.executor

        self.shown.events.clear()
        waker = Waker(self.watched.inbox, "off")
        return watch_inbox(
            config, WatchOptions(once=once), self.shown, make, waker, should_stop=lambda: self.stopped
        )

    def stop(self) -> None:
        self.stopped = True

    def cancel(self, path: str) -> None:
        self.control.cancel(Drop(path))

    def status(self) -> dict[str, Any]:
        config = read_config(self.watched.folder / "config.yaml")
        with closing(Ledger(config.state_dir)) as ledger:
            return read_status(config, ledger)

    def quarantined(self) -> dict[str, bool]:
        """The quarantined files, and whether they were cancelled."""
        found = Quarantine(self.watched.inbox, self.watched.quarantine, Disk()).files()
        return {str(one.report["path"]): one.report.get("cancelled", False) for one in found}

    def retry(self) -> None:
        quarantine = Quarantine(self.watched.inbox, self.watched.quarantine, Disk())
        for one in quarantine.files():
            quarantine.retry(one)


@pytest.fixture
def watching(tmp_path: Path, no_sync: None, monkeypatch: pytest.MonkeyPatch) -> Watching:
    monkeypatch.setattr(daemon, "BEAT_S", 0.01)
    return Watching(tmp_path)


# Pause


def test_a_pause_stops_the_job_frees_the_worker_and_lets_nothing_begin(watching: Watching) -> None:
    watching.watched.drop("a.png")
    watching.watched.drop("b.png")
    watching.at["a--s", 2] = watching.control.pause
    watching.shown.on_event["paused_by_user"] = lambda: began.append(len(watching.executor.ran))
    began: list[int] = []
    tally = watching.run()
    assert tally == Tally(left=2)
    assert watching.shown.statuses == {"a--s": "stopped"}
    assert began == [1] == [len(watching.executor.ran)]
    assert watching.watched.attempts() == []
    assert watching.run() == Tally(left=2)  # a pause outlives the process
    assert watching.executor.ran == ["a"]
    status = watching.status()
    assert [one["path"] for one in status["begun"]] == ["a.png"]
    lines = status_lines(status)
    assert any(line.startswith("paused       by a user, ") for line in lines)
    assert "begun        a.png, to be resumed" in lines
    assert watching.control.resume()
    assert watching.run() == Tally(done=2)
    assert watching.executor.ran == ["a", "a", "b"]
    watching.watched.assert_done(["a--s.png", "b--s.png"])


def test_a_daemon_that_is_resumed_continues_with_what_it_stopped(watching: Watching) -> None:
    for name in ("a.png", "b.png"):
        watching.watched.drop(name)
    watching.at["a--s", 2] = watching.control.pause
    watching.at["b--s", 4] = watching.stop
    watching.executor.on_close = lambda times: watching.control.resume() if times == 3 else None
    tally = watching.run(once=False)
    assert (tally.done, tally.left) in {(2, 0), (1, 1)}  # the stop comes with b's last step
    kinds = [kind for kind, _ in watching.shown.events]
    assert kinds.index("paused_by_user") < kinds.index("resumed_by_user")
    assert watching.executor.ran == ["a", "a", "b"]
    watching.watched.assert_promises()


def test_a_daemon_that_is_paused_needs_no_engine_and_is_healthy(watching: Watching) -> None:
    watching.watched.drop("a.png")
    watching.control.pause()
    assert watching.run() == Tally(left=1)
    assert watching.shown.encoders == []
    assert watching.shown.texts("paused_by_user") == [
        "paused by a user; nothing is begun until `style-pipeline resume`"
    ]


def test_an_inbox_that_is_away_does_not_end_a_pause(watching: Watching) -> None:
    """Its requests are away with it."""
    inbox, away = watching.watched.inbox, watching.watched.inbox.with_name("away")
    watching.watched.drop("a.png")
    watching.at["a--s", 1] = watching.control.pause

    def unmount() -> None:
        inbox.rename(away)
        inbox.mkdir()

    def mount() -> None:
        inbox.rmdir()
        away.rename(inbox)
        watching.stop()

    watching.shown.on_event = {"paused_by_user": unmount, "paused": mount}
    watching.run(once=False)
    assert watching.shown.texts("resumed_by_user") == []
    watching.watched.assert_promises()


# Cancel


def test_a_job_that_is_cancelled_stops_and_its_original_is_quarantined(watching: Watching) -> None:
    watching.watched.drop("a.png")
    watching.watched.drop("b.png")
    watching.at["a--s", 2] = lambda: watching.cancel("a.png")
    assert watching.run() == Tally(done=1, cancelled=1)
    assert watching.shown.statuses == {"a--s": "stopped", "b--s": "done"}
    assert [step for name, step in watching.shown.named_steps if name == "a--s"] == [1, 2]
    assert watching.quarantined() == {"a.png": True}
    assert watching.watched.attempts() == []
    assert watching.control.requests() == []
    (text,) = watching.shown.texts("cancelled")
    assert "brings it back" in text
    status = watching.status()
    assert [one["error"].rpartition("/")[2] for one in status["quarantined"]] == ["a.png: cancelled."]
    assert watching.shown.texts("ended") == [
        "ended: 1 done, 0 quarantined, 1 cancelled, 0 left for the next time"
    ]
    watching.watched.assert_promises()
    watching.retry()
    assert watching.run() == Tally(done=1)
    watching.watched.assert_done(["a--s.png", "b--s.png"])


def test_what_was_finished_of_a_cancelled_picture_stays_and_is_not_made_again(watching: Watching) -> None:
    put(watching.watched.inbox / "styles/t.png", picture_bytes("t"))
    watching.watched.drop("a.png")
    watching.at["a--t", 1] = lambda: watching.cancel("a.png")
    assert watching.run() == Tally(cancelled=1)
    assert [path.name for path in watching.watched.images()] == ["a--s.png"]
    watching.retry()
    watching.shown.finished.clear()
    assert watching.run() == Tally(done=1)
    assert watching.shown.statuses == {"a--s": "skipped", "a--t": "done"}


def test_what_waits_is_cancelled_while_another_picture_is_made(watching: Watching) -> None:
    for name in ("a.png", "b.png", "monet/c.png"):
        watching.watched.drop(name)
    seen: list[dict[str, bool]] = []
    watching.at["a--s", 1] = lambda: (watching.cancel("b.png"), watching.cancel("monet/c.png"))
    watching.at["a--s", 2] = lambda: seen.append(watching.quarantined())
    assert watching.run() == Tally(done=1, cancelled=2)
    assert seen == [{"b.png": True, "monet/c.png": True}]
    assert len(watching.shown.texts("cancelled")) == 2
    assert watching.shown.texts("refused") == []
    assert watching.control.requests() == []
    assert watching.executor.ran == ["a"]
    watching.watched.assert_promises()


@pytest.mark.parametrize(
    ("when", "operation", "folder"), [("before", "mkdir", "quarantine"), ("after", "rename", "claimed")]
)
def test_a_cancel_that_a_full_disk_interrupts_is_obeyed_later(
    watching: Watching, monkeypatch: pytest.MonkeyPatch, when: When, operation: str, folder: str
) -> None:
    full: list[str] = []

    def hook(now: When, name: str, paths: tuple[Path, ...]) -> None:
        if full and (now, name) == (when, operation) and folder in paths[-1].parts:
            raise OSError(errno.ENOSPC, "No space left on device", str(paths[-1]))

    monkeypatch.setattr(daemon, "Disk", lambda: HookedDisk(hook))
    for name in ("a.png", "b.png"):
        watching.watched.drop(name)
    watching.at["a--s", 1] = lambda: (watching.cancel("b.png"), full.append("now"))
    watching.at["a--s", 3] = full.clear
    with pytest.raises(DiskError, match="No space left"):
        watching.run()
    assert watching.executor.ran == ["a"]
    assert watching.run() == Tally(cancelled=1)
    assert watching.quarantined() == {"b.png": True}
    assert watching.executor.ran == ["a"]
    assert watching.control.requests() == []
    watching.watched.assert_promises()


def test_what_is_no_whole_picture_or_waits_for_a_style_can_be_cancelled(watching: Watching) -> None:
    watching.watched.configure(watch={**watching.watched.watch, "inbox": "inbox", "settle_max_s": 1000})
    watching.watched.drop("half.png", picture_bytes("half")[:40])
    watching.watched.drop("a.png")
    assert watching.run() == Tally(done=1, left=1)
    watching.cancel("half.png")
    assert watching.status()["waits"] == [{"path": "half.png", "reason": "to be cancelled", "first": False}]
    assert watching.run() == Tally(cancelled=1)
    assert watching.quarantined() == {"half.png": True}
    (watching.watched.inbox / "styles/s.png").unlink()
    watching.watched.drop("late.png")
    watching.cancel("late.png")
    assert watching.run() == Tally(cancelled=1)
    watching.watched.assert_promises()


def test_a_manifest_is_cancelled_as_a_whole(watching: Watching) -> None:
    photos = watching.watched.folder / "photos"
    for name in ("a", "b"):
        put(photos / f"{name}.png", picture_bytes(name))
    manifest = {"contents": [f"{photos}/*.png"], "styles": ["styles/s.png"]}
    watching.watched.drop("night.yaml", yaml.safe_dump(manifest).encode())
    watching.at["b--s", 2] = lambda: watching.cancel("night.yaml")
    assert watching.run() == Tally(cancelled=1)
    assert watching.quarantined() == {"night.yaml": True}
    assert [path.name for path in watching.watched.images()] == ["a--s.png"]
    watching.retry()
    watching.shown.finished.clear()
    assert watching.run() == Tally(done=1)
    assert watching.shown.statuses == {"a--s": "skipped", "b--s": "done"}


def test_a_cancel_is_about_one_file_and_not_about_a_later_one_of_its_name(watching: Watching) -> None:
    old = watching.watched.drop("a.png")
    watching.cancel("a.png")
    watching.watched.inputs.clear()
    old.rename(watching.watched.folder / "kept")  # so that its inode is not given to the new one
    watching.watched.drop("a.png", picture_bytes("another"))
    assert watching.run() == Tally(done=1)
    assert watching.shown.texts("refused") == [
        "a.png: nothing to cancel. It is finished, or not there any more."
    ]
    assert watching.control.requests() == []


def test_a_cancel_that_comes_too_late_changes_nothing(watching: Watching) -> None:
    """Not even where the original stays in its place, with the inode that was cancelled."""
    watching.watched.configure(watch={**watching.watched.watch, "inbox": "inbox", "originals": "leave"})
    watching.watched.drop("a.png")
    assert watching.run() == Tally(done=1)
    put(watching.watched.inbox / "b.png", picture_bytes("b"))
    watching.cancel("a.png")
    assert watching.run() == Tally(done=1)
    assert watching.quarantined() == {}
    assert watching.control.requests() == []
    assert (watching.watched.inbox / "a.png").exists()


def test_what_is_paused_can_be_cancelled(watching: Watching) -> None:
    watching.watched.drop("a.png")
    watching.watched.drop("b.png")
    watching.at["a--s", 1] = watching.control.pause
    assert watching.run() == Tally(left=2)
    watching.cancel("a.png")
    watching.cancel("b.png")
    ticks = iter(range(100))

    def should_stop() -> bool:
        return next(ticks) > 50

    watching.shown.on_event["cancelled"] = lambda: (
        watching.stop() if len(watching.quarantined()) == 2 else None
    )
    assert watching.run(once=False) == Tally(cancelled=2)
    assert watching.quarantined() == {"a.png": True, "b.png": True}
    assert watching.executor.ran == ["a"]


def test_retry_withdraws_a_cancel(watching: Watching) -> None:
    """A daemon may have died between the quarantine and the note that it obeyed."""
    watching.watched.drop("a.png")
    watching.cancel("a.png")
    (request,) = watching.control.folder.iterdir()
    data = request.read_bytes()
    assert watching.run() == Tally(cancelled=1)
    put(request, data)
    watching.retry()
    assert watching.run() == Tally(done=1)


# First


def test_what_is_put_first_is_taken_next_the_last_one_first_of_all(watching: Watching) -> None:
    for name in "abcde":
        watching.watched.drop(f"{name}.png")
    watching.at["a--s", 1] = lambda: (
        watching.control.put_first(Drop("c.png")),
        watching.control.put_first(Drop("e.png")),
    )
    watching.at["a--s", 2] = lambda: waits.extend(one["path"] for one in watching.status()["waits"])
    waits: list[str] = []
    assert watching.run() == Tally(done=5)
    assert watching.executor.ran == ["a", "e", "c", "b", "d"]
    assert waits == ["e.png", "c.png", "b.png", "d.png"]
    assert watching.control.requests() == []


def test_what_is_put_first_and_gone_holds_nobody_up(watching: Watching) -> None:
    gone = watching.watched.drop("z.png")
    watching.watched.drop("a.png")
    watching.control.put_first(Drop("z.png"))
    gone.unlink()
    watching.watched.inputs.pop(picture_bytes(ascii("z.png")))
    assert watching.run() == Tally(done=1)
    assert watching.control.requests() == []


@pytest.mark.parametrize("path", ["a.png", "a\0b", "\ud800.png", ""], ids=ascii)
def test_what_is_damaged_among_the_requests_is_left_alone(watching: Watching, path: str) -> None:
    facts = {"path": path} if path == "a.png" else {"path": path, "id": "", "inode": 1, "asked": 1}
    for kind in ("cancel", "first"):
        put(watching.control.folder / f"{kind}-0.json", json.dumps(facts).encode())
    watching.watched.drop("a.png")
    assert watching.run() == Tally(done=1)
