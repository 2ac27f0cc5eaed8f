"""Decides which drop is worked on next, and claims it: it has settled, is whole, and waits for no style."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ..errors import ImageError, JobError, PipelineError
from ..spec.text import one_line
from .backlog import Backlog
from .claims import Claim
from .heartbeat import Heartbeat
from .inbox import STYLES, Identity, Seen, identity_of
from .originals import Originals
from .reading import FAULTS, Reader
from .requests import Requests
from .routes import Router, Waiting
from .watcher import Watcher

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rejected:
    """A claimed drop that no job can use, and why. `identity` is that of its file in the inbox."""

    claim: Claim
    identity: Identity
    error: PipelineError


class NotTaken(Exception):
    """A drop stays in the inbox for now; the text says why."""


@dataclass(frozen=True)
class Intake:
    """Takes drops from the inbox one by one. `by_age`: see `Watcher.is_overdue`."""

    watcher: Watcher
    router: Router
    reader: Reader
    originals: Originals
    backlog: Backlog
    requests: Requests
    heartbeat: Heartbeat
    is_over: Callable[[], bool]
    by_age: bool
    # Manifests without mistakes: the style library's files when they were read, and those that they name.
    _valid: dict[Seen, tuple[tuple[Seen, ...], list[Path]]] = field(default_factory=dict, init=False)
    _whole: set[Seen] = field(default_factory=set, init=False)  # pictures that were decoded

    def next(self) -> Claim | Rejected | None:
        """Return what to work on now, claimed; None if nothing can be taken now.

        Manifests with mistakes come first, so that people learn of them at once; then what was claimed
        before, then what has settled; of each, what people put first.
        """
        self._check_styles()
        return self._invalid_manifest() or self._pending_claim() or self._settled_drop()

    def notify_waits(self, claim: Claim, reason: str) -> None:
        """Notify once of what a claim waits for."""
        name = one_line(claim.relative)
        self.heartbeat.notify_once("waits", f"{name}: waits: {reason}", about=claim.id, path=name)

    def _check_styles(self) -> None:
        """Decode what has settled in the style library, so that a stray file there spoils no picture."""
        library = self.watcher.library
        for seen in library.unchecked():
            fault = self.reader.style_fault(seen.relative, seen.identity)
            if fault and identity_of(self.watcher.inbox / seen.relative) != seen.identity:
                continue  # it went away or changed meanwhile, so this says nothing about it
            library.note_check(seen, fault)
            if fault:
                self.watcher.notify_once(seen.relative, "ignored", f"not used as a style: {fault}")

    def _invalid_manifest(self) -> Rejected | None:
        for seen in self.watcher.ready:
            if not self.router.is_manifest(seen.relative) or seen in self._valid:
                continue
            try:
                self._check_unchanged(seen)
                if (error := self._manifest_error(seen)) is not None:
                    return Rejected(self._claim(seen), seen.identity, error)
            except NotTaken as reason:
                logger.debug("%s: not taken: %s", seen.relative, reason)
        return None

    def _pending_claim(self) -> Claim | None:
        for claim in self.requests.in_order(self.backlog.pending):
            if self.watcher.clock() < self.backlog.not_before.get(claim.id, 0.0):
                continue
            if reason := self._waits_for(claim.relative):
                self.notify_waits(claim, reason)
            else:
                self.backlog.remove(claim)
                return claim
        return None

    def _settled_drop(self) -> Claim | Rejected | None:
        while not self.is_over() and (seen := self.watcher.next_ready(self.requests.rank)) is not None:
            try:
                return self._take(seen)
            except NotTaken as reason:
                logger.debug("%s: not taken: %s", seen.relative, reason)
        return None

    def _take(self, seen: Seen) -> Claim | Rejected:
        """Claim a settled file if it is a whole picture or a manifest, or if it will never be one."""
        if reason := self._waits_for(seen.relative):
            self._let_wait(seen, reason)
        self._check_unchanged(seen)
        is_manifest = self.router.is_manifest(seen.relative)
        error = self._manifest_error(seen) if is_manifest else self._picture_error(seen)
        claim = self._claim(seen)
        self._valid.pop(seen, None)
        self._whole.discard(seen)
        return claim if error is None else Rejected(claim, seen.identity, error)

    def _waits_for(self, relative: Path) -> str:
        """Return which style a picture waits for, in words; "" if none."""
        if self.router.is_manifest(relative):
            return ""
        library = self.watcher.library
        plan = self.router.plan(relative, library.paths, library.known)
        return plan.reason if isinstance(plan, Waiting) else ""

    def _let_wait(self, seen: Seen, reason: str) -> NoReturn:
        self.watcher.notify_once(seen.relative, "waits", f"waits: {reason}")
        raise NotTaken(reason)

    def _manifest_error(self, seen: Seen) -> PipelineError | None:
        """Read a manifest, once for each state of the style library; return what is wrong with it.

        Raises:
            NotTaken: a style that it names is still being copied.
        """
        inbox, library = self.watcher.inbox, self.watcher.library
        files, named = self._valid.get(seen, (None, []))
        if files != library.files:  # a pattern may match others now
            try:
                batch = self.reader.read_manifest(inbox / seen.relative, seen.relative, seen.identity)
            except FAULTS:
                raise
            except PipelineError as error:
                return error
            named = [path for path in batch.input_paths() if path.parent == inbox / STYLES]
            self._valid[seen] = library.files, named
        if copied := library.unchecked_among(named):
            names = ", ".join(one_line(path.relative_to(inbox)) for path in copied)
            self._let_wait(seen, f"still being copied: {names}")
        return None

    def _picture_error(self, seen: Seen) -> PipelineError | None:
        """Decode a picture, once; return what is wrong with it for good.

        Raises:
            NotTaken: it may still become whole.
        """
        if seen in self._whole:
            return None
        try:
            self.reader.check_picture(seen.relative, seen.identity)
        except ImageError as error:
            if self.watcher.is_overdue(seen, self.by_age):
                return error
            reason = error.message.removeprefix(f"{self.watcher.inbox / seen.relative}: ")
            self.watcher.settling.mark_unreadable(seen, reason)
            text = f"waits to become a whole picture: {reason}"
            self.watcher.notify_once(seen.relative, "waits", text)
            raise NotTaken(text) from error
        except JobError as error:
            return error
        self._whole.add(seen)
        return None

    def _check_unchanged(self, seen: Seen) -> None:
        if identity_of(self.watcher.inbox / seen.relative) != seen.identity:
            raise NotTaken("it was taken or changed since the last scan")

    def _claim(self, seen: Seen) -> Claim:
        """Move a file out of the inbox, unless it changed at the last moment."""
        self._check_unchanged(seen)
        try:
            claim = self.originals.take(seen)
        except JobError as refused:
            reason = str(refused).removeprefix(f"{self.watcher.inbox / seen.relative}: ")
            self.watcher.settling.mark_refused(seen, reason)
            self.watcher.notify_once(seen.relative, "refused", reason)
            raise NotTaken(reason) from refused
        self.watcher.forget(seen)
        if claim is None:
            raise NotTaken("it was taken or changed just now")
        return claim
