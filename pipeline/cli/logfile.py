"""A log file that is rotated before it grows large."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ..storage.files import disk_errors

# A log file is rotated at this size, and so many old ones are kept.
LOG_BYTES, LOG_FILES = 10 << 20, 5


class Handler(RotatingFileHandler):
    """Raises what the system refuses."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Raise, where logging would print, and drop what is in the buffer: it counts as lost."""
        if self.stream:
            with suppress(OSError):
                self.stream.close()
            self.stream = None  # the next line opens it again
        if error := sys.exception():
            raise error


@contextmanager
def rotated(path: Path) -> Iterator[Callable[[str], None]]:
    """Give a function that appends a line to a file, which is rotated before it grows large.

    The function raises OSError where the system refuses.
    """
    with disk_errors(path, "cannot be written", "Give --log-file another path."):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = Handler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")

    def write(line: str) -> None:
        handler.emit(logging.LogRecord("style-pipeline", logging.INFO, "", 0, line, None, None))

    with closing(handler):
        yield write
