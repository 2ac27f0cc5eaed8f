"""A Ray cluster: the connection to it, its nodes, and which actors they can hold."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

from ...errors import MachineError, UsageError
from ...spec.config import Config
from ...spec.recipe import Recipe
from ..executors import Executor, InProcessExecutor
from ..pool import CPU_WORKERS
from .actor import Actor

# Cores that a GPU's actor asks for, at most: for reading, resizing and writing pictures.
CORES_PER_GPU = 4
# How many seconds the head node may take to accept a connection.
REACH_S = 10.0

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Node:
    """A node that is alive, with what it offers in all; `memory_bytes` 0 is unknown."""

    id: str
    host: str
    cpus: int
    gpus: int
    memory_bytes: int = 0


@dataclass(frozen=True)
class Place:
    """What one actor takes of a node; `beside` is how many actors share the node's memory."""

    node: Node
    cpus: int
    gpus: int = 0
    beside: int = 1


def plan_places(node: Node, kind: Kind, workers: Literal["auto"] | int) -> list[Place]:
    """Plan the actors of a node: one for each GPU, or several of few threads, as on one machine."""
    if kind == "cuda":
        return [Place(node, min(CORES_PER_GPU, node.cpus // node.gpus), gpus=1) for _ in range(node.gpus)]
    count = min(node.cpus, CPU_WORKERS if workers == "auto" else workers)
    return [Place(node, node.cpus // count, beside=count) for _ in range(count)]


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a cluster, and disconnect it in the end, which ends its actors.

    Raises:
        UsageError: Ray is not installed, or the address is of a kind that cannot be used.
        MachineError: there is no such cluster, or it refuses.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if "://" in address:
        raise UsageError(
            f"{address}: expected the HOST:PORT of a cluster's head node, or auto.",
            "Run this command on a node of the cluster, or submit it there with `ray job submit`.",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Ray is not installed.", "Run `pip install 'style-pipeline[ray]'`, or run without --ray."
        ) from error
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise MachineError(
            f"There is no connection to a Ray cluster ({' '.join(str(error).split()).rstrip('.')}).",
            "Start one with `ray start --head --disable-usage-stats`, or give the HOST:PORT of one. If it "
            "has a token, set RAY_AUTH_MODE=token.",
        ) from error
    # What `log_to_driver` leaves: Ray's own lines about ends of processes, which the run reports in its way.
    ray._private.worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ConnectionError if a HOST:PORT does not answer; Ray would try for many minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConnectionError(f"{address}: {reason or error}") from error


def read_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    import ray

    found = []
    for node in ray.nodes():
        if node["Alive"]:
            offers = [int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU", "memory")]
            found.append(Node(node["NodeID"], node["NodeManagerHostname"], *offers))
    return found


def choose_kind(device: str, nodes: Sequence[Node]) -> Kind:
    """Return the kind of device that jobs run on: GPUs if there are any, unless the user says otherwise.

    Raises:
        UsageError: it is no device of a cluster.
    """
    if device == "auto":
        return "cuda" if any(node.gpus for node in nodes) else "cpu"
    if device in get_args(Kind):
        return cast(Kind, device)
    raise UsageError(
        f"device {device}: on a Ray cluster it is auto, cpu or cuda.", "Ray chooses which of the GPUs."
    )


class ClusterExecutor(InProcessExecutor):
    """What the driver needs of an executor: it resolves encoders and keeps checkpoints. It runs no jobs.

    `config.device` is the kind of device of the cluster, which this machine need not have.
    """

    def device_name(self) -> str:
        return self.config.device

    def work_factor(self, recipe: Recipe) -> float:
        return 1.0  # the memory of the nodes is not known here


def start_actor(
    place: Place, make: Callable[[Place, Config], Executor], config: Config, log_level: int
) -> Any:
    """Start an actor, and return its handle at once. It waits for the node to have what it takes."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Retries are the driver's: it alone knows how often a job may end its process.
    remote = ray.remote(concurrency_groups={"control": 2}, max_restarts=0, max_task_retries=0)(Actor)
    on_node = NodeAffinitySchedulingStrategy(place.node.id, soft=False)
    options = {"num_cpus": place.cpus, "num_gpus": place.gpus, "scheduling_strategy": on_node}
    return remote.options(**options).remote(partial(make, place), config, log_level)


def make_executor(place: Place, config: Config) -> Executor:
    """Return the executor of an actor; called in the actor.

    Actors of one node get equal parts of what Ray counts as its memory, not of what is free: an actor that
    replaces another starts while the rest are at work. A job is alone in its actor, so its part is a limit.
    """
    settings = config.model_copy(update={"device": "cuda" if place.gpus else "cpu"})
    known = [each for each in (place.node.memory_bytes, settings.memory_bytes) if each]
    if place.beside > 1 and known:
        share = min(known) // place.beside
        settings = settings.model_copy(update={"memory_mb": max(1, share >> 20)})
    return InProcessExecutor(settings, threads=max(1, place.cpus))
