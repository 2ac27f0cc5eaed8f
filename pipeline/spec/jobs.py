"""Jobs, their identity and their results: plain values that travel between the folders and the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ..errors import PipelineError
from .output_names import fields_of, fill_template, sweep_label
from .recipe import INIT_MODES, Recipe
from .regions import Color
from .schedule import total_steps

# Increase it when the same recipe and inputs give another picture: finished jobs then run again.
ALGORITHM_VERSION = 13

# Recipe fields that are not part of a job's key: two are only names, and of the encoder the weights count.
NO_IDENTITY = frozenset({"name", "preset", "encoder"})


@dataclass(frozen=True)
class Style:
    """A named style: one picture, or several with their shares in a blend."""

    name: str
    images: tuple[tuple[Path, float], ...]


@dataclass(frozen=True)
class Masks:
    """Which style goes where: a picture of the content's shape, and the colour of each style's region in it.

    `colors` are in the order of the style's images.
    """

    content: Path
    colors: tuple[Color, ...]


@dataclass(frozen=True)
class Job:
    """One picture to make. `name` is its path below the batch's folder, without a suffix.

    With `masks` every image of the style has a region of its own; without, several images are a blend.
    A picture from a watched folder has the id of its `drop`, and `origin`, where it was dropped.
    """

    batch: str
    content: Path
    style: Style
    recipe: Recipe
    name: str
    sweep: Mapping[str, Any] = field(default_factory=dict)
    drop: str = ""
    origin: Path | None = None
    masks: Masks | None = None

    @property
    def init_path(self) -> Path | None:
        """The picture to start from, where the recipe names a file."""
        return None if self.recipe.init in INIT_MODES else Path(self.recipe.init)

    @property
    def input_paths(self) -> tuple[Path, ...]:
        init = () if self.init_path is None else (self.init_path,)
        masks = () if self.masks is None else (self.masks.content,)
        return (self.content, *(path for path, _ in self.style.images), *init, *masks)

    @property
    def regions(self) -> Mapping[Path, Color]:
        """The colour of each style's region in the mask, where there is one."""
        if self.masks is None:
            return {}
        return dict(zip((path for path, _ in self.style.images), self.masks.colors, strict=True))


@dataclass(frozen=True)
class Task:
    """A job that is ready to run: its key, and the sha256 of its inputs by path.

    `alone`: nothing else runs on this machine at the same time, except the rest of its micro-batch.
    """

    job: Job
    key: str
    digests: Mapping[Path, str]
    alone: bool = True


@dataclass(frozen=True)
class EncoderInfo:
    """The encoder that was resolved for this process."""

    name: str
    digest: str
    note: str = ""


@dataclass(frozen=True)
class StepProgress:
    """How far the job `key` is: after `step` of its `steps`, or within the next one.

    The losses are those of that step, nan before the first. `snapshot` holds the bytes of a file where the
    recipe asks for one. `left_s` is about how many seconds the job still takes, if that is known. Within a
    step that takes long, `tile` of its `tiles` are computed; after a step both are 0.
    """

    step: int
    steps: int
    width: int
    height: int
    loss: float
    content: float
    style: float
    snapshot: bytes | None = None
    key: str = ""
    left_s: float | None = None
    tile: int = 0
    tiles: int = 0

    @property
    def tile_text(self) -> str:
        """How far the step is, in words; "" after a step."""
        return f"tile {self.tile} of {self.tiles}" if self.tiles else ""


@dataclass(frozen=True)
class JobResult:
    """The outcome of a job. `image` holds the bytes of the file to publish when it is done.

    `micro_batch` is the number of pictures that shared its tensor, itself included. `adjusted` says what was
    changed so that it fits the memory, `notes` which parts of its pictures could not be used. `work_factor`
    is how many times the work of untiled steps that of its steps was.
    """

    status: Literal["done", "failed", "stopped"]
    image: bytes = b""
    log_header: tuple[str, ...] = ()
    log_rows: tuple[tuple[float, ...], ...] = ()
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    device: str = ""
    dtype: str = ""
    cache_hits: int = 0
    cache_misses: int = 0
    resumed_from_step: int = 0
    micro_batch: int = 1
    adjusted: tuple[str, ...] = ()
    work_factor: float = 1.0
    notes: tuple[str, ...] = ()
    out_of_memory: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    next_step: str = ""
    details: str = ""

    @classmethod
    def failure(cls, error: PipelineError) -> JobResult:
        """Return the result of a job that failed by an error."""
        return cls("failed", error=error.message, next_step=error.next_step)


def job_key(job: Job, digests: Mapping[Path, str], encoder: EncoderInfo) -> str:
    """Return a job's identity: sha256 over its inputs' bytes, recipe, encoder and algorithm version.

    `digests` maps every input path to the sha256 of its bytes. Names do not count: of files, of the batch, of
    the preset, or the template of output names.
    """
    identity: dict[str, Any] = {
        "content": digests[job.content],
        "styles": [(digests[path], share) for path, share in job.style.images],
        "init": None if job.init_path is None else digests[job.init_path],
        "recipe": _recipe_json(job.recipe),
        "encoder": encoder.digest,
        "algorithm": ALGORITHM_VERSION,
    }
    if job.masks is not None:  # in the order of the styles
        identity["masks"] = [digests[job.masks.content], job.masks.colors]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=64)  # the rest of a key takes a hundredth of the time
def _recipe_json(recipe: Recipe) -> str:
    """Return the fields that are part of a key; a picture that `init` names counts by its bytes instead."""
    fields = recipe.model_dump(mode="json", exclude=set(NO_IDENTITY))
    if fields["init"] not in INIT_MODES:
        del fields["init"]
    return json.dumps(fields, sort_keys=True)


def output_name(
    recipe: Recipe, content: str, style: str, sweep: Mapping[str, Any], step: int | None = None
) -> str:
    """Fill the name of a recipe; the result is a relative path that stays in its folder.

    {step} is `step`, or the last one if that is left out.

    Raises:
        UsageError: the name cannot be filled, for instance because a format does not fit its value.
    """
    used = fields_of(recipe.name)
    values = {name: getattr(recipe, name) for name in used & Recipe.model_fields.keys()}
    values |= {"content": content, "style": style, "sweep": sweep_label(sweep)}
    if "step" in used:
        values["step"] = total_steps(recipe) if step is None else step
    return fill_template(recipe.name, values)


def result_summary(result: JobResult) -> dict[str, Any]:
    """Return a result as plain data, without its picture and its log."""
    plain = asdict(result)
    for key in ("image", "log_header", "log_rows", "out_of_memory"):
        del plain[key]
    return plain
