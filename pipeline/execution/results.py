"""The result of a job as plain values: the bytes of its picture with metadata, its log, its notes."""

from __future__ import annotations

import math
import platform
import traceback
from typing import TYPE_CHECKING, Any

from ..spec.jobs import Job, JobResult, StepProgress
from ..spec.recipe import LONGEST, Recipe
from ..version import VERSION
from .inputs import Prepared
from .provenance import provenance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..images.metadata import Kept
    from ..transfer.reports import Outcome, Progress
    from ..transfer.request import Picture, Request


def job_result(prepared: Prepared, outcome: Outcome) -> JobResult:
    """Return the result of a job that is done."""
    from ..images.writing import encode_image

    task, content = prepared.task, prepared.request.content
    recipe = task.job.recipe
    profile, profile_notes = _kept_profile(content, recipe)
    pixels_HWC = _result_pixels(outcome, content, recipe, profile)
    origin, provenance_notes = _provenance_that_fits(provenance(task.job, task.key, prepared.weights), recipe)
    kept, kept_notes = _kept_metadata(content, recipe)
    file_notes = (*profile_notes, *kept_notes, *provenance_notes)
    notes = prepared.notes + tuple(f"{task.job.content.name}: {note}." for note in file_notes)
    return JobResult(
        "done",
        image=encode_image(pixels_HWC, recipe.format, recipe.quality, origin, kept, profile),
        log_header=("step", "size", "total", "content", "style", "tv", *outcome.rows[0].layers, "seconds"),
        log_rows=tuple(
            (r.step, r.size, r.total, r.content, r.style, r.tv, *r.layers.values(), r.seconds)
            for r in outcome.rows
        ),
        width=pixels_HWC.shape[1],
        height=pixels_HWC.shape[0],
        seconds=outcome.seconds,
        step_seconds=outcome.rows[-1].seconds,
        device=outcome.device,
        dtype=outcome.dtype,
        cache_hits=outcome.cache_hits,
        cache_misses=outcome.cache_misses,
        resumed_from_step=len(prepared.state.rows),
        micro_batch=outcome.micro_batch,
        adjusted=outcome.adjusted,
        work_factor=outcome.work_factor,
        notes=notes,
        versions=versions(),
    )


def _kept_profile(content: Picture, recipe: Recipe) -> tuple[bytes, tuple[str, ...]]:
    """Return the colour profile of a result, b"" for sRGB, and notes about it."""
    from ..images.profiles import is_matrix_profile, why_not_kept

    profile = content.decoded.profile
    if recipe.profile == "srgb":
        return b"", ()
    if reason := why_not_kept(profile):
        return b"", (f"{reason}; the result is sRGB",)
    if recipe.bit_depth == 16 and not is_matrix_profile(profile):
        return profile, (
            "its colour profile has more than curves and a matrix; the result is converted to it in 8 bits",
        )
    return profile, ()


def _kept_metadata(content: Picture, recipe: Recipe) -> tuple[Kept, tuple[str, ...]]:
    """Return what a result carries of its content's metadata, and notes about it."""
    from ..images.metadata import NOTHING, keep

    return keep(content.decoded.metadata, recipe.format) if recipe.exif == "keep" else (NOTHING, ())


def _provenance_that_fits(origin: dict[str, Any], recipe: Recipe) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return as much of a result's provenance as its format holds, and notes about it."""
    from ..images.writing import LEFT_OUT, fits

    if fits(origin, recipe.format):
        return origin, ()
    short = {key: origin[key] for key in ("program", "key")}
    return {**short, LEFT_OUT: "too long for a JPEG"}, (
        "its provenance is too long for a JPEG and is left out; PNG, WebP and TIFF can hold it",
    )


def _result_pixels(outcome: Outcome, content: Picture, recipe: Recipe, profile: bytes) -> NDArray[Any]:
    """Return the pixels (HWC) of a result's file, with the content's transparency if it is kept.

    Their colours are those of the RGB `profile`, or sRGB if it is empty.
    """
    import numpy as np

    from ..images.profiles import from_srgb
    from ..images.samples import to_8_bits
    from ..images.writing import WITH_ALPHA
    from ..transfer.tensors import scaled, to_pixels

    assert outcome.image_BCHW is not None  # it is done
    alpha_HW = content.decoded.alpha_HW
    pixels_HWC = to_pixels(outcome.image_BCHW, 16 if profile else recipe.bit_depth)
    if profile:
        pixels_HWC = from_srgb(pixels_HWC, profile)
        pixels_HWC = to_8_bits(pixels_HWC) if recipe.bit_depth == 8 else pixels_HWC
    if alpha_HW is None or recipe.transparency == "white" or recipe.format not in WITH_ALPHA:
        return pixels_HWC
    height, width = pixels_HWC.shape[:2]
    top = np.iinfo(pixels_HWC.dtype).max
    alpha_HW = (scaled(alpha_HW, (width, height)) * top).round().astype(pixels_HWC.dtype)
    return np.dstack([pixels_HWC, alpha_HW])


def unexpected_failure(job: Job, error: Exception) -> JobResult:
    """Return the result of a job that failed because of a bug in this program or in a library."""
    return JobResult(
        "failed",
        error=f"{job.content}: unexpected {type(error).__name__}: {error}",
        next_step="This is a fault in style-pipeline; please report it with this job's record.",
        details="".join(traceback.format_exception(error)),
    )


def render_snapshot(progress: Progress, request: Request) -> bytes | None:
    """Return the bytes of a snapshot's file, if the engine took one."""
    if progress.image_BCHW is None:
        return None
    from ..images.writing import encode_image
    from ..transfer.color_policy import final_colors
    from ..transfer.tensors import side_by_side, to_image

    recipe = request.recipe
    image = to_image(final_colors(request, progress.image_BCHW.float().cpu().clamp(0, 1)))
    if recipe.snapshot_view == "side_by_side":
        image = side_by_side([request.content.image, request.styles[0][0].image, image])
        if limit := LONGEST.get(recipe.format):
            image.thumbnail((limit, limit))
    return encode_image(image, recipe.format, recipe.quality, {"step": progress.step})


def step_progress(
    progress: Progress, key: str = "", snapshot: bytes | None = None, left_s: float | None = None
) -> StepProgress:
    """Return the engine's progress as plain values."""
    row = progress.row
    return StepProgress(
        progress.step,
        progress.steps,
        progress.width,
        progress.height,
        *(math.nan,) * 3 if row is None else (row.total, row.content, row.style),
        snapshot,
        key,
        left_s,
        progress.tile,
        progress.tiles,
    )


def versions() -> dict[str, str]:
    import torch

    return {"style-pipeline": VERSION, "python": platform.python_version(), "torch": str(torch.__version__)}
