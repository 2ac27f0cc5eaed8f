"""Watches the inbox: scans it when that is due, and knows which files have settled or are left alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ..spec.config import Config, WatchConfig
from ..spec.text import one_line
from ..storage.files import Disk
from .events import Waker
from .heartbeat import Notify
from .inbox import Identity, Scan, Seen, scan_inbox
from .library import StyleLibrary, unused_styles
from .markers import Markers, marker_path
from .schedule import Schedule
from .settling import OBSERVATIONS, Settling
from .system import is_being_written, is_network_file_system

SETTLE_S, NETWORK_SETTLE_S = 2.0, 30.0

logger = logging.getLogger(__name__)


class Watcher:
    """Scans the inbox whenever that is due; `next_ready` gives what has settled, each once per scan."""

    def __init__(
        self,
        config: Config,
        disk: Disk,
        waker: Waker,
        notify: Notify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        watch = config.watch
        self.config = config
        self.inbox = watch.inbox
        self.disk = disk
        self.markers = Markers(watch.inbox, disk)
        self.waker = waker
        self.notify = notify
        self.clock = clock
        self.schedule = Schedule(waker, clock, watch.rescan_s)
        self.settle_s = watch.settle_s or default_settle_s(watch.inbox)
        self.settling = self._new_settling()
        self.library = StyleLibrary(watch.inbox, self._new_settling())
        self.settled_count = 0  # files that have settled and were not taken
        self.settling_count = 0
        self._scan = Scan()
        self._files: list[Seen] = []
        self._ready: list[Seen] = []
        self._first: dict[Path, Identity] | None = None  # what the first scan found
        self._began = 0.0  # when the first scan did
        self._scans = 0
        self._notified: set[tuple[Path, str]] = set()

    def _new_settling(self) -> Settling:
        watch = self.config.watch
        return Settling(
            self.clock, self.settle_s, watch.settle_max_s, lambda path: is_being_written(self.inbox / path)
        )

    # Scanning

    def scan_if_due(self) -> None:
        """Scan if something happened or it is time to. Errors as for `scan`."""
        if self.schedule.is_due():
            self.scan()

    def scan(self) -> None:
        """Scan the inbox and plan the next scan.

        Raises:
            DiskError: the inbox cannot be read.
        """
        began = self.schedule.scan_began()
        if note := self.waker.check():
            self.notify("events", note)
        self._scan = scan_inbox(self.inbox, self.disk, self.config.ignore)
        self._files = self._without_done(self._scan)
        if self._first is None:
            self._began = began
            self._first = {seen.relative: seen.identity for seen in (*self._files, *self._scan.styles)}
        self.library.observe(self._scan.styles)
        self._observe(self._files)
        self._scans += 1
        self._notify_ignored()
        dues = [settling.next_due_s() for settling in (self.settling, self.library.settling)]
        self.schedule.scan_ended(began, min((due for due in dues if due is not None), default=None))
        logger.debug("scanned: %d settled, %d settling", self.settled_count, self.settling_count)

    def _without_done(self, scan: Scan) -> list[Seen]:
        """Leave out the originals that stay in the inbox, and remove markers that mark nothing."""
        for marker in scan.stray:
            try:
                self.markers.remove(marker)
            except OSError as error:
                reason = f"marks a file that is gone, and cannot be removed ({error.strerror}). Delete it."
                self.notify_once(marker, "ignored", reason)
        if not scan.markers:
            return list(scan.files)
        done = {
            seen
            for seen in scan.files
            if marker_path(seen.relative) in scan.markers and self.markers.is_done(seen.relative)
        }
        return [seen for seen in scan.files if seen not in done]

    def _observe(self, files: list[Seen]) -> None:
        before = set(self.settling.ready)
        self.settling.observe(files)
        ready = self.settling.ready
        self._ready, self.settled_count = list(ready), len(ready)
        self.settling_count = self.settling.waiting
        for seen in ready:
            if seen not in before and not self.settling.is_overdue(seen):
                self.notify("settled", f"settled {one_line(seen.relative)}", path=one_line(seen.relative))

    def _notify_ignored(self) -> None:
        for path, reason in self._scan.ignored:
            self.notify_once(path, "ignored", f"left alone ({reason})")
        for path, reason in unused_styles(self.library.usable()):
            self.notify_once(path, "ignored", reason)
        there = {path for path, _ in self._scan.ignored} | self._scan.stray
        there |= {seen.relative for seen in (*self._scan.files, *self._scan.styles)}
        self._notified = {(path, text) for path, text in self._notified if path in there}

    def notify_once(self, path: Path, kind: str, text: str) -> None:
        """Notify of a file, once for as long as it is there."""
        if (path, text) not in self._notified:
            self._notified.add((path, text))
            self.notify(kind, f"{one_line(path)}: {text}", path=one_line(path))

    # What the last scan found

    @property
    def has_scanned(self) -> bool:
        return self._first is not None

    @property
    def is_empty(self) -> bool:
        """Whether the last scan found nothing to take."""
        return self.has_scanned and not self._files

    @property
    def ready(self) -> tuple[Seen, ...]:
        """What `next_ready` will give."""
        return tuple(self._ready)

    def next_ready(self, rank: Callable[[Seen], int]) -> Seen | None:
        """Return the next settled file of this scan, the one of lowest rank; None when each was given."""
        if not self._ready:
            return None
        seen = min(self._ready, key=rank)
        self._ready.remove(seen)
        return seen

    def settled(self, relative: Path) -> Seen | None:
        """Return a file that has settled, whether it is a whole picture or not."""
        return self.settling.settled(relative)

    def is_still_settling(self) -> bool:
        """Tell whether something there since the first scan may settle soon: what `--once` waits for."""
        if self._scans > OBSERVATIONS and self.clock() > self._began + 2 * self.settle_s + 1:
            return False
        files = [seen for seen in self._scan.files if seen.relative not in self.settling.unreadable]
        ready = {*self.settling.ready, *self.library.settling.ready}
        first = self._first or {}
        return any(
            first.get(s.relative) == s.identity and s not in ready for s in (*files, *self._scan.styles)
        )

    @property
    def broken(self) -> dict[str, str]:
        """The files that have settled and cannot be taken as they are, with the reasons."""
        unreadable, refused = self.settling.unreadable, self.settling.refused
        reasons = {path: f"to become a whole picture: {reason}" for path, reason in unreadable.items()}
        return {str(path): reason for path, reason in (reasons | refused).items()}

    @property
    def left_count(self) -> int:
        """How many files have settled and are still there, pictures that are not whole among them."""
        return len({seen.relative for seen in self.settling.ready} | self.settling.unreadable.keys())

    # One file

    def is_overdue(self, seen: Seen, by_age: bool) -> bool:
        """Tell whether a file had its time to become whole; `by_age` counts what passed before this run."""
        age_s = time.time() - seen.identity.ctime_ns / 1e9
        return self.settling.is_overdue(seen) or (by_age and age_s >= self.config.watch.settle_max_s)

    def forget(self, seen: Seen) -> None:
        """Note that a settled file was taken."""
        self.settled_count -= self.settling.forget(seen)


def notify_mode(watch: WatchConfig) -> Literal["native", "polling", "off"]:
    """Return what wakes the scanner; `auto` polls network shares, where other machines cause no events."""
    if watch.notify != "auto":
        return watch.notify
    return "polling" if is_network_file_system(watch.inbox) else "native"


def default_settle_s(inbox: Path) -> float:
    """Return for how many seconds a file must stay unchanged if the configuration does not say."""
    return NETWORK_SETTLE_S if is_network_file_system(inbox) else SETTLE_S
