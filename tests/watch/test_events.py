from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from fakes import Clock
from watchdog.events import (
    DirCreatedEvent,
    FileClosedNoWriteEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileOpenedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserverVFS
from watchdog.utils import BaseThread

from pipeline.storage.paths import HIDDEN
from pipeline.watch.events import Waker, _Handler

# Of watchdog's own threads, see `silence_watchdog`.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")

TIMEOUT_S = 30.0  # never waited for when all is well

Make = Callable[..., Waker]


@pytest.fixture
def make(inbox: Path) -> Iterator[Make]:
    """Return a function that makes a waker; each is closed at the end."""
    wakers: list[Waker] = []

    def make(mode: Literal["native", "polling", "off"] = "native", **options: Any) -> Waker:
        wakers.append(Waker(inbox, mode, **options))
        return wakers[-1]

    yield make
    for waker in wakers:
        waker.close()
    assert [thread for thread in threading.enumerate() if isinstance(thread, BaseThread)] == []


class FakeObserver(FileSystemEventHandler):
    """An observer without threads, whose parts fail when asked to."""

    def __init__(self, schedule: Exception | None = None, start: Exception | None = None) -> None:
        self.errors = {"schedule": schedule, "start": start}
        self.emitters: set[BaseThread] = set()
        self.stopped = False

    def schedule(self, handler: FileSystemEventHandler, path: str, **options: Any) -> None:
        self.handler, self.path, self.options = handler, path, options
        self._fail("schedule")

    def start(self) -> None:
        self._fail("start")

    def _fail(self, name: str) -> None:
        if error := self.errors[name]:
            raise error

    def is_alive(self) -> bool:
        return not self.stopped

    def stop(self) -> None:
        self.stopped = True

    def join(self) -> None:
        pass


class Observers(list[BaseObserver]):
    """Makes real observers and keeps them."""

    def __call__(self) -> BaseObserver:
        self.append(Observer())
        return self[-1]


def end(*threads: BaseThread) -> None:
    for thread in threads:
        thread.stop()
        thread.join()


def quick_polling() -> BaseObserver:
    return PollingObserverVFS(os.lstat, os.scandir, polling_interval=0.02)  # type: ignore[arg-type]


def happen(waker: Waker, act: Callable[[], object]) -> None:
    """Do something that must wake, with no older event about. A few may still come of what was done."""
    while waker.wait(0):
        pass
    act()
    assert waker.wait(TIMEOUT_S)


def put(path: Path) -> None:
    path.write_bytes(b"data")


class TestWaking:
    def test_set_wakes_at_once(self, make: Make) -> None:
        waker = make("off")
        waker.set()
        assert waker.wait(TIMEOUT_S)
        assert not waker.wait(0)

    def test_one_wait_swallows_every_wake_up(self, make: Make) -> None:
        waker = make("off")
        for _ in range(1000):
            waker.set()
        assert waker.wait(TIMEOUT_S)
        assert not waker.wait(0)

    @pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 0.001])
    def test_nothing_happened(self, make: Make, timeout_s: float) -> None:
        assert not make("off").wait(timeout_s)

    def test_a_timeout_longer_than_any_clock(self, make: Make) -> None:
        waker = make("off")
        waker.set()
        assert waker.wait(1e300)
        waker.set()
        assert waker.wait(float("inf"))

    def test_another_thread_wakes_a_waiter(self, make: Make) -> None:
        waker = make("off")
        thread = threading.Thread(target=waker.set)
        thread.start()
        assert waker.wait(TIMEOUT_S)
        thread.join()

    def test_a_signal_wakes_a_waiter_again_and_again(self, make: Make) -> None:
        """Also when it comes in the middle of set() and wait(): a lock taken twice would hang here."""
        waker, signals = make("off"), 0

        def handle(number: int, frame: object) -> None:
            nonlocal signals
            signals += 1
            waker.set()

        before = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            while signals < 100:
                waker.set()
                assert waker.wait(TIMEOUT_S)
                waker.wait(TIMEOUT_S)  # woken by the signal alone
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_off_watches_nothing(self, make: Make, inbox: Path) -> None:
        waker = make("off", make_observer=lambda: pytest.fail("an observer was made"))
        assert (waker.start(), waker.check(), waker.alive, waker.has_events) == ("", "", True, False)


