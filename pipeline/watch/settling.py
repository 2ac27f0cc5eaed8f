"""When a file has settled: it was seen unchanged for long enough, and nobody writes to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .inbox import Seen

OBSERVATIONS = 3  # how many a file needs, all alike, to have settled
SHORTEST_WAIT_S = 0.02

logger = logging.getLogger(__name__)


@dataclass
class _Followed:
    """A file with one identity: since when it has it, and when it settled, on the same clock."""

    seen: Seen
    since: float
    observations: int = 0
    settled: float | None = None
    unreadable: str = ""
    refused: str = ""


class Settling:
    """Follows files until they stop changing.

    A file has settled when it had the same identity in at least three observations, the last of them at
    least `settle_s` seconds after the first, and nobody had it open for writing. `clock` gives seconds that
    never jump (time.monotonic). `is_written` is asked last, about paths as they stand in `Seen`.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        settle_s: float,
        settle_max_s: float,
        is_written: Callable[[Path], bool] = lambda relative: False,
    ) -> None:
        self._clock = clock
        self._settle_s = settle_s
        self._settle_max_s = settle_max_s
        self._is_written = is_written
        self._followed: dict[Path, _Followed] = {}
        self._observed = 0.0

    def observe(self, files: Iterable[Seen]) -> None:
        """Note what one scan found. Files that are gone are forgotten, changed ones start again."""
        self._observed = self._clock()
        self._followed = {seen.relative: self._follow(seen) for seen in files}

    def _follow(self, seen: Seen) -> _Followed:
        file = self._followed.get(seen.relative)
        if file is None or file.seen.identity != seen.identity:
            logger.debug("%s: %s", seen.relative, "new" if file is None else "changed, so it settles again")
            file = _Followed(seen, self._observed)
        file.observations += 1
        if file.settled is None and self._was_unchanged(file):
            if self._is_written(seen.relative):
                logger.debug("%s: not settled, as another process has it open for writing", seen.relative)
            else:
                file.settled = self._observed
        return file

    def _was_unchanged(self, file: _Followed) -> bool:
        return file.observations >= OBSERVATIONS and self._age(file) >= self._settle_s

    @property
    def ready(self) -> list[Seen]:
        """The files that have settled and are not marked unreadable, in the order in which they settled."""
        settled = [(file.settled, file) for file in self._followed.values() if file.settled is not None]
        settled.sort(key=lambda pair: (pair[0], pair[1].since))
        return [file.seen for _, file in settled if self._is_ready(file)]

    def settled(self, relative: Path) -> Seen | None:
        """Return a file if it has settled, even if it is marked unreadable."""
        file = self._followed.get(relative)
        return file.seen if file is not None and file.settled is not None else None

    @property
    def waiting(self) -> int:
        """The number of files that are followed and not ready."""
        return sum(not self._is_ready(file) for file in self._followed.values())

    @property
    def unreadable(self) -> dict[Path, str]:
        """The files that were marked unreadable as they are now, with the reasons."""
        return {path: file.unreadable for path, file in self._followed.items() if file.unreadable}

    @property
    def refused(self) -> dict[Path, str]:
        """The files that could not be taken as they are now, with the reasons."""
        return {path: file.refused for path, file in self._followed.items() if file.refused}

    def next_due_s(self) -> float | None:
        """Return the seconds until the next scan is due; None if no file waits.

        It is due when some file could become ready, and often enough before that to notice changes.
        """
        waits = [self._wait(file) for file in self._followed.values() if not self._is_ready(file)]
        if not waits:
            return None
        return max(SHORTEST_WAIT_S, self._observed + min(waits) - self._clock())

    def _wait(self, file: _Followed) -> float:
        """Return the seconds from the last observation to the next that matters for this file."""
        if file.settled is not None:
            return self._settle_max_s - self._age(file)
        left = self._settle_s - self._age(file)
        return min(left, self._settle_s / 4) if left > 0 else self._settle_s / 4

    def mark_unreadable(self, seen: Seen, reason: str) -> None:
        """Keep a file that is no whole picture out of `ready`, until it changes or is overdue."""
        if file := self._current(seen):
            file.unreadable = reason

    def mark_refused(self, seen: Seen, reason: str) -> None:
        """Note why a file cannot be taken; it stays in `ready`, as its folder may be corrected."""
        if file := self._current(seen):
            file.refused = reason

    def is_overdue(self, seen: Seen) -> bool:
        """Tell whether a file has been unchanged for `settle_max_s`: it will not become a whole picture."""
        file = self._current(seen)
        return file is not None and self._age(file) >= self._settle_max_s

    def forget(self, seen: Seen) -> bool:
        """Stop following a file, and tell whether it was ready; if a scan finds it again, it starts again."""
        if file := self._current(seen):
            del self._followed[seen.relative]
        return file is not None and self._is_ready(file)

    def _current(self, seen: Seen) -> _Followed | None:
        file = self._followed.get(seen.relative)
        return file if file is not None and file.seen == seen else None

    def _is_ready(self, file: _Followed) -> bool:
        return file.settled is not None and (not file.unreadable or self._age(file) >= self._settle_max_s)

    def _age(self, file: _Followed) -> float:
        return self._observed - file.since
