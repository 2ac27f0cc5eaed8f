"""Keeps an eye on the inbox: when to look, what has settled, which styles there are, what to say of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from ..spec.config import WatchConfig
from ..spec.names import composed
from ..storage.files import Disk, one_line
from .claims import Claims
from .events import Waker
from .inbox import (
    OBSERVATIONS,
    Identity,
    Scan,
    Seen,
    Settling,
    identity_of,
    is_being_written,
    is_network_file_system,
    marker_path,
    scan_inbox,
)
from .routes import namesake, namesakes, read_library

SETTLE_S, NETWORK_SETTLE_S = 2.0, 30.0
# Between scans where no events come.
SCAN_S = 0.5
# For so long after a file left the inbox, scans are so frequent.
LATE_EVENTS_S, LATE_SCAN_S = 0.6, 0.15
# After a scan, events wait for so many times its length: a busy inbox is not looked at all the time.
REST, SHORTEST_REST_S = 3, 0.02


class Notify(Protocol):
    """Says what happens: a kind for programs, a text for people, and facts."""

    def __call__(self, kind: str, text: str, **facts: object) -> None: ...


class Watcher:
    """Looks at the inbox whenever it is time to; `next_ready` gives what has settled, each once per look."""

    def __init__(
        self,
        watch: WatchConfig,
        claims: Claims,
        disk: Disk,
        waker: Waker,
        notify: Notify,
        clock: Callable[[], float] = time.monotonic,
        ignore: tuple[str, ...] = (),
    ) -> None:
        self.watch = watch
        self.ignore = ignore
        self.inbox = watch.inbox
        self.claims = claims
        self.disk = disk
        self.waker = waker
        self.notify = notify
        self.clock = clock
        self.settle_s = watch.settle_s or default_settle_s(watch.inbox)
        self.settling = Settling(clock, self.settle_s, watch.settle_max_s, self._is_written)
        self.style_settling = Settling(clock, self.settle_s, watch.settle_max_s, self._is_written)
        self._library: dict[str, Path | None] | None = {}  # None: to be read again
        self._judged: dict[Seen, str] = {}  # settled styles, with what is wrong with them
        self.known_styles: set[str] = set()  # also of styles that are broken or gone
        self.settling_count = 0
        self._settled = 0
        self._scan = Scan()
        self._files: list[Seen] = []
        self._first: dict[Path, Identity] | None = None
        self._began = clock()
        self._looks = 0
        self._ready: deque[Seen] = deque()
        self._said: set[tuple[Path, str]] = set()
        self._look_at = self._late_until = 0.0
        self._rested_at = 0.0

    @property
    def looked(self) -> bool:
        return self._first is not None

    @property
    def settled_count(self) -> int:
        """How many files have settled and were not taken."""
        return self._settled

    @property
    def left_count(self) -> int:
        """How many files have settled and are still there, pictures that are not whole among them."""
        return len({seen.relative for seen in self.settling.quiet} | self.settling.unreadable.keys())

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to take at the last look."""
        return self.looked and not self._files

    def wait(self, at_most_s: float) -> None:
        """Wait until it is time to look, or something happens."""
        if self.waker.wait(max(0.0, min(self._look_at - self.clock(), at_most_s))):
            self._look_soon()

    def look_if_due(self) -> None:
        """Look if something happened or it is time to. Errors as `look`."""
        if self.waker.wait(0):
            self._look_soon()
        if self.clock() >= self._look_at:
            self.look()

    def look(self) -> None:
        """Scan the inbox and plan the next scan.

        Raises:
            DiskError: the inbox cannot be read.
        """
        began = self.clock()
        self._look_at = began + SCAN_S  # if this look fails
        if note := self.waker.check():
            self.notify("events", note)
        self._scan = scan_inbox(self.inbox, self.disk, self.ignore)
        files = self._files = self._without_left(self._scan)
        if self._first is None:
            self._first = {seen.relative: seen.identity for seen in (*files, *self._scan.styles)}
        self._observe(files)
        self._looks += 1
        self._say_ignored()
        ended = self.clock()
        self._rested_at = ended + max(SHORTEST_REST_S, REST * (ended - began))
        self._look_at = max(began + self._next_look_s(), self._rested_at)

    def _look_soon(self) -> None:
        self._look_at = min(self._look_at, self._rested_at)

    def unjudged_styles(self) -> list[Seen]:
        """Return the styles that have settled and of which nobody has said whether they are pictures."""
        return [seen for seen in self.style_settling.quiet if seen not in self._judged]

    def judge_style(self, seen: Seen, fault: str) -> None:
        """Take a style into the library, or leave it out for a fault."""
        self._judged[seen] = fault
        if fault:
            self.say_once(seen.relative, "ignored", f"not used as a style: {fault}")
        self._library = None

    def is_settled_style(self, path: Path) -> bool:
        """Tell whether a style's file is still the one that was taken into the library."""
        identity = identity_of(path)
        return identity is not None and Seen(path.relative_to(self.inbox), identity) in self._judged

    @property
    def library(self) -> dict[str, Path | None]:
        """The style library, as `read_library` returns it."""
        if self._library is None:
            settled = {seen for seen, fault in self._judged.items() if not fault}
            self._library = read_library(self._usable_styles(), settled, self.inbox)
        return self._library

    def _usable_styles(self) -> list[Seen]:
        """Return the files of the style library in which no fault was found."""
        return [seen for seen in self._scan.styles if not self._judged.get(seen)]

    def _say_namesakes(self) -> None:
        """Say which files of the style library are not used, as another has their name."""
        for path, first in namesakes(self._usable_styles()):
            self.say_once(path, "ignored", namesake(first))

    def file_moved_out(self) -> None:
        """Say that a file just left the inbox for a folder that is not watched.

        Events that follow such a move come late: the observer waits half a second for the other half of it.
        """
        self._late_until = self.clock() + LATE_EVENTS_S
        self._look_at = min(self._look_at, self.clock() + LATE_SCAN_S)

    @property
    def ready(self) -> tuple[Seen, ...]:
        """What `next_ready` will give."""
        return tuple(self._ready)

    def next_ready(self) -> Seen | None:
        """Return the next settled file of this look, or None when each was given."""
        return self._ready.popleft() if self._ready else None

    def still_settling(self) -> bool:
        """Tell whether something there since the first look may settle soon: what `--once` waits for."""
        if self._looks > OBSERVATIONS and self.clock() > self._began + 2 * self.settle_s + 1:
            return False
        files = [seen for seen in self._scan.files if seen.relative not in self.settling.unreadable]
        quiet = {*self.settling.quiet, *self.style_settling.quiet}
        first = self._first or {}
        return any(
            first.get(s.relative) == s.identity and s not in quiet for s in (*files, *self._scan.styles)
        )

    @property
    def broken(self) -> dict[str, str]:
        """The files that are no whole pictures yet, with the reasons."""
        return {str(path): reason for path, reason in self.settling.unreadable.items()}

    def is_overdue(self, seen: Seen, by_age: bool) -> bool:
        """Tell whether a file had its time to become whole; `by_age` counts what passed before this run."""
        age_s = time.time() - seen.identity.ctime_ns / 1e9
        return self.settling.overdue(seen) or (by_age and age_s >= self.watch.settle_max_s)

    def mark_unreadable(self, seen: Seen, reason: str) -> None:
        self.settling.mark_unreadable(seen, reason)

    def forget(self, seen: Seen) -> None:
        self.settling.forget(seen)
        self._settled -= 1

    def say_once(self, path: Path, kind: str, text: str) -> None:
        """Say something of a file, once as long as it is there."""
        if (path, text) not in self._said:
            self._said.add((path, text))
            self.notify(kind, f"{one_line(path)}: {text}", path=one_line(path))

    def _observe(self, files: list[Seen]) -> None:
        before = set(self.settling.quiet)
        self.settling.observe(files)
        self.style_settling.observe(self._scan.styles)
        there = set(self._scan.styles)
        self._judged = {seen: fault for seen, fault in self._judged.items() if seen in there}
        self._library = None
        self.known_styles |= {composed(seen.relative.stem) for seen in there}
        self._say_namesakes()
        quiet = self.settling.quiet
        self._ready, self._settled = deque(quiet), len(quiet)
        self.settling_count = self.settling.waiting
        for seen in quiet:
            if seen not in before and not self.settling.overdue(seen):
                self.notify("settled", f"settled {one_line(seen.relative)}", path=one_line(seen.relative))

    def _say_ignored(self) -> None:
        for path, reason in self._scan.ignored:
            self.say_once(path, "ignored", f"left alone ({reason})")
        there = {path for path, _ in self._scan.ignored}
        there |= {seen.relative for seen in (*self._scan.files, *self._scan.styles)}
        self._said = {(path, text) for path, text in self._said if path in there}

    def _without_left(self, scan: Scan) -> list[Seen]:
        """Leave out the originals that were left in the inbox, and remove markers that mark nothing."""
        if not scan.markers:
            return list(scan.files)
        marked = {marker_path(seen.relative): seen for seen in scan.files}
        for marker in scan.markers - marked.keys():
            self.claims.remove_marker(marker)
        left = {
            marked[marker]
            for marker in scan.markers & marked.keys()
            if self.claims.is_left(marked[marker].relative)
        }
        return [seen for seen in scan.files if seen not in left]

    def _next_look_s(self) -> float:
        rescan_s = self.watch.rescan_s
        idle = rescan_s if self.waker.has_events else min(SCAN_S, rescan_s)
        if self.clock() < self._late_until:
            idle = min(idle, LATE_SCAN_S)
        dues = (settling.next_due_s() for settling in (self.settling, self.style_settling))
        return min([idle, *(due for due in dues if due is not None)])

    def _is_written(self, relative: Path) -> bool:
        return is_being_written(self.inbox / relative)


def notify_mode(watch: WatchConfig) -> Literal["native", "polling", "off"]:
    """Return what is to wake the scanner; `auto` polls network shares, whose other writers make no events."""
    if watch.notify != "auto":
        return watch.notify
    return "polling" if is_network_file_system(watch.inbox) else "native"


def default_settle_s(inbox: Path) -> float:
    """Return how long a file must lie still, in seconds, where the configuration says nothing."""
    return NETWORK_SETTLE_S if is_network_file_system(inbox) else SETTLE_S
