"""What goes into a job: its pictures and masks, read and checked, and the state it resumes from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError, JobError
from ..spec.jobs import Job, Task
from ..spec.recipe import Recipe
from ..spec.regions import Color, color_text
from .checkpoints import read_state

if TYPE_CHECKING:
    from ..transfer.checkpoints import RunState
    from ..transfer.masks import Regions
    from ..transfer.pyramid import Level
    from ..transfer.request import Picture, Request
    from ..vgg.weights import EncoderWeights


@dataclass(frozen=True)
class Prepared:
    """A job with its pictures read, its levels planned, and the state it resumes from."""

    task: Task
    request: Request
    weights: EncoderWeights
    levels: list[Level]
    state: RunState
    notes: tuple[str, ...] = ()


def prepare(task: Task, weights: EncoderWeights, checkpoint: Path, max_megapixels: int) -> Prepared:
    """Read and check what a job needs, and its checkpoint if it has one.

    Raises:
        ImageError: a picture cannot be used, or the result would be too small or too large.
        JobError: the encoder lacks a layer, or a picture changed while the job waited.
    """
    job = task.job
    check_layers(job.recipe, weights, job.content)
    request = read_request(job, task.digests)
    levels = plan_result(job, request.content.image.size, max_megapixels)
    state, notes = read_state(job, levels, checkpoint)
    return Prepared(task, request, weights, levels, state, (*request_notes(request, levels), *notes))


def plan_result(job: Job, content_size: tuple[int, int], max_megapixels: int) -> list[Level]:
    """Plan the levels of a job whose content has this size, (width, height).

    Raises:
        ImageError: the result would be too small or too large.
    """
    from ..transfer.pyramid import plan_levels

    try:
        levels = plan_levels(job.recipe, content_size)
        check_result(job.recipe, content_size, levels[-1].size, max_megapixels)
    except ImageError as error:
        raise ImageError(f"{job.content}: {error.message}", error.next_step) from error
    return levels


def check_result(
    recipe: Recipe, content_size: tuple[int, int], canvas_size: tuple[int, int], max_megapixels: int
) -> None:
    """Check that a result is not too large, before it is made. Sizes are (width, height).

    Raises:
        ImageError: it has too many pixels, or a side that its format cannot hold.
    """
    from ..images.writing import check_size

    width, height = canvas_size
    if width * height > max_megapixels * 1_000_000:
        raise ImageError(
            f"the result would have {width:,} x {height:,} pixels, more than {max_megapixels} million.",
            "Lower size, or raise max_megapixels in config.yaml.",
        )
    check_size(recipe.format, content_size if recipe.upscale_to_content else canvas_size)


def check_layers(recipe: Recipe, weights: EncoderWeights, content: Path | str) -> None:
    """Check that an encoder has the layers of a recipe; `content` is named in messages.

    Raises:
        JobError: it lacks one.
    """
    if weights.name == "vgg19-slim" and (beyond := recipe.beyond_slim()):
        raise JobError(
            f"{content}: the layer {beyond[0]} is not in vgg19-slim, which ends at relu5_1.",
            "Choose another layer, or the full network with `encoder: vgg19`.",
        )


def read_request(job: Job, digests: Mapping[Path, str] | None = None) -> Request:
    """Read a job's pictures.

    Raises:
        ImageError: one cannot be used, or the content or a style is fully transparent.
        JobError: one changed since `digests` was made.
    """
    from ..transfer.request import Request

    content = read_picture(job.content, digests)
    styles = [(read_picture(path, digests), share) for path, share in job.style.images]
    paths = [job.content, *(path for path, _ in job.style.images)]
    check_visible(zip([content, *(style for style, _ in styles)], paths, strict=True))
    init = read_picture(job.init_path, digests) if job.init_path else None
    request = Request(content, styles, job.recipe, init)
    if job.masks is None:
        return request
    mask, colors = read_picture(job.masks.content, digests), job.masks.colors
    regions = find_regions(mask, content, colors, job.masks.content, [path for path, _ in job.style.images])
    return replace(request, regions=regions)


def check_visible(pictures: Iterable[tuple[Picture, Path | str]]) -> None:
    """Check that each picture has visible pixels. Its name is for messages.

    Raises:
        ImageError: one is fully transparent.
    """
    for picture, name in pictures:
        if not picture.decoded.is_visible:
            raise ImageError(
                f"{name}: the picture is fully transparent.",
                "Save it without transparency, or use another.",
            )


def find_regions(
    mask: Picture, content: Picture, colors: Sequence[Color], path: Path | str, styles: Sequence[Path | str]
) -> Regions:
    """Find the regions of a content's styles in a mask. `path` and `styles` are for messages.

    Raises:
        ImageError: the mask has another shape than the content.
    """
    from ..transfer import masks

    labels = [
        f"{Path(style).name} ({color_text(color)})" for style, color in zip(styles, colors, strict=True)
    ]
    found = masks.find_regions(mask.image, colors, content.image.size, str(path), labels)
    return replace(found, notes=mask.decoded.notes + found.notes)


def request_notes(request: Request, levels: Sequence[Level]) -> tuple[str, ...]:
    """Return notes, each once, on parts of pictures that are not used and regions too small for a layer.

    Raises:
        ImageError: a region has no pixel.
    """
    from ..transfer.masks import region_notes

    pictures = [request.content, *(style for style, _ in request.styles), request.init]
    notes = [note for each in pictures if each for note in each.decoded.notes]
    if request.regions is not None:
        notes += region_notes(request.regions, request.recipe, [level.size for level in levels])
    return tuple(dict.fromkeys(notes))


def read_size(path: Path) -> tuple[int, int]:
    """Return the size in a picture's header, which may be turned; damage after the header is not noticed.

    Raises:
        ImageError: it is missing, or no picture in a format that can be read.
    """
    from ..images.reading import open_picture, read_bytes

    return open_picture(read_bytes(path), str(path)).size


def read_picture(path: Path, digests: Mapping[Path, str] | None = None) -> Picture:
    """Read one picture. Errors as in `read_request`."""
    from ..images.reading import decode_picture, read_bytes
    from ..transfer.request import Picture

    try:
        data = read_bytes(path)
    except ValueError as error:  # a NUL, say
        raise ImageError(f"{str(path)!r}: not a path ({error}).", "Check how it is written.") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if digests is not None and digests[path] != sha256:
        raise changed_error(path)
    return Picture(decode_picture(data, str(path)), sha256)


def changed_error(path: Path) -> JobError:
    """Return the error of a job whose input is not any more what it was."""
    return JobError(f"{path}: the file changed while it was waiting.", "Run again to use it as it is now.")
