"""What `run` and `stylize` share: where their jobs run, and how they are shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from ...errors import MachineError
from .output import console, write_to_stderr

if TYPE_CHECKING:
    from ...execution.executors import InProcessExecutor
    from ...spec.config import Config
    from ..display import LogLines


def executor(settings: Config) -> InProcessExecutor:
    """Return what runs jobs in this process."""
    from ...execution.executors import InProcessExecutor

    return InProcessExecutor(settings)


@contextmanager
def shown(settings: Config, total: int, as_json: bool = False) -> Iterator[LogLines]:
    """Show what happens to so many jobs."""
    from ...batch.estimate import expected_seconds, unknown_seconds
    from ...storage.ledger import LedgerCopy
    from ..display import batch_display, first_time

    try:
        with closing(LedgerCopy(settings.state_dir)) as ledger:
            expected = expected_seconds(ledger)
    except MachineError:  # whatever needs the ledger will report this; an estimate does not need it
        expected = unknown_seconds
    json_to, is_news = sys.stdout if as_json else None, first_time(settings.state_dir)
    with batch_display(console(), write_to_stderr, total, json_to, expected, is_news) as observer:
        yield observer
