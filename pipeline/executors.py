"""Where a job runs. The only door to `neural`, opened late: importing this never loads torch."""

from __future__ import annotations

import hashlib
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from .config import Config
from .errors import DiskError, ImageError, JobError, PipelineError
from .jobs import Color, EncoderInfo, Job, JobResult, Masks, StepProgress, Task, color_value
from .recipe import Recipe
from .version import VERSION

CHECKPOINT_DAYS = 30
# Pictures decoded or encoded at once.
DECODERS = 8
# Pictures in one tensor on a GPU; what does not fit its memory is halved.
TOGETHER = 16
# A segment of a JPEG file has 65,535 bytes, some of them for what it is.
JPEG_EXIF_BYTES = 65_500
# Processes on a CPU, at most: each has an encoder and feature maps of its own.
CPU_WORKERS = 4
GPU_WORKERS = 2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .neural.checkpoints import LossRow, RunState
    from .neural.engine import Level, Progress
    from .neural.masks import Regions
    from .neural.session import Outcome, Picture, Request, Session
    from .neural.weights import EncoderWeights

    # A job that never came to a step has its result already.
    Made: TypeAlias = "Run | JobResult"


class Executor(Protocol):
    """Runs jobs somewhere and sends back plain values."""

    def encoder_info(self, name: str) -> EncoderInfo:
        """Resolve an encoder by its name in a recipe."""

    def device_name(self) -> str:
        """Return the device jobs run on, such as `cpu` or `cuda:0`.

        Raises:
            DeviceError: the configured device is not here.
        """

    def together(self, recipe: Recipe) -> int:
        """Return how many jobs of a recipe should run in one tensor here."""

    def check(self, path: Path) -> None:
        """Decode a picture completely and keep nothing.

        Raises:
            ImageError: it is no whole picture.
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

    def forget(self, key: str) -> None:
        """Drop a job's checkpoint; called when its picture is safely published, and not before."""

    def close(self) -> None:
        """End what is kept warm; a later call would start it anew."""


