"""Runs on a Ray cluster of this machine, with a quick engine: nodes, actors and the driver die."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_cluster
from fakes import MakeManifest, MakePicture, Recorder
from ray_cluster import ClusterShop, small_cluster, wait_until

from pipeline.batch.summary import Finished
from pipeline.errors import DiskError
from pipeline.spec.jobs import StepProgress
from pipeline.storage.files import Disk

# Ray is loaded later, as it reads its settings then.
HAS_RAY = importlib.util.find_spec("ray") is not None
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: no wheel for this Python or machine"),
    pytest.mark.filterwarnings("default"),
]

NAMES = [f"{letter}--s" for letter in "abcdefgh"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with small_cluster() as made:
        yield made


@pytest.fixture
def shop(
    cluster: Any,
    environment: Path,
    make_picture: MakePicture,
    make_manifest: MakeManifest,
    monkeypatch: pytest.MonkeyPatch,
) -> ClusterShop:
    """Eight jobs of four steps, on two nodes with an actor each."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for seed, letter in enumerate("abcdefgh"):
        make_picture(f"photos/{letter}.png", seed)
    make_picture("s.png", 99)
    make_manifest({"contents": ["photos/*.png"], "styles": ["s.png"]})
    return ClusterShop(environment)


class Release(Recorder):
    """Lets jobs continue once all of them have begun."""

    def __init__(self, shop: ClusterShop, stems: str) -> None:
        super().__init__()
        self.shop, self.stems = shop, stems

    def job_step(self, name: str, progress: StepProgress) -> None:
        super().job_step(name, progress)
        if all(self.shop.begun(stem) for stem in self.stems):
            for stem in self.stems:
                self.shop.release(stem)


class Once:
    """Does something once, as soon as the driver has a checkpoint of the job that waits.

    It is called several times a second, to ask whether to stop the run.
    """

    def __init__(self, shop: ClusterShop, act: Callable[[int], object], stops: bool = False) -> None:
        self.shop, self.act, self.stops = shop, act, stops
        self.acted = False

    def __call__(self) -> bool:
        if not self.acted and self.shop.has_checkpoint():
            (pid,) = self.shop.pids("a")
            self.acted = True
            self.act(pid)
            self.shop.release("a")
        return self.acted and self.stops


def check_resumed(shop: ClusterShop) -> None:
    """The job that was interrupted after two steps did not take them again."""
    first, *others = sorted(shop.begun("a"))
    assert first == 0
    assert others
    assert min(others) >= 2
    assert shop.record("a--s")["resumed_from_step"] >= 2


def test_all_jobs_are_made_once_on_every_slot(shop: ClusterShop) -> None:
    shop.settings = {"workers": "auto"}
    ran = shop.run_on_ray(dict.fromkeys("abcd", "wait"), Release(shop, "abcd"))
    assert ran.summary.done == 8
    assert len(shop.pids()) == 4
    assert {name: len(shop.begun(name[0])) for name in NAMES} == dict.fromkeys(NAMES, 1)
    assert ran.observer.lost == []
    shop.check_end(NAMES)
    assert shop.run_on_ray().summary.skipped == 8


def test_inputs_are_sent_by_value(shop: ClusterShop) -> None:
    shop.settings |= {"ray": {"ship": True}}
    assert shop.run_on_ray().summary.done == 8
    assert shop.record("a--s")["content"]["path"] == str(shop.folder / "photos/a.png")
    shop.check_end(NAMES)


def test_a_node_is_lost_in_the_middle_of_a_job_and_another_joins(shop: ClusterShop, cluster: Any) -> None:
    def replace_node(pid: int) -> None:
        cluster.remove_node(node_of(cluster, pid), allow_graceful=False)
        cluster.add()

    ran = shop.run_on_ray({"a": "wait"}, should_stop=Once(shop, replace_node))
    assert ran.summary.done == 8
    assert ran.observer.lost
    check_resumed(shop)
    shop.check_end(NAMES)


