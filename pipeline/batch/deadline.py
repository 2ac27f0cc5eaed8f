"""When a run has to end: `--for 2h30m`, `--until 06:30`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import UsageError

_PART = re.compile(r"(\d+(?:\.\d+)?)(h|min|m|s)")
_SECONDS = {"h": 3600, "min": 60, "m": 60, "s": 1}


def boot_clock() -> float:
    """Return seconds from a monotonic clock that keeps running while the machine is suspended."""
    # On Linux and macOS time.monotonic() stops during suspension; each has another clock that does not.
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW" if sys.platform == "darwin" else ""):
        if (clock := getattr(time, name, None)) is not None:
            return time.clock_gettime(clock)
    return time.monotonic()


@dataclass(frozen=True)
class Deadline:
    """A moment on a monotonic clock that keeps running while the machine is suspended."""

    at: float
    clock: Callable[[], float] = boot_clock

    @property
    def left_s(self) -> float:
        return self.at - self.clock()

    @property
    def over(self) -> bool:
        return self.left_s <= 0


def read_deadline(
    for_: str | None,
    until: str | None,
    now: datetime | None = None,
    clock: Callable[[], float] = boot_clock,
) -> Deadline | None:
    """Return the earlier of two limits, or None if there is neither. `now` is local time.

    Raises:
        UsageError: a text is no span of time, or no time of day.
    """
    spans = [] if for_ is None else [_span_s(for_)]
    if until is not None:
        spans.append(_until_s(until, now or datetime.now()))
    return Deadline(clock() + min(spans), clock) if spans else None


def _span_s(text: str) -> float:
    plain = text.replace(" ", "").lower()
    parts = _PART.findall(plain)
    if not parts or "".join(number + unit for number, unit in parts) != plain:
        raise UsageError(f"--for {text}: expected a span of time such as 90min, 2h30m or 45s.")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _until_s(text: str, now: datetime) -> float:
    try:
        hour, minute = (int(part) for part in text.split(":"))
        today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    except ValueError as error:
        raise UsageError(f"--until {text}: expected a time of day such as 06:30.") from error
    # When daylight saving begins or ends, a time of day may occur twice or not at all: take the next one.
    times = [day.replace(fold=fold) for day in (today, today + timedelta(days=1)) for fold in (0, 1)]
    moments = [at.timestamp() for at in times if datetime.fromtimestamp(at.timestamp()) >= at]
    return min(moment for moment in moments if moment > now.timestamp()) - now.timestamp()
