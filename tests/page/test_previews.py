from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from batch_records import draw
from fakes import FakeExecutor

from pipeline.errors import DiskError
from pipeline.execution.executors import Executor
from pipeline.page import previews as previews_module
from pipeline.page.previews import KEPT_S, Previews, remove_old, worker_for_previews
from pipeline.page.thumbnails import Thumbnail


class Counting(FakeExecutor):
    """Counts what it is asked for; `hold` lets it wait in the middle, with ticks."""

    def __init__(self, tick: Callable[[], None]) -> None:
        super().__init__()
        self.tick = tick
        self.calls = 0
        self.closed = 0
        self.hold: threading.Event | None = None
        self.error: Exception | None = None

    def call(self, function, *arguments):
        self.calls += 1
        while self.hold is not None and not self.hold.wait(0.001):
            self.tick()
        if self.error is not None:
            raise self.error
        return super().call(function, *arguments)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def executors() -> list[Counting]:
    return []


@pytest.fixture
def previews(executors: list[Counting]):
    def make(tick: Callable[[], None]) -> Executor:
        executors.append(Counting(tick))
        return executors[-1]

    made = Previews(make)
    while not executors:
        time.sleep(0)
    yield made
    made.close()


def thumbnail(path: Path, name: str = "thumb.jpg") -> Thumbnail:
    return Thumbnail(name, (path,), 20)


def test_a_thumbnail_is_made_once(previews: Previews, executors: list[Counting], tmp_path: Path) -> None:
    wanted = thumbnail(draw(tmp_path / "a.png"))

    async def ask() -> list[Path | None]:
        return await asyncio.gather(*(previews.get(wanted, tmp_path / "thumbs") for _ in range(5)))

    path = tmp_path / "thumbs/thumb.jpg"
    assert asyncio.run(ask()) == [path] * 5
    assert path.read_bytes().startswith(b"\xff\xd8")
    assert executors[0].calls == 1
    assert asyncio.run(previews.get(wanted, tmp_path / "thumbs")) == path
    assert executors[0].calls == 1


def test_it_is_made_again_when_its_picture_is_newer(
    previews: Previews, executors: list[Counting], tmp_path: Path
) -> None:
    wanted = thumbnail(draw(tmp_path / "a.png"))
    asyncio.run(previews.get(wanted, tmp_path))
    later = time.time() + 100
    os.utime(tmp_path / "a.png", (later, later))
    asyncio.run(previews.get(wanted, tmp_path))
    assert executors[0].calls == 2


def test_what_cannot_be_read_is_not_tried_at_every_look(
    previews: Previews, executors: list[Counting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    wanted = thumbnail(path)
    for _ in range(3):
        assert asyncio.run(previews.get(wanted, tmp_path)) is None
    assert executors[0].calls == 1
    draw(path)
    now = time.monotonic()
    monkeypatch.setattr(previews_module.time, "monotonic", lambda: now + previews_module.RETRY_S)
    assert asyncio.run(previews.get(wanted, tmp_path)) is not None


def test_a_full_disk_is_a_warning(
    previews: Previews, executors: list[Counting], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executors[0].error = DiskError("thumbs: cannot be written.", "Free some space.")
    assert asyncio.run(previews.get(thumbnail(draw(tmp_path / "a.png")), tmp_path)) is None
    assert "Free some space." in caplog.text


def test_the_end_waits_for_no_picture(previews: Previews, executors: list[Counting], tmp_path: Path) -> None:
    executors[0].hold = threading.Event()

    async def ask() -> list[Path | None]:
        pictures = [draw(tmp_path / f"{n}.png") for n in range(3)]
        asked = [
            asyncio.create_task(previews.get(thumbnail(one, f"{one.stem}.jpg"), tmp_path)) for one in pictures
        ]
        while not executors[0].calls:
            await asyncio.sleep(0)
        await asyncio.to_thread(previews.close)
        return await asyncio.gather(*asked)

    assert asyncio.run(ask()) == [None] * 3
    assert executors[0].closed
    assert asyncio.run(previews.get(thumbnail(tmp_path / "0.png"), tmp_path)) is None


def test_the_process_ends_when_it_has_nothing_to_do(executors: list[Counting], monkeypatch) -> None:
    monkeypatch.setattr(previews_module, "IDLE_S", 0.001)

    def make(tick: Callable[[], None]) -> Executor:
        executors.append(Counting(tick))
        return executors[-1]

    made = Previews(make)
    while not executors or executors[0].closed < 2:
        time.sleep(0)
    made.close()


def test_old_thumbnails_are_removed_from_the_cache(tmp_path: Path) -> None:
    old, new = (draw(tmp_path / f"cache/{name}.png") for name in ("old", "new"))
    os.utime(old, (1, 1))
    remove_old(tmp_path / "cache", 2 + KEPT_S)
    assert not old.exists()
    assert new.exists()
    remove_old(tmp_path / "nothing", 0)


def test_pictures_are_decoded_in_a_process_that_may_die(tmp_path: Path) -> None:
    make = worker_for_previews(partial(FakeExecutor, faults={"deadly": "check_kill"}), 20)
    previews = Previews(make)
    folder = tmp_path / "deadly"
    assert asyncio.run(previews.get(thumbnail(draw(tmp_path / "a.png")), folder)) is None  # it was killed
    assert asyncio.run(previews.get(thumbnail(tmp_path / "a.png"), tmp_path)) == tmp_path / "thumb.jpg"
    previews.close()