class TestEvents:
    @pytest.mark.parametrize("mode", ["native", "polling"])
    def test_what_wakes(
        self,
        make: Make,
        inbox: Path,
        mode: Literal["native", "polling"],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        happened: list[str] = []
        real = _Handler.on_any_event

        def record(self: _Handler, event: FileSystemEvent) -> None:
            happened.append(os.fsdecode(event.dest_path or event.src_path))
            real(self, event)

        monkeypatch.setattr(_Handler, "on_any_event", record)
        waker = make(mode, **({"make_observer": quick_polling} if mode == "polling" else {}))

        def wakes(path: Path, act: Callable[[], object]) -> None:
            happened.clear()
            act()
            assert waker.wait(TIMEOUT_S)
            while str(path) not in happened:
                assert waker.wait(TIMEOUT_S)

        outside, there, folder = inbox.parent, inbox / "there", inbox / "folder"
        there.mkdir()
        for path in (there / "old.png", outside / "a.png", outside / "b.png"):
            put(path)
        (outside / "folder" / "deep").mkdir(parents=True)
        assert not waker.has_events
        assert waker.start() == ""
        assert waker.alive
        assert waker.has_events
        wakes(inbox / "created.png", lambda: put(inbox / "created.png"))
        wakes(inbox / "a.png", lambda: (outside / "a.png").rename(inbox / "a.png"))
        wakes(inbox / "a.png", lambda: (inbox / "a.png").write_bytes(b"other data"))
        wakes(there / "a.png", lambda: (inbox / "a.png").rename(there / "a.png"))
        wakes(there / "below.png", lambda: put(there / "below.png"))
        wakes(there / "old.png", (there / "old.png").unlink)
        wakes(folder, lambda: (outside / "folder").rename(folder))
        wakes(folder / "deep" / "later.png", lambda: put(folder / "deep" / "later.png"))
        assert waker.check() == ""

    def test_polling_as_it_comes(self, make: Make, inbox: Path) -> None:
        waker = make("polling")
        assert waker.start() == ""
        happen(waker, lambda: put(inbox / "a.png"))

    def test_polling_stays_inside(self, make: Make, inbox: Path) -> None:
        """A symbolic link may lead to everything there is."""
        outside = inbox.parent / "outside"
        outside.mkdir()
        (inbox / "link").symlink_to(outside)
        (inbox / "loop").symlink_to(inbox)
        looked_at: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "scandir", recording(os.scandir, looked_at))
            waker = make("polling")
            assert waker.start() == ""
        assert looked_at == [str(inbox)]

    @pytest.mark.skipif(sys.platform != "linux", reason="one event for one move: inotify")
    def test_our_own_operations_wake_nobody(self, make: Make, inbox: Path) -> None:
        """Reading, working in our own folder, and claiming; then one real event, after all of these."""
        woken: list[str] = []

        class Counting(Waker):
            def set(self) -> None:
                woken.append("")
                super().set()

        put(inbox / "a.png")
        put(inbox.parent / "sentinel.png")
        (inbox / HIDDEN / "claimed").mkdir(parents=True)
        waker = Counting(inbox, "native")
        try:
            assert waker.start() == ""
            for _ in range(10):
                (inbox / "a.png").read_bytes()
            os.listdir(inbox)
            put(inbox / HIDDEN / "claimed" / "note")
            (inbox / HIDDEN / "claimed" / "note").unlink()
            (inbox / "a.png").rename(inbox / HIDDEN / "claimed" / "a.png")
            (inbox.parent / "sentinel.png").rename(inbox / "sentinel.png")
            assert waker.wait(TIMEOUT_S)
            assert len(woken) == 1
        finally:
            waker.close()

    def test_the_right_events_are_asked_for(self, make: Make, inbox: Path) -> None:
        observer = FakeObserver()
        waker = make(make_observer=lambda: observer)
        waker.start()
        assert observer.path == str(inbox)
        assert observer.options["recursive"] is True
        asked = set(observer.options["event_filter"])
        assert {FileCreatedEvent, FileMovedEvent, DirCreatedEvent} <= asked
        assert not {FileOpenedEvent, FileClosedNoWriteEvent, FileSystemEvent} & asked

    @pytest.mark.parametrize(
        ("source", "target", "wakes"),
        [
            ("a.png", "", True),
            (HIDDEN, "", False),
            (f"{HIDDEN}/a.png", "", False),
            (f"{HIDDEN}/control", "", False),
            (f"{HIDDEN}/control/first-0.json", "", True),
            (f"{HIDDEN}/control/.unfinished-0", f"{HIDDEN}/control/first-0.json", True),
            (f"{HIDDEN}/a.png", "a.png", True),
            ("a.png", f"{HIDDEN}/a.png", False),
            (f"{HIDDEN}-not", "", True),
            (f"folder/{HIDDEN}/a.png", "", True),
        ],
    )
    def test_which_paths_wake(self, make: Make, inbox: Path, source: str, target: str, wakes: bool) -> None:
        observer = FakeObserver()
        waker = make(make_observer=lambda: observer)
        waker.start()
        kind = FileMovedEvent if target else FileCreatedEvent
        observer.handler.dispatch(kind(str(inbox / source), str(inbox / target) if target else ""))
        assert waker.wait(0) is wakes


