"""Where the jobs of a batch run: on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from ..errors import MachineError
from ..spec.config import Config
from .encoders import own_vgg19
from .executors import InProcessExecutor
from .lanes import Lanes, OpenDispatch
from .pool import batch_executors


@dataclass(frozen=True)
class Backend:
    """What resolves encoders and keeps checkpoints here, and what runs a number of jobs."""

    executor: InProcessExecutor
    lanes: Callable[[int], OpenDispatch]


@contextmanager
def open_backend(settings: Config) -> Iterator[Backend]:
    """Yield where jobs run by the configuration; connect to the cluster if it is one.

    Raises:
        UsageError: Ray is not installed, or the configuration does not fit it.
        MachineError: there is no such cluster, or no node of it can run jobs.
    """
    if settings.executor == "local":
        executor = InProcessExecutor(settings)
        yield Backend(
            executor, lambda jobs: partial(Lanes, partial(batch_executors, settings, jobs, executor))
        )
        return
    from .ray.cluster import ClusterExecutor, choose_kind, connected, make_executor, plan_places, read_nodes
    from .ray.lanes import RayLanes

    with connected(settings.ray.address):
        nodes = read_nodes()
        kind = choose_kind(settings.device, nodes)
        if not any(plan_places(node, kind, settings.workers) for node in nodes):
            raise MachineError(
                f"No node of the cluster can run jobs on {kind}.",
                "See what it offers with `style-pipeline doctor --ray`, or choose another --device.",
            )
        # Nodes have no imported weights of their own, but may have the same file.
        config = settings.model_copy(update={"device": kind, "weights": own_vgg19(settings)})
        cluster = ClusterExecutor(config)
        lanes = partial(RayLanes, config=config, kind=kind, executor=cluster, make=make_executor)
        yield Backend(cluster, lambda jobs: partial(lanes, jobs=jobs))
