"""Chooses how a run, a watched folder or a log is shown: live on a terminal, else as lines."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MachineError
from ..streams import encoded

if TYPE_CHECKING:
    from rich.console import Console

    from ...spec.config import Config
    from ...spec.recipe import Recipe
    from ..display import Display
    from ..eventlog import EventLog
    from ..live import LiveRows


@contextmanager
def show_run(settings: Config, total: int, level: int, as_json: bool = False) -> Iterator[Display]:
    """Show a run of `total` jobs; `as_json` writes an object for each to standard output."""
    from ..display import Display, JsonLines
    from ..eventlog import RunLog, first_time
    from ..live import Forecast, LiveRows
    from ..logs import TIME, LineHandler, TextFormatter, logging_to

    log = RunLog(total, first_time(settings.state_dir))
    formatter = TextFormatter(datefmt=TIME)
    if as_json or not _is_terminal(level):
        with logging_to(LineHandler(_write_to_stderr, formatter), level):
            yield Display(log, JsonLines(sys.stdout)) if as_json else log
    else:
        forecast = Forecast(total, _expected_seconds(settings))
        with _live(LiveRows(_console(), forecast), log, formatter, level) as display:
            yield display


@contextmanager
def show_watch(settings: Config, level: int, log_json: bool, log_file: Path | None) -> Iterator[Display]:
    """Show a watched folder: live on a terminal, else as lines or JSON objects, to stderr or a file."""
    from ..eventlog import EventLog, first_time
    from ..live import LiveRows
    from ..logs import DATE_AND_TIME, JsonFormatter, LineHandler, TextFormatter, logging_to, rotated

    log = EventLog(first_time(settings.state_dir), for_programs=log_json)
    formatter = JsonFormatter() if log_json else TextFormatter(datefmt=DATE_AND_TIME)
    with ExitStack() as stack:
        if log_json or log_file or not _is_terminal(level):
            write = stack.enter_context(rotated(log_file)) if log_file else _write_to_stderr
            stack.enter_context(logging_to(LineHandler(write, formatter), level))
            yield log
        else:
            yield stack.enter_context(_live(LiveRows(_console()), log, formatter, level))


@contextmanager
def show_lines(level: int) -> Iterator[None]:
    """Log lines to stderr, before and after the display of a run."""
    from ..logs import TIME, LineHandler, TextFormatter, logging_to

    with logging_to(LineHandler(_write_to_stderr, TextFormatter(datefmt=TIME)), level):
        yield


@contextmanager
def show_log(level: int) -> Iterator[None]:
    """Show the log alone, as lines to stderr."""
    from ..logs import DATE_AND_TIME, LineHandler, TextFormatter, logging_to

    with logging_to(LineHandler(_write_to_stderr, TextFormatter(datefmt=DATE_AND_TIME)), level):
        yield


@contextmanager
def _live(rows: LiveRows, log: EventLog, formatter: logging.Formatter, level: int) -> Iterator[Display]:
    from ..display import Display
    from ..eventlog import is_not_shown_live
    from ..logs import LineHandler, logging_to

    handler = LineHandler(rows.print, formatter)
    handler.addFilter(is_not_shown_live)
    with rows, logging_to(handler, level):
        yield Display(rows, log)


def _expected_seconds(settings: Config) -> Callable[[Recipe, str], float] | None:
    from ...batch.estimate import Speeds
    from ...storage.ledger import LedgerCopy

    try:
        with closing(LedgerCopy(settings.state_dir)) as ledger:
            return Speeds(ledger).seconds
    except MachineError:  # whatever needs the ledger will report this; an estimate does not need it
        return None


def _is_terminal(level: int) -> bool:
    """Tell whether stderr is a terminal that shows more than warnings."""
    return level < logging.WARNING and _console().is_terminal


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _write_to_stderr(line: str) -> None:
    """Write a line past the stream's buffer, so that it is written now or raises OSError."""
    data = encoded(f"{line}\n", sys.stderr)
    while data:
        data = data[os.write(2, data) :]
