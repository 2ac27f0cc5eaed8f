"""Which actors a node gets, and what connections and devices are refused, without a cluster."""

from __future__ import annotations

import logging
import re
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DeviceError, DiskError, MachineError, UsageError
from pipeline.execution.backend import open_backend
from pipeline.execution.checkpoints import checkpoint_path
from pipeline.execution.executors import InProcessExecutor
from pipeline.execution.lanes import OnStep
from pipeline.execution.ray import actors, cluster, lanes
from pipeline.execution.ray.actor import Checkpoint
from pipeline.execution.ray.actors import Actors, Group, RemoteActor
from pipeline.execution.ray.cluster import (
    ClusterExecutor,
    Node,
    Place,
    choose_kind,
    connected,
    make_executor,
    plan_places,
)
from pipeline.execution.ray.lanes import RayLanes
from pipeline.execution.worker_process import Answer
from pipeline.spec.config import Config
from pipeline.spec.jobs import JobResult, StepProgress
from pipeline.spec.recipe import Recipe


def node(cpus: int, gpus: int = 0) -> Node:
    return Node("id", "host", cpus, gpus)


@pytest.mark.parametrize(
    ("cpus", "workers", "expected"),
    [
        (0, "auto", []),
        (1, "auto", [1]),
        (3, "auto", [1, 1, 1]),
        (16, "auto", [4, 4, 4, 4]),
        (16, 1, [16]),
        (2, 8, [1, 1]),
        (0, 2, []),
    ],
)
def test_a_node_of_cores_gets_actors_of_equal_size(cpus: int, workers: int, expected: list[int]) -> None:
    places = plan_places(node(cpus), "cpu", workers)
    assert [place.cpus for place in places] == expected
    assert all(place.beside == len(expected) and place.gpus == 0 for place in places)


@pytest.mark.parametrize(("cpus", "gpus", "each"), [(8, 0, 0), (64, 8, 4), (2, 1, 2), (1, 4, 0)])
def test_every_gpu_gets_an_actor_of_its_own(cpus: int, gpus: int, each: int) -> None:
    assert plan_places(node(cpus, gpus), "cuda", "auto") == [Place(node(cpus, gpus), each, gpus=1)] * gpus


def test_jobs_run_on_gpus_where_there_are_any() -> None:
    assert choose_kind("auto", [node(4), node(4, 1)]) == "cuda"
    assert choose_kind("auto", [node(4)]) == "cpu"
    assert choose_kind("cpu", [node(4, 1)]) == "cpu"
    assert choose_kind("cuda", []) == "cuda"
    with pytest.raises(UsageError, match="device cuda:1: on a Ray cluster it is auto, cpu or cuda"):
        choose_kind("cuda:1", [])


def test_the_driver_needs_no_device_of_its_own() -> None:
    executor = ClusterExecutor(Config(device="cuda"))
    assert executor.encoder_info("auto").name == "vgg19"
    assert executor.micro_batch(Recipe()) == 16
    assert executor.work_factor(Recipe(size=4096)) == 1.0
    assert ClusterExecutor(Config(device="cpu")).micro_batch(Recipe()) == 1


