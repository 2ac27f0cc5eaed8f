"""Moves originals from place to place, each move noted in the ledger: taken, finished, rejected."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..batch.summary import Summary
from ..errors import JobError, PipelineError
from ..spec.text import one_line, shortened
from ..storage.ledger import DropRow, Ledger
from .claims import Claim, Claims, new_id
from .heartbeat import Notify
from .inbox import Identity, Seen, identity_of
from .quarantine import Quarantine
from .reading import Reader
from .system import is_being_written

# The longest text in a report, and how many of a batch's failures it lists.
MAX_TEXT, MAX_FAILURES = 20_000, 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Originals:
    """The originals of one inbox. `keep` says what to do with those whose jobs are done."""

    claims: Claims
    quarantine: Quarantine
    ledger: Ledger
    reader: Reader
    notify: Notify
    keep: Literal["archive", "leave", "delete"]

    def make_folders(self) -> None:
        self.claims.make_folders()
        self.quarantine.make_folder()

    def take(self, seen: Seen) -> Claim | None:
        """Claim a file of the inbox; None if it is not there any more as it was seen.

        Raises:
            JobError: it cannot be moved.
        """
        inbox, drop = self.claims.inbox, new_id()
        self.ledger.claim(drop, inbox, seen.relative, time.time())
        try:
            claim = self.claims.take(seen.relative, drop)
        except JobError:
            self.ledger.unclaim(drop)
            raise
        if claim is None or (_was_changed(claim, seen.identity) and self.claims.put_back(claim)):
            self.ledger.unclaim(drop)
            return None
        return claim

    def recover(self) -> list[Claim]:
        """Make the ledger agree with what lies in the claimed folder, as after a crash, and return that."""
        claimed = self.claims.recover()
        ids = {claim.id for claim in claimed}
        for row in self.ledger.claimed(self.claims.inbox):
            if row.id not in ids:
                self._settle_row(row)
        for claim in claimed:
            self.ledger.claim(claim.id, self.claims.inbox, claim.relative, time.time())
        return claimed

    def _settle_row(self, drop: DropRow) -> None:
        """A drop that is claimed in the ledger only was never taken, or its last step was not noted."""
        if self.quarantine.report(drop.id):
            self.ledger.finish(drop.id, "quarantined", time.time())
        elif (self.claims.inbox / drop.path).exists() and not self.claims.markers.is_done(drop.path):
            self.ledger.unclaim(drop.id)
        else:
            self.ledger.finish(drop.id, "done", time.time())

    def finish(self, claim: Claim) -> None:
        """Archive, leave or delete a finished original, as the configuration says."""
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
        place = self._quarantine(claim, report, identity)
        name, error, next_step = one_line(claim.relative), report["error"], report["next_step"]
        reason = _sentence(error.removeprefix(f"{self.claims.inbox / claim.relative}: "))
        self.notify(
            "quarantined",
            f"quarantined {name}: {reason} It is in {one_line(place)}. {next_step}",
            path=str(claim.relative),
            id=claim.id,
            error=error,
            next_step=next_step,
            where=str(place),
        )

    def give_up(self, claim: Claim) -> None:
        """Quarantine the original of a drop that was cancelled."""
        bring_back = f"`style-pipeline retry {claim.id}` brings it back"
        report = self.quarantine.report(claim.id)  # one that failed just before has its own
        if not report:
            error = f"{self.claims.inbox / claim.relative}: cancelled."
            report = new_report(error, f"{bring_back}.", cancelled=True)
        place, name = self._quarantine(claim, report), one_line(claim.relative)
        text = f"cancelled {name}; it is in {one_line(place)}, and {bring_back}"
        self.notify("cancelled", text, path=str(claim.relative), id=claim.id, where=str(place))

    def _quarantine(self, claim: Claim, report: Mapping[str, Any], identity: Identity | None = None) -> Path:
        """Move an original to the quarantine; return where it is."""
        identities = {identity, identity_of(claim.path)}
        place = self.quarantine.add(claim, report)
        self.ledger.finish(claim.id, "quarantined", time.time())
        for read in identities:
            if read is not None:
                self.reader.forget_attempts(read)
        return place


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


def _was_changed(claim: Claim, before: Identity) -> bool:
    """Tell whether a file changed, or is being written, since it was last seen in the inbox."""
    now = identity_of(claim.path)
    # A move to another file system changes all else.
    same = now is not None and (now.size, now.mtime_ns) == (before.size, before.mtime_ns)
    return not same or is_being_written(claim.path)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
