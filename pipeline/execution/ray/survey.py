"""What a cluster offers, for people who want to know before a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ...spec.config import Config
from ...version import VERSION
from .cluster import Node, Place, choose_kind, connected, plan_places, read_nodes

# How long a node has to start a process and answer.
ANSWER_S = 60.0


@dataclass(frozen=True)
class NodeReport:
    """A node, the actors it would get, and its version of style-pipeline or why it does not say."""

    node: Node
    places: Sequence[Place]
    version: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Survey:
    """A cluster. `kind` is the kind of device that jobs would run on."""

    version: str
    address: str
    kind: str
    token: bool
    reports: Sequence[NodeReport]


def survey(config: Config) -> Survey:
    """Ask a cluster and each of its nodes what they offer. Errors as in `connected` and `choose_kind`."""
    with connected(config.ray.address):
        import ray

        nodes = read_nodes()
        kind = choose_kind(config.device, nodes)
        answers = {node.id: _ask(node) for node in nodes if plan_places(node, kind, config.workers)}
        ray.wait(list(answers.values()), num_returns=max(1, len(answers)), timeout=ANSWER_S)
        reports = []
        for node in nodes:
            version, fault = _answer(answers[node.id]) if node.id in answers else ("", "")
            reports.append(NodeReport(node, plan_places(node, kind, config.workers), version, fault))
        address = ray.get_runtime_context().gcs_address
        token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
        return Survey(ray.__version__, address, kind, token, reports)


def _ask(node: Node) -> object:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_node = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_node)(version_here).remote()


def _answer(reference: object) -> tuple[str, str]:
    import ray

    try:
        return ray.get(reference, timeout=0), ""
    except ray.exceptions.GetTimeoutError:
        return "", f"does not answer within {ANSWER_S:g} s"
    except ray.exceptions.RayError as error:
        return "", str(error).strip().splitlines()[-1].strip()


def version_here() -> str:
    """Return the version of style-pipeline on a node."""
    return VERSION
