"""A child process that serves an executor: how it is started and ended, and what goes through its pipe."""

from __future__ import annotations

import atexit
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeAlias

from ..errors import ImageError, MachineError, PipelineError, WorkerLost
from ..spec.jobs import StepProgress
from .executors import Executor
from .results import unexpected_failure

logger = logging.getLogger(__name__)

STOP, CLOSE = "stop", "close"
# Windows has neither of the last two, nor masks; its SIGTERM ends a process as surely as SIGKILL.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
PR_SET_PDEATHSIG = 1
# How many seconds a process has to end, whether it was asked to or is dying.
END_S = 5.0
# How much of a round of waiting counts as a worker's silence. Waiting and what is done beside it take less:
# in a longer one this process was stopped, and the worker with it.
LONGEST_ROUND_S = 5.0
# The logger whose records go to the parent.
LOGGER = "pipeline"


@dataclass(frozen=True)
class Answer:
    """The answer to a request. Steps that come before it are heartbeats, log records are not."""

    value: Any = None
    error: PipelineError | None = None


Message: TypeAlias = "Answer | StepProgress | logging.LogRecord"


# In the parent


class Worker:
    """A child process that serves `make()`, and the parent's end of the pipe to it.

    Raises:
        MachineError: the system cannot start one.
    """

    def __init__(self, make: Callable[[], Executor]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, make, logging.getLogger(LOGGER).getEffectiveLevel())
        self.process = context.Process(
            target=serve, args=arguments, name="style-pipeline worker", daemon=True
        )
        self.jobs = 0  # that it has run
        self._exit_code: int | None = None
        self._ended = False
        try:
            with theirs, _blocked_signals():
                self.process.start()
        except OSError as error:
            self.connection.close()
            raise MachineError(
                f"The worker cannot be started ({error.strerror or error}).",
                "Close other programs to free memory.",
            ) from error
        self.pid = self.process.pid
        logger.debug("worker process %s started", self.pid)
        # Without this multiprocessing would at exit wait for a process that ignores its SIGTERM.
        atexit.register(self.close)

    def is_alive(self) -> bool:
        return not self._ended and self.process.is_alive()

    def send(self, message: object) -> None:
        """Send a request, STOP or CLOSE.

        Raises:
            WorkerLost: the process has died.
        """
        with self._noticing_death():
            self.connection.send(message)

    def receive(self, within_s: float) -> Message | None:
        """Return what the process sends within a time, or None. Errors as in `send`."""
        with self._noticing_death():
            message: Message | None = self.connection.recv() if self.connection.poll(within_s) else None
            return message

    def close(self) -> None:
        """Let the process end; kill it if it does not."""
        if not self._ended:
            with suppress(OSError):  # it is dead already
                self.connection.send(CLOSE)
            self.end(END_S)

    def end(self, grace_s: float = 0.0) -> None:
        """Kill the process if it does not end by itself within `grace_s`."""
        if self._ended:
            return
        self._ended = True
        atexit.unregister(self.close)
        self.process.join(grace_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(END_S)  # not for ever: one that waits for a lost disk cannot even be killed
        self.connection.close()
        self._exit_code = self.process.exitcode
        if self._exit_code is not None:
            self.process.close()
        logger.debug("worker process %s ended with exit code %s", self.pid, self._exit_code)

    @contextmanager
    def _noticing_death(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self.end(END_S)
            raise _lost(self._exit_code) from error


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block signals, also in a process that is started now: a Ctrl-C must not hit it before it is ready."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else it is started with the process, and lets the signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lost(code: int | None) -> WorkerLost:
    """Return the error of a process that ended with an exit code."""
    if code is None:
        how = "ended"
    elif code >= 0:
        how = f"ended with exit code {code}"
    else:
        how = f"ended with signal {-code} ({_signal_name(-code)})"
    if code == -9:
        how += "; the system's memory guard does that"
    return WorkerLost(f"The worker {how}.", "Try a smaller size, or export the picture again.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has none
        return "no name"


# In the child


class Channel:
    """The child's end of the pipe. Any thread may send; one receives."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._sending = threading.Lock()
        self._stop = False

    def send(self, message: Message) -> None:
        with self._sending:
            self.connection.send(message)

    # The method that a QueueHandler calls.
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
    """Answer requests until CLOSE, then end the process. Signals are ignored: the parent handles them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    channel = Channel(connection)
    logging.getLogger(LOGGER).addHandler(QueueHandler(channel))  # type: ignore[arg-type]
    logging.getLogger(LOGGER).setLevel(log_level)
    executor = make()
    while (request := channel.receive()) != CLOSE:
        channel.send(answer(executor, channel, *request))
    executor.close()
    os._exit(0)  # an orderly end of the interpreter takes a second with PyTorch, and does nothing more


class Hooks(Protocol):
    """What a running job calls."""

    def send(self, progress: StepProgress, /) -> None: ...

    def should_stop(self) -> bool: ...


def answer(executor: Executor, channel: Hooks, name: str, *arguments: Any) -> Answer:
    """Call a method of an executor, and return what it returns or raises."""
    try:
        hooks = (channel.send, channel.should_stop) if name == "run" else ()
        return Answer(getattr(executor, name)(*arguments, *hooks))
    except PipelineError as error:
        return Answer(error=error)
    except Exception as error:
        if name == "run":
            return Answer([unexpected_failure(task.job, error) for task in arguments[0]])
        if name == "check":
            text = f"{arguments[0]}: unexpected {type(error).__name__}: {error}"
            return Answer(error=ImageError(text, "Copy or export the picture again."))
        raise  # ends the process, with its traceback on stderr


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
