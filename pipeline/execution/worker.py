"""Jobs in a child process: a picture or job that crashes or hangs it costs one attempt, not the daemon."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import WorkerLost
from ..spec.jobs import EncoderInfo, JobResult, StepProgress, Task
from ..spec.recipe import Recipe
from .executors import Executor
from .worker_process import LONGEST_ROUND_S, STOP, Answer, Message, Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)


class WorkerExecutor:
    """An `Executor` that works in a child process, which it starts when there is none.

    `make` is called in the child and must be picklable. The process is replaced after `max_jobs` jobs, when
    it dies, and when it is silent for `timeout_s` while it works; what it logs does not count. Resolving an
    encoder has no such limit, as the process may have to start for it. While an answer is awaited, `tick` is
    called about every `tick_s`; it must not ask this executor for anything. A job that is told to stop gets
    `stop_s` for it. Whatever `tick`, `on_step` or `should_stop` raises ends the process and reaches the
    caller.

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

    def work_factor(self, recipe: Recipe) -> float:
        return float(self._ask(("work_factor", recipe), self.timeout_s))

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
        assert self._worker is not None
        self._worker.jobs += len(tasks)
        results: list[JobResult] = answer
        return results

    def progress(self, key: str) -> float:
        return float(self._ask(("progress", key), self.timeout_s))

    def forget(self, key: str) -> None:
        self._ask(("forget", key), self.timeout_s)

    def start(self) -> None:
        """Start the process if there is none, and return without waiting for it."""
        worker = self._worker
        if worker is None or worker.jobs >= self.max_jobs or not worker.is_alive():
            self.close()
            self._worker = Worker(self.make)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

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
        assert self._worker is not None
        self._busy = True
        try:
            self._worker.send(request)
            answer = self._answer(self._worker, timeout_s, on_step, should_stop)
        except BaseException:
            self._worker.end()  # what it still sends would be taken for the answer to another request
            raise
        finally:
            self._busy = False
        if answer.error is not None:
            raise answer.error
        return answer.value

    def _answer(
        self,
        worker: Worker,
        timeout_s: float,
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> Answer:
        silent_s, give_up = 0.0, math.inf
        while True:
            began = time.monotonic()
            message = self._receive(worker)
            silent_s += min(time.monotonic() - began, LONGEST_ROUND_S)
            match message:
                case Answer():
                    return message
                case StepProgress():
                    on_step(message)
                    silent_s = 0.0
                case logging.LogRecord():  # no heartbeat: another thread of a worker that hangs may log
                    logging.getLogger(message.name).handle(message)
            if silent_s > timeout_s:
                raise WorkerLost(
                    f"The worker was silent for {timeout_s:g} s and was ended.",
                    "Try a smaller size, or allow it more time with job_timeout_s in config.yaml.",
                )
            if time.monotonic() > give_up:
                logger.debug("the worker did not stop within %g s and is ended", self.stop_s)
                worker.end()
                return Answer(STOP)  # a stop is not the jobs' fault
            if give_up == math.inf and should_stop():
                worker.send(STOP)
                give_up = time.monotonic() + self.stop_s

    def _receive(self, worker: Worker) -> Message | None:
        """Return what the worker sends before the next tick is due, or None."""
        if time.monotonic() >= self._next_tick:
            self.tick()
            self._next_tick = time.monotonic() + self.tick_s
        return worker.receive(max(0.0, self._next_tick - time.monotonic()))
