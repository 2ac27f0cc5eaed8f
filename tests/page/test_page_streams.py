from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from page_client import Browser, World

from pipeline.page.streams import MOST_STREAMS, Streams

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Stream:
    """An open stream: the events that a browser got so far."""

    def __init__(self, streams: Streams) -> None:
        self.got: asyncio.Queue[str] = asyncio.Queue()
        self.status = 0
        self._gone = asyncio.Event()
        self.task = asyncio.create_task(streams.response()({"type": "http"}, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif body := message["body"]:
            self.got.put_nowait(body.decode())

    async def next(self) -> str:
        return await asyncio.wait_for(self.got.get(), 10)

    async def event(self) -> tuple[str, Any]:
        """Return the name and the data of the next event."""
        while not (text := await self.next()).startswith("event"):
            pass
        name, data = text.strip().split("\n")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def leave(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 10)


class Reader:
    """Reads a state that tests change; counts how often."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"running": [], "done": 0}
        self.reads = 0

    async def __call__(self) -> dict[str, Any]:
        self.reads += 1
        return dict(self.state)


def test_a_stream_begins_with_the_state_and_tells_only_what_changed() -> None:
    async def check() -> None:
        reader = Reader()
        streams = Streams(reader, interval_s=0.001)
        stream = Stream(streams)
        assert await stream.next() == "retry: 2000\n\n"
        assert await stream.event() == ("state", reader.state)
        reads = reader.reads
        while reader.reads < reads + 5:
            await asyncio.sleep(0)
        assert stream.got.empty()
        reader.state = {"running": [{"id": "a", "step": 1}], "done": 0}
        assert (await stream.event())[0] == "state"  # another job runs
        reader.state = {"running": [{"id": "a", "step": 2}], "done": 0}
        assert await stream.event() == ("progress", {"running": [{"id": "a", "step": 2}]})
        reader.state = {"running": [], "done": 1}
        assert await stream.event() == ("state", reader.state)
        await stream.leave()

    asyncio.run(check())


def test_a_second_stream_gets_the_whole_state_at_once() -> None:
    async def check() -> None:
        streams = Streams(Reader(), interval_s=1000)
        one = Stream(streams)
        await one.event()
        other = Stream(streams)
        assert (await other.event())[0] == "state"
        for stream in (one, other):
            await stream.leave()

    asyncio.run(check())


def test_nothing_is_read_while_nobody_looks() -> None:
    async def check() -> None:
        reader = Reader()
        streams = Streams(reader, interval_s=0.001)
        assert reader.reads == 0
        stream = Stream(streams)
        await stream.event()
        await stream.leave()
        assert streams.open == 0
        while streams.is_reading:
            await asyncio.sleep(0.001)
        reads = reader.reads
        reader.state = {"running": [], "done": 7}
        again = Stream(streams)
        assert await again.event() == ("state", reader.state)
        assert reader.reads > reads
        await again.leave()

    asyncio.run(check())


def test_a_change_made_here_is_told_at_once() -> None:
    async def check() -> None:
        reader = Reader()
        streams = Streams(reader, interval_s=1000)
        stream = Stream(streams)
        await stream.event()
        reader.state = {"running": [], "done": 1}
        streams.refresh()
        assert await stream.event() == ("state", reader.state)
        await stream.leave()

    asyncio.run(check())


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.01, 1.0), (0.2, 2.0), (3.0, 5.0)])
def test_a_state_that_takes_long_is_read_less_often(
    took_s: float, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        now, pauses, own_wait = [0.0], list[float | None](), asyncio.wait_for

        async def read() -> dict[str, Any]:
            now[0] += took_s
            return {"running": []}

        async def wait_for(waiting: Any, timeout: float | None) -> Any:
            pauses.append(timeout)
            return await own_wait(waiting, timeout)

        monkeypatch.setattr("pipeline.page.streams.asyncio.wait_for", wait_for)
        streams = Streams(read, clock=lambda: now[0])
        stream = Stream(streams)
        await stream.event()
        while len(pauses) < 2:
            await asyncio.sleep(0)
        monkeypatch.undo()
        assert pytest.approx(pause_s) in pauses
        streams.close()
        await stream.task

    asyncio.run(check())


def test_an_idle_stream_is_kept_open_by_comments() -> None:
    async def check() -> None:
        stream = Stream(Streams(Reader(), interval_s=1000, comment_s=0.001))
        await stream.event()
        assert await stream.next() == ":\n\n"
        assert await stream.next() == ":\n\n"
        await stream.leave()

    asyncio.run(check())


def test_closing_ends_every_stream() -> None:
    async def check() -> None:
        streams = Streams(Reader(), interval_s=1000)
        open_ones = [Stream(streams) for _ in range(5)]
        for stream in open_ones:
            await stream.event()
        streams.close()
        await asyncio.wait_for(asyncio.gather(*(stream.task for stream in open_ones)), 10)
        assert streams.open == 0
        late = Stream(streams)  # it ends at once, too
        await asyncio.wait_for(late.task, 10)

    asyncio.run(check())


def test_of_two_hundred_streams_some_are_refused_and_their_places_are_given_again() -> None:
    async def check() -> None:
        streams = Streams(Reader(), interval_s=1000)
        many = [Stream(streams) for _ in range(200)]
        for stream in many[:MOST_STREAMS]:
            await stream.event()
        for stream in many[MOST_STREAMS:]:
            await asyncio.wait_for(stream.task, 10)
            assert stream.status == 503
            assert "open" in json.loads(await stream.next())["error"]
        assert streams.open == MOST_STREAMS
        await many[0].leave()
        again = Stream(streams)
        assert (await again.event())[0] == "state"
        streams.close()
        await asyncio.gather(*(stream.task for stream in (*many[1:MOST_STREAMS], again)))

    asyncio.run(check())


def test_a_stream_whose_browser_is_gone_before_it_began_keeps_no_place() -> None:
    async def check() -> None:
        streams = Streams(Reader(), interval_s=1000)
        stream = Stream(streams)
        await stream.leave()
        assert streams.open == 0

    asyncio.run(check())


def test_a_slow_browser_gets_the_newest_state_only() -> None:
    async def check() -> None:
        reader = Reader()
        streams = Streams(reader, interval_s=1000)
        events = streams.events()
        streams.open = 1
        assert await anext(events) == b"retry: 2000\n\n"
        await anext(events)
        for number in range(1, 6):
            reader.state = {"running": [], "done": number}
            reads = reader.reads
            streams.refresh()
            while reader.reads == reads:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert b'"done":5' in await anext(events)
        streams.close()
        assert [event async for event in events] == []

    asyncio.run(check())


def test_a_fault_of_the_program_is_logged_and_ends_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        reader, failing = Reader(), True

        async def read() -> dict[str, Any]:
            if failing:
                raise ValueError("odd")
            return await reader()

        streams = Streams(read, interval_s=0.001)
        stream = Stream(streams)
        while "odd" not in caplog.text:
            await asyncio.sleep(0)
        failing = False
        assert (await stream.event())[0] == "state"
        await stream.leave()

    asyncio.run(check())


def test_the_page_streams_its_state(world: World) -> None:
    async def check() -> None:
        browser = Browser(world.stranger.app, world.browser.cookie)
        answer = asyncio.create_task(browser.asking("GET", "/api/events"))
        while not world.site.streams.open:
            await asyncio.sleep(0)
        while not world.site.streams.is_reading:
            await asyncio.sleep(0)
        world.site.streams.close()
        assert (await answer).headers["content-type"].startswith("text/event-stream")

    asyncio.run(check())