def recording(real: Callable[..., Any], paths: list[str]) -> Callable[..., Any]:
    def record(path: str) -> Any:
        paths.append(path)
        return real(path)

    return record


class TestHealth:
    def test_a_dead_emitter_is_replaced(self, make: Make, inbox: Path) -> None:
        observers = Observers()
        waker = make(make_observer=observers)
        waker.start()
        end(*observers[0].emitters)
        assert not waker.alive
        assert "again" in waker.check()
        assert waker.alive
        assert waker.check() == ""
        happen(waker, lambda: put(inbox / "a.png"))

    def test_a_dead_observer_is_replaced(self, make: Make, inbox: Path) -> None:
        observers = Observers()
        waker = make(make_observer=observers)
        waker.start()
        end(observers[0])
        assert not waker.alive
        assert str(inbox) in waker.check()
        happen(waker, lambda: put(inbox / "a.png"))

    @pytest.mark.parametrize("mode", ["native", "polling"])
    def test_a_folder_that_was_removed_and_made_again(
        self, make: Make, inbox: Path, mode: Literal["native", "polling"]
    ) -> None:
        waker = make(mode, **({"make_observer": quick_polling} if mode == "polling" else {}))
        waker.start()
        happen(waker, inbox.rmdir)
        note = waker.check()
        assert str(inbox) in note
        assert "not there" in note
        assert not waker.alive
        assert waker.check() == "", "the same trouble is noted once"
        inbox.mkdir()
        assert "again" in waker.check()
        assert waker.alive
        happen(waker, lambda: put(inbox / "a.png"))

    def test_a_folder_that_was_replaced(self, make: Make, inbox: Path) -> None:
        """The old watch continues, and sees a folder that is elsewhere by now."""
        waker = make()
        waker.start()
        inbox.rename(inbox.parent / "old")
        inbox.mkdir()
        assert not waker.alive
        assert waker.check()
        happen(waker, lambda: put(inbox / "a.png"))

    def test_a_folder_that_comes_late(self, make: Make, inbox: Path) -> None:
        inbox.rmdir()
        waker = make()
        assert "not there" in waker.start()
        assert not waker.alive
        inbox.mkdir()
        assert waker.check()
        happen(waker, lambda: put(inbox / "a.png"))

    @pytest.mark.parametrize("part", ["schedule", "start", "make"])
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(errno.ENOSPC, "inotify watch limit reached"), ["watch limit", "max_user_watches"]),
            (OSError(errno.EMFILE, "inotify instance limit reached"), ["instance", "max_user_instances"]),
            (OSError(errno.EIO, "Input/output error"), ["Input/output error"]),
            (RuntimeError("can't start new thread"), ["can't start new thread"]),
        ],
    )
    def test_without_events_all_else_works_until_the_renewal(
        self, make: Make, inbox: Path, part: str, error: Exception, words: list[str]
    ) -> None:
        clock, observers = Clock(), list[FakeObserver]()
        errors: dict[str, Exception | None] = {part: error}

        def observer() -> Any:
            observers.append(FakeObserver(errors.get("schedule"), errors.get("start")))
            if wrong := errors.get("make"):
                raise wrong
            return observers[-1]

        waker = make(clock=clock, make_observer=observer, renew_s=100)
        note = waker.start()
        assert all(word in note for word in [str(inbox), *words])
        assert observers[0].stopped or part == "make"
        waker.set()
        assert waker.wait(TIMEOUT_S)
        clock.now += 99
        assert (waker.check(), waker.alive, len(observers)) == ("", True, 1)
        assert not waker.has_events
        clock.now += 1
        assert waker.check() == "", "the same trouble is noted once"
        assert len(observers) == 2
        errors.clear()
        clock.now += 100
        assert "again" in waker.check()
        assert len(observers) == 3
        assert not observers[-1].stopped

    def test_another_trouble_is_noted(self, make: Make, inbox: Path) -> None:
        clock = Clock()
        errors = [OSError(errno.ENOSPC, "first"), OSError(errno.EMFILE, "second")]
        observers = iter([FakeObserver(start=error) for error in errors])
        waker = make(clock=clock, make_observer=lambda: next(observers), renew_s=100)
        assert "first" in waker.start()
        clock.now += 100
        assert "second" in waker.check()

    def test_renewals_are_silent_and_leave_nothing_behind(self, make: Make, inbox: Path) -> None:
        clock, observers, counts = Clock(), Observers(), []
        waker = make(clock=clock, make_observer=observers, renew_s=100)
        waker.start()
        for number in range(20):
            clock.now += 99
            assert (waker.check(), len(observers)) == ("", number + 1)
            clock.now += 1
            assert (waker.check(), len(observers)) == ("", number + 2)
            happen(waker, partial(put, inbox / f"{number}.png"))
            counts.append((threading.active_count(), open_descriptors()))
        assert len(set(counts)) == 1

    def test_restarts_leave_nothing_behind(self, make: Make, inbox: Path) -> None:
        observers, counts = Observers(), []
        waker = make(make_observer=observers)
        waker.start()
        for _ in range(10):
            end(*observers[-1].emitters)
            assert waker.check()
            counts.append((threading.active_count(), open_descriptors()))
        assert len(set(counts)) == 1

    def test_failed_starts_leave_nothing_behind(self, make: Make, inbox: Path) -> None:
        """The real observer has begun when its emitter fails."""

        def observer() -> BaseObserver:
            made = Observer()
            inbox.rmdir()  # after the look at the folder, before the watch
            return made

        waker = make(make_observer=observer)
        before = (threading.active_count(), open_descriptors())
        for _ in range(5):
            assert "not there" in waker.start()
            inbox.mkdir()
            assert not waker.alive
        assert (threading.active_count(), open_descriptors()) == before

    def test_closing_ends_every_thread(self, make: Make, inbox: Path) -> None:
        before = (threading.active_count(), open_descriptors())
        waker = make()
        waker.start()
        assert threading.active_count() > before[0]
        waker.close()
        waker.close()
        assert (threading.active_count(), open_descriptors()) == before
        assert (waker.check(), waker.alive) == ("", True)
        waker.set()
        assert waker.wait(TIMEOUT_S)


def open_descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0


def test_the_mode_can_be_switched(make: Make, inbox: Path) -> None:
    waker = make()
    waker.start()
    assert waker.has_events
    assert waker.switch("off") == ""
    assert not waker.has_events
    assert waker.alive
    assert waker.switch("native") == ""
    happen(waker, lambda: put(inbox / "a.png"))


UNCHANGED = """
import logging, sys, warnings
from pipeline import errors
before = [*warnings.filters]
import watchdog.observers
import pipeline.watch.events
assert warnings.filters == before, warnings.filters
assert not logging.getLogger("watchdog").handlers
pipeline.watch.events.silence_watchdog()
warnings.warn("Callback with id 'x' already exists for watch y.", RuntimeWarning)
logging.getLogger("watchdog").error("given up")
"""


def test_only_who_asks_for_it_has_watchdog_silenced() -> None:
    done = subprocess.run([sys.executable, "-c", UNCHANGED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
