"""Where a job runs. The only door to `neural`, opened late: importing this never loads torch."""

from __future__ import annotations

import hashlib
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .config import Config
from .errors import DiskError, ImageError, JobError, PipelineError
from .jobs import EncoderInfo, Job, JobResult, StepProgress
from .version import VERSION

CHECKPOINT_DAYS = 30

if TYPE_CHECKING:
    from .neural.checkpoints import LossRow, RunState
    from .neural.engine import Progress
    from .neural.session import Outcome, Picture, Request, Session
    from .neural.weights import EncoderWeights


class Executor(Protocol):
    """Runs jobs somewhere and sends back plain values."""

    def encoder_info(self, name: str) -> EncoderInfo:
        """Resolve an encoder by its name in a recipe."""

    def device_name(self) -> str:
        """Return the device jobs run on, such as `cpu` or `cuda:0`.

        Raises:
            DeviceError: the configured device is not here.
        """

    def check(self, path: Path) -> None:
        """Decode a picture completely and keep nothing.

        Raises:
            ImageError: it is no whole picture.
        """

    def run(
        self,
        job: Job,
        key: str,
        digests: Mapping[Path, str],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> JobResult:
        """Run one job to its end or to a stop; what is wrong with the job is in the result.

        Raises:
            MachineError: the machine's fault, not the job's.
        """

    def forget(self, key: str) -> None:
        """Drop a job's checkpoint; called when its picture is safely published, and not before."""

    def close(self) -> None:
        """End what is kept warm; a later call would start it anew."""


class InProcessExecutor:
    """Runs jobs one after another in this process, with encoder and style targets kept warm."""

    def __init__(
        self,
        config: Config,
        on_download: Callable[[int, int | None], None] | None = None,
        allow_download: bool = True,
    ) -> None:
        self.config = config
        self.on_download = on_download
        self.allow_download = allow_download and config.allow_download
        self._weights: dict[str, EncoderWeights] = {}
        self._session: Session | None = None

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
        from .neural.images import decode_image, read_bytes

        decode_image(read_bytes(path), str(path))

    def would_download(self, name: str) -> bool:
        """Tell whether a run would first try to download this encoder's weights."""
        from .neural.weights import find_vgg19

        wanted = name in {"auto", "vgg19"} and self.config.allow_download
        return wanted and find_vgg19(weights_dir(self.config), self.config.weights) is None

    def run(
        self,
        job: Job,
        key: str,
        digests: Mapping[Path, str],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> JobResult:
        try:
            return self._run(job, key, digests, on_step, should_stop)
        except JobError as error:
            return JobResult("failed", error=error.message, next_step=error.next_step)
        except PipelineError:
            raise
        except Exception as error:  # a fault of ours or of a library: the others still get their turn
            return unexpected_failure(job, error)

    def _run(
        self,
        job: Job,
        key: str,
        digests: Mapping[Path, str],
        on_step: Callable[[StepProgress], None],
        should_stop: Callable[[], bool],
    ) -> JobResult:
        from .neural.checkpoints import read_checkpoint
        from .neural.engine import Diverged, Stopped
        from .neural.session import Hooks

        weights, session = self.resolve(job.recipe.encoder), self.session()
        if weights.name == "vgg19-slim" and (beyond := job.recipe.beyond_slim()):
            raise JobError(
                f"{job.content}: the layer {beyond[0]} is not in vgg19-slim, which ends at relu5_1.",
                "Choose another layer, or fetch VGG-19 with `style-pipeline weights fetch`.",
            )
        request = read_request(job, digests)
        checkpoint = checkpoint_path(self.config, key)
        state = read_checkpoint(checkpoint)
        resumed = len(state.rows) if state else 0
        hooks = Hooks(
            on_progress=lambda progress: on_step(step_progress(progress, _snapshot(progress, request))),
            on_checkpoint=lambda state: _save(checkpoint, state),
            should_stop=should_stop,
            checkpoint_s=self.config.checkpoint_s,
        )
        try:
            outcome = session.stylize(request, weights, hooks, state)
        except Stopped as stop:
            _save(checkpoint, stop.state)
            return JobResult("stopped")
        except Diverged as diverged:
            _save(checkpoint, diverged.state)
            raise JobError(f"{job.content}: {diverged.error.message}", diverged.error.next_step) from None
        except ImageError as error:
            raise ImageError(f"{job.content}: {error.message}", error.next_step) from error
        return _job_result(outcome, job, key, weights, session, resumed)

    def forget(self, key: str) -> None:
        checkpoint_path(self.config, key).unlink(missing_ok=True)

    def close(self) -> None:
        self._session = None

    def session(self) -> Session:
        """Return the session of this process, opened on first use.

        Raises:
            DeviceError: the configured device is not here.
        """
        if self._session is None:
            from .neural.devices import plan_device
            from .neural.session import Session
            from .neural.targets import TargetCache

            _remove_old_checkpoints(self.config.state_dir / "checkpoints")
            cache = TargetCache(self.config.cache_dir / "targets", self.config.cache_max_mb << 20)
            self._session = Session(plan_device(self.config.device), cache)
        return self._session


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
    return Request(content, styles, job.recipe, init)


def read_picture(path: Path, digests: Mapping[Path, str] | None = None) -> Picture:
    """Read one picture. Errors as in `read_request`."""
    from .neural.images import decode_image, read_bytes
    from .neural.session import Picture

    data = read_bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    if digests is not None and digests[path] != sha256:
        raise JobError(f"{path}: the file changed while it was waiting.", "Run again to use it as it is now.")
    return Picture(decode_image(data, str(path)), sha256)


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
    from .neural.images import encode_image, side_by_side, to_image

    recipe, image = request.recipe, to_image(progress.image_BCHW)
    if recipe.snapshot_view == "side_by_side":
        image = side_by_side([request.content.image, request.styles[0][0].image, image])
    return encode_image(image, recipe.format, recipe.quality, {"step": progress.step})


def step_progress(progress: Progress, snapshot: bytes | None = None) -> StepProgress:
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
    )


def _job_result(
    outcome: Outcome, job: Job, key: str, weights: EncoderWeights, session: Session, resumed: int
) -> JobResult:
    from .neural.images import encode_image

    recipe = job.recipe
    image = encode_image(outcome.image, recipe.format, recipe.quality, provenance(job, key, weights))
    header, rows = log_table(outcome.rows)
    return JobResult(
        "done",
        image=image,
        log_header=header,
        log_rows=rows,
        width=outcome.width,
        height=outcome.height,
        seconds=outcome.seconds,
        step_seconds=outcome.rows[-1].seconds,
        device=session.device.device,
        dtype=outcome.dtype,
        cache_hits=outcome.cache_hits,
        cache_misses=outcome.cache_misses,
        resumed_from_step=resumed,
        versions=versions(),
    )


def provenance(job: Job, key: str, weights: EncoderWeights) -> dict[str, Any]:
    """Return what a result's metadata says about how it was made."""
    return {
        "program": f"style-pipeline {VERSION}",
        "key": key,
        "content": job.content.name,
        "style": {path.name: share for path, share in job.style.images},
        "encoder": weights.name,
        "recipe": job.recipe.model_dump(mode="json"),
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