def node_of(cluster: Any, pid: int) -> Any:
    """Return the node whose raylet started a process."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    (node,) = (node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == parent)
    return node


def test_an_actor_is_killed_before_its_answer(shop: ClusterShop) -> None:
    ran = shop.run_on_ray({"a": "wait"}, should_stop=Once(shop, lambda pid: os.kill(pid, signal.SIGKILL)))
    assert ran.summary.done == 8
    assert len(ran.observer.lost) == 1
    assert ran.observer.lost[0].endswith(" died.")
    check_resumed(shop)
    shop.check_end(NAMES)


class KillerOfTheFirst(Recorder):
    """Kills the actor of the first job that ends, when its answer is here."""

    def __init__(self, shop: ClusterShop) -> None:
        super().__init__()
        self.shop = shop

    def job_finished(self, finished: Finished) -> None:
        super().job_finished(finished)
        if len(self.finished) == 1:
            os.kill(int(self.shop.record(finished.name)["versions"]["pid"]), signal.SIGKILL)


def test_an_actor_is_killed_after_its_answer(shop: ClusterShop) -> None:
    ran = shop.run_on_ray(observer=KillerOfTheFirst(shop))
    assert ran.summary.done == 8
    assert len(ran.observer.lost) <= 1
    shop.check_end(NAMES)


def test_an_actor_that_is_frozen_is_ended_after_its_time(shop: ClusterShop) -> None:
    shop.settings |= {"watch": {"job_timeout_s": 6}}
    freeze = Once(shop, lambda pid: os.kill(pid, signal.SIGSTOP))
    ran = shop.run_on_ray({"a": "wait"}, should_stop=freeze, max_attempts=100)
    assert ran.summary.done == 8
    assert any("was silent for 6 s" in message for message in ran.observer.lost)
    check_resumed(shop)
    shop.check_end(NAMES)


def test_a_picture_that_ends_its_actor_is_quarantined_and_costs_nothing_else(shop: ClusterShop) -> None:
    ran = shop.run_on_ray({"a": "poison"}, max_attempts=2)
    assert ran.observer.statuses == {**dict.fromkeys(NAMES, "done"), "a--s": "failed"}
    assert "quarantined; this job ended the process 2 times" in ran.observer.finished[-1].error
    assert len(ran.observer.lost) == 2
    shop.check_end(NAMES[1:], attempts=2)


def test_a_node_at_fault_is_left_out(shop: ClusterShop, caplog: pytest.LogCaptureFixture) -> None:
    ran = shop.run_on_ray({"a": "machine_once"})
    assert ran.summary.done == 8
    assert "is left out: The device is gone." in caplog.text
    assert ran.observer.lost == []
    shop.check_end(NAMES)


def test_a_full_outbox_ends_the_run_and_the_next_makes_the_rest(shop: ClusterShop) -> None:
    with pytest.raises(DiskError):
        shop.run_on_ray(disk=FullDisk(after=3))
    made = len(shop.pictures())
    assert 0 < made < 8
    assert shop.attempts() == 0
    shop.check_processes()
    assert shop.run_on_ray().summary.done == 8 - made
    shop.check_end(NAMES)


class FullDisk(Disk):
    """Has space for some results only."""

    def __init__(self, after: int) -> None:
        self.left = 3 * after

    def write(self, path: Path, data: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        super().write(path, data)


def test_a_stop_keeps_checkpoints_for_the_next_run(shop: ClusterShop) -> None:
    ran = shop.run_on_ray({"a": "wait"}, should_stop=Once(shop, lambda pid: None, stops=True))
    assert ran.summary.reason == "stopped"
    assert ran.summary.remaining
    assert shop.attempts() == 0
    shop.run_on_ray()
    check_resumed(shop)
    shop.check_end(NAMES)


def test_the_driver_is_killed_and_a_second_run_completes_the_batch(shop: ClusterShop, cluster: Any) -> None:
    acts = json.dumps({"a": "wait"})
    command = [sys.executable, ray_cluster.__file__, str(shop.folder), cluster.address, acts]
    driver = subprocess.Popen(command)
    try:
        assert wait_until(shop.has_checkpoint, 120)
    finally:
        driver.kill()
        driver.wait()
    shop.check_processes()
    shop.release("a")
    shop.run_on_ray({"a": "wait"})
    check_resumed(shop)
    shop.check_end(NAMES)


def test_the_commands_use_a_cluster(shop: ClusterShop, cluster: Any) -> None:
    """With the real engine, on a file system that is as if it were not shared."""
    command = [sys.executable, "-m", "pipeline"]
    shop.manifest.write_text(
        "contents: [photos/a.png, photos/b.png]\nstyles: [s.png]\n"
        "recipe: {encoder: vgg19-slim, size: 48, pyramid: 0, steps: 3}\n"
    )
    ended = subprocess.run(
        [*command, "run", "night.yaml", "--ray", cluster.address, "--ray-ship"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Ray: " in ended.stderr
    for name in NAMES[:2]:
        assert (shop.batch_folder / f"{name}.png").exists()
        assert (shop.record(name)["status"], shop.record(name)["device"]) == ("done", "cpu")
    asked = subprocess.run([*command, "doctor", "--ray", cluster.address], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stdout
    assert re.search(r"ray +Ray .+: 3 nodes, 4 jobs at a time on cpu\n", asked.stdout)
    assert asked.stdout.count("CPU, 0 GPU; 2 jobs at a time; style-pipeline") == 2
