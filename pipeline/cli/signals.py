"""Signals to stop and to reload: noted when they come, acted upon when there is time for it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def stop_signal(on_stop: Callable[[], None], with_hang_up: bool = False) -> Iterator[list[int]]:
    """Collect the first INT or TERM, so that the running step can end; a second one kills at once.

    `with_hang_up`: so does HUP, but for one that was ignored before, as under nohup. A terminal that closes
    sends several; the others are ignored. `on_stop` is called in the handler, where no stream may be used:
    the signal may have come in the middle of a line.
    """
    received: list[int] = []
    afterwards: dict[int, Any] = {signal.SIGINT: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    if with_hang_up and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        afterwards[signal.SIGHUP] = signal.SIG_IGN
    previous = {number: signal.getsignal(number) for number in afterwards}

    def note(number: int, _frame: object) -> None:
        received.append(number)
        for again, action in afterwards.items():
            signal.signal(again, action)
        on_stop()

    for number in afterwards:
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
