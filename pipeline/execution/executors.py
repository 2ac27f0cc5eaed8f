"""Where a job runs: the protocol, and the executor of this process. Loads torch when a job runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import JobError, PipelineError
from ..spec.config import Config
from ..spec.jobs import EncoderInfo, JobResult, StepProgress, Task
from ..spec.recipe import Recipe
from ..storage.files import disk_errors
from ..storage.temporary import sweep_unfinished
from .attempts import Attempt, likeness, run_attempts
from .checkpoints import (
    checkpoint_folder,
    checkpoint_path,
    read_state,
    remove_state,
    sweep_checkpoints,
    write_state,
)
from .encoders import converted_dir, resolve_encoder
from .inputs import Prepared, prepare
from .live import LivePictures, seconds_left
from .results import job_result, render_snapshot, step_progress, unexpected_failure

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Pictures decoded or encoded at once.
DECODERS = 8
# Pictures in one tensor on a GPU; what does not fit its memory is halved.
GPU_MICRO_BATCH = 16
# Pictures of this long edge, in pixels, need 2 GB: no tiles, unless it is configured.
NEVER_TILED = 1024

if TYPE_CHECKING:
    from ..transfer.checkpoints import RunState
    from ..transfer.reports import Outcome, Progress
    from ..transfer.session import Session
    from ..transfer.tile_planning import TileChoice
    from ..vgg.weights import EncoderWeights
    from .attempts import Made


class Executor(Protocol):
    """Runs jobs somewhere, and returns plain values."""

    def encoder_info(self, name: str) -> EncoderInfo:
        """Resolve an encoder by its name in a recipe."""

    def device_name(self) -> str:
        """Return the device jobs run on, such as `cpu` or `cuda:0`.

        Raises:
            DeviceError: the configured device is not here.
        """

    def micro_batch(self, recipe: Recipe) -> int:
        """Return how many jobs of a recipe should run in one tensor here."""

    def work_factor(self, recipe: Recipe) -> float:
        """Return how many times the work of untiled steps a picture's is, where the memory asks for tiles."""

    def check(self, path: Path) -> None:
        """Decode a whole picture, and discard the pixels.

        Raises:
            ImageError: it is not a whole picture.
        """

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function that reads untrusted input; it and its arguments must be picklable.

        Raises:
            JobError: it raised an unexpected error.
        """

    def run(
        self,
        tasks: Sequence[Task],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[JobResult]:
        """Run jobs to their end or to a stop, together where they can. Their faults are in the results.

        No two tasks have the same key.

        Raises:
            MachineError: the machine's fault, not a job's.
        """

    def progress(self, key: str) -> float:
        """Return how many steps of a job are kept, the last perhaps in part; 0 if there is no checkpoint."""

    def forget(self, key: str) -> None:
        """Delete a job's checkpoint. To be called when its picture has been published, not before."""

    def close(self) -> None:
        """Release what is kept warm; a later call starts it again."""


