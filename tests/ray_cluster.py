"""A small Ray cluster on this machine, a quick engine for its actors, and what must hold after a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fakes import FakeExecutor, Ran, Recorder, Workshop
from safetensors.numpy import save_file

from pipeline.batch.planner import RunOptions
from pipeline.batch.runner import Runner
from pipeline.errors import DeviceError
from pipeline.execution.checkpoints import checkpoint_folder, checkpoint_path
from pipeline.execution.ray.cluster import Place
from pipeline.execution.ray.lanes import RayLanes
from pipeline.spec.config import Config
from pipeline.spec.jobs import JobResult, StepProgress, Task
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder
from pipeline.transfer.headers import CHECKPOINT_FORMAT, steps_of_checkpoint

HERE = Path(__file__).parent
MARK = "STYLE_PIPELINE_TEST_CLUSTER"
STORE_BYTES = 80 << 20
# Ray notices a lost node after about two seconds, and its processes are no less important than others.
QUICK_TO_NOTICE = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
QUICK_TO_NOTICE |= {"health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}
SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",
}


@contextmanager
def small_cluster(nodes: int = 2, cpus: int = 2) -> Iterator[Any]:
    """Start a cluster whose driver's node has no slots, and connect this process to it."""
    import ray
    from ray.cluster_utils import Cluster

    mark, place = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="ray-"))
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    before = dict(os.environ)
    os.environ |= {**SETTINGS, MARK: mark, "PYTHONPATH": path, "RAY_TMPDIR": str(place)}
    # Here Ray notes the address of a cluster, wherever else that one's files are.
    (place / "ray").mkdir()
    small = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster: Any = None
    try:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "temp_dir": str(place),
                "_system_config": QUICK_TO_NOTICE,
                **small,
            },
        )
        cluster.add = partial(cluster.add_node, num_cpus=cpus, wait=False, **small)
        for _ in range(nodes):
            cluster.add()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
    finally:
        try:
            ray.shutdown()
            if cluster is not None:
                cluster.shutdown()
        finally:
            kill_all(mark, place)
            os.environ.clear()
            os.environ.update(before)
            shutil.rmtree(place, ignore_errors=True)


def kill_all(mark: str, place: Path) -> None:
    """Kill what is left of a cluster: what has a mark in its environment, or a file of its folder open."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is someone else's
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            opened = [os.readlink(link) for link in (folder / "fd").iterdir()]
            ours = marked or any(name.startswith(f"{place}/") for name in opened)
            if ours and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)


def wait_until(holds: Callable[[], bool], within_s: float = 60.0) -> bool:
    """Return whether something holds within a time."""
    until, never = time.monotonic() + within_s, threading.Event()
    while not holds():
        if time.monotonic() > until:
            return False
        never.wait(0.02)
    return True


@dataclass
class ClusterFake(FakeExecutor):
    """A quick engine that keeps checkpoints, and does what its `acts` say by content.

    `wait`: after its second step it waits until there is a file `<content>.go` in `stage`. `poison`: it ends
    the process, as if that were intended. `machine_once`: the first time, the machine is at fault.
    """

    config: Config = field(default_factory=Config)
    stage: Path = Path()
    acts: Mapping[str, str] = field(default_factory=dict)

    def _run(
        self, task: Task, on_step: Callable[[StepProgress], None], should_stop: Callable[[], bool]
    ) -> JobResult:
        stem, path = task.job.content.stem, checkpoint_path(self.config, task.key)
        begun_at = steps_of_checkpoint(path)
        (self.stage / f"{stem}.{os.getpid()}.begun").write_text(str(begun_at))
        act = self.acts.get(stem, "")
        if act == "poison":
            raise SystemExit(0)
        if act == "machine_once" and len(list(self.stage.glob(f"{stem}.*.begun"))) == 1:
            raise DeviceError("The device is gone.", "Plug it in.")

        def on_step_(progress: StepProgress) -> None:
            if progress.step <= begun_at:
                return
            keep_checkpoint(path, progress.step)
            on_step(progress)
            if act == "wait" and progress.step == 2:
                wait_until(lambda: (self.stage / f"{stem}.go").exists() or should_stop())

        result = super()._run(task, on_step_, should_stop)
        if result.status == "done":
            path.unlink()
        return replace(result, resumed_from_step=begun_at, versions={"pid": str(os.getpid())})


def keep_checkpoint(path: Path, steps: int) -> None:
    """Write a file that counts as a checkpoint after so many steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = json.dumps({"rows": [None] * steps})
    temporary = path.with_suffix(".new")
    metadata = {"format": CHECKPOINT_FORMAT, "key": path.stem, "state": state}
    save_file({"canvas": np.zeros(1, np.float32)}, temporary, metadata)
    temporary.replace(path)


