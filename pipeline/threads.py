"""What threads of a process share: how they wait for each other, and settings of the whole process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep after they have waited for a moment, unless the environment says otherwise.

    By default they spin for milliseconds. On a busy machine that takes the core from the very thread that
    they wait for; on a quiet one, sleeping at once costs as much. OpenMP reads the setting once, when torch
    is loaded, so this has to be called before. Child processes inherit it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "4000")  # libgomp's, which torch comes with on Linux


class SharedContext:
    """A setting of the whole process that is changed while any thread is inside.

    The first thread to come in enters what `make` returns, and the last one to leave exits it.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0
        self._entered = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._entered.enter_context(self._make())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._entered.close()