class InProcessExecutor:
    """Runs jobs in this process, with encoder and style targets kept warm. Threads may share it.

    `threads` 0 leaves their number to torch. In a process of our own (`owns_process`) the allocator is
    changed, and the limit on a picture's pixels. `share_bytes` is the part of the device's memory that it may
    take beside other processes; None is all of it.
    """

    def __init__(
        self,
        config: Config,
        threads: int = 0,
        owns_process: bool = True,
        share_bytes: int | None = None,
    ) -> None:
        self.share_bytes = share_bytes
        self.owns_process = owns_process
        self.config = config
        self.threads = threads
        self._opening = threading.RLock()
        self._encoders: dict[str, tuple[EncoderWeights, str]] = {}
        self._sessions: dict[str, Session] = {}
        self._work_factors: dict[str, float] = {}
        self._live = LivePictures(config.state_dir)
        if owns_process:
            from ..images.reading import allow_megapixels

            allow_megapixels(config.max_megapixels)

    def encoder_info(self, name: str) -> EncoderInfo:
        weights, note = self.resolve(name)
        return EncoderInfo(weights.name, weights.digest, note)

    def resolve(self, name: str) -> tuple[EncoderWeights, str]:
        """Resolve an encoder, once per process; see `resolve_encoder`."""
        with self._opening:
            if name not in self._encoders:
                self._encoders[name] = resolve_encoder(self.config, name)
            return self._encoders[name]

    def device_name(self) -> str:
        return self.session().device.device

    def check(self, path: Path) -> None:
        from ..images.reading import decode_picture, read_bytes

        decode_picture(read_bytes(path), str(path))

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return function(*arguments)
        except PipelineError:
            raise
        except Exception as error:
            raise JobError(
                f"unexpected {type(error).__name__}: {error}",
                "This is a fault in style-pipeline; please report it.",
            ) from error

    def work_factor(self, recipe: Recipe) -> float:
        if recipe.size <= NEVER_TILED and self.config.tiles == "auto" and not self.config.memory_bytes:
            return 1.0
        from ..transfer.devices import plan_device
        from ..transfer.forecast import work_factor
        from ..transfer.memory import MemoryModel

        if (key := recipe.batch_key()) not in self._work_factors:
            device = plan_device(self.config.device)
            memory = MemoryModel(device, limit_bytes=self.config.memory_bytes)
            weights, _ = self.resolve(recipe.encoder)
            scratch = self.config.state_dir / "scratch"
            self._work_factors[key] = work_factor(
                recipe, weights, device, memory, self.tile_choice(), scratch
            )
        return self._work_factors[key]

    def any_checkpoints(self) -> bool:
        """Tell whether any job may be resumed."""
        return any(checkpoint_folder(self.config).glob("*.safetensors"))

    def micro_batch(self, recipe: Recipe) -> int:
        if isinstance(self.config.micro_batch, int):
            return self.config.micro_batch
        # Measured: two cores are no quicker with several pictures than with one after another.
        return GPU_MICRO_BATCH if self.device_name().startswith("cuda") else 1

    def run(
        self,
        tasks: Sequence[Task],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[JobResult]:
        results: dict[str, JobResult] = {}
        with ThreadPoolExecutor(min(len(tasks), DECODERS)) as threads:
            prepared: list[Prepared] = []
            for task, each in zip(tasks, threads.map(self._prepare, tasks), strict=True):
                if isinstance(each, JobResult):
                    results[task.key] = each
                else:
                    prepared.append(each)
            for group in _alike(prepared):
                if should_stop():  # reading may have taken long
                    results.update({each.task.key: JobResult("stopped") for each in group})
                    continue
                run = partial(self._stylize, on_step=on_step, should_stop=should_stop)
                made = run_attempts(group, run, self.session, self._resumed)
                finished = threads.map(self._finish, group, made)
                results.update({each.task.key: result for each, result in zip(group, finished, strict=True)})
        return [results[task.key] for task in tasks]

    def _prepare(self, task: Task) -> Prepared | JobResult:
        """Read what a job needs; return its result if it cannot run."""
        try:
            weights, _ = self.resolve(task.job.recipe.encoder)
            checkpoint = checkpoint_path(self.config, task.key)
            return prepare(task, weights, checkpoint, self.config.max_megapixels)
        except JobError as error:
            return JobResult.failure(error)
        except PipelineError:
            raise
        except Exception as error:  # a bug, here or in a library: the other jobs still run
            return unexpected_failure(task.job, error)

    def _resumed(self, prepared: Prepared) -> Prepared:
        """Return a job with the state of its last checkpoint."""
        task = prepared.task
        state, notes = read_state(task.job, prepared.levels, checkpoint_path(self.config, task.key))
        for note in notes:
            logger.warning("%s", note)
        return replace(prepared, state=state)

    def _stylize(
        self,
        attempt: Attempt,
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[Outcome]:
        from ..transfer.evaluations import EvaluationFiles
        from ..transfer.reports import Hooks

        group = attempt.group
        paths = [checkpoint_path(self.config, each.task.key) for each in group]
        evaluations = EvaluationFiles(paths[0], should_stop) if len(group) == 1 else None

        def on_progress(progress: Progress) -> None:
            each = group[progress.index]
            left_s = seconds_left(each, progress)
            on_step(step_progress(progress, each.task.key, render_snapshot(progress, each.request), left_s))
            self._live.step(each, progress, left_s)

        def on_checkpoint(index: int, state: RunState) -> None:
            write_state(paths[index], state)
            group[index].state.close()  # else what it resumed from would take space until the job ends
            if evaluations is not None:
                evaluations.remove()

        hooks = Hooks(on_progress, on_checkpoint, should_stop, self.config.checkpoint_s, evaluations)
        requests = [replace(each.request, recipe=attempt.recipe(each.request.recipe)) for each in group]
        states, alone = [each.state for each in group], all(each.task.alone for each in group)
        session, tiles = self.session(attempt.device), self.tile_choice(attempt.halved)
        try:
            outcomes = session.stylize(requests, group[0].weights, hooks, states, alone, tiles)
        finally:
            for each in group:
                self._live.end(each)
        return [replace(each, adjusted=(*each.adjusted, *attempt.adjusted)) for each in outcomes]

    def tile_choice(self, halved: int = 0) -> TileChoice:
        """Return what the configuration says of tiles; see `TileChoice` for `halved`."""
        from ..transfer.tile_planning import TileChoice

        tiles = self.config.tiles
        return TileChoice(tiles == "off", tiles if isinstance(tiles, int) else 0, halved)

    def _finish(self, prepared: Prepared, made: Made) -> JobResult:
        """Turn an outcome of the engine into a result; keep a checkpoint of a job that did not end."""
        if isinstance(made, JobResult):
            return made
        task = prepared.task
        if made.status != "done":
            write_state(checkpoint_path(self.config, task.key), made.state)
        if made.status == "stopped":
            return JobResult("stopped")
        if made.error is not None:
            message = f"{task.job.content}: {made.error.message}"
            return JobResult.failure(JobError(message, made.error.next_step))
        try:
            return job_result(prepared, made)
        except PipelineError:
            raise
        except Exception as error:  # a picture that cannot be encoded must not cost the others
            return unexpected_failure(task.job, error)

    def progress(self, key: str) -> float:
        from ..transfer.headers import steps_of_checkpoint, steps_since_checkpoint

        path = checkpoint_path(self.config, key)
        return steps_of_checkpoint(path) + steps_since_checkpoint(path)

    def forget(self, key: str) -> None:
        path = checkpoint_path(self.config, key)
        advice = "Check that state_dir can be written, then run the same command again."
        with disk_errors(path, "the checkpoint cannot be deleted", advice):
            remove_state(path)

    def close(self) -> None:
        self._sessions.clear()
        self._live.close()

    def session(self, device: str = "") -> Session:
        """Return the session of this process on a device, the configured one for "", opened on first use.

        Raises:
            DeviceError: the device is not here.
        """
        with self._opening:
            if device not in self._sessions:
                self._sessions[device] = self._open_session(device)
            return self._sessions[device]

    def _open_session(self, device: str) -> Session:
        from ..transfer.devices import plan_device
        from ..transfer.session import Session
        from ..transfer.target_cache import TargetCache

        targets = self.config.cache_dir / "targets"
        sweep_checkpoints(self.config)
        for folder in (self.config.state_dir, targets, converted_dir(self.config)):
            sweep_unfinished(folder)
        cache = TargetCache(targets, self.config.cache_max_mb << 20)
        # A fallback device runs one job at a time.
        share_bytes = None if device else self.share_bytes
        plan = plan_device(device or self.config.device)
        logger.debug("jobs run on %s in %s", plan.device, plan.dtype)
        limit_bytes, scratch = self.config.memory_bytes, self.config.state_dir / "scratch"
        return Session(plan, cache, self.threads, self.owns_process, share_bytes, limit_bytes, scratch)


def _alike(prepared: Sequence[Prepared]) -> list[list[Prepared]]:
    """Group jobs that can share a tensor."""
    groups: dict[object, list[Prepared]] = {}
    for each in prepared:
        groups.setdefault(likeness(each), []).append(each)
    return list(groups.values())
