"""Lanes: executors side by side, each with a thread of its own, or a single one in the caller's thread.

`Dispatch` is what a batch needs of them; a Ray cluster offers the same.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from ..spec.jobs import JobResult, StepProgress, Task
from .executors import Executor


@dataclass(frozen=True)
class Done:
    """Tasks that have ended, with their results or with what the executor raised."""

    tasks: Sequence[Task]
    results: Sequence[JobResult] = ()
    error: BaseException | None = None


class Dispatch(Protocol):
    """Gives tasks to whatever runs them, and returns their results in the caller's thread.

    Leaving it stops what still runs, which leaves checkpoints.
    """

    @property
    def width(self) -> int:
        """How many groups of tasks run at the same time."""

    @property
    def at_once(self) -> int:
        """How many of them share a machine or a device."""

    @property
    def idle(self) -> bool:
        """Whether it takes more tasks."""

    @property
    def busy(self) -> bool:
        """Whether it has tasks that have not ended."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Begin tasks, which may share a tensor. It has to be idle."""

    def wait(self) -> Done | None:
        """Return the tasks that end next, or None if it is idle again before."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


OnStep: TypeAlias = Callable[[StepProgress], None]
ShouldStop: TypeAlias = Callable[[], bool]
OpenDispatch: TypeAlias = Callable[[OnStep, ShouldStop], Dispatch]

# A lane runs tasks on one executor, one group after another, and reports the end of each group as an event.
Lane: TypeAlias = "SerialLane | ThreadedLane"
Events: TypeAlias = "queue.SimpleQueue[StepProgress | tuple[Lane, Done]]"


class SerialLane:
    """Runs tasks in the caller's thread, while it submits them. The executor stays the caller's."""

    def __init__(
        self,
        executor: Executor,
        events: Events,
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._executor, self._events = executor, events
        self._on_step, self._should_stop = on_step, should_stop

    def submit(self, tasks: Sequence[Task]) -> None:
        self._events.put((self, _run(self._executor, tasks, self._on_step, self._should_stop)))

    def close(self) -> None:
        pass


class ThreadedLane:
    """Runs tasks in a thread of its own, which alone talks to the executor, and in the end closes it."""

    def __init__(self, executor: Executor, events: Events, should_stop: Callable[[], bool]) -> None:
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
            self._events.put((self, _run(self._executor, tasks, self._events.put, self._should_stop)))
        self._executor.close()


class Lanes:
    """Gives tasks to free lanes, and returns their results in the caller's thread.

    `executors` is called when the first is needed. A single one gets a serial lane, several a thread each.
    """

    def __init__(
        self,
        executors: Callable[[], Sequence[Executor]],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._executors = executors
        self._on_step = on_step
        self._should_stop = should_stop
        self._lanes: list[Lane] = []
        self._free: list[Lane] = []
        self._stopping = False
        self._events: Events = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs, which leaves checkpoints, and close the lanes."""
        self._stopping = True
        for lane in self._lanes:
            lane.close()

    @property
    def width(self) -> int:
        """How many lanes there are."""
        return len(self._opened())

    @property
    def at_once(self) -> int:
        """How many share this machine: all of them."""
        return self.width

    @property
    def idle(self) -> bool:
        """Whether a lane is free."""
        return bool(self._free) or not self._lanes

    @property
    def busy(self) -> bool:
        """Whether a lane has work."""
        return len(self._free) < len(self._lanes)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Give tasks to a free lane."""
        self._opened()
        self._free.pop().submit(tasks)

    def wait(self) -> Done:
        """Return the tasks that end next, and call `on_step` until then."""
        while isinstance(event := self._events.get(), StepProgress):
            self._on_step(event)
        lane, done = event
        self._free.append(lane)
        return done

    def _opened(self) -> Sequence[Lane]:
        if not self._lanes:
            executors, should_stop = self._executors(), lambda: self._stopping or self._should_stop()
            if len(executors) == 1:
                self._lanes = [SerialLane(executors[0], self._events, self._on_step, should_stop)]
            else:
                self._lanes = [ThreadedLane(each, self._events, should_stop) for each in executors]
            self._free = self._lanes[::-1]
        return self._lanes


def _run(
    executor: Executor,
    tasks: Sequence[Task],
    on_step: Callable[[StepProgress], None],
    should_stop: Callable[[], bool],
) -> Done:
    try:
        return Done(tasks, executor.run(tasks, on_step, should_stop))
    except BaseException as error:  # the caller's to raise, once the others have stopped
        return Done(tasks, error=error)
