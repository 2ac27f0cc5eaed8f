"""Renews the sheets of batches that have changed: in the worker, and for a small share of the time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import PipelineError
from ..execution.executors import Executor
from ..spec.config import Config
from ..spec.text import one_line

# After a renewal nothing is renewed for so many times as long as it took.
PAUSE = 50.0
# How long one renewal makes thumbnails, and how long all of them may take when the daemon ends, in seconds.
LIMIT_S, END_S = 5.0, 120.0

# Renews the sheet of a folder, for a limited time, and tells whether it is complete. Contents in the first of
# a pair of folders may have been moved to the second. The function is sent to another process.
Renew = Callable[[Path, tuple[tuple[Path, Path], ...], float], bool]

logger = logging.getLogger(__name__)


class Sheets:
    """Knows which batches have changed. Without `renew` they have no sheets."""

    def __init__(self, renew: Renew | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._renew = renew
        self._clock = clock
        self._changed: dict[Path, None] = {}  # in the order of their changes
        self._not_before = clock()
        self._fault = ""

    def note_change(self, folder: Path) -> None:
        """Note that a picture was made in a batch's folder, or failed."""
        if self._renew is not None:
            self._changed.setdefault(folder)

    def renew_if_due(self, executor: Executor, config: Config) -> None:
        """Renew the sheet that has waited longest, unless the last one took too much time for that."""
        if self._changed and (began := self._clock()) >= self._not_before:
            self._renew_next(executor, config)
            self._not_before = self._clock() + PAUSE * (self._clock() - began)

    def renew_all(self, executor: Executor, config: Config) -> None:
        """Renew all sheets, before the daemon ends."""
        until = self._clock() + END_S
        while self._changed and self._clock() < until:
            self._renew_next(executor, config)

    def _renew_next(self, executor: Executor, config: Config) -> None:
        assert self._renew is not None  # or nothing has changed
        folder, originals = next(iter(self._changed)), ((config.watch.inbox, config.watch.archive_dir),)
        del self._changed[folder]
        try:
            if not executor.call(self._renew, folder, originals, LIMIT_S):
                self.note_change(folder)  # the rest of its thumbnails
        except PipelineError as error:  # the pictures are there
            if error.message != self._fault:
                self._fault = error.message
                logger.warning("the sheet of %s was not written: %s", one_line(folder.name), error)