def make_fake(stage: Path, acts: Mapping[str, str], place: Place, config: Config) -> ClusterFake:
    return ClusterFake(config=config, stage=stage, acts=acts)


class DriversFake(FakeExecutor):
    """The driver's half: it reads the checkpoints that the driver keeps."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def progress(self, key: str) -> int:
        return steps_of_checkpoint(checkpoint_path(self.config, key))

    def forget(self, key: str) -> None:
        super().forget(key)
        checkpoint_path(self.config, key).unlink(missing_ok=True)


class ClusterShop(Workshop):
    """A manifest and its outbox; `run_on_ray` is one whole run on the cluster."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stage = folder / "stage"
        self.stage.mkdir(exist_ok=True)
        self.settings: dict[str, Any] = {"workers": 1}

    @property
    def config(self) -> Config:
        given = {"state_dir": self.state, "cache_dir": self.folder / "cache", "executor": "ray"}
        return Config.model_validate({**given, **self.settings})

    def run_on_ray(
        self,
        acts: Mapping[str, str] | None = None,
        observer: Recorder | None = None,
        disk: Disk | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        **options: Any,
    ) -> Ran:
        """Run the batch. `should_stop` is called several times a second."""
        recorder, batch, config = observer or Recorder(), self.read(), self.config
        executor = DriversFake(config)
        make = partial(make_fake, self.stage, acts or {})
        lanes = partial(RayLanes, config=config, kind="cpu", jobs=len(batch), executor=executor, make=make)
        folder = BatchFolder(self.outbox, batch.name, disk)
        with closing(Ledger(self.state)) as ledger, folder.locked():
            runner = Runner(folder, ledger, executor, recorder, RunOptions(**options), should_stop, lanes)
            return Ran(runner.run(batch.jobs, len(batch)), recorder)

    def begun(self, stem: str) -> list[int]:
        """Return from which step each process began a content, in no order."""
        return [int(path.read_text() or 0) for path in self.stage.glob(f"{stem}.*.begun")]

    def pids(self, stem: str = "*") -> set[int]:
        return {int(path.name.split(".")[-2]) for path in self.stage.glob(f"{stem}.*.begun")}

    def release(self, stem: str) -> None:
        (self.stage / f"{stem}.go").touch()

    def has_checkpoint(self) -> bool:
        """Tell whether the driver has a checkpoint of a job that has taken two steps."""
        return any(steps_of_checkpoint(path) >= 2 for path in checkpoint_folder(self.config).glob("*"))

    def check_end(self, names: Sequence[str], attempts: int = 0) -> None:
        """What must hold when all is done: each picture once, none partial, and nothing is left over."""
        assert list(self.pictures()) == sorted(f"{name}.png" for name in names)
        for name in names:
            assert self.record(name)["status"] == "done"
        left = [path for path in self.folder.rglob("*") if path.name.startswith(".unfinished-")]
        left += [path for stage in self.folder.rglob("*.staged") for path in stage.iterdir()]
        left += list(self.state.rglob("*.safetensors"))
        assert left == []
        assert self.attempts() == attempts
        self.check_processes()

    def check_processes(self) -> None:
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in self.pids()))


def driver() -> None:
    """Run a batch of a folder on a cluster, as a process that a test kills."""
    import ray

    folder, address, acts = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    ray.init(address=address, log_to_driver=False, logging_level="error")
    ClusterShop(folder).run_on_ray(acts)


if __name__ == "__main__":
    from ray_cluster import driver as imported  # not as __main__, which actors could not import

    imported()
