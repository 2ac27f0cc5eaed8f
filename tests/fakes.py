"""Stand-ins for engine and display, so that batches and the watched folder are tested without torch."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from pipeline.batch.digests import Digests
from pipeline.batch.planner import Decision, Planner, RunOptions, plan_jobs
from pipeline.batch.runner import Runner
from pipeline.batch.summary import Finished, Summary
from pipeline.errors import DeviceError, ImageError, WorkerLost
from pipeline.execution.lanes import Lanes
from pipeline.spec.batches import Batch
from pipeline.spec.jobs import EncoderInfo, Job, JobResult, StepProgress, Task
from pipeline.spec.manifest import read_manifest
from pipeline.spec.recipe import Recipe
from pipeline.spec.schedule import total_steps
from pipeline.storage.files import Disk
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder

# What the fixtures of these names are.
MakePicture = Callable[..., Path]
MakeManifest = Callable[..., Path]

# Small and quick; every test's manifest builds on it.
LAYERS = {"content_layers": ["relu1_1"], "style_layers": ["relu1_1"]}
QUICK = {"size": 16, "pyramid": 0, "steps": 4, "margin": 0, **LAYERS}

Fault = Literal[
    "fail", "machine", "stop", "kill", "hang", "check_kill", "check_hang", "wait", "lost", "crowded"
]


def picture_bytes(seed: str, kind: str = "png", size: tuple[int, int] = (6, 4)) -> bytes:
    """Return the file of a small picture; another seed, other bytes."""
    digest = hashlib.sha256(seed.encode()).digest()
    pixels = (digest * (size[0] * size[1] * 3 // len(digest) + 1))[: size[0] * size[1] * 3]
    file = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(file, kind)
    return file.getvalue()


class Clock:
    """One that a test puts forward: by `now`, or by `step_s` with every reading."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now, self.step_s = 1000.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


FAKE_ENCODER = EncoderInfo("fake", "f" * 64, "a note")


