"""The actors of a run, as the driver sees them: started where nodes have capacity, replaced when they die."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import MachineError
from ...spec.config import Config
from ...spec.jobs import Task
from ...version import VERSION
from ..executors import Executor
from .actor import Hello
from .cluster import Kind, Place, plan_places, read_nodes, start_actor

logger = logging.getLogger(__name__)

# Seconds between two looks at the nodes.
NODES_S = 2.0
# An actor takes seconds to start where nothing else is on its node.
LONG_START_S = 30.0
# How long actors have to remove their files in the end.
CLOSE_S = 5.0
# A node on which actors end so many times before they are ready is left out.
MOST_STARTS = 3


@dataclass
class Group:
    """Tasks that may share a tensor, and the stream of messages about them once they are with an actor."""

    tasks: Sequence[Task]
    stream: Any = None


@dataclass(eq=False)
class RemoteActor:
    """An actor and its groups, the running one first.

    `life` ends with an error when its process does; until the actor is ready, it ends with what it says then.
    """

    place: Place
    handle: Any
    life: Any
    ready: bool = False
    groups: list[Group] = field(default_factory=list)
    jobs: int = 0
    silent_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.began

    @property
    def name(self) -> str:
        return f"The actor on {self.place.node.host}"

    def control(self, method: str) -> Any:
        """Call a method beside a running one; return the reference to its result."""
        return getattr(self.handle, method).options(concurrency_group="control").remote()


class Actors:
    """The actors of a run, at most one for each of its jobs.

    A node at fault is left out; when no other is left, its error ends the run.
    """

    def __init__(
        self, config: Config, kind: Kind, jobs: int, make: Callable[[Place, Config], Executor]
    ) -> None:
        self._config, self._kind, self._jobs, self._make = config, kind, jobs, make
        self._actors: list[RemoteActor] = []
        self._starts: dict[str, int] = {}  # by node: actors in a row that ended before they were ready
        self._left_out: dict[str, MachineError] = {}
        self._look_at = -math.inf
        self._said_empty = False

    def __iter__(self) -> Iterator[RemoteActor]:
        return iter(list(self._actors))

    def __len__(self) -> int:
        return len(self._actors)

    def __contains__(self, actor: RemoteActor) -> bool:
        return actor in self._actors

    @property
    def are_starting(self) -> bool:
        """Whether an actor will soon be ready."""
        return any(not actor.ready and actor.age_s < LONG_START_S for actor in self)

    def look(self) -> None:
        """Look at the nodes if that is due: start what is missing, forget idle actors of lost nodes.

        Raises:
            MachineError: all nodes are left out; this is why the last one is.
        """
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + NODES_S
        nodes = read_nodes()
        plans = {node.id: plan_places(node, self._kind, self._config.workers) for node in nodes}
        for actor in self:
            if actor.place.node.id not in plans and not actor.groups:
                self._actors.remove(actor)
        for places in plans.values():
            if places and places[0].node.id not in self._left_out:
                self._fill(places)
        usable = {node for node, places in plans.items() if places}
        if self._left_out and usable <= self._left_out.keys():
            raise next(reversed(self._left_out.values()))
        if not usable and not self._said_empty:
            logger.warning("Ray: no node can run jobs on %s; the run waits for one to join", self._kind)
        self._said_empty = not usable

    def _fill(self, places: Sequence[Place]) -> None:
        """Start the actors of a node that are missing."""
        node = places[0].node
        have = sum(actor.place.node.id == node.id for actor in self._actors)
        level = logging.getLogger("pipeline").getEffectiveLevel()
        for place in places[have:]:
            # One that has been starting for long may wait for others to leave its node.
            if sum(actor.ready or actor.age_s < LONG_START_S for actor in self) >= self._jobs:
                return
            if node.id not in self._starts:
                self._starts[node.id] = 0
                logger.info("Ray: %s joins, with %s", node.host, _described(places))
            handle = start_actor(place, self._make, self._config, level)
            self._actors.append(RemoteActor(place, handle, handle.hello.remote()))

    def greet(self, actor: RemoteActor, said: Hello | MachineError) -> None:
        """Note that an actor is ready, or why it cannot be used."""
        host = actor.place.node.host
        if isinstance(said, Hello) and said.version != VERSION:
            said = MachineError(
                f"{host} has style-pipeline {said.version}, and this machine {VERSION}.",
                "Install the same version on all nodes.",
            )
        if isinstance(said, MachineError):
            self.leave_out(actor, said)
            return
        logger.debug("the actor on %s is ready: process %s, %s", host, said.pid, said.device)
        actor.ready, actor.life = True, actor.control("live")
        self._starts[actor.place.node.id] = 0

    def lose(self, actor: RemoteActor, why: str) -> None:
        """Give up an actor. If too many end on its node before they are ready, leave the node out."""
        self.remove(actor)
        node = actor.place.node.id
        if not actor.ready:
            self._starts[node] += 1
            if self._starts[node] >= MOST_STARTS:
                self.leave_out(actor, MachineError(why, "Look at the logs of Ray on that node."))

    def leave_out(self, actor: RemoteActor, error: MachineError) -> None:
        """Give up this actor and the idle ones on its node, and start no more there."""
        node = actor.place.node
        if node.id not in self._left_out:
            logger.warning("Ray: %s is left out: %s", node.host, error)
        self._left_out[node.id] = error
        self.remove(actor)
        for each in self:
            if each.place.node.id == node.id and not each.groups:
                self.remove(each)

    def is_left_out(self, actor: RemoteActor) -> bool:
        """Return whether the node of an actor is left out."""
        return actor.place.node.id in self._left_out

    def remove(self, actor: RemoteActor) -> None:
        """Kill an actor; another is started in its place if the node is still used."""
        import ray

        if actor in self._actors:
            self._actors.remove(actor)
            ray.kill(actor.handle)
            self._look_at = -math.inf

    def close(self) -> None:
        """End all actors; those that are ready remove their files."""
        import ray

        closing = [actor.control("close") for actor in self if actor.ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for actor in self:
            self.remove(actor)


def _described(places: Sequence[Place]) -> str:
    each = f"{places[0].gpus} GPU" if places[0].gpus else f"{places[0].cpus} CPU"
    return f"{len(places)} x {each}"
