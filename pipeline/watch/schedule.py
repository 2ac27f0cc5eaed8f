"""When the inbox is scanned: after events, when a file may have settled, and by the clock."""

from __future__ import annotations

from collections.abc import Callable

from .events import Waker

# Between scans if no events come.
SCAN_S = 0.5
# For how long after a file left the inbox scans are more frequent, and how frequent.
LATE_EVENTS_S, LATE_SCAN_S = 0.6, 0.15
# After a scan, events have to wait for a multiple of its length: a busy inbox is not scanned all the time.
REST, SHORTEST_REST_S = 3, 0.02


class Schedule:
    """Knows when the next scan is due. `rescan_s` is the longest time between two scans."""

    def __init__(self, waker: Waker, clock: Callable[[], float], rescan_s: float) -> None:
        self.waker = waker
        self.clock = clock
        self.rescan_s = rescan_s
        self._next = self._rested = self._late_until = 0.0

    def wait(self, at_most_s: float) -> None:
        """Wait until a scan is due, or something happens."""
        if self.waker.wait(max(0.0, min(self._next - self.clock(), at_most_s))):
            self._hurry()

    def is_due(self) -> bool:
        if self.waker.wait(0):
            self._hurry()
        return self.clock() >= self._next

    def scan_began(self) -> float:
        """Plan the next scan in case this one fails; return the time."""
        now = self.clock()
        self._next = now + SCAN_S
        return now

    def scan_ended(self, began: float, settling_s: float | None) -> None:
        """Plan the next scan; `settling_s` is how long the next file needs to settle, if one does."""
        now = self.clock()
        idle = self.rescan_s if self.waker.has_events else min(SCAN_S, self.rescan_s)
        if now < self._late_until:
            idle = min(idle, LATE_SCAN_S)
        self._rested = now + max(SHORTEST_REST_S, REST * (now - began))
        self._next = max(began + (idle if settling_s is None else min(idle, settling_s)), self._rested)

    def file_moved_out(self) -> None:
        """Note that a file just left the inbox for a folder that is not watched.

        Events that follow such a move come late: the observer waits half a second for the other half of it.
        """
        self._late_until = self.clock() + LATE_EVENTS_S
        self._next = min(self._next, self.clock() + LATE_SCAN_S)

    def _hurry(self) -> None:
        self._next = min(self._next, self._rested)
