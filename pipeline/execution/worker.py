"""Jobs in a child process: a picture or job that crashes or hangs it costs one attempt, not the daemon."""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from ..errors import MachineError, WorkerLost
from ..spec.jobs import EncoderInfo, JobResult, StepProgress, Task
from ..spec.recipe import Recipe
from .executors import Executor
from .worker_process import CLOSE, LOGGER, SIGNALS, STOP, Answer, Message, serve

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Seconds that a process gets to end, when it was told to or is dying.
END_S = 5.0
# Waiting for the worker and a scan of the inbox take less.
LONGEST_ROUND_S = 5.0


@dataclass
class Worker:
    """A process, our end of the pipe to it, and how many jobs it has run."""

    process: SpawnProcess
    connection: Connection
    jobs: int = 0


class WorkerExecutor:
    """An `Executor` that works in a child process, which it starts when there is none.

    `make` is called in the child and must be picklable. The process is replaced after `max_jobs` jobs, when
    it dies, and when it is silent for `timeout_s` while it works. Resolving an encoder has no such limit, as
    that may download it. While an answer is awaited, `tick` is called about every `tick_s`; it must not ask
    this executor for anything. A job that is told to stop gets `stop_s` for it. Whatever `tick`, `on_step` or
    `should_stop` raises ends the process and reaches the caller.

    Every request raises what the executor in the child raises, and WorkerLost. The process dies with this
    one, and on Linux with the thread that started it. What it logs reaches the loggers of this process.
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
        """Let the process end; kill it if it does not."""
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
            match message:
                case Answer():
                    return message
                case StepProgress():
                    on_step(message)
                    silent_s = 0.0
                case logging.LogRecord():
                    logging.getLogger(message.name).handle(message)
                    silent_s = 0.0
                case None if silent_s > timeout_s:
                    raise WorkerLost(
                        f"The worker was silent for {timeout_s:g} s and was ended.",
                        "Try a smaller size, or allow it more time with job_timeout_s in config.yaml.",
                    )
            if time.monotonic() > give_up:
                logger.info("the worker did not stop within %g s and is ended", self.stop_s)
                self._end()
                return Answer(STOP)  # a stop is not the jobs' fault
            if give_up == math.inf and should_stop():
                self._send(STOP)
                give_up = time.monotonic() + self.stop_s

    def _receive(self) -> Message | None:
        """Return what the worker sends before the next tick is due, or None."""
        if time.monotonic() >= self._next_tick:
            self.tick()
            self._next_tick = time.monotonic() + self.tick_s
        with self._noticing_death() as connection:
            message: Message | None = None
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
        code, pid = process.exitcode, process.pid
        if code is not None:
            process.close()
        logger.debug("worker process %s ended with exit code %s", pid, code)
        return code


def start_worker(make: Callable[[], Executor]) -> Worker:
    """Start a process that serves `make()`.

    Raises:
        MachineError: the system has no room for one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, make, logging.getLogger(LOGGER).getEffectiveLevel())
    process = context.Process(target=serve, args=arguments, name="style-pipeline worker", daemon=True)
    try:
        with theirs, _holding_signals():
            process.start()
    except OSError as error:
        ours.close()
        raise MachineError(
            f"The worker cannot be started ({error.strerror or error}).",
            "Close other programs to free memory.",
        ) from error
    logger.debug("worker process %s started", process.pid)
    return Worker(process, ours)


@contextmanager
def _holding_signals() -> Iterator[None]:
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
