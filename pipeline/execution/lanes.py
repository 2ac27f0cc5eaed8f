"""Lanes: executors working side by side, each driven by a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from ..spec.jobs import JobResult, StepProgress, Task
from .executors import Executor


@dataclass(frozen=True)
class Done:
    """What came of tasks: their results, or what the executor raised."""

    tasks: Sequence[Task]
    results: Sequence[JobResult] = ()
    error: BaseException | None = None


class Lanes:
    """Gives tasks to executors and tells, in the caller's thread, what comes of them.

    `executors` is called when the first is needed. A single executor works in the caller's thread while that
    waits. Several have a thread each, which alone talks to its executor, and in the end closes it.
    """

    def __init__(
        self,
        executors: Callable[[], Sequence[Executor]],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.on_step = on_step
        self.should_stop = should_stop
        self._make = executors
        self._executors: Sequence[Executor] = ()
        self._lanes: list[_Lane] = []
        self._free: list[_Lane] = []
        self._waiting: list[Sequence[Task]] = []
        self._busy = 0
        self._stopping = False
        self._events: queue.SimpleQueue[StepProgress | tuple[_Lane, Done]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs, which leaves checkpoints, and end the threads."""
        self._stopping = True
        for lane in self._lanes:
            lane.close()

    @property
    def width(self) -> int:
        """How many lanes there are."""
        self._open()
        return len(self._executors)

    @property
    def idle(self) -> bool:
        """Whether a lane is free."""
        return not self._executors or self._busy < len(self._executors)

    @property
    def busy(self) -> bool:
        """Whether a lane has work."""
        return self._busy > 0

    def submit(self, tasks: Sequence[Task]) -> None:
        """Give tasks to a free lane."""
        self._open()
        self._busy += 1
        if self._free:
            self._free.pop().submit(tasks)
        else:
            self._waiting.append(tasks)

    def wait(self) -> Done:
        """Return what came of the tasks that end next; tell of steps meanwhile."""
        self._busy -= 1
        if self._waiting:
            return _attempt(self._executors[0], self._waiting.pop(), self.on_step, self._should_stop)
        while isinstance(event := self._events.get(), StepProgress):
            self.on_step(event)
        lane, done = event
        self._free.append(lane)
        return done

    def _open(self) -> None:
        if not self._executors:
            self._executors = self._make()
            if len(self._executors) > 1:
                self._lanes = [_Lane(each, self._events, self._should_stop) for each in self._executors]
                self._free = self._lanes[::-1]

    def _should_stop(self) -> bool:
        return self._stopping or self.should_stop()


class _Lane:
    """An executor and the thread that talks to it."""

    def __init__(
        self,
        executor: Executor,
        events: queue.SimpleQueue[StepProgress | tuple[_Lane, Done]],
        should_stop: Callable[[], bool],
    ) -> None:
        self._executor, self._events, self._should_stop = executor, events, should_stop
        self._tasks: queue.SimpleQueue[Sequence[Task] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="style-pipeline lane", daemon=True)
        self._thread.start()

    def submit(self, tasks: Sequence[Task]) -> None:
        self._tasks.put(tasks)

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (tasks := self._tasks.get()) is not None:
            done = _attempt(self._executor, tasks, self._events.put, self._should_stop)
            self._events.put((self, done))
        self._executor.close()


def _attempt(
    executor: Executor,
    tasks: Sequence[Task],
    on_step: Callable[[StepProgress], None],
    should_stop: Callable[[], bool],
) -> Done:
    try:
        return Done(tasks, executor.run(tasks, on_step, should_stop))
    except BaseException as error:  # the caller's to raise, once the others have stopped
        return Done(tasks, error=error)
