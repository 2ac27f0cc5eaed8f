"""What wakes the scanner. Events are hints; the scan is the truth."""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from watchdog import events
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserverVFS

from ..storage.paths import HIDDEN, control_folder

POLLING_S = 1
ENOUGH_WAKE_UPS = 2

# Not opened or closed: reading files here would cause events without end.
EVENTS: list[type[events.FileSystemEvent]] = [
    *(events.FileCreatedEvent, events.FileModifiedEvent, events.FileMovedEvent, events.FileDeletedEvent),
    *(events.DirCreatedEvent, events.DirMovedEvent, events.DirDeletedEvent),
]

LIMITS = {
    errno.ENOSPC: "Raise the system's limit fs.inotify.max_user_watches.",
    errno.EMFILE: "Raise the system's limit fs.inotify.max_user_instances, or that of open files.",
}


def silence_watchdog() -> None:
    """Keep watchdog's own messages off the screen, for the whole process: only its owner calls this.

    It logs what it gives up, which `Waker.check` notices anyway. And its threads warn when they see a new
    folder twice: in its parent, and by the folder's own event.
    """
    logging.getLogger("watchdog").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)


class Waker:
    """Wakes a waiting thread when something happens below a folder, or when `set` is called.

    Nothing depends on the events: they may be late, too many, or never come, as after an overflow of the
    kernel's queue, which watchdog does not report. So the watch is renewed every `renew_s` seconds, and the
    inbox is scanned by the clock as well.

    `start` begins to watch, and `check`, called before every scan, starts again what has stopped. Both
    return a note for people where there is news. `wait` waits for an event; `set`, the only method that
    other threads and signal handlers may call, makes one.
    """

    def __init__(
        self,
        folder: Path,
        mode: Literal["native", "polling", "off"],
        clock: Callable[[], float] = time.monotonic,
        make_observer: Callable[[], BaseObserver] | None = None,
        renew_s: float = 86_400.0,
    ) -> None:
        self._folder = folder
        self._mode = mode
        self._clock = clock
        self._given_observer = make_observer
        self._renew_s = renew_s
        self._renew_at = 0.0
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put is safe in a signal handler
        self._observer: BaseObserver | None = None
        self._threads: tuple[threading.Thread, ...] = ()  # of the observer
        self._watched: tuple[int, int] | None = None
        self._trouble = ""

    def start(self) -> str:
        """Begin to watch. Return why there will be no events, or "".

        Without events everything else works. `check` tries again: at once when the folder was missing, else
        at the next renewal.
        """
        if self._mode == "off":
            return ""
        self._renew_at = self._clock() + self._renew_s
        try:
            self._unwatch()
            self._watch()
        except (OSError, RuntimeError) as error:  # RuntimeError: no more threads
            self._unwatch()
            if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                self._watched = None
            self._trouble = self._explain(error)
        else:
            self._trouble = ""
        return self._trouble

    def switch(self, mode: Literal["native", "polling", "off"]) -> str:
        """Continue in another mode. Returns what `start` does."""
        if mode == self._mode:
            return ""
        self._unwatch()
        self._mode = mode
        return self.start()

    def set(self) -> None:
        """Wake the waiting thread now. Safe in a signal handler and in any thread."""
        if self._wake_ups.qsize() < ENOUGH_WAKE_UPS:
            self._wake_ups.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait until woken, and consume every wake-up so far. False if the time was over first."""
        try:
            self._wake_ups.get(timeout=min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))
        except queue.Empty:
            return False
        with suppress(queue.Empty):
            while True:
                self._wake_ups.get_nowait()
        return True

    def check(self) -> str:
        """Watch again if watching has stopped, or if the renewal is due. Return a note of it, or "".

        Call it before a scan, which then sees what happened while nobody watched. The same trouble is
        noted once, and an ordinary renewal not at all.
        """
        if self._mode == "off" or (self.alive and self._clock() < self._renew_at):
            return ""
        before, healthy = self._trouble, self.alive and not self._trouble
        trouble = self.start()
        if trouble:
            return "" if trouble == before else trouble
        return "" if healthy else f"{self._folder}: watched again; its events had stopped."

    @property
    def alive(self) -> bool:
        """Whether nothing has stopped: observer and emitters run, and the folder is the one they watch.

        True also when no events are wanted, or when they could not be had until the next renewal.
        """
        if self._mode == "off":
            return True
        same = self._watched is not None and self._watched == _folder_id(self._folder)
        return same and all(thread.is_alive() for thread in self._threads)

    @property
    def has_events(self) -> bool:
        """Whether events come at present, so that scans need not be frequent."""
        return self._observer is not None and self.alive

    def close(self) -> None:
        """Stop watching for good. `wait` and `set` still work."""
        self._mode = "off"
        self._unwatch()

    def _watch(self) -> None:
        # First the folder, then the watch: one that is replaced in between is noticed by `alive`.
        self._watched = _folder_id(self._folder)
        if self._watched is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
        make = self._given_observer
        if make is None:
            make = _polling_observer if self._mode == "polling" else Observer
        observer = self._observer = make()
        handler = _Handler(self._folder, self.set)
        observer.schedule(handler, str(self._folder), recursive=True, event_filter=EVENTS)
        observer.start()
        self._threads = (observer, *observer.emitters)

    def _unwatch(self) -> None:
        observer, self._observer, self._threads = self._observer, None, ()
        if observer is not None:
            observer.stop()
            if observer.is_alive():
                observer.join()

    def _explain(self, error: OSError | RuntimeError) -> str:
        if self._watched is None:
            return f"{self._folder}: the folder is not there, or not readable; no events until it is."
        reason, advice = str(error), ""
        if isinstance(error, OSError):
            reason, advice = error.strerror or reason, LIMITS.get(error.errno or 0, "")
        return f"{self._folder}: no events ({reason}); scanning by the clock alone. {advice}".strip()


class _Handler(events.FileSystemEventHandler):
    """Calls `wake` for what happens in an inbox, but not in its hidden folder: a claim moves a file there.

    Requests are written there, too, and do wake.
    """

    def __init__(self, inbox: Path, wake: Callable[[], None]) -> None:
        self._hidden = str(inbox / HIDDEN)
        self._control = str(control_folder(inbox))
        self._wake = wake

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        path = os.fsdecode(event.dest_path or event.src_path)
        if path.startswith(self._control + os.sep) or not f"{path}{os.sep}".startswith(self._hidden + os.sep):
            self._wake()


def _polling_observer() -> BaseObserver:
    # The plain PollingObserver follows symbolic links, to wherever they lead.
    return PollingObserverVFS(os.lstat, os.scandir, polling_interval=POLLING_S)


def _folder_id(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
