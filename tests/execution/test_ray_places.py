"""Which actors a node gets, and what connections and devices are refused, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.execution.ray.cluster import ClusterExecutor, Node, Place, choose_kind, connected, plan_places
from pipeline.spec.config import Config
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


def test_the_address_of_a_client_is_refused(environment: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: no wheel for this Python or machine")
    with pytest.raises(UsageError, match="expected the HOST:PORT"), connected("ray://head:10001"):
        pass