@pytest.mark.parametrize("variable", [False, True])
def test_the_address_of_a_client_is_refused(
    variable: bool, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: no wheel for this Python or machine")
    address = "ray://head:10001"
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused = pytest.raises(UsageError, match=f"^{address}: expected the HOST:PORT")
    with refused, connected("auto" if variable else address):
        pass


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("127.0.0.1:{port}", "Connection refused"),
        (f"127.0.0.1:{10**30}", "too large"),
        ("ant:6379", "Name or service not known"),
        ("a..b:6379", "label"),
    ],
)
def test_an_address_at_which_nothing_answers_is_refused_at_once(
    address: str, error: str, variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed: no wheel for this Python or machine")

    def find(host: str, *_: object, **__: object) -> Any:
        if host == "ant":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(host, *_, **__)

    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", find)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with socket.socket() as closed:  # nothing listens on it
        closed.bind(("127.0.0.1", 0))
        address = address.format(port=closed.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", address)
        message = rf"no connection to a Ray cluster \({re.escape(address)}: .*{error}"
        with pytest.raises(MachineError, match=message), connected("auto" if variable else address):
            pass


@pytest.mark.parametrize(
    ("node_mb", "memory_mb", "beside", "expected"),
    [
        (8000, "auto", 4, 2000),
        (8000, 4000, 4, 1000),
        (2000, 4000, 4, 500),
        (0, 4000, 2, 2000),
        (0, "auto", 4, "auto"),
        (8000, "auto", 1, "auto"),
        (8000, 4000, 1, 4000),
    ],
)
def test_actors_of_a_node_share_its_memory(
    environment: Path, node_mb: int, memory_mb: Any, beside: int, expected: Any
) -> None:
    place = Place(Node("id", "host", 4, 0, node_mb << 20), 1, beside=beside)
    executor = make_executor(place, Config(memory_mb=memory_mb))
    assert isinstance(executor, InProcessExecutor)
    assert (executor.config.memory_mb, executor.config.device) == (expected, "cpu")


@pytest.mark.parametrize(("device", "nodes"), [("cuda", [node(4)]), ("auto", [node(0)]), ("cpu", [])])
def test_a_cluster_on_which_nothing_can_run_is_an_error(
    monkeypatch: pytest.MonkeyPatch, device: str, nodes: list[Node]
) -> None:
    monkeypatch.setattr(cluster, "connected", lambda address: nullcontext())
    monkeypatch.setattr(cluster, "read_nodes", lambda: nodes)
    settings = Config(executor="ray", device=device)
    with pytest.raises(MachineError, match="No node of the cluster can run jobs on"), open_backend(settings):
        pass


class KnownActors(Actors):
    """Actors of which none is started, and whose processes need not be ended."""

    def __init__(self, *members: RemoteActor) -> None:
        super().__init__(Config(), "cpu", 9, make_executor)
        self._actors = list(members)

    def remove(self, actor: RemoteActor) -> None:
        if actor in self:
            self._actors.remove(actor)


def test_a_cluster_that_loses_its_last_node_is_mentioned_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actors, "NODES_S", -1.0)
    monkeypatch.setattr(actors, "read_nodes", list)
    known = KnownActors()
    with caplog.at_level(logging.WARNING):
        known.look()
        known.look()
    assert [record.getMessage() for record in caplog.records] == [
        "Ray: no node can run jobs on cpu; the run waits for one to join"
    ]


def actor_on(name: str, groups: int) -> RemoteActor:
    place = Place(Node(name, name, 2, 0), 1, beside=2)
    return RemoteActor(place, None, None, ready=True, groups=[Group([]) for _ in range(groups)])


def test_a_node_that_is_left_out_keeps_no_idle_actor() -> None:
    faulty, idle, busy, elsewhere = (actor_on(*each) for each in [("a", 1), ("a", 0), ("a", 1), ("b", 0)])
    known = KnownActors(faulty, idle, busy, elsewhere)
    known.leave_out(faulty, DeviceError("The device is gone.", "Plug it in."))
    assert list(known) == [busy, elsewhere]
    assert [known.is_left_out(actor) for actor in known] == [True, False]


def driver(monkeypatch: pytest.MonkeyPatch, on_step: OnStep, config: Config, *known: RemoteActor) -> RayLanes:
    """The lanes of a run with such actors, none of which is a real one."""
    monkeypatch.setattr(lanes, "Actors", lambda *_: KnownActors(*known))
    monkeypatch.setattr(KnownActors, "close", lambda self: None)
    executor = ClusterExecutor(config)
    return RayLanes(
        on_step, lambda: False, config=config, kind="cpu", jobs=2, executor=executor, make=make_executor
    )


def test_what_fails_at_the_end_of_a_run_does_not_end_its_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outbox is full, so a snapshot fails; actors still send their checkpoints."""

    def fail(progress: StepProgress) -> None:
        raise MachineError("The disk is full.", "Free some space.")

    busy = actor_on("a", 1)
    made = driver(monkeypatch, fail, Config(), busy)

    def turn() -> None:
        made._handle(busy, None, StepProgress(1, 9, 1, 1, 0.0, 0.0, 0.0, b"picture", "a"))
        busy.groups.clear()

    monkeypatch.setattr(made, "_turn", turn)
    with pytest.raises(MachineError, match="full"):
        made._handle(busy, None, StepProgress(1, 9, 1, 1, 0.0, 0.0, 0.0, b"picture", "a"))
    made.__exit__()
    assert not busy.groups


def test_a_checkpoint_that_cannot_be_written_at_the_end_of_a_run_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, (one, other) = Config(state_dir=tmp_path), (actor_on(name, 1) for name in "ab")
    made = driver(monkeypatch, lambda progress: None, config, one, other)
    refused, written = (checkpoint_path(config, key) for key in "ab")
    refused.mkdir(parents=True)
    messages = iter([
        (one, Checkpoint("a", b"steps")), (one, Answer([JobResult("stopped")])),
        (other, Checkpoint("b", b"steps")), (other, Answer([JobResult("stopped")])),
    ])  # fmt: skip

    def turn() -> None:
        actor, message = next(messages)
        made._handle(actor, None, message)

    monkeypatch.setattr(made, "_turn", turn)
    with pytest.raises(DiskError, match="cannot be written"):
        made._handle(one, None, Checkpoint("a", b"steps"))
    made.__exit__()
    assert not any(actor.groups for actor in (one, other))
    assert written.read_bytes() == b"steps"
    (warning,) = caplog.messages
    assert warning.startswith(f"a checkpoint is lost: {refused}: cannot be written")
