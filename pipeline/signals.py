"""Signals to stop and to reload: noted when they come, acted upon when there is time for it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def stop_signal(on_stop: Callable[[], None]) -> Iterator[list[int]]:
    """Collect the first INT or TERM, so that the running step can end; a second one kills at once.

    `on_stop` is called in the handler, where no stream may be used: the signal may have come in the middle
    of a line.
    """
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        received.append(number)
        for again in previous:
            signal.signal(again, signal.SIG_DFL)
        on_stop()

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def reload_signal(wake: Callable[[], None], read: Callable[[], T]) -> Iterator[Callable[[], T | None]]:
    """Give a function that reads the configuration again if HUP came since it was last called."""
    wanted: list[int] = []

    def note(number: int, _frame: object) -> None:
        wanted.append(number)
        wake()

    def reread() -> T | None:
        if not wanted:
            return None
        wanted.clear()
        try:
            return read()
        except OSError:
            wanted.append(0)  # a disk that is away for now; nobody has to ask again
            raise

    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    previous = signal.signal(hang_up, note) if hang_up else None
    try:
        yield reread
    finally:
        if hang_up:
            signal.signal(hang_up, previous)
