from __future__ import annotations

import time
from datetime import datetime

import pytest
from fakes import Clock

from pipeline.batch.deadline import Deadline, read_deadline
from pipeline.errors import UsageError

NOON = datetime(2024, 2, 29, 12, 0, 30)


def left_s(for_: str | None = None, until: str | None = None, now: datetime = NOON) -> float:
    deadline = read_deadline(for_, until, now, Clock())
    assert deadline is not None
    return deadline.left_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("90min", 5400),
        ("90m", 5400),
        ("2h30m", 9000),
        ("2h 30min", 9000),
        ("1.5h", 5400),
        ("1H", 3600),
        ("0s", 0),
        ("1h1m1s", 3661),
    ],
)
def test_a_span(text: str, seconds: float) -> None:
    assert left_s(for_=text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "90", "h", "2d", "-5min", "5 minutes", "1h30", "1,5h", "1h;2m", "ten"]
)
def test_what_is_no_span_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--for") as caught:
        read_deadline(text, None)
    assert f"--for {text}:" in caught.value.message
    assert "2h30m" in caught.value.message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12:01", 30),
        ("13:00", 3600 - 30),
        ("23:59", 12 * 3600 - 60 - 30),
        ("00:00", 12 * 3600 - 30),
        ("0:30", 12.5 * 3600 - 30),
        ("06:30", 18.5 * 3600 - 30),
        ("12:00", 24 * 3600 - 30),  # passed this minute: tomorrow's
    ],
)
def test_a_time_of_day_is_the_next_one(text: str, seconds: float) -> None:
    assert left_s(until=text) == seconds


def test_a_time_of_day_that_is_now_is_tomorrows() -> None:
    assert left_s(until="12:00", now=NOON.replace(second=0)) == 24 * 3600


@pytest.mark.parametrize("text", ["", "noon", "24:00", "12:60", "-1:30", "12", "12:00:00", "12.30", ":"])
def test_what_is_no_time_of_day_is_named(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_deadline(None, text, NOON)
    assert f"--until {text}:" in caught.value.message
    assert "06:30" in caught.value.message


def test_the_earlier_of_both_limits_holds() -> None:
    assert left_s("1h", "12:30") == 1770
    assert left_s("10min", "12:30") == 600


def test_without_limits_there_is_no_deadline() -> None:
    assert read_deadline(None, None) is None


def test_a_deadline_follows_the_clock_it_was_given() -> None:
    """A monotonic one, so that setting the wall clock neither ends nor prolongs a run."""
    clock = Clock()
    deadline = read_deadline("10s", None, NOON, clock)
    assert deadline is not None
    assert (deadline.left_s, deadline.over) == (10, False)
    clock.now += 9.5
    assert (deadline.left_s, deadline.over) == (0.5, False)
    clock.now += 0.5
    assert deadline.over
    clock.now += 5
    assert (deadline.left_s, deadline.over) == (-5, True)


def test_the_usual_clock_is_not_that_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: pytest.fail("the wall clock was asked"))
    deadline = read_deadline("1h", None)
    assert deadline is not None
    assert 3590 < deadline.left_s <= 3600
    assert Deadline(0.0).over


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="a clock of Linux")
def test_a_deadline_slept_through_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspension stops the monotonic clock of Linux, and not that of the time since the start."""
    deadline = read_deadline("1h", None)
    assert deadline is not None
    real = time.clock_gettime
    slept_s = {time.CLOCK_BOOTTIME: 3600.0}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + slept_s.get(clock, 0.0))
    assert deadline.over


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone cannot be chosen here")
@pytest.mark.parametrize(
    ("now", "until", "hours"),
    [
        # On 31 March 2024 the clocks of Berlin went from 2:00 to 3:00, on 27 October from 3:00 to 2:00.
        (datetime(2024, 3, 30, 22, 0), "06:00", 7),
        (datetime(2024, 3, 31, 1, 30), "02:30", 1),  # there is none: an hour later it is 3:30
        (datetime(2024, 3, 31, 1, 30), "03:00", 0.5),
        (datetime(2024, 10, 26, 22, 0), "06:00", 9),
        (datetime(2024, 10, 27, 1, 30), "02:30", 1),  # the first of two
        (datetime(2024, 10, 27, 2, 45), "02:30", 0.75),  # the second
        (datetime(2024, 10, 27, 2, 45, fold=1), "02:30", 23.75),
        (datetime(2024, 7, 1, 22, 0), "06:00", 8),
    ],
)
def test_a_time_of_day_is_that_of_the_clock_on_the_wall(
    now: datetime, until: str, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        found = left_s(until=until, now=now)
    time.tzset()
    assert found == pytest.approx(3600 * hours)
