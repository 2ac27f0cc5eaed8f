"""Work in a child process: a picture or job that crashes or hangs it costs one attempt, not the daemon."""

from __future__ import annotations

import atexit
import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ImageError, MachineError, PipelineError, WorkerLost
from ..spec.jobs import EncoderInfo, JobResult, StepProgress, Task
from ..spec.recipe import Recipe
from .executors import Executor
from .results import unexpected_failure

T = TypeVar("T")

STOP, CLOSE = "stop", "close"
# A process that was told to end, or is dying, gets so many seconds for it.
END_S = 5.0
# A look at the inbox and a wait for the worker take less.
LONGEST_ROUND_S = 5.0

# Windows has neither of the last two, nor masks; its SIGTERM ends a process as surely as SIGKILL.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Answer:
    """What came of a request; a StepProgress that comes before it is a sign of life."""

    value: Any = None
    error: PipelineError | None = None


@dataclass
class Worker:
    """A process, our end of the pipe to it, and how many jobs it has run."""

    process: SpawnProcess
    connection: Connection
    jobs: int = 0


class WorkerExecutor:
    """An `Executor` that works in a child process, which it starts when there is none.

    `make` is called in the child and must be picklable. The process is replaced after `max_jobs` jobs,
    when it dies, and when nothing is heard from it for `timeout_s` while it works; but resolving an
    encoder may download it, and takes as long as it takes. While an answer is awaited `tick` is called
    about every `tick_s`; it must not ask this executor for anything. A stop is waited for `stop_s` long.
    Whatever `tick`, `on_step` or `should_stop` raises ends the process and goes on to the caller.

    Every request raises what the executor in the child raises, and WorkerLost.
    The process dies with this one, and on Linux with the thread that started it.
    """

    def __init__(
        self,
        make: Callable[[], Executor],
        timeout_s: float,
        max_jobs: int,
        tick: Callable[[], None] = lambda: None,
        tick_s: float = 0.1,
        stop_s: float = 8.0,
    ) -> None:
        self.make = make
        self.timeout_s = timeout_s
        self.max_jobs = max_jobs
        self.tick = tick
        self.tick_s = tick_s
        self.stop_s = stop_s
        self._worker: Worker | None = None
        self._encoders: dict[str, EncoderInfo] = {}
        self._next_tick = -math.inf
        self._busy = False

    def encoder_info(self, name: str) -> EncoderInfo:
        """Resolve an encoder, once for all processes to come."""
        if name not in self._encoders:
            self._encoders[name] = self._ask(("encoder_info", name))
        return self._encoders[name]

    def device_name(self) -> str:
        return str(self._ask(("device_name",)))

    def micro_batch(self, recipe: Recipe) -> int:
        return int(self._ask(("micro_batch", recipe), self.timeout_s))

    def check(self, path: Path) -> None:
        self._ask(("check", path), self.timeout_s)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        answer: T = self._ask(("call", function, *arguments), self.timeout_s)
        return answer

    def run(
        self,
        tasks: Sequence[Task],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[JobResult]:
        answer = self._ask(("run", tasks), self.timeout_s, on_step, should_stop)
        if answer == STOP:  # it had to be ended
            return [JobResult("stopped") for _ in tasks]
        if self._worker is not None:
            self._worker.jobs += len(tasks)
        results: list[JobResult] = answer
        return results

    def progress(self, key: str) -> int:
        return int(self._ask(("progress", key), self.timeout_s))

    def forget(self, key: str) -> None:
        self._ask(("forget", key), self.timeout_s)

    def start(self) -> None:
        """Start the process if there is none, and return without waiting for it."""
        if self._worker is not None and self._worker.jobs >= self.max_jobs:
            self.close()
        if self._worker is not None and not self._worker.process.is_alive():
            self._end()
        if self._worker is None:
            self._worker = start_worker(self.make)
            # Without this multiprocessing would at exit wait for a process that ignores its SIGTERM.
            atexit.register(self.close)

    def close(self) -> None:
        """End the process, kindly if it lets us."""
        if self._worker is not None:
            with suppress(OSError):  # it is dead already
                self._worker.connection.send(CLOSE)
            self._end(END_S)

    def _ask(
        self,
        request: tuple[Any, ...],
        timeout_s: float = math.inf,
        on_step: Callable[[StepProgress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Any:
        if self._busy:
            raise RuntimeError(f"The worker was asked for {request[0]} while it works.")
        self.start()
        self._busy = True
        try:
            self._send(request)
            answer = self._answer(timeout_s, on_step, should_stop)
        except BaseException:
            self._end()  # what it still sends would be taken for the answer to another request
            raise
        finally:
            self._busy = False
        if answer.error is not None:
            raise answer.error
        return answer.value

    def _answer(
        self, timeout_s: float, on_step: Callable[[StepProgress], None], should_stop: Callable[[], bool]
    ) -> Answer:
        silent_s, give_up = 0.0, math.inf
        while True:
            began = time.monotonic()
            message = self._receive()
            # A round that takes longer is one in which this process was stopped, and the worker with it.
            silent_s += min(time.monotonic() - began, LONGEST_ROUND_S)
            if isinstance(message, Answer):
                return message
            if message is not None:
                on_step(message)
                silent_s = 0.0
            elif silent_s > timeout_s:
                raise WorkerLost(
                    f"The worker showed no sign of life for {timeout_s:g} s and was ended.",
                    "Try a smaller size, or give it longer with job_timeout_s in config.yaml.",
                )
            if time.monotonic() > give_up:
                self._end()
                return Answer(STOP)  # a stop is not the jobs' fault
            if give_up == math.inf and should_stop():
                self._send(STOP)
                give_up = time.monotonic() + self.stop_s

    def _receive(self) -> StepProgress | Answer | None:
        """Return what the worker says before the next tick is due, or None."""
        if time.monotonic() >= self._next_tick:
            self.tick()
            self._next_tick = time.monotonic() + self.tick_s
        with self._noticing_death() as connection:
            message: StepProgress | Answer | None = None
            if connection.poll(max(0.0, self._next_tick - time.monotonic())):
                message = connection.recv()
            return message

    def _send(self, message: object) -> None:
        with self._noticing_death() as connection:
            connection.send(message)

    @contextmanager
    def _noticing_death(self) -> Iterator[Connection]:
        assert self._worker is not None
        try:
            yield self._worker.connection
        except (EOFError, OSError) as error:
            raise _lost(self._end(END_S)) from error

    def _end(self, grace_s: float = 0.0) -> int | None:
        """Kill the process if it does not end by itself within `grace_s`; return its exit code."""
        if self._worker is None:
            return None
        process, connection = self._worker.process, self._worker.connection
        self._worker = None
        atexit.unregister(self.close)
        process.join(grace_s)
        if process.exitcode is None:
            process.kill()
            process.join(END_S)  # not for ever: one that waits for a lost disk cannot even be killed
        connection.close()
        code = process.exitcode
        if code is not None:
            process.close()
        return code


def start_worker(make: Callable[[], Executor]) -> Worker:
    """Start a process that serves `make()`.

    Raises:
        MachineError: the system has no room for one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, make), name="style-pipeline worker", daemon=True)
    try:
        with theirs, _holding_signals():
            process.start()
    except OSError as error:
        ours.close()
        raise MachineError(
            f"The worker cannot be started ({error.strerror or error}).",
            "Close other programs to free memory.",
        ) from error
    return Worker(process, ours)


@contextmanager
def _holding_signals() -> Iterator[None]:
    """Hold signals back, in a process started now too: a Ctrl-C must not hit it before it is ready."""
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
    """Say how a process ended."""
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


def serve(connection: Connection, make: Callable[[], Executor]) -> None:
    """Answer requests until told to close. Signals are for the parent, which says what to do."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    executor = make()
    while (request := connection.recv()) != CLOSE:
        if request != STOP:  # its job had ended already
            connection.send(_handled(executor, connection, *request))


def _handled(executor: Executor, connection: Connection, name: str, *arguments: Any) -> Answer:
    try:
        hooks = (connection.send, _stop_heard(connection)) if name == "run" else ()
        return Answer(getattr(executor, name)(*arguments, *hooks))
    except PipelineError as error:
        return Answer(error=error)
    except Exception as error:
        if name == "run":
            return Answer([unexpected_failure(task.job, error) for task in arguments[0]])
        if name == "check":
            return Answer(error=_unexpected_picture(arguments[0], error))
        raise  # ends the process, its traceback in plain sight


def _stop_heard(connection: Connection) -> Callable[[], bool]:
    stopped = False

    def should_stop() -> bool:
        nonlocal stopped
        stopped = stopped or (connection.poll() and connection.recv() == STOP)
        return stopped

    return should_stop


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
        # A decoder that hangs may never let the thread run; the kernel needs nobody's leave.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(KILL))
        if os.getppid() != parent.pid:
            os.kill(os.getpid(), KILL)
