"""The child's side of a worker: it answers the requests of its parent, and sends steps and log records."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import ImageError, PipelineError
from ..spec.jobs import StepProgress
from .executors import Executor
from .results import unexpected_failure

STOP, CLOSE = "stop", "close"
# Windows has neither of the last two, nor masks; its SIGTERM ends a process as surely as SIGKILL.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
PR_SET_PDEATHSIG = 1
# The logger whose records go to the parent.
LOGGER = "pipeline"


@dataclass(frozen=True)
class Answer:
    """What came of a request. Steps and log records that come before it are heartbeats."""

    value: Any = None
    error: PipelineError | None = None


Message: TypeAlias = "Answer | StepProgress | logging.LogRecord"


class Channel:
    """Our end of the pipe to the parent. Any thread may send; one receives."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._sending = threading.Lock()
        self._stop = False

    def send(self, message: Message) -> None:
        with self._sending:
            self.connection.send(message)

    # What a QueueHandler asks of its queue.
    put_nowait = send

    def should_stop(self) -> bool:
        """Tell whether the parent asked for a stop while a job runs: then it asks for nothing else."""
        self._stop = self._stop or (self.connection.poll() and self.connection.recv() == STOP)
        return self._stop

    def receive(self) -> Any:
        """Return the next request. A stop that comes now is for a job that has ended already."""
        self._stop = False
        while (request := self.connection.recv()) == STOP:
            pass
        return request


def serve(connection: Connection, make: Callable[[], Executor], log_level: int) -> None:
    """Answer requests until told to close. Signals are for the parent, which says what to do."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    channel = Channel(connection)
    logging.getLogger(LOGGER).addHandler(QueueHandler(channel))  # type: ignore[arg-type]
    logging.getLogger(LOGGER).setLevel(log_level)
    executor = make()
    while (request := channel.receive()) != CLOSE:
        channel.send(_answer(executor, channel, *request))


def _answer(executor: Executor, channel: Channel, name: str, *arguments: Any) -> Answer:
    try:
        hooks = (channel.send, channel.should_stop) if name == "run" else ()
        return Answer(getattr(executor, name)(*arguments, *hooks))
    except PipelineError as error:
        return Answer(error=error)
    except Exception as error:
        if name == "run":
            return Answer([unexpected_failure(task.job, error) for task in arguments[0]])
        if name == "check":
            return Answer(error=_unexpected_picture(arguments[0], error))
        raise  # ends the process, with its traceback on stderr


def _unexpected_picture(path: Path, error: Exception) -> ImageError:
    return ImageError(
        f"{path}: unexpected {type(error).__name__}: {error}", "Copy or export the picture again."
    )


def _die_with_parent() -> None:
    """End this process as soon as its parent has died, whatever it is doing."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), KILL)

    threading.Thread(target=follow, daemon=True).start()
    if sys.platform == "linux":
        # A decoder that hangs may never let the thread run; the kernel needs no thread of ours.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(KILL))
        if os.getppid() != parent.pid:
            os.kill(os.getpid(), KILL)
