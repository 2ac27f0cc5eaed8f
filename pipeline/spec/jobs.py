"""Job and JobResult: plain values that travel between the folders and the device."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import reprlib
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..errors import PipelineError, UsageError
from .recipe import INIT_MODES, Recipe
from .removed import values_now

# Raised when the same recipe and inputs would give another picture: finished jobs then run again.
ALGORITHM_VERSION = 6

# Most names need no work: plain characters, and neither a dot nor a space at an end.
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9 ._+-]{0,198}[A-Za-z0-9_-])?")

# Red, green and blue, each in [0, 1].
Color: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Style:
    """A named style: one picture, or several with their shares in a blend."""

    name: str
    images: tuple[tuple[Path, float], ...]


@dataclass(frozen=True)
class Masks:
    """Which style goes where: a picture of the content's shape, and the colours of the styles' regions in it.

    `colors` are in the order of the style's images.
    """

    content: Path
    colors: tuple[Color, ...]


@dataclass(frozen=True)
class Job:
    """One picture to make. `name` is its path below the batch's folder, without a suffix.

    With `masks` every image of the style has a region of its own; without, several are a blend.

    A picture from a watched folder has the id of its `drop`, and its `origin`: where it was dropped.
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

    `alone`: nothing else runs beside it on this machine, but for those it runs together with.
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
    """A step of the job `key`. `snapshot` holds the bytes of a file where the recipe asks for one."""

    step: int
    steps: int
    width: int
    height: int
    loss: float
    content: float
    style: float
    snapshot: bytes | None = None
    key: str = ""


@dataclass(frozen=True)
class JobResult:
    """What became of a job. `image` holds the bytes of the file to publish when it is done.

    It ran `together` with so many in one tensor, itself among them; `adjusted` says what had to be changed to
    make it fit. `notes` say what of its pictures could not be used.
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

    `digests` maps every input path to the sha256 of its bytes. Names do not count, nor does what only
    decides them: the batch, the output's name template and the preset's label.
    """
    identity: dict[str, Any] = {
        "content": digests[job.content],
        "styles": [(digests[path], share) for path, share in job.style.images],
        "init": None if job.init_path is None else digests[job.init_path],
        "recipe": _recipe_json(_One(job.recipe)),
        "encoder": encoder.digest,
        "algorithm": ALGORITHM_VERSION,
    }
    if job.masks is not None:  # in the order of the styles
        identity["masks"] = [digests[job.masks.content], job.masks.colors]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def region_color(value: Any) -> Color:
    """Read the colour of a region in a mask: a grey level in [0, 1], or text such as "#3366cc".

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        red, green, blue = (int(value[start : start + 2], 16) / 255 for start in (1, 3, 5))
        return red, green, blue
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return (float(value),) * 3
    unquoted = "; in YAML a # begins a comment, so a colour is in quotes" if value is None else ""
    found = reprlib.repr(value) + unquoted
    raise ValueError(f"expected a grey level from 0 to 1, or a colour such as '#3366cc', found {found}")


def check_regions(colors: Mapping[str, Color]) -> None:
    """Check the colours of the styles, by their paths, that share a picture.

    Raises:
        ValueError: they are fewer than two, or two have the same colour.
    """
    if len(colors) < 2:
        raise ValueError("a mask is for two styles or more; for one, leave it out")
    for (one, color), (other, same) in itertools.combinations(colors.items(), 2):
        # A mask has 8 bits for each of red, green and blue.
        if all(round(255 * a) == round(255 * b) for a, b in zip(color, same, strict=True)):
            raise ValueError(f"{one} and {other} have the same colour, {color_value(color)}")


def color_value(color: Color) -> float | str:
    """Return a colour as people write it: what `region_color` reads."""
    red, green, blue = color
    if red == green == blue:
        return int(red) if red in {0, 1} else red
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in color)


class _One:
    """A recipe as a key of a cache: itself and no other. It has no hash, as its layers are in dicts."""

    __slots__ = ("recipe",)

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _One) and self.recipe is other.recipe

    def __hash__(self) -> int:
        return id(self.recipe)


@lru_cache(maxsize=64)
def _recipe_json(one: _One) -> str:
    """Return what decides how a picture looks, but for the picture that `init` names."""
    recipe = one.recipe.model_dump(mode="json", exclude={"name", "preset", "encoder"})
    recipe.update(values_now(one.recipe.canvas))
    if recipe["init"] not in INIT_MODES:
        del recipe["init"]
    return json.dumps(recipe, sort_keys=True)


@lru_cache(maxsize=64)
def _template_values(one: _One) -> Mapping[str, Any]:
    """Return the fields of a recipe as an output name may use them."""
    return {key: _plain(value) for key, value in one.recipe.model_dump().items()}


def output_name(
    template: str, content: str, style: str, recipe: Recipe, sweep: Mapping[str, Any], step: int
) -> str:
    """Fill an output name's template; the result is a relative path that stays in its folder.

    Raises:
        UsageError: the template cannot be filled (a format that does not fit, say).
    """
    own = {"content": _plain(content), "style": _plain(style), "sweep": _sweep_label(sweep), "step": step}
    try:
        filled = template.format(**{**_template_values(_One(recipe)), **own})
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise UsageError(f"The output name '{template}' cannot be filled: {error}.") from error
    return safe_name(filled)


def safe_name(name: str) -> str:
    """Make a relative path of any text: no way up, no hidden parts, no characters a system refuses."""
    return name if _SAFE_NAME.fullmatch(name) else _made_safe(name)


def _made_safe(name: str) -> str:
    parts = []
    for part in unicodedata.normalize("NFC", name).split("/"):
        part = "".join(c if c.isprintable() else "_" for c in part)
        part = re.sub(r'[<>:"\\|?*]', "_", part).lstrip(". ")
        # 255 bytes is the usual limit of a file name; leave room for a short id and a suffix.
        part = part.encode()[:200].decode("utf-8", "ignore").rstrip(". ")
        if part:
            parts.append(part)
    return "/".join(parts) or "unnamed"


def _plain(value: Any) -> Any:
    """A path stands for its stem, so that a template never smuggles folders in."""
    return value.replace("/", "_").replace("\\", "_") if isinstance(value, str) else value


def _sweep_label(sweep: Mapping[str, Any]) -> str:
    labels = []
    for key, value in sweep.items():
        text = f"{value:g}" if isinstance(value, float) else str(value)
        text = re.sub(r"[^\w.+-]+", "_", text).strip("_")
        labels.append(f"--{key}-{text}")
    return "".join(labels)


def result_summary(result: JobResult) -> dict[str, Any]:
    """Return a result as plain data, without the bytes of its picture and its log."""
    plain = asdict(result)
    for key in ("image", "log_header", "log_rows", "out_of_memory"):
        del plain[key]
    return plain
