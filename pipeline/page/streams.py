"""Server-sent events: every open page gets the state when it connects, and again when it changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from .answers import Refusal, json_bytes

# How often the state is read while a page is open: at least so many seconds lie between, and so many times as
# many as it took, as with thousands of files in the inbox. The daemon may need this process, too.
INTERVAL_S, PART, LONGEST_INTERVAL_S = 1.0, 10, 5.0
# A comment goes through an idle stream this often, so that proxies keep it open and a dead one is noticed.
COMMENT_S = 15.0
MOST_STREAMS = 32
# How long a browser waits before it connects again, in milliseconds.
RETRY = b"retry: 2000\n\n"
COMMENT = b":\n\n"


# Proxies must not hold events back.
HEADERS = {"x-accel-buffering": "no"}

logger = logging.getLogger(__name__)


class Streams:
    """Reads the state while anyone looks, and passes it on. Used by one event loop."""

    def __init__(
        self,
        read: Callable[[], Awaitable[dict[str, Any]]],
        most: int = MOST_STREAMS,
        interval_s: float = INTERVAL_S,
        comment_s: float = COMMENT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self.most = most
        self.interval_s = interval_s
        self.comment_s = comment_s
        self.clock = clock
        self.open = 0
        self._rest: bytes = b""  # the state without what runs
        self._state: bytes = b""
        self._running: bytes = b""
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._is_closing = False
        self._poll: asyncio.Task[None] | None = None

    @property
    def is_reading(self) -> bool:
        """Whether anyone looked just now."""
        return self._poll is not None

    def close(self) -> None:
        """End all streams."""
        self._is_closing = True
        self._announce()
        self._wanted.set()

    def refresh(self) -> None:
        """Read the state now: something was changed here."""
        self._wanted.set()

    async def events(self) -> AsyncIterator[bytes]:
        yield RETRY
        rest = running = b""
        while not self._is_closing:
            if self._poll is None:
                self._poll = asyncio.create_task(self._keep_reading())
            changed, before = self._changed, (rest, running)
            rest, running = self._rest, self._running  # they may change while an event is sent
            if self._state and rest != before[0]:
                yield _event("state", self._state)
            elif self._state and running != before[1]:
                yield _event("progress", running)
            try:
                await asyncio.wait_for(changed.wait(), self.comment_s)
            except TimeoutError:
                yield COMMENT

    def response(self) -> Response:
        """Return the answer to a request for a stream."""
        return _Stream(self)

    async def _keep_reading(self) -> None:
        """Read the state again and again, until nobody looks."""
        try:
            while self.open and not self._is_closing:
                self._wanted.clear()
                began = self.clock()
                try:
                    self._pass_on(await self._read())
                except Exception:  # a fault of this program must not end the page
                    logger.exception("the state of the page cannot be read")
                pause_s = min(PART * (self.clock() - began), LONGEST_INTERVAL_S)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), max(self.interval_s, pause_s))
        finally:
            self._poll = None
            self._state = self._rest = self._running = b""

    def _pass_on(self, state: dict[str, Any]) -> None:
        before = self._state
        self._state = json_bytes(state)
        self._running = json_bytes({"running": state["running"]})
        self._rest = json_bytes({**state, "running": [one["id"] for one in state["running"]]})
        if self._state != before:
            self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class _Stream(Response):
    """A stream of events. It counts as open for as long as it is sent, whatever ends it."""

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self.streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streams = self.streams
        if streams.open >= streams.most:
            text = f"{streams.open} pages are open, as many as may be."
            refusal = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text, "Close one of them.")
            return await refusal.response()(scope, receive, send)
        streams.open += 1
        try:
            sent = StreamingResponse(streams.events(), media_type="text/event-stream", headers=HEADERS)
            await sent(scope, receive, send)
        finally:
            streams.open -= 1
