"""Signals to stop and to reload: handlers only record them, and the program acts on them later."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def stop_signal(on_stop: Callable[[], None], with_hang_up: bool = False) -> Iterator[list[int]]:
    """Collect the first INT or TERM, so that the running step can end; a second one kills at once.

    `with_hang_up` collects HUP as well, unless it is ignored already, as under nohup. A terminal that closes
    sends several; all but the first are ignored. `on_stop` is called in the handler and must not use a
    buffered stream: the signal may have interrupted a write to it.
    """
    received: list[int] = []
    afterwards: dict[int, Any] = {signal.SIGINT: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    if with_hang_up and hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        afterwards[signal.SIGHUP] = signal.SIG_IGN
    previous = {number: signal.getsignal(number) for number in afterwards}

    def record(number: int, _frame: object) -> None:
        received.append(number)
        for again, action in afterwards.items():
            signal.signal(again, action)
        on_stop()

    for number in afterwards:
        signal.signal(number, record)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def reload_signal(wake: Callable[[], None], read: Callable[[], T]) -> Iterator[Callable[[], T | None]]:
    """Give a function that reads the configuration again if HUP came since its last call."""
    wanted: list[int] = []  # no Event: a handler may interrupt its lock

    def record(number: int, _frame: object) -> None:
        wanted.append(number)
        wake()

    def reread() -> T | None:
        if not wanted:
            return None
        wanted.clear()
        try:
            return read()
        except OSError:
            wanted.append(0)  # the disk is away for now; the next call tries again
            raise

    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    previous = signal.signal(hang_up, record) if hang_up else None
    try:
        yield reread
    finally:
        if hang_up:
            signal.signal(hang_up, previous)
