"""config.yaml -> Config. Without a file the defaults here hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import platformdirs
from pydantic import BeforeValidator, Field, WrapValidator, field_validator, model_validator

from ..errors import UsageError
from .documents import read_document
from .globs import DiskNames, Exclusions
from .models import StrictModel, expecting, listed
from .names import reason_to_ignore
from .problems import shown
from .recipe import INIT_MODES, Recipe, canonical_keys
from .removed import REMOVED_SETTINGS, refuse_removed

CONFIG_NAME = "config.yaml"


def _keep_given(value: Any, check: Callable[[Any], Recipe]) -> Any:
    """Validate fields of a recipe, but keep only those given, to be merged with other sources."""
    check(value)
    return canonical_keys(value)


if TYPE_CHECKING:
    RecipeFields = dict[str, Any]
else:
    RecipeFields = Annotated[Recipe, WrapValidator(_keep_given)]


Seconds = Annotated[float, Field(gt=0, le=1e7)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Megabytes = Annotated[int, Field(ge=0, le=10**9)]

# Shares need not add up to one; their sum must be a number, too.
Share = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class Blend(StrictModel):
    """A style made of several pictures of the style library, by name, with their shares."""

    name: str = Field(min_length=1, description="name in outputs")
    blend: dict[str, Share] = Field(min_length=1, description="names with their shares")


def _name_or_blend(value: Any, check: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return Blend.model_validate(value)
    if not isinstance(value, str) or not value:
        example = "{name: mix, blend: {a: 0.7, b: 0.3}}"
        raise ValueError(f"expected the name of a style, or a blend such as {example}, found {shown(value)}")
    return value


StyleName = Annotated[Annotated[str, Field(min_length=1)] | Blend, WrapValidator(_name_or_blend)]
StyleNames = Annotated[
    list[StyleName], BeforeValidator(listed, json_schema_input_type=StyleName | list[StyleName])
]


class Route(StrictModel):
    """What is done with the pictures in one folder of the inbox."""

    styles: StyleNames | None = Field(
        None, min_length=1, description="names in inbox/styles, or blends; as for the root if left out"
    )
    recipe: RecipeFields = Field(default_factory=dict, description="fields for these pictures, a preset too")
    batch: str | None = Field(
        None, min_length=1, description="folder in the outbox; the route's name if left out"
    )


class WatchConfig(StrictModel):
    """The watched folder: what its parts mean, when a file is complete, and where originals go."""

    inbox: Path = Field(Path("inbox"), description="the folder to watch")
    styles: StyleNames | None = Field(
        None, min_length=1, description="styles for all but routes; every one in inbox/styles if left out"
    )
    routes: dict[str, Route] = Field(
        default_factory=dict, description="folders of the inbox with a meaning of their own"
    )
    batch: str = Field("inbox", min_length=1, description="folder in the outbox for all but routes")
    originals: Literal["archive", "delete", "leave"] = Field(
        "archive", description="what becomes of an original when its pictures are made"
    )
    archive: Path | None = Field(None, description="originals of finished jobs; archive beside the inbox")
    quarantine: Path | None = Field(
        None, description="originals of failed jobs; quarantine beside the inbox if left out"
    )
    settle_s: Seconds | None = Field(
        None, description="seconds without a change before a file is taken; 2, on a network share 30"
    )
    settle_max_s: Seconds = Field(
        600, description="a file that is no whole picture after so many seconds is quarantined"
    )
    notify: Literal["auto", "native", "polling", "off"] = Field(
        "auto", description="what wakes the scanner: the system's events, polling, or its own clock alone"
    )
    rescan_s: Seconds = Field(10, description="seconds between scans when nothing seems to happen")
    job_timeout_s: Seconds = Field(600, description="a worker without a sign of life for so long is replaced")
    worker_max_jobs: Count = Field(200, description="a worker is replaced after so many jobs")
    min_free_mb: Megabytes = Field(200, description="pause with less free space than this")

    @field_validator("inbox", "archive", "quarantine")
    @classmethod
    def _known_home(cls, path: Path | None) -> Path | None:
        return _expanded(path)

    @field_validator("routes")
    @classmethod
    def _folder_names(cls, routes: dict[str, Route]) -> dict[str, Route]:
        for name in routes:
            if not name or name.startswith(".") or "/" in name or name == "styles":
                raise ValueError(f"'{name}' is no name for a route: one folder of the inbox, and not styles")
        return routes

    @property
    def archive_dir(self) -> Path:
        return self.archive or self.inbox.parent / "archive"

    @property
    def quarantine_dir(self) -> Path:
        return self.quarantine or self.inbox.parent / "quarantine"

    def resolved(self, folder: Path) -> WatchConfig:
        """Return the same section with every path absolute, relative ones below `folder`."""
        paths = {
            name: (folder / value).resolve()
            for name in ("inbox", "archive", "quarantine")
            if (value := getattr(self, name)) is not None
        }
        routes = {
            name: route.model_copy(update={"recipe": anchor_init(route.recipe, folder)})
            for name, route in self.routes.items()
        }
        return self.model_copy(update={**paths, "routes": routes})


NamePattern = Annotated[str, Field(min_length=1)]
NamePatterns = Annotated[
    tuple[NamePattern, ...], BeforeValidator(listed, json_schema_input_type=NamePattern | list[NamePattern])
]


class Config(StrictModel):
    """Where things are and how jobs run unless a manifest or a flag says otherwise.

    Paths are absolute once read: a relative one starts at the configuration's own folder.
    """

    outbox: Path = Field(Path("outbox"), description="where results are published")
    state_dir: Path = Field(
        default_factory=lambda: _at_home("state_dir", platformdirs.user_state_dir),
        description="attempts and checkpoints; on a local disk",
    )
    cache_dir: Path = Field(
        default_factory=lambda: _at_home("cache_dir", platformdirs.user_cache_dir),
        description="style targets and encoder weights; may be deleted at any time",
    )
    cache_max_mb: Count = Field(1024, description="style targets kept on disk, in MB")
    weights: Path | None = Field(None, description="another VGG-19 for the encoder vgg19")
    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,4})?)$"),
        expecting("auto, cpu, mps, cuda or cuda:N"),
    ] = Field("auto", description="auto, cpu, mps, cuda or cuda:N")
    workers: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=64)],
        expecting("auto, or a whole number from 1 to 64"),
    ] = Field(
        "auto", description="processes that make pictures side by side in `run`; auto: what is quickest"
    )
    micro_batch: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=256)],
        expecting("auto, or a whole number from 1 to 256"),
    ] = Field(
        "auto", description="pictures of one recipe and size in one tensor; auto: what is quickest and fits"
    )
    max_attempts: Count = Field(3, description="a job that killed the process so often is quarantined")
    max_failures: int = Field(
        0, ge=0, le=10**9, description="stop the batch after so many failed jobs; 0: never"
    )
    checkpoint_s: Seconds = Field(30.0, description="seconds between checkpoints of a running job")
    ignore: NamePatterns = Field(
        (),
        description="more names of files and folders that are left alone in the inbox and by globs, such as "
        "'*_small.*'; whatever their case",
    )
    recipe: RecipeFields = Field(default_factory=dict, description="fields for every job")
    watch: WatchConfig = Field(default_factory=WatchConfig, description="the watched folder")

    @field_validator("ignore")
    @classmethod
    def _names_alone(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if "/" in pattern:
                raise ValueError(f"expected names without folders, found '{pattern}'")
        return patterns

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, data: Any) -> Any:
        """Accept `together`, the old name of `micro_batch`, for one more version; refuse what was removed."""
        if not isinstance(data, Mapping):
            return data
        refuse_removed(data, REMOVED_SETTINGS)
        if "together" in data and "micro_batch" not in data:
            return {("micro_batch" if key == "together" else key): value for key, value in data.items()}
        return data

    @model_validator(mode="after")
    def _routes_are_entered(self) -> Config:
        for name in self.watch.routes:
            if reason := reason_to_ignore(name, self.ignore):
                raise ValueError(f"watch.routes.{name}: a folder of this name is left alone ({reason})")
        return self

    @field_validator("outbox", "state_dir", "cache_dir", "weights")
    @classmethod
    def _known_home(cls, path: Path | None) -> Path | None:
        return _expanded(path)

    def exclusions(self) -> Exclusions:
        """Return what globs never find: ignored names, results, moved originals, state and cache."""
        watch = self.watch
        folders = (self.outbox, watch.archive_dir, watch.quarantine_dir, self.state_dir, self.cache_dir)
        return Exclusions(self.ignore, tuple(folder.resolve() for folder in folders))

    def resolved(self, folder: Path) -> Config:
        """Return the same configuration with every path absolute, relative ones below `folder`."""
        paths: dict[str, Any] = {
            name: (folder / value).resolve()
            for name in ("outbox", "state_dir", "cache_dir", "weights")
            if (value := getattr(self, name)) is not None
        }
        recipe, watch = anchor_init(self.recipe, folder), self.watch.resolved(folder)
        return self.model_copy(update={**paths, "recipe": recipe, "watch": watch})


def _at_home(key: str, find: Callable[..., str]) -> Path:
    """Return a folder of this user's.

    Raises:
        UsageError: nobody knows where the user's home is.
    """
    try:
        path = Path(find("style-pipeline", appauthor=False))
    except RuntimeError:
        path = Path("~")
    if not path.is_absolute():  # what older versions of platformdirs return
        raise UsageError(
            f"There is no place for {key}: this user has no home folder.",
            f"Set {key} in config.yaml, or HOME.",
        )
    return path


def _expanded(path: Path | None) -> Path | None:
    try:
        return None if path is None else path.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def anchor_init(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the path of a picture under `init` absolute, relative ones below `folder`."""
    init = fields.get("init")
    if not isinstance(init, str) or init in INIT_MODES:
        return fields
    try:
        return {**fields, "init": str(DiskNames().as_on_disk(folder / Path(init).expanduser()).resolve())}
    except (RuntimeError, ValueError, OSError):  # the home of nobody, a NUL: no such file, as will be said
        return fields


def read_config(path: Path | None) -> Config:
    """Read `path`, or config.yaml in the current folder where there is one, or take the defaults.

    Raises:
        UsageError: `path` is missing, or the file has anything wrong in it.
    """
    if path is None and not Path(CONFIG_NAME).is_file():
        return Config().resolved(Path.cwd())
    path = path or Path(CONFIG_NAME)
    document = read_document(path)
    return document.validate(Config).resolved(path.parent)
