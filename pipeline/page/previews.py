"""Thumbnails on demand. They are made in a child process: no picture is decoded in the server's own."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

from ..errors import JobError, PipelineError, WorkerLost
from ..execution.executors import Executor
from .thumbnails import Thumbnail, is_current, make_thumbnail

# The process ends when it had nothing to do for this many seconds; it takes half a second to start again.
IDLE_S = 60.0
# A picture that could not be read is tried again after this many seconds.
RETRY_S = 60.0
# How many pictures that could not be read are remembered.
MOST_FAILED = 10_000
# Thumbnails that nobody asked for in so many days are removed from the cache.
KEPT_S = 30 * 86_400.0

logger = logging.getLogger(__name__)

MakeExecutor = Callable[[Callable[[], None]], Executor]


class _Closing(Exception):
    """The page ends, and nobody waits for thumbnails any more."""


class Previews:
    """Makes thumbnails one after another, each once.

    `make_executor` returns an executor for a process, and gets a function to be called while it works. All of
    it happens in one thread, as the process may end with the thread that started it.
    """

    def __init__(self, make_executor: MakeExecutor) -> None:
        self._make_executor = make_executor
        self._wanted: SimpleQueue[tuple[Path, Thumbnail, Future[bool]] | None] = SimpleQueue()
        self._making: dict[Path, Future[bool]] = {}
        self._failed: dict[tuple[Path, Thumbnail], float] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="style-pipeline thumbnails", daemon=True)
        self._thread.start()

    async def get(self, wanted: Thumbnail, folder: Path) -> Path | None:
        """Return the path of a thumbnail in a folder, made now if need be; None if it cannot be."""
        path = folder / wanted.name
        if await asyncio.to_thread(_is_there, wanted, path):
            return path
        if self._is_closing or time.monotonic() < self._failed.get((path, wanted), 0.0):
            return None
        made = self._making.get(path)
        if made is None:
            self._making[path] = made = Future()
            made.add_done_callback(lambda _: self._making.pop(path, None))
            self._wanted.put((folder, wanted, made))
        if await asyncio.shield(asyncio.wrap_future(made)):
            return path
        if len(self._failed) > MOST_FAILED:
            self._failed.clear()
        self._failed[path, wanted] = time.monotonic() + RETRY_S
        return None

    def stop(self) -> None:
        """Make no more: whoever waits for a thumbnail gets none."""
        self._is_closing = True
        self._wanted.put(None)

    def close(self) -> None:
        """End the process and the thread."""
        self.stop()
        self._thread.join()

    def _work(self) -> None:
        executor = self._make_executor(self._tick)
        try:
            while not self._is_closing:
                try:
                    task = self._wanted.get(timeout=IDLE_S)
                except Empty:
                    executor.close()  # it starts again when it is needed
                    continue
                if task is not None:
                    self._make(executor, *task)
        finally:
            executor.close()
            while not self._wanted.empty():
                if (task := self._wanted.get()) is not None:
                    task[-1].set_result(False)

    def _tick(self) -> None:
        if self._is_closing:
            raise _Closing

    def _make(self, executor: Executor, folder: Path, wanted: Thumbnail, made: Future[bool]) -> None:
        is_made = False
        try:
            is_made = executor.call(make_thumbnail, wanted, folder)
        except _Closing:
            pass
        except (JobError, WorkerLost) as error:  # the picture's fault
            logger.debug("no thumbnail: %s", error)
        except PipelineError as error:
            logger.warning("a thumbnail cannot be made: %s", error)
        finally:
            made.set_result(is_made)


def _is_there(wanted: Thumbnail, path: Path) -> bool:
    try:
        return is_current(wanted, path.stat().st_mtime)
    except OSError:
        return False


def remove_old(folder: Path, now: float) -> None:
    """Remove thumbnails that were made long ago from a cache."""
    if folder.is_dir():
        with suppress(OSError), os.scandir(folder) as found:
            for entry in found:
                if now - entry.stat().st_mtime > KEPT_S:
                    os.unlink(entry.path)


def worker_for_previews(make_in_child: Callable[[], Executor], timeout_s: float) -> MakeExecutor:
    """Return what makes an executor in a child process, which is ended if a picture takes too long."""
    from ..execution.worker import WorkerExecutor

    return partial(WorkerExecutor, make_in_child, timeout_s, 10**9)
