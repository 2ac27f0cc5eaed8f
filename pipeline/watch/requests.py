"""What people ask of the running daemon, and how it obeys: a pause, drops to give up, drops to take first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import JobError
from ..spec.text import one_line
from ..storage.control import Control, Listing, Request
from ..storage.files import inode_of
from ..storage.paths import HIDDEN
from .backlog import Backlog
from .claims import Claim
from .heartbeat import Heartbeat
from .inbox import Seen, identity_of
from .originals import Originals
from .watcher import Watcher


@dataclass
class Requests:
    """The requests of people. `read` looks for news; `obey` gives up what waits and was cancelled.

    What is being made is stopped by whoever asks `must_stop` meanwhile, and given up afterwards. All this
    only changes files, so it may be done while the worker works. Raises DiskError.
    """

    control: Control
    watcher: Watcher
    originals: Originals
    backlog: Backlog
    heartbeat: Heartbeat
    is_paused: bool = field(default=False, init=False)
    _listing: Listing | None = field(default=None, init=False)
    _cancelled: list[Request] = field(default_factory=list, init=False)
    _first: list[Request] = field(default_factory=list, init=False)
    _running: Claim | None = field(default=None, init=False)

    def read(self) -> None:
        """Read the requests again if anything changed."""
        listing = self.control.listing()
        if listing == self._listing:
            return
        if not listing and not (self.control.inbox / HIDDEN).exists():
            return  # the inbox is not there just now, which is no answer
        is_paused, requests = self.control.paused_since() is not None, self.control.requests()
        self._cancelled = [request for request in requests if request.kind == "cancel"]
        self._first = [request for request in requests if request.kind == "first"]
        self._listing, self.is_paused = listing, is_paused
        self.heartbeat.paused_by_user(is_paused)

    # What is being made

    @contextmanager
    def working_on(self, claim: Claim) -> Iterator[None]:
        """Know which drop is being made."""
        self._running = claim
        try:
            yield
        finally:
            self._running = None

    @property
    def must_stop(self) -> bool:
        """Whether what is being made has to stop, and nothing else may begin."""
        return self.is_paused or (self._running is not None and self.is_cancelled(self._running))

    def is_cancelled(self, claim: Claim) -> bool:
        return any(_is_about(request, claim) for request in self._cancelled)

    def give_up(self, claim: Claim) -> None:
        """Quarantine the original of a drop that was cancelled."""
        self._give_up(claim, [request for request in self._cancelled if _is_about(request, claim)])

    def _give_up(self, claim: Claim, requests: list[Request]) -> None:
        self.originals.give_up(claim)
        for request in requests:
            self.control.remove(request)
        self.watcher.schedule.file_moved_out()

    # What waits

    def in_order(self, claims: list[Claim]) -> list[Claim]:
        """Return claims with those that were put first at the beginning."""
        if not self._first:
            return list(claims)
        return sorted(claims, key=lambda claim: self._rank(claim.relative, claim.id, inode_of(claim.path)))

    def rank(self, seen: Seen) -> int:
        """Return the place of a file among those that were put first; all others come after them."""
        return self._rank(seen.relative, "", seen.identity.inode)

    def _rank(self, path: Path, id: str, inode: int) -> int:
        places = (place for place, one in enumerate(self._first) if one.is_about(path, id, inode))
        return next(places, len(self._first))

    def obey(self) -> int:
        """Give up every waiting drop that was cancelled; return how many there were.

        Requests that mean nothing any more are removed.
        """
        given_up = 0
        for request in self._cancelled:
            if self._is_running(request):
                continue
            if claim := self._claim(request):
                self._give_up(claim, [request])
                given_up += 1
            elif not self._waits(request):
                self._refuse(request, "It is finished, or not there any more.")
        for request in self._first:
            if self._is_running(request) or not self._waits(request):
                self.control.remove(request)
        return given_up

    def _claim(self, request: Request) -> Claim | None:
        """Return the claim of a drop that was cancelled; None if it cannot be claimed now."""
        for claims in (self.backlog.pending, self.backlog.left):
            for claim in claims:
                if _is_about(request, claim):
                    claims.remove(claim)
                    return claim
        seen = self.watcher.settled(Path(request.path))
        if seen is None or not request.is_about(seen.relative, "", seen.identity.inode):
            return None
        if identity_of(self.watcher.inbox / seen.relative) != seen.identity:
            return None
        try:
            taken = self.originals.take(seen)
        except JobError as error:
            self._refuse(request, str(error))
            return None
        self.watcher.forget(seen)
        return taken

    def _is_running(self, request: Request) -> bool:
        return self._running is not None and _is_about(request, self._running)

    def _waits(self, request: Request) -> bool:
        """Tell whether a drop is still claimed, or in the inbox without being done."""
        if self.control.is_claimed(request):  # also one whose claim a fault took from the backlog
            return True
        path = Path(request.path)
        is_there = request.is_about(path, "", inode_of(self.control.inbox / path))
        return is_there and not self.watcher.markers.is_done(path)

    def _refuse(self, request: Request, reason: str) -> None:
        text = f"{one_line(request.path)}: nothing to cancel. {reason}"
        self.heartbeat.notify("refused", text, path=request.path)
        self.control.remove(request)


def _is_about(request: Request, claim: Claim) -> bool:
    return request.is_about(claim.relative, claim.id, inode_of(claim.path))