class InProcessExecutor:
    """Runs jobs in this process, with encoder and style targets kept warm.

    `threads` 0 is torch's choice. A process that we own (`owns_process`) has its allocator changed.
    """

    def __init__(
        self,
        config: Config,
        on_download: Callable[[int, int | None], None] | None = None,
        allow_download: bool = True,
        threads: int = 0,
        owns_process: bool = True,
    ) -> None:
        self.owns_process = owns_process
        self.config = config
        self.on_download = on_download
        self.allow_download = allow_download and config.allow_download
        self.threads = threads
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
        from .neural.weights import resolve_encoder

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
        from .neural.reading import decode_image, read_bytes

        decode_image(read_bytes(path), str(path))

    def would_download(self, name: str) -> bool:
        """Tell whether a run would first try to download this encoder's weights."""
        from .neural.weights import find_vgg19

        wanted = name in {"auto", "vgg19"} and self.config.allow_download
        return wanted and find_vgg19(weights_dir(self.config), self.config.weights) is None

    def together(self, recipe: Recipe) -> int:
        if isinstance(self.config.together, int):
            return self.config.together
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
                outcomes = self._run_group(group, Fit(), on_step, should_stop)
                finished = threads.map(self._finish, group, outcomes)
                results.update({each.task.key: result for each, result in zip(group, finished, strict=True)})
        return [results[task.key] for task in tasks]

    def _prepare(self, results: dict[str, JobResult], task: Task) -> Prepared | None:
        """Read what a job needs; a job that cannot run has its result at once."""
        try:
            return self._read(task)
        except JobError as error:
            results[task.key] = JobResult("failed", error=error.message, next_step=error.next_step)
        except PipelineError:
            raise
        except Exception as error:  # a fault of ours or of a library: the others still get their turn
            results[task.key] = unexpected_failure(task.job, error)
        return None

    def _read(self, task: Task) -> Prepared:
        from .neural.checkpoints import RunState, read_checkpoint
        from .neural.session import plan_levels
        from .neural.writing import check_size

        job = task.job
        weights = self.resolve(job.recipe.encoder)
        if weights.name == "vgg19-slim" and (beyond := job.recipe.beyond_slim()):
            raise JobError(
                f"{job.content}: the layer {beyond[0]} is not in vgg19-slim, which ends at relu5_1.",
                "Choose another layer, or fetch VGG-19 with `style-pipeline weights fetch`.",
            )
        request = read_request(job, task.digests)
        try:
            levels = plan_levels(job.recipe, request.content.image.size)
            if job.recipe.upscale_to_content:
                check_size(job.recipe.format, request.content.image.size)
        except ImageError as error:
            raise ImageError(f"{job.content}: {error.message}", error.next_step) from error
        notes = _notes(request) + mask_notes(request, levels)
        state = read_checkpoint(checkpoint_path(self.config, task.key)) or RunState()
        return Prepared(task, request, weights, levels, state, notes)

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
        from .neural.memory import OutOfMemory

        again = partial(self._run_group, fit=fit, on_step=on_step, should_stop=should_stop)
        try:
            return self._stylize(group, fit, on_step, should_stop)
        except OutOfMemory:
            unexpected = None
        except PipelineError:
            raise
        except Exception as error:
            unexpected = error
        # Outside of the `except`, so that nothing holds what the failed attempt had allocated.
        freed = self.session(fit.device).free_memory()
        if freed and not cleared and not unexpected:
            return again(group, cleared=True)
        if len(group) > 1:
            # One of them may be the cause of what nobody expected: each gets its turn alone.
            size = 1 if unexpected else (len(group) + 1) // 2
            parts = [group[start : start + size] for start in range(0, len(group), size)]
            return [made for part in parts for made in again(part)]
        if unexpected:
            return [unexpected_failure(group[0].task.job, unexpected)]
        # Not worse for what neighbours hold: the runner tries it again without them.
        device = self.session(fit.device).device.device
        if group[0].task.alone and (smaller := fit.smaller(group[0].task.job.recipe, device)):
            return self._run_group(group, smaller, on_step, should_stop)
        return [self._too_large(group[0])]

    def _stylize(
        self,
        group: Sequence[Prepared],
        fit: Fit,
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> list[Made]:
        from .neural.engine import Hooks

        def on_progress(progress: Progress) -> None:
            each = group[progress.index]
            on_step(step_progress(progress, each.task.key, _snapshot(progress, each.request)))

        def on_checkpoint(index: int, state: RunState) -> None:
            _save(checkpoint_path(self.config, group[index].task.key), state)

        hooks = Hooks(on_progress, on_checkpoint, should_stop, self.config.checkpoint_s)
        requests = [replace(each.request, recipe=fit.recipe(each.request.recipe)) for each in group]
        session = self.session(fit.device)
        outcomes = session.stylize(requests, group[0].weights, hooks, [each.state for each in group])
        return [Run(outcome, fit, len(group), session.device.device) for outcome in outcomes]

    def _too_large(self, prepared: Prepared) -> JobResult:
        level, device = prepared.levels[-1], self.session().device.device
        return JobResult(
            "failed",
            error=f"{prepared.task.job.content}: {level.width} x {level.height} pixels do not fit the memory "
            f"of {device}.",
            next_step="Lower size.",
            out_of_memory=True,
        )

    def _finish(self, prepared: Prepared, made: Made) -> JobResult:
        """Turn what the engine made into a result; a job that did not end leaves its checkpoint."""
        if isinstance(made, JobResult):
            return made
        task, outcome = prepared.task, made.outcome
        if outcome.status != "done":
            _save(checkpoint_path(self.config, task.key), outcome.state)
        if outcome.status == "stopped":
            return JobResult("stopped")
        if outcome.error is not None:
            error = outcome.error
            message = f"{task.job.content}: {error.message}"
            return JobResult("failed", error=message, next_step=error.next_step)
        try:
            return _job_result(prepared, made)
        except PipelineError:
            raise
        except Exception as error:  # what a file cannot hold is no reason for the others not to be there
            return unexpected_failure(task.job, error)

    def forget(self, key: str) -> None:
        checkpoint_path(self.config, key).unlink(missing_ok=True)

    def close(self) -> None:
        self._sessions.clear()

    def session(self, device: str = "") -> Session:
        """Return the session of this process on a device, the configured one for "", opened on first use.

        Raises:
            DeviceError: the device is not here.
        """
        if device not in self._sessions:
            from .neural.devices import plan_device
            from .neural.session import Session
            from .neural.targets import TargetCache

            _remove_old_checkpoints(self.config.state_dir / "checkpoints")
            cache = TargetCache(self.config.cache_dir / "targets", self.config.cache_max_mb << 20)
            plan = plan_device(device or self.config.device)
            self._sessions[device] = Session(plan, cache, self.threads, self.owns_process)
        return self._sessions[device]


@dataclass(frozen=True)
class Fit:
    """What was changed for a job to fit the memory: a shorter history of L-BFGS, another device."""

    history: int | None = None
    device: str = ""

    SHORT_HISTORY: ClassVar = 3

    def smaller(self, recipe: Recipe, device: str) -> Fit | None:
        """Return what to try next, if anything is left."""
        if self.history is None and recipe.optimizer == "lbfgs" and recipe.history > self.SHORT_HISTORY:
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


@dataclass(frozen=True)
class Prepared:
    """A job with its pictures read and its levels planned, and where it stood when it was last stopped."""

    task: Task
    request: Request
    weights: EncoderWeights
    levels: list[Level]
    state: RunState
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """An outcome, and how it was run."""

    outcome: Outcome
    fit: Fit
    together: int
    device: str


def _alike(prepared: Sequence[Prepared]) -> list[list[Prepared]]:
    """Put jobs together that can share a tensor: one recipe, size, number of regions, point of the way."""
    groups: dict[object, list[Prepared]] = {}
    for each in prepared:
        family, state = each.task.job.recipe.family(), each.state
        # A history of its own, or none, would be lost beside others.
        shapes = {name: tuple(tensor.shape) for name, tensor in (state.optimizer or {}).items()}
        stands = (state.level, state.step, *shapes.items())
        regions = len(each.request.styles) if each.request.regions else 0
        groups.setdefault((family, regions, *each.levels, *stands), []).append(each)
    return list(groups.values())


@dataclass(frozen=True)
class WorkerPlan:
    """Where a process works, and with how many threads of the CPU."""

    device: str
    threads: int


def plan_workers(config: Config, jobs: int) -> list[WorkerPlan]:
    """Plan the processes for a batch of so many jobs; one is this process itself.

    Two processes for every GPU: one reads, resizes and writes pictures while the other's are computed. On a
    CPU several processes of few threads make more pictures than one of many: what is not a matrix product,
    and memory's delays, do not divide among threads.

    Raises:
        DeviceError: the configured device is not here.
    """
    from .neural.devices import plan_device, same_devices

    cores = usable_cores()
    device = plan_device(config.device)
    devices = same_devices(device) if config.device in {"auto", "cuda"} else [device.device]
    if config.workers != "auto":
        count = config.workers
    elif device.device == "cpu":
        count = min(cores, CPU_WORKERS)
    else:
        count = GPU_WORKERS * len(devices)
    count = max(1, min(count, jobs))
    threads = [max(1, cores // count + (i < cores % count)) for i in range(count)]
    return [WorkerPlan(devices[i % len(devices)], threads[i]) for i in range(count)]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def unexpected_failure(job: Job, error: Exception) -> JobResult:
    """Return the result of a job that met a fault of ours or of a library."""
    return JobResult(
        "failed",
        error=f"{job.content}: unexpected {type(error).__name__}: {error}",
        next_step="This is a fault in style-pipeline; please report it with this job's record.",
        details="".join(traceback.format_exception(error)),
    )


def weights_dir(config: Config) -> Path:
    return config.cache_dir / "weights"


def checkpoint_path(config: Config, key: str) -> Path:
    return config.state_dir / "checkpoints" / f"{key}.safetensors"


def read_request(job: Job, digests: Mapping[Path, str] | None = None) -> Request:
    """Read a job's pictures.

    Raises:
        ImageError: one cannot be used.
        JobError: one changed since `digests` was made.
    """
    from .neural.session import Request

    content = read_picture(job.content, digests)
    styles = [(read_picture(path, digests), share) for path, share in job.style.images]
    init = read_picture(job.init_path, digests) if job.init_path else None
    request = Request(content, styles, job.recipe, init)
    if job.masks is None:
        return request
    mask, colors = read_picture(job.masks.content, digests), job.masks.colors
    regions = find_regions(mask, content, colors, job.masks.content, [path for path, _ in job.style.images])
    return replace(request, regions=regions)


def find_regions(
    mask: Picture, content: Picture, colors: Sequence[Color], path: Path | str, styles: Sequence[Path | str]
) -> Regions:
    """Find the regions of a content's `styles` in a mask; both are named in messages.

    Raises:
        ImageError: the mask has another shape than the content.
    """
    from .neural import masks

    values = [color_value(color) for color in colors]
    short = [value if isinstance(value, str) else f"{value:.3g}" for value in values]
    labels = [f"{Path(style).name} ({color})" for style, color in zip(styles, short, strict=True)]
    found = masks.find_regions(mask.image, colors, content.image.size, str(path), labels)
    return replace(found, notes=mask.decoded.notes + found.notes)


def mask_notes(request: Request, levels: Sequence[Level]) -> tuple[str, ...]:
    """Say which regions of a request are too small for some layers.

    Raises:
        ImageError: one has no pixel.
    """
    from .neural.masks import region_notes

    if request.regions is None:
        return ()
    return region_notes(request.regions, request.recipe, [(level.width, level.height) for level in levels])


def read_picture(path: Path, digests: Mapping[Path, str] | None = None) -> Picture:
    """Read one picture. Errors as in `read_request`."""
    from .neural.reading import decode_picture, read_bytes
    from .neural.session import Picture

    data = read_bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if digests is not None and digests[path] != sha256:
        raise JobError(f"{path}: the file changed while it was waiting.", "Run again to use it as it is now.")
    return Picture(decode_picture(data, str(path)), sha256)


def _remove_old_checkpoints(folder: Path) -> None:
    """Jobs that were given up or changed leave checkpoints that nobody will resume."""
    for path in folder.glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process was quicker
            if path.stat().st_mtime < time.time() - CHECKPOINT_DAYS * 86_400:
                path.unlink()


def _save(path: Path, state: RunState) -> None:
    from .neural.checkpoints import write_checkpoint

    try:
        write_checkpoint(path, state)
    except OSError as error:
        raise DiskError(
            f"{path}: the checkpoint cannot be written ({error.strerror or error}).",
            "Free some space, or set state_dir in config.yaml to another disk.",
        ) from error


def _snapshot(progress: Progress, request: Request) -> bytes | None:
    """Return the bytes of a snapshot's file, where the engine took one."""
    if progress.image_BCHW is None:
        return None
    from .neural.images import side_by_side, to_image
    from .neural.writing import LONGEST, encode_image

    recipe = request.recipe
    image = to_image(request.in_its_colors(progress.image_BCHW.float().cpu().clamp(0, 1)))
    if recipe.snapshot_view == "side_by_side":
        image = side_by_side([request.content.image, request.styles[0][0].image, image])
        if limit := LONGEST.get(recipe.format):
            image.thumbnail((limit, limit))
    return encode_image(image, recipe.format, recipe.quality, {"step": progress.step})


def step_progress(progress: Progress, key: str = "", snapshot: bytes | None = None) -> StepProgress:
    """Return the engine's progress as plain values."""
    row = progress.row
    return StepProgress(
        progress.step,
        progress.steps,
        progress.width,
        progress.height,
        row.total,
        row.content,
        row.style,
        snapshot,
        key,
    )


def _job_result(prepared: Prepared, run: Run) -> JobResult:
    from .neural.writing import encode_image

    task, outcome, content = prepared.task, run.outcome, prepared.request.content
    recipe = task.job.recipe
    profile, profile_notes = _kept_profile(content, recipe)
    pixels_HWC = result_pixels(outcome, content, recipe, profile)
    metadata = provenance(task.job, task.key, prepared.weights)
    exif = content.decoded.exif if recipe.exif == "keep" else b""
    notes = prepared.notes + tuple(f"{task.job.content.name}: {note}." for note in profile_notes)
    if recipe.format == "jpeg" and len(exif) > JPEG_EXIF_BYTES:
        exif = b""
        notes += (f"{task.job.content.name}: its EXIF is too long for a JPEG, and left out.",)
    header, rows = log_table(outcome.rows)
    return JobResult(
        "done",
        image=encode_image(pixels_HWC, recipe.format, recipe.quality, metadata, exif, profile),
        log_header=header,
        log_rows=rows,
        width=pixels_HWC.shape[1],
        height=pixels_HWC.shape[0],
        seconds=outcome.seconds,
        step_seconds=outcome.rows[-1].seconds,
        device=run.device,
        dtype=outcome.dtype,
        cache_hits=outcome.cache_hits,
        cache_misses=outcome.cache_misses,
        resumed_from_step=len(prepared.state.rows),
        together=run.together,
        adjusted=run.fit.words,
        notes=notes,
        versions=versions(),
    )


def _kept_profile(content: Picture, recipe: Recipe) -> tuple[bytes, tuple[str, ...]]:
    """Return the profile that a result gets, b"" for sRGB, and what is to be said about it."""
    from .neural.profiles import is_curves_and_matrix, why_not_kept

    profile = content.decoded.profile
    if recipe.profile == "srgb":
        return b"", ()
    if reason := why_not_kept(profile):
        return b"", (f"{reason}; the result is sRGB",)
    if recipe.bit_depth == 16 and not is_curves_and_matrix(profile):
        return profile, (
            "its colour profile has more than curves and a matrix; the result is brought to it in 8 bits",
        )
    return profile, ()


def result_pixels(outcome: Outcome, content: Picture, recipe: Recipe, profile: bytes = b"") -> NDArray[Any]:
    """Return a result as it goes to its file, `pixels_HWC`: with the content's transparency if it is kept.

    Its colours are sRGB, or those of an RGB profile.
    """
    import numpy as np

    from .neural.images import scaled, to_pixels
    from .neural.profiles import from_srgb, to_eight_bits
    from .neural.writing import WITH_ALPHA

    assert outcome.image_BCHW is not None  # it is done
    alpha_HW = content.decoded.alpha_HW
    pixels_HWC = to_pixels(outcome.image_BCHW, 16 if profile else recipe.bit_depth)
    if profile:
        pixels_HWC = from_srgb(pixels_HWC, profile)
        pixels_HWC = to_eight_bits(pixels_HWC) if recipe.bit_depth == 8 else pixels_HWC
    if alpha_HW is None or recipe.transparency == "white" or recipe.format not in WITH_ALPHA:
        return pixels_HWC
    height, width = pixels_HWC.shape[:2]
    top = np.iinfo(pixels_HWC.dtype).max
    alpha_HW = (scaled(alpha_HW, (width, height)) * top).round().astype(pixels_HWC.dtype)
    return np.dstack([pixels_HWC, alpha_HW])


def _notes(request: Request) -> tuple[str, ...]:
    """Return what was left out of a job's pictures, each said once."""
    pictures = [request.content, *(style for style, _ in request.styles), request.init]
    return tuple(dict.fromkeys(note for each in pictures if each for note in each.decoded.notes))


def _told_apart(paths: Sequence[Path]) -> list[str]:
    """Return the names of files, with as many of their folders as it takes to tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = [Path(*path.parts[-depth:]).as_posix() for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return names


def provenance(job: Job, key: str, weights: EncoderWeights) -> dict[str, Any]:
    """Return what a result's metadata says about how it was made; of paths the names only."""
    recipe = job.recipe.model_dump(mode="json")
    recipe["init"] = job.init_path.name if job.init_path else job.recipe.init
    names = _told_apart([path for path, _ in job.style.images])
    masks = {"masks": _masks_provenance(job.masks, job.content, names)} if job.masks else {}
    return {
        "program": f"style-pipeline {VERSION}",
        "key": key,
        "content": (job.origin or job.content).name,
        "style": dict(zip(names, (share for _, share in job.style.images), strict=True)),
        **masks,
        "encoder": weights.name,
        "recipe": recipe,
    }


def _masks_provenance(masks: Masks, content: Path, styles: Sequence[str]) -> dict[str, Any]:
    """Return masks as a manifest has them; a mask is often called like its content, in another folder."""
    values = map(color_value, masks.colors)
    return {
        "content": _told_apart([masks.content, content])[0],
        "styles": dict(zip(styles, values, strict=True)),
    }


def log_table(rows: Sequence[LossRow]) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """Return the loss log as a header and rows of numbers."""
    header = ("step", "size", "total", "content", "style", "tv", *rows[0].layers, "seconds")
    return header, tuple(
        (r.step, r.size, r.total, r.content, r.style, r.tv, *r.layers.values(), r.seconds) for r in rows
    )


def versions() -> dict[str, str]:
    import torch

    return {"style-pipeline": VERSION, "python": platform.python_version(), "torch": str(torch.__version__)}
