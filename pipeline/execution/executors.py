"""Where a job runs. The door to `neural`, opened late: importing this never loads torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, TypeVar

from ..errors import ImageError, JobError, PipelineError
from ..spec.config import Config
from ..spec.jobs import EncoderInfo, JobResult, StepProgress, Task
from ..spec.recipe import Recipe
from ..storage.files import disk_errors, sweep_unfinished
from .inputs import Prepared, prepare
from .results import job_result, render_snapshot, step_progress, unexpected_failure

T = TypeVar("T")

CHECKPOINT_DAYS = 30
# Pictures decoded or encoded at once.
DECODERS = 8
# Pictures in one tensor on a GPU; what does not fit its memory is halved.
TOGETHER = 16

if TYPE_CHECKING:
    from ..transfer.checkpoints import RunState
    from ..transfer.engine import Outcome, Progress
    from ..transfer.memory import LargeStyle
    from ..transfer.session import Session
    from ..vgg.weights import EncoderWeights

    # A job that never came to a step has its result already.
    Made: TypeAlias = "Outcome | JobResult"


class Executor(Protocol):
    """Runs jobs somewhere and sends back plain values."""

    def encoder_info(self, name: str) -> EncoderInfo:
        """Resolve an encoder by its name in a recipe."""

    def device_name(self) -> str:
        """Return the device jobs run on, such as `cpu` or `cuda:0`.

        Raises:
            DeviceError: the configured device is not here.
        """

    def micro_batch(self, recipe: Recipe) -> int:
        """Return how many jobs of a recipe should run in one tensor here."""

    def check(self, path: Path) -> None:
        """Decode a picture completely and keep nothing.

        Raises:
            ImageError: it is no whole picture.
        """

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function that reads untrusted input; it and its arguments must be picklable.

        Raises:
            JobError: it raised what nobody foresaw.
        """

    def run(
        self,
        tasks: Sequence[Task],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[JobResult]:
        """Run jobs to their end or to a stop, together where they can; their faults are in the results.

        The tasks have keys of their own.

        Raises:
            MachineError: the machine's fault, not a job's.
        """

    def progress(self, key: str) -> int:
        """Return how many steps a job's checkpoint has; 0 where there is none."""

    def forget(self, key: str) -> None:
        """Drop a job's checkpoint; called when its picture is safely published, and not before."""

    def close(self) -> None:
        """End what is kept warm; a later call would start it anew."""


class InProcessExecutor:
    """Runs jobs in this process, with encoder and style targets kept warm. Threads may share it.

    `threads` 0 is torch's choice. A process that we own (`owns_process`) has its allocator changed.
    `share_bytes` is what it may take of the device's memory beside other processes; None is all.
    """

    def __init__(
        self,
        config: Config,
        on_download: Callable[[int, int | None], None] | None = None,
        allow_download: bool = True,
        threads: int = 0,
        owns_process: bool = True,
        share_bytes: int | None = None,
    ) -> None:
        self.share_bytes = share_bytes
        self.owns_process = owns_process
        self.config = config
        self.on_download = on_download
        self.allow_download = allow_download and config.allow_download
        self.threads = threads
        self._opening = threading.RLock()
        self._weights: dict[str, EncoderWeights] = {}
        self._sessions: dict[str, Session] = {}

    def encoder_info(self, name: str) -> EncoderInfo:
        weights = self.resolve(name)
        return EncoderInfo(weights.name, weights.digest, weights.note)

    def resolve(self, name: str) -> EncoderWeights:
        """Find an encoder's weights, once per process.

        Raises:
            WeightsError: there are none.
        """
        from ..vgg.weights import resolve_encoder

        with self._opening:
            if name not in self._weights:
                self._weights[name] = resolve_encoder(
                    name,  # type: ignore[arg-type]
                    weights_dir(self.config),
                    self.config.weights,
                    self.allow_download,
                    self.on_download,
                )
            return self._weights[name]

    def device_name(self) -> str:
        return self.session().device.device

    def check(self, path: Path) -> None:
        from ..images.reading import decode_image, read_bytes

        decode_image(read_bytes(path), str(path))

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

    def would_download(self, name: str) -> bool:
        """Tell whether a run would first try to download this encoder's weights."""
        from ..vgg.weights import find_vgg19

        wanted = name in {"auto", "vgg19"} and self.config.allow_download
        return wanted and find_vgg19(weights_dir(self.config), self.config.weights) is None

    def steps_taken(self) -> Callable[[str], int] | None:
        """Return a function that tells the steps of a job's checkpoint by its key; None if there are none."""
        folder = self.config.state_dir / "checkpoints"
        return self.progress if any(folder.glob("*.safetensors")) else None

    def micro_batch(self, recipe: Recipe) -> int:
        if isinstance(self.config.micro_batch, int):
            return self.config.micro_batch
        # Measured: two cores are no quicker with several pictures than with one after another.
        return TOGETHER if self.device_name().startswith("cuda") else 1

    def run(
        self,
        tasks: Sequence[Task],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[JobResult]:
        results: dict[str, JobResult] = {}
        with ThreadPoolExecutor(min(len(tasks), DECODERS)) as threads:
            prepared = list(threads.map(partial(self._prepare, results), tasks))
            for group in _alike([each for each in prepared if each is not None]):
                if should_stop():  # reading may have taken long
                    results.update({each.task.key: JobResult("stopped") for each in group})
                    continue
                outcomes = self._run_group(group, Fit(), on_step, should_stop)
                finished = threads.map(self._finish, group, outcomes)
                results.update({each.task.key: result for each, result in zip(group, finished, strict=True)})
        return [results[task.key] for task in tasks]

    def _prepare(self, results: dict[str, JobResult], task: Task) -> Prepared | None:
        """Read what a job needs; a job that cannot run has its result at once."""
        try:
            weights = self.resolve(task.job.recipe.encoder)
            return prepare(task, weights, checkpoint_path(self.config, task.key))
        except JobError as error:
            results[task.key] = JobResult("failed", error=error.message, next_step=error.next_step)
        except PipelineError:
            raise
        except Exception as error:  # a fault of ours or of a library: the others still get their turn
            results[task.key] = unexpected_failure(task.job, error)
        return None

    def _run_group(
        self,
        group: Sequence[Prepared],
        fit: Fit,
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
        cleared: bool = False,
    ) -> list[Made]:
        """Run jobs together; what does not fit is tried again with less, and never twice the same.

        Twice only if the first attempt was before the memory was `cleared` of what was kept for later.

        Raises:
            MachineError: as `run`.
        """
        from ..transfer.memory import OutOfMemory

        again = partial(self._run_group, fit=fit, on_step=on_step, should_stop=should_stop)
        try:
            return self._stylize(group, fit, on_step, should_stop)
        except OutOfMemory as error:
            unexpected, style = None, error.style
        except PipelineError:
            raise
        except Exception as error:
            style = None
            # Told now, not kept: an exception holds what the failed attempt had allocated.
            unexpected = unexpected_failure(group[0].task.job, error)
        # Outside of the `except` for the same reason.
        freed = self.session(fit.device).free_memory()
        if freed and not cleared and not unexpected:
            return again(group, cleared=True)
        if len(group) > 1:
            # One of them may be the cause of what nobody expected: each gets its turn alone.
            size = 1 if unexpected else (len(group) + 1) // 2
            parts = [group[start : start + size] for start in range(0, len(group), size)]
            return [made for part in parts for made in again(part)]
        if unexpected:
            return [unexpected]
        # Not worse for what neighbours hold: the runner tries it again without them.
        device = self.session(fit.device).device.device
        if group[0].task.alone and (smaller := fit.smaller(group[0].task.job.recipe, device, style)):
            return self._run_group(group, smaller, on_step, should_stop)
        return [_too_large(group[0], device, style)]

    def _stylize(
        self,
        group: Sequence[Prepared],
        fit: Fit,
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[Made]:
        from ..transfer.engine import Hooks

        def on_progress(progress: Progress) -> None:
            each = group[progress.index]
            on_step(step_progress(progress, each.task.key, render_snapshot(progress, each.request)))

        def on_checkpoint(index: int, state: RunState) -> None:
            _save(checkpoint_path(self.config, group[index].task.key), state)

        hooks = Hooks(on_progress, on_checkpoint, should_stop, self.config.checkpoint_s)
        requests = [replace(each.request, recipe=fit.recipe(each.request.recipe)) for each in group]
        session = self.session(fit.device)
        states, alone = [each.state for each in group], all(each.task.alone for each in group)
        outcomes = session.stylize(requests, group[0].weights, hooks, states, alone)
        return [replace(outcome, adjusted=fit.words) for outcome in outcomes]

    def _finish(self, prepared: Prepared, made: Made) -> JobResult:
        """Turn what the engine made into a result; a job that did not end leaves its checkpoint."""
        if isinstance(made, JobResult):
            return made
        task = prepared.task
        if made.status != "done":
            _save(checkpoint_path(self.config, task.key), made.state)
        if made.status == "stopped":
            return JobResult("stopped")
        if made.error is not None:
            message = f"{task.job.content}: {made.error.message}"
            return JobResult("failed", error=message, next_step=made.error.next_step)
        try:
            return job_result(prepared, made)
        except PipelineError:
            raise
        except Exception as error:  # what a file cannot hold is no reason for the others not to be there
            return unexpected_failure(task.job, error)

    def progress(self, key: str) -> int:
        from ..transfer.headers import steps_of_checkpoint

        return steps_of_checkpoint(checkpoint_path(self.config, key))

    def forget(self, key: str) -> None:
        path = checkpoint_path(self.config, key)
        advice = "Check that state_dir can be written, then run the same command again."
        with disk_errors(path, "the checkpoint cannot be deleted", advice):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        self._sessions.clear()

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
        from ..transfer.targets import TargetCache

        checkpoints, targets = self.config.state_dir / "checkpoints", self.config.cache_dir / "targets"
        for folder in (self.config.state_dir, checkpoints, targets, weights_dir(self.config)):
            sweep_unfinished(folder)
        _remove_old_checkpoints(checkpoints)
        cache = TargetCache(targets, self.config.cache_max_mb << 20)
        # A fallback device runs one job at a time.
        share_bytes = None if device else self.share_bytes
        plan = plan_device(device or self.config.device)
        return Session(plan, cache, self.threads, self.owns_process, share_bytes)


@dataclass(frozen=True)
class Fit:
    """What was changed for a job to fit the memory: a shorter history of L-BFGS, another device."""

    history: int | None = None
    device: str = ""

    SHORT_HISTORY: ClassVar = 3

    def smaller(self, recipe: Recipe, device: str, style: LargeStyle | None = None) -> Fit | None:
        """Return what to try next, if anything is left; a `style` that does not fit needs no history."""
        long = recipe.optimizer == "lbfgs" and recipe.history > self.SHORT_HISTORY
        if self.history is None and long and style is None:
            return replace(self, history=self.SHORT_HISTORY)
        if device != "cpu":
            return Fit(device="cpu")
        return None

    def recipe(self, recipe: Recipe) -> Recipe:
        return recipe if self.history is None else recipe.model_copy(update={"history": self.history})

    @property
    def words(self) -> tuple[str, ...]:
        history = f"history {self.history}: the memory was too small for more"
        device = f"device {self.device}: the memory of the other was too small"
        return (*([history] if self.history else []), *([device] if self.device else []))


def _too_large(prepared: Prepared, device: str, style: LargeStyle | None) -> JobResult:
    job, level = prepared.task.job, prepared.levels[-1]
    if style is not None:
        error = style_too_large(job.style.images[style.index][0], style, device)
    else:
        error = ImageError(
            f"{job.content}: {level.width} x {level.height} pixels do not fit the memory of {device}.",
            "Lower size.",
        )
    return JobResult("failed", error=error.message, next_step=error.next_step, out_of_memory=True)


def style_too_large(name: Path | str, style: LargeStyle, device: str) -> ImageError:
    """Return the error of a style that does not fit a device's memory."""
    width, height = style.size
    return ImageError(
        f"{name}: this style is looked at with {width:,} x {height:,} pixels, which do not fit the memory of "
        f"{device}.",
        "Lower style_scale or size.",
    )


def _alike(prepared: Sequence[Prepared]) -> list[list[Prepared]]:
    """Put jobs together that can share a tensor: one recipe, size, number of regions, point of the way."""
    groups: dict[object, list[Prepared]] = {}
    for each in prepared:
        family, state = each.task.job.recipe.batch_key(), each.state
        # A history of its own, or none, would be lost beside others.
        shapes = {name: tuple(tensor.shape) for name, tensor in (state.optimizer or {}).items()}
        stands = (state.level, state.step, *shapes.items())
        regions = len(each.request.styles) if each.request.regions else 0
        groups.setdefault((family, regions, *each.levels, *stands), []).append(each)
    return list(groups.values())


def weights_dir(config: Config) -> Path:
    return config.cache_dir / "weights"


def checkpoint_path(config: Config, key: str) -> Path:
    return config.state_dir / "checkpoints" / f"{key}.safetensors"


def _remove_old_checkpoints(folder: Path) -> None:
    """Jobs that were given up or changed leave checkpoints that nobody will resume."""
    for path in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process was quicker
            if path.stat().st_mtime < time.time() - CHECKPOINT_DAYS * 86_400:
                path.unlink()


def _save(path: Path, state: RunState) -> None:
    from ..transfer.checkpoints import write_checkpoint

    advice = "Free some space, or set state_dir in config.yaml to another disk."
    with disk_errors(path, "the checkpoint cannot be written", advice):
        write_checkpoint(path, state)