@dataclass
class FakeExecutor:
    """An `Executor` whose pictures cost nothing. `faults` says by a content's stem what goes wrong.

    `fail` fails the job, `machine` raises a DeviceError, `stop` stops after its first step, `kill` kills
    this process with SIGKILL in the middle of the job, `hang` blocks there for ever, `wait` until it should
    stop; `check_kill` and `check_hang` do so when the picture is checked. `lost` raises WorkerLost for all
    that run together, `crowded` has no memory the first time. `ran` names the contents of the jobs begun,
    `groups` those that began together.
    """

    faults: Mapping[str, Fault] = field(default_factory=dict)
    encoder: EncoderInfo = FAKE_ENCODER
    width: int = 1
    ran: list[str] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    checkpoints: dict[str, float] = field(default_factory=dict)
    after_step: Callable[[Job, int], None] = lambda job, step: None

    def encoder_info(self, name: str) -> EncoderInfo:
        return self.encoder

    def device_name(self) -> str:
        return "fake0"

    def check(self, path: Path) -> None:
        fault = self.faults.get(path.stem)
        if fault == "check_kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "check_hang":
            threading.Event().wait()
        try:
            with Image.open(path) as picture:
                picture.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"{path}: no whole picture.", "Copy it again.") from error

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        for path in arguments:
            if isinstance(path, Path) and self.faults.get(path.stem) == "check_kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    def progress(self, key: str) -> float:
        return self.checkpoints.get(key, 0)

    def forget(self, key: str) -> None:
        self.forgotten.append(key)

    def close(self) -> None:
        pass

    def micro_batch(self, recipe: Recipe) -> int:
        return self.width

    def work_factor(self, recipe: Recipe) -> float:
        return 1.0

    def run(
        self,
        tasks: Sequence[Task],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[JobResult]:
        self.groups.append([task.job.content.stem for task in tasks])
        if any(self.faults.get(stem) == "lost" for stem in self.groups[-1]):
            raise WorkerLost("The worker ended.", "Try a smaller size.")
        return [self._run(task, on_step, should_stop) for task in tasks]

    def _run(
        self, task: Task, on_step: Callable[[StepProgress], None], should_stop: Callable[[], bool]
    ) -> JobResult:
        job, key, digests = task.job, task.key, task.digests
        self.ran.append(job.content.stem)
        for path in job.input_paths:
            assert digests[path] == hashlib.sha256(path.read_bytes()).hexdigest()
        fault = self.faults.get(job.content.stem)
        if fault == "fail":
            return JobResult("failed", error=f"{job.content}: told to fail.", next_step="Tell it not to.")
        if fault == "crowded" and self.ran.count(job.content.stem) == 1:
            return JobResult("failed", error="no memory", next_step="Lower size.", out_of_memory=True)
        if fault == "machine":
            raise DeviceError("The device is gone.", "Plug it in.")
        kind, steps = job.recipe.format, total_steps(job.recipe)
        for step in range(1, steps + 1):
            every = job.recipe.snapshot_every
            snapshot = picture_bytes(f"{key} {step}", kind) if every and step % every == 0 else None
            on_step(StepProgress(step, steps, 6, 4, 1 / step, 0.5, 0.25, snapshot, key))
            self.after_step(job, step)
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "hang":
                threading.Event().wait()
            while fault == "wait" and not should_stop():
                threading.Event().wait(0.005)
            if fault == "stop" or should_stop():
                return JobResult("stopped")
        return JobResult(
            "done",
            image=picture_bytes(key, kind),
            log_header=("step", "total"),
            log_rows=tuple((step, 1 / step) for step in range(1, steps + 1)),
            width=6,
            height=4,
            seconds=0.5,
            step_seconds=0.4,
            device="fake0",
            dtype="float8",
            cache_hits=2,
            cache_misses=1,
            versions={"fake": "1"},
        )


class Forgetful(FakeExecutor):
    """An engine that does not grow with what it has run: nobody asks it."""

    def run(self, *arguments: Any) -> list[JobResult]:
        for remembered in (self.ran, self.groups, self.forgotten):
            remembered.clear()
        return super().run(*arguments)


class PidExecutor(FakeExecutor):
    """A fake that tells its process by its device and encoder."""

    def encoder_info(self, name: str) -> EncoderInfo:
        return EncoderInfo(f"fake of {os.getpid()}", "f" * 64)

    def device_name(self) -> str:
        return str(os.getpid())


@dataclass
class Recorder:
    """An `Observer` that keeps what it is told."""

    encoders: list[EncoderInfo] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    steps: list[StepProgress] = field(default_factory=list)
    named_steps: list[tuple[str, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)

    def encoder_chosen(self, encoder: EncoderInfo) -> None:
        self.encoders.append(encoder)

    def job_started(self, job: Job, name: str) -> None:
        self.started.append(name)

    def job_step(self, name: str, progress: StepProgress) -> None:
        self.steps.append(progress)
        self.named_steps.append((name, progress.step))

    def worker_lost(self, job: Job, error: WorkerLost) -> None:
        self.lost.append(error.message)

    def job_finished(self, finished: Finished) -> None:
        self.finished.append(finished)

    def batch_ended(self, summary: Summary, folder: Path) -> None:
        self.ended.append((summary.batch, summary.reason))

    @property
    def statuses(self) -> dict[str, str]:
        return {finished.name: finished.status for finished in self.finished}


@dataclass
class Ran:
    """What one run left behind."""

    summary: Summary
    observer: Recorder


class Workshop:
    """A folder with a manifest, its outbox and its ledger: `run()` is one whole run of the program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "night.yaml"
        self.outbox = folder / "outbox"
        self.state = folder / "state"

    @property
    def batch_folder(self) -> Path:
        return self.outbox / "night"

    def run(
        self,
        executor: FakeExecutor | None = None,
        flags: Mapping[str, Any] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        disk: Disk | None = None,
        workers: Sequence[FakeExecutor] = (),
        lanes: type[Lanes] = Lanes,
        observer: Recorder | None = None,
        **options: Any,
    ) -> Ran:
        recorder = observer or Recorder()
        batch = self.read(flags)
        folder, ledger = BatchFolder(self.outbox, batch.name, disk), Ledger(self.state)
        options_ = RunOptions(**options)
        executor = executor or FakeExecutor()
        open_lanes = partial(lanes, lambda: workers) if workers else None
        runner = Runner(folder, ledger, executor, recorder, options_, should_stop, open_lanes)
        try:
            with folder.locked():
                return Ran(runner.run(batch.jobs, len(batch)), recorder)
        finally:
            ledger.close()

    def plan(
        self,
        executor: FakeExecutor | None = None,
        flags: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Decision]:
        executor, batch = executor or FakeExecutor(), self.read(flags)
        with self.planner(executor, batch, **options) as planner:
            return list(plan_jobs(planner, batch.jobs, bool(executor.checkpoints)))

    @contextmanager
    def planner(
        self, executor: FakeExecutor | None = None, batch: Batch | None = None, **options: Any
    ) -> Iterator[Planner]:
        batch, executor = batch or self.read(), executor or FakeExecutor()
        folder, digests = BatchFolder(self.outbox, batch.name), Digests(lambda: False)
        with closing(Ledger(self.state)) as ledger:
            yield Planner(folder, ledger, executor, digests, RunOptions(**options), batch.jobs)

    def run_in_a_process(self, faults: Mapping[str, Fault], expected: int = -9) -> None:
        """One whole run in a process of its own; it is killed where `faults` says `kill`."""
        code = (
            "import sys; from pathlib import Path; from fakes import FakeExecutor, Workshop\n"
            f"Workshop(Path(sys.argv[1])).run(FakeExecutor({faults!r}))"
        )
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", code, str(self.folder)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == expected, done.stderr

    def kill_three_times(self) -> None:
        """As if the first picture had killed the process three times, in the ledger only."""
        first = self.run(FakeExecutor({"a": "fail"})).observer.finished[0]
        with closing(Ledger(self.state)) as ledger:
            for _ in range(3):
                ledger.begin(first.key)

    def keep_one_style(self) -> None:
        (self.folder / "styles/t.png").unlink()

    def record(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.batch_folder / "logs" / f"{name}.json").read_bytes()))

    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.batch_folder / "summary.json").read_bytes()))

    def attempts(self) -> int:
        """Attempts begun and not ended, over all jobs."""
        with closing(Ledger(self.state)) as ledger:
            return sum(count for (count,) in ledger._database.execute("SELECT count FROM attempts_of"))

    def read(self, flags: Mapping[str, Any] | None = None) -> Batch:
        return read_manifest(self.manifest, QUICK, flags or {})

    def pictures(self) -> dict[str, bytes]:
        """Every picture in the outbox, by its path below the batch's folder."""
        return {
            path.relative_to(self.batch_folder).as_posix(): path.read_bytes()
            for path in sorted(self.batch_folder.rglob("*"))
            if path.suffix in {".png", ".jpg"}
        }
