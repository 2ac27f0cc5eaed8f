"""What the page shows, as one object: the daemon, what waits, runs, is done and failed, and the styles."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import PipelineError
from ..storage.control import Drop
from ..storage.live import LOOK_S, Live, look, read_live
from ..version import VERSION
from .pictures import picture_card
from .results import Results
from .running import daemon_job_id, find_running, names_of_daemon, running_cards
from .uploads import MOST_BYTES
from .watched import (
    MOST_LISTED,
    Status,
    StyleFile,
    Watched,
    daemon_state,
    failed_files,
    file_version,
    read_styles,
    waiting_files,
    with_size_and_age,
)

# How many finished pictures a page lists at a time.
PAGE_SIZE = 60
# How often to ask for live pictures; each time, processes write them for LOOK_S.
LOOK_AGAIN_S = LOOK_S / 3

logger = logging.getLogger(__name__)


@dataclass
class State:
    """Reads what the page shows. Used by one thread at a time."""

    results: Results
    watched: Watched
    state_dir: Path
    # Tells a page that was open before that this is another process, perhaps of another version.
    started: str = field(default_factory=lambda: secrets.token_hex(8))
    _problem: str = ""
    _shown: frozenset[str] = frozenset()  # the daemon's jobs that had a live picture last
    _look_at: float = 0.0  # when to ask for live pictures again

    def read(self) -> dict[str, Any]:
        """Return the whole state. A fault of the machine is part of it: what could be read is there."""
        problems: list[PipelineError] = []
        status: Status | None = None
        jobs: list[Live] = []
        with _noting(problems):
            self.results.refresh()
        with _noting(problems):
            status = self._read_status()
        with _noting(problems):
            jobs = self._look()
            self._shown = names_of_daemon(jobs) or self._shown
        problem = problems[0] if problems else None
        self._log(problem)
        done, mark = self.results.done(PAGE_SIZE)
        return {
            "server": {"version": VERSION, "started": self.started},
            "outbox": str(self.results.outbox),
            "inbox": str(self.watched.inbox) if status else None,
            "maxUploadBytes": MOST_BYTES,
            "problem": {"error": problem.message, "nextStep": problem.next_step} if problem else None,
            "running": running_cards(jobs, status, self._shown),
            "done": [picture_card(result) for result in done],
            "doneCount": self.results.done_count,
            "doneNext": mark,
            **self._inbox(status),
        }

    def _look(self) -> list[Live]:
        """Return the jobs that run, and let their processes write live pictures as long as this is called."""
        if time.monotonic() >= self._look_at:
            look(self.state_dir)
            self._look_at = time.monotonic() + LOOK_AGAIN_S
        return read_live(self.state_dir)

    def _read_status(self) -> Status | None:
        """Return the status of the inbox; None if there is no inbox, and no daemon that misses it."""
        status = self.watched.read_status()
        return status if status["alive"] or self.watched.is_there else None

    def _inbox(self, status: Status | None) -> dict[str, Any]:
        """Return what is known of the inbox, if there is one."""
        styles = read_styles(self.watched) if status else []
        waiting = waiting_files(status, styles) if status else []
        quarantined = status["quarantined"] if status else ()
        failed = list(failed_files(self.watched.inbox, quarantined, self.results.failed))
        return {
            "daemon": daemon_state(status) if status else None,
            "waiting": [with_size_and_age(one, self.watched.inbox) for one in waiting[:MOST_LISTED]],
            "waitingCount": len(waiting),
            "waitingSeconds": status["eta_s"] if status else 0,
            "failed": failed[:MOST_LISTED],
            "failedCount": len(failed),
            "styles": [_style_card(style) for style in styles],
        }

    def _log(self, problem: PipelineError | None) -> None:
        """Log a fault of the machine, once as long as it lasts."""
        text = str(problem) if problem else ""
        if text and text != self._problem:
            logger.warning("the page: %s", text)
        self._problem = text

    def page(self, before: str) -> dict[str, Any]:
        """Return finished pictures older than those before a mark.

        Raises:
            ValueError: it is no mark.
        """
        done, mark = self.results.done(PAGE_SIZE, before)
        return {
            "pictures": [picture_card(result) for result in done],
            "count": self.results.done_count,
            "next": mark,
        }

    def style(self, id: str) -> StyleFile | None:
        return next((style for style in read_styles(self.watched) if style.id == id), None)

    def running(self, id: str) -> Live | None:
        return find_running(read_live(self.state_dir), id)

    def running_drop(self, id: str) -> Drop | None:
        """Return the drop that a running job belongs to; None if it belongs to none, or is over."""
        if job := self.running(id):
            return Drop("", job.drop) if job.drop else None
        running = self.watched.read_status()["running"] or {}
        ours = bool(running.get("id")) and daemon_job_id(running) == id
        return Drop(running["path"], running["id"]) if ours else None

    def waiting_drop(self, id: str) -> Drop | None:
        waiting = waiting_files(self.watched.read_status())
        return next((Drop(one["path"], one["drop"]) for one in waiting if one["id"] == id), None)


@contextmanager
def _noting(problems: list[PipelineError]) -> Iterator[None]:
    """Add the error that ends the block to a list."""
    try:
        yield
    except PipelineError as error:
        problems.append(error)


def _style_card(style: StyleFile) -> dict[str, Any]:
    version = file_version(style.path)
    return {
        "id": style.id,
        "name": style.name,
        "thumb": f"/api/styles/{style.id}/thumb?v={version:x}",
        "canDrop": not style.reason,
        "reason": style.reason,
    }
