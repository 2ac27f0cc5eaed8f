"""The end of a drop: its original goes to its last place, then the ledger says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Literal

from ..batch.summary import Summary
from ..errors import PipelineError
from ..spec.text import shortened
from ..storage.files import one_line
from ..storage.ledger import Ledger
from .claims import Claim, Claims
from .inbox import Identity, identity_of
from .quarantine import Quarantine
from .reading import Reader
from .watcher import Notify

# The longest text in a report, and how many of a batch's failures it lists.
MAX_TEXT, MAX_FAILURES = 20_000, 100

logger = logging.getLogger(__name__)


class Originals:
    """Archives, leaves or deletes the originals of finished drops, and quarantines those that failed."""

    def __init__(
        self,
        claims: Claims,
        quarantine: Quarantine,
        ledger: Ledger,
        reader: Reader,
        notify: Notify,
        keep: Literal["archive", "leave", "delete"],
    ) -> None:
        self.claims = claims
        self.quarantine = quarantine
        self.ledger = ledger
        self.reader = reader
        self.notify = notify
        self.keep = keep

    def finish(self, claim: Claim) -> None:
        """Bring a finished original to where the configuration wants it."""
        if self.keep == "archive":
            self.claims.archive(claim)
        elif self.keep == "leave":
            self.claims.leave(claim)
        else:
            self.claims.delete(claim)
        self.quarantine.remove_report(claim.id)
        self.ledger.finish(claim.id, "done", time.time())
        logger.debug("%s: done (%s)", claim.relative, self.keep)

    def reject(self, claim: Claim, report: Mapping[str, Any], identity: Identity | None = None) -> None:
        """Quarantine an original. `identity` is that of its file in the inbox, if that was read there."""
        identities = {identity, identity_of(claim.path)}
        place = one_line(self.quarantine.add(claim, report))
        self.ledger.finish(claim.id, "quarantined", time.time())
        for read in identities:
            if read is not None:
                self.reader.forget_attempts(read)
        name, error, next_step = one_line(claim.relative), report["error"], report["next_step"]
        reason = _sentence(error.removeprefix(f"{self.claims.inbox / claim.relative}: "))
        self.notify(
            "quarantined",
            f"quarantined {name}: {reason} It is in {place}. {next_step}",
            path=name,
            id=claim.id,
            error=error,
            next_step=next_step,
            where=place,
        )


def new_report(error: str, next_step: str, **more: Any) -> dict[str, Any]:
    """Return a report on a drop that failed; `retry` lets the jobs whose `keys` it names be tried again."""
    report = {"error": error, "next_step": next_step, "keys": [], **more}
    return {key: shortened(text, MAX_TEXT) if isinstance(text, str) else text for key, text in report.items()}


def report_of_error(error: PipelineError) -> dict[str, Any]:
    return new_report("; ".join(error.lines), error.next_step or "Correct it and drop it again.")


def report_of_summary(summary: Summary) -> dict[str, Any]:
    """Return a report on the jobs that failed."""
    first = summary.failures[0]
    more = f" (and {summary.failed - 1} more)" if summary.failed > 1 else ""
    keys = [failure["key"] for failure in summary.failures if failure["key"]]
    report = new_report(first["error"] + more, first["next_step"])
    return {**report, "keys": keys, "failures": summary.failures[:MAX_FAILURES]}


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
