from __future__ import annotations

from pathlib import Path

import pytest
from fakes import Clock

from pipeline.watch.events import Waker
from pipeline.watch.schedule import LATE_EVENTS_S, LATE_SCAN_S, REST, SCAN_S, Schedule

RESCAN_S = 10.0


class SilentWaker(Waker):
    """Has events as far as one can tell; they come when `set` is called. Waiting takes no time."""

    has_events = True

    def __init__(self) -> None:
        super().__init__(Path("/inbox"), "off")

    def wait(self, timeout_s: float) -> bool:
        return super().wait(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waker() -> SilentWaker:
    return SilentWaker()


@pytest.fixture
def schedule(waker: SilentWaker, clock: Clock) -> Schedule:
    return Schedule(waker, clock, RESCAN_S)


def scan(schedule: Schedule, clock: Clock, takes_s: float = 0.0, settling_s: float | None = None) -> None:
    began = schedule.scan_began()
    clock.now += takes_s
    schedule.scan_ended(began, settling_s)


def due_after_s(schedule: Schedule, clock: Clock) -> float:
    """Return after how long the next scan is due; the clock stays where it is."""
    began, step = clock.now, 0.01
    while not schedule.is_due():
        clock.now += step
    waited, clock.now = clock.now - began, began
    return waited


def test_the_first_scan_is_due_at_once(schedule: Schedule) -> None:
    assert schedule.is_due()


def test_with_events_the_clock_scans_rarely(schedule: Schedule, clock: Clock) -> None:
    scan(schedule, clock)
    assert due_after_s(schedule, clock) == pytest.approx(RESCAN_S, abs=0.02)


def test_without_events_the_clock_scans_often(
    schedule: Schedule, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SilentWaker, "has_events", False)
    scan(schedule, clock)
    assert due_after_s(schedule, clock) == pytest.approx(SCAN_S, abs=0.02)


def test_a_file_that_settles_is_not_kept_waiting(schedule: Schedule, clock: Clock) -> None:
    scan(schedule, clock, settling_s=0.3)
    assert due_after_s(schedule, clock) == pytest.approx(0.3, abs=0.02)


def test_an_event_makes_a_scan_due_but_a_slow_scan_rests_first(
    schedule: Schedule, clock: Clock, waker: SilentWaker
) -> None:
    scan(schedule, clock, takes_s=1)
    waker.set()
    assert due_after_s(schedule, clock) == pytest.approx(REST, abs=0.02)
    clock.now += REST
    waker.set()
    schedule.wait(60)
    assert schedule.is_due()


def test_a_scan_that_failed_is_repeated_soon(schedule: Schedule, clock: Clock) -> None:
    schedule.scan_began()
    assert due_after_s(schedule, clock) == pytest.approx(SCAN_S, abs=0.02)


def test_after_a_file_moved_out_scans_are_frequent_for_a_while(schedule: Schedule, clock: Clock) -> None:
    scan(schedule, clock)
    schedule.file_moved_out()
    assert due_after_s(schedule, clock) == pytest.approx(LATE_SCAN_S, abs=0.02)
    clock.now += LATE_SCAN_S
    scan(schedule, clock)
    assert due_after_s(schedule, clock) == pytest.approx(LATE_SCAN_S, abs=0.02)
    clock.now += LATE_EVENTS_S
    scan(schedule, clock)
    assert due_after_s(schedule, clock) == pytest.approx(RESCAN_S, abs=0.02)
