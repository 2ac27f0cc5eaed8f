"""The loop in the driver: it gives groups of tasks to actors, and acts on what they send."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ...errors import DiskError, MachineError, WorkerLost
from ...spec.config import Config
from ...spec.jobs import JobResult, StepProgress, Task
from ...storage.temporary import write_file
from ..checkpoints import checkpoint_path, sweep_checkpoints
from ..executors import Executor
from ..lanes import Done, OnStep, ShouldStop
from ..worker_process import LONGEST_ROUND_S, Answer
from .actor import Checkpoint, Message, Request
from .actors import Actors, Group, RemoteActor
from .cluster import Kind, Place
from .shipping import Shipping

logger = logging.getLogger(__name__)

# Groups that an actor has at once: it runs one, and the inputs of the other are on their way.
IN_FLIGHT = 2
# Seconds between two questions whether to stop.
TURN_S = 0.2


class RayLanes:
    """A `Dispatch` that runs `jobs` on the nodes of a cluster, each in an actor with a device of its own.

    `executor` resolves encoders; `make` is called in an actor and must be picklable. An actor that is silent
    for `watch.job_timeout_s` while it has work is killed. Only what it ran is lost to the caller.
    """

    def __init__(
        self,
        on_step: OnStep,
        should_stop: ShouldStop,
        *,
        config: Config,
        kind: Kind,
        jobs: int,
        executor: Executor,
        make: Callable[[Place, Config], Executor],
    ) -> None:
        self._on_step, self._should_stop = on_step, should_stop
        self._config, self._executor = config, executor
        self._timeout_s = config.watch.job_timeout_s
        self._actors = Actors(config, kind, jobs, make)
        self._shipping = Shipping() if config.ray.ship else None
        self._queue: deque[Group] = deque()
        self._done: deque[Done] = deque()
        self._is_ending = False
        self._give_up_at = math.inf  # when jobs that were told to stop have to be ended
        self._round_began = time.monotonic()

    def __enter__(self) -> Self:
        sweep_checkpoints(self._config)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending = True
        try:
            while self._queue or any(actor.groups for actor in self._actors):
                self._turn()
        finally:
            self._actors.close()

    @property
    def width(self) -> int:
        self._actors.look()
        return max(1, len(self._actors))

    @property
    def at_once(self) -> int:
        return 1

    @property
    def idle(self) -> bool:
        return not self._queue

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._done or any(actor.groups for actor in self._actors))

    def submit(self, tasks: Sequence[Task]) -> None:
        self._queue.append(Group(tasks))
        self._give_work()

    def wait(self) -> Done | None:
        was_idle = self.idle
        while not self._done:
            if self.idle and not was_idle:
                return None
            self._turn()
        return self._done.popleft()

    def _turn(self) -> None:
        """Wait a moment for what actors send, and act on it."""
        if self._give_up_at == math.inf:
            if self._is_ending or self._should_stop():
                self._stop()
            else:
                self._actors.look()
        self._receive()
        self._end_the_silent()
        self._give_work()

    # What actors send

    def _receive(self) -> None:
        import ray

        sources: dict[Any, RemoteActor] = {}
        for actor in self._actors:
            # What an actor has sent before its end is read first, so its groups say when it has ended.
            sources |= dict.fromkeys([group.stream for group in actor.groups] or [actor.life], actor)
        if not sources:
            time.sleep(TURN_S)
            return
        ray.wait(list(sources), timeout=TURN_S)
        ready, _ = ray.wait(list(sources), num_returns=len(sources), timeout=0)
        for source in ready:
            if sources[source] in self._actors:  # it may have been given up meanwhile
                self._read(sources[source], source)

    def _read(self, actor: RemoteActor, source: Any) -> None:
        import ray

        try:
            if source is not actor.life:
                self._handle(actor, source, ray.get(next(source), timeout=self._timeout_s))
            else:
                self._actors.greet(actor, ray.get(source, timeout=self._timeout_s))
        except (ray.exceptions.RayError, StopIteration) as error:
            # Its process died or cannot be reached: what it had may have run.
            logger.debug("the actor on %s is lost: %s", actor.place.node.host, error)
            if actor.groups and source is not actor.groups[0].stream:  # the running one may have its answer
                actor.jobs = self._config.watch.worker_max_jobs  # takes no more
                self._queue.appendleft(Group(actor.groups.pop().tasks))
            else:
                self._lose(actor, f"{actor.name} {_how(error)}.")

    def _handle(self, actor: RemoteActor, stream: Any, message: Message) -> None:
        actor.silent_s = 0.0
        match message:
            case StepProgress():
                if not self._is_ending:  # it may be what ended the run
                    self._on_step(message)
            case Checkpoint():
                self._keep(message)
            case logging.LogRecord():
                logging.getLogger(message.name).handle(message)
            case Answer(error=MachineError() as error):  # its node's: the jobs are given to others
                self._actors.leave_out(actor, error)
                self._queue.extendleft(Group(group.tasks) for group in reversed(actor.groups))
            case Answer():
                group = next(group for group in actor.groups if group.stream is stream)
                actor.groups.remove(group)
                self._done.append(Done(group.tasks, message.value or (), message.error))
                if self._is_retired(actor) and not actor.groups:
                    self._actors.remove(actor)

    def _keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint. At the end of a run, one that cannot be written must not cost the others."""
        try:
            write_file(checkpoint_path(self._config, checkpoint.key), checkpoint.data)
        except DiskError as error:
            if not self._is_ending:
                raise
            logger.warning("a checkpoint is lost: %s", error.message)

    def _lose(self, actor: RemoteActor, why: str) -> None:
        """Give up an actor. What it ran is lost; what waited for it is given to another."""
        self._actors.lose(actor, why)
        if actor.groups:
            running, *waiting = actor.groups
            self._queue.extendleft(Group(group.tasks) for group in reversed(waiting))
            lost = WorkerLost(why, "Try a smaller size, or export the picture again.")
            self._done.append(Done(running.tasks, error=lost))

    def _end_the_silent(self) -> None:
        now = time.monotonic()
        round_s, self._round_began = min(now - self._round_began, LONGEST_ROUND_S), now
        for actor in self._actors:
            actor.silent_s = actor.silent_s + round_s if actor.groups else 0.0
            if actor.silent_s > self._timeout_s:
                self._lose(actor, f"{actor.name} was silent for {self._timeout_s:g} s and was ended.")
            elif actor.groups and now > self._give_up_at:
                self._actors.remove(actor)
                self._end_as_stopped(actor.groups)  # a stop is not the jobs' fault

    # What they are given

    def _give_work(self) -> None:
        """Give waiting groups to the actors that have fewest."""
        if self._give_up_at < math.inf:
            self._end_as_stopped(self._queue)
            self._queue.clear()
        while self._queue:
            free = [each for each in self._actors if each.ready and self._takes_more(each)]
            if not free:
                return
            actor, group = min(free, key=lambda each: len(each.groups)), self._queue.popleft()
            request, files = self._request(group.tasks)
            group.stream = actor.handle.run.options(num_returns="streaming").remote(request, *files)
            actor.groups.append(group)
            actor.jobs += len(group.tasks)

    def _takes_more(self, actor: RemoteActor) -> bool:
        # What waits at one actor cannot be given to another that is ready a moment later.
        most = 1 if self._actors.are_starting else IN_FLIGHT
        return len(actor.groups) < most and not self._is_retired(actor)

    def _is_retired(self, actor: RemoteActor) -> bool:
        return actor.jobs >= self._config.watch.worker_max_jobs or self._actors.is_left_out(actor)

    def _request(self, tasks: Sequence[Task]) -> tuple[Request, Sequence[Any]]:
        names: set[str] = {task.job.recipe.encoder for task in tasks}
        encoders = {name: self._executor.encoder_info(name).digest for name in names}
        paths = {task.key: checkpoint_path(self._config, task.key) for task in tasks}
        checkpoints = {key: path.read_bytes() for key, path in paths.items() if path.exists()}
        files: Mapping[Path, Any] = self._shipping.send(tasks) if self._shipping else {}
        return Request(tasks, encoders, checkpoints, tuple(files)), list(files.values())

    def _stop(self) -> None:
        """Let running jobs end after their steps, or tiles."""
        self._give_up_at = time.monotonic() + self._timeout_s
        for actor in self._actors:
            if actor.groups:
                actor.control("stop")

    def _end_as_stopped(self, groups: Iterable[Group]) -> None:
        for group in groups:
            self._done.append(Done(group.tasks, [JobResult("stopped") for _ in group.tasks]))


def _how(error: Exception) -> str:
    """Say how an actor was lost."""
    import ray

    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "cannot be reached"
    if not isinstance(error, ray.exceptions.ActorDiedError):
        return f"is lost ({type(error).__name__})"
    if "creation task" in str(error):
        return f"cannot start ({str(error).strip().splitlines()[-1].strip()})"
    return "died"
