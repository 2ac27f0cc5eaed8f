"""The log: the records of the logger `pipeline` and its children, as lines of text or JSON objects.

A record of an event has its kind as `event`, and its details for programs as `facts`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ..errors import DiskError
from ..spec.text import counted, one_line

TIME, DATE_AND_TIME = "%H:%M:%S", "%Y-%m-%d %H:%M:%S"
# A log file is rotated at this size; this many old ones are kept.
LOG_BYTES, LOG_FILES = 10 << 20, 5


class TextFormatter(logging.Formatter):
    """A line for people: the time and a text. Line breaks in file names are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{self.formatTime(record, self.datefmt)} {one_line(record.getMessage())}"]
        if record.exc_info:
            lines += map(one_line, self.formatException(record.exc_info).splitlines())
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """A JSON object for programs."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "event": getattr(record, "event", "log"),
            "text": one_line(record.getMessage()),
            **getattr(record, "facts", {"level": record.levelname.lower(), "logger": record.name}),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event)


class LineHandler(logging.Handler):
    """Formats every record, and passes the line to `write`.

    A line for which `write` raises OSError is lost. The next that can be written follows a line that says how
    many were lost: no work ends because the disk of its log is full.
    """

    def __init__(self, write: Callable[[str], None], formatter: logging.Formatter) -> None:
        super().__init__()
        self.write = write
        self.setFormatter(formatter)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._lost:
                self.write(self.format(_lost_record(self._lost)))
                self._lost = 0
            self.write(self.format(record))
        except OSError:
            self._lost += 1


def _lost_record(lines: int) -> logging.LogRecord:
    text = f"the log could not be written; lost before this: {counted(lines, 'line')}"
    return logging.makeLogRecord({"msg": text, "event": "lost", "facts": {"lines": lines}})


@contextmanager
def logging_to(handler: logging.Handler, level: int) -> Iterator[None]:
    """Send the records of this program, but of no library, to a handler if they have this level or above.

    Inside of another such block they go to this handler alone.
    """
    logger = logging.getLogger("pipeline")
    before = logger.level, logger.propagate, logger.handlers
    logger.setLevel(level)
    logger.propagate = False
    logger.handlers = [handler]
    try:
        yield
    finally:
        logger.handlers = before[2]
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _RotatedFile(RotatingFileHandler):
    """A file whose handler raises OSError."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Raise the error instead of printing it, and drop the buffer: its line counts as lost."""
        if self.stream:
            with suppress(OSError):
                self.stream.close()
            self.stream = None  # the next line opens it again
        if error := sys.exception():
            raise error


@contextmanager
def rotated(path: Path) -> Iterator[Callable[[str], None]]:
    """Give a function that appends a line to a file, or raises OSError. The file is rotated when it is large.

    Raises:
        DiskError: the file cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _RotatedFile(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    except OSError as error:
        raise DiskError(
            f"{path}: cannot be written ({error.strerror or error}).", "Give --log-file another path."
        ) from error
    with closing(file):
        yield lambda line: file.emit(logging.makeLogRecord({"msg": line}))
