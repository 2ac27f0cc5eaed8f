"""Reads config.yaml. Without a file, the defaults here apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import platformdirs
from pydantic import BeforeValidator, Field, PlainValidator, WrapValidator, field_validator, model_validator

from ..errors import UsageError
from .documents import read_document
from .globs import DiskNames, Exclusions
from .hooks import Hook
from .models import ConfigPath, Seconds, StrictModel, expanded, expecting, listed
from .names import reason_to_ignore
from .problems import shown
from .recipe import INIT_MODES, Recipe, given_fields

CONFIG_NAME = "config.yaml"
# About the limit of Pillow itself.
DEFAULT_MEGAPIXELS = 89


if TYPE_CHECKING:
    RecipeFields = dict[str, Any]
else:
    RecipeFields = Annotated[Recipe, PlainValidator(given_fields, json_schema_input_type=Recipe)]


Count = Annotated[int, Field(ge=1, le=10**9)]
Megabytes = Annotated[int, Field(ge=0, le=10**9)]

# Shares need not add up to one; their sum must be a number, too.
Share = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class Blend(StrictModel):
    """A style made of several pictures of the style library."""

    name: str = Field(min_length=1, description="name in outputs")
    blend: dict[str, Share] = Field(min_length=1, description="names of pictures with their shares")


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
    """How the pictures in one folder of the inbox are stylised."""

    styles: StyleNames | None = Field(
        None, min_length=1, description="names in inbox/styles, or blends; those of `watch` if left out"
    )
    recipe: RecipeFields = Field(default_factory=dict, description="fields for these pictures")
    batch: str | None = Field(
        None, min_length=1, description="folder in the outbox; the name of the route if left out"
    )


class WatchConfig(StrictModel):
    """The watched folder: its routes, when a file is complete, and where originals go."""

    inbox: ConfigPath = Field(Path("inbox"), description="the folder to watch")
    styles: StyleNames | None = Field(
        None,
        min_length=1,
        description="styles where a route or folder names none; all of inbox/styles if left out",
    )
    routes: dict[str, Route] = Field(
        default_factory=dict, description="folders of the inbox with styles, a recipe or a batch of their own"
    )
    batch: str = Field("inbox", min_length=1, description="folder in the outbox for all folders but routes")
    originals: Literal["archive", "delete", "leave"] = Field(
        "archive",
        description="what happens to an original when its pictures are made; leave: it stays in the inbox",
    )
    archive: ConfigPath | None = Field(
        None, description="where originals of finished jobs go; archive, beside the inbox, if left out"
    )
    quarantine: ConfigPath | None = Field(
        None, description="where originals of failed jobs go; quarantine, beside the inbox, if left out"
    )
    settle_s: Seconds | None = Field(
        None, description="seconds without a change before a file is taken; 2, on a network share 30"
    )
    settle_max_s: Seconds = Field(
        600, description="quarantine a file that is still not a complete picture after this many seconds"
    )
    notify: Literal["auto", "native", "polling", "off"] = Field(
        "auto",
        description="what starts a scan; native: events of the system; polling; off: only the clock; auto: "
        "native, but polling on network shares",
    )
    rescan_s: Seconds = Field(10, description="seconds between scans if nothing seems to happen")
    job_timeout_s: Seconds = Field(600, description="replace a worker that is silent for this many seconds")
    worker_max_jobs: Count = Field(200, description="replace a worker after this many jobs")
    min_free_mb: Megabytes = Field(200, description="pause if there is less free space, in MB")

    @field_validator("routes")
    @classmethod
    def _check_names(cls, routes: dict[str, Route]) -> dict[str, Route]:
        for name in routes:
            if not name or name.startswith(".") or "/" in name or name == "styles":
                raise ValueError(f"'{name}' cannot name a route: one folder of the inbox, and not styles")
        return routes

    @property
    def archive_dir(self) -> Path:
        return self.archive or self.inbox.parent / "archive"

    @property
    def quarantine_dir(self) -> Path:
        return self.quarantine or self.inbox.parent / "quarantine"

    def resolved(self, folder: Path) -> WatchConfig:
        """Return the same section with absolute paths; relative ones start at `folder`."""
        routes = {
            name: route.model_copy(update={"recipe": anchor_init(route.recipe, folder)})
            for name, route in self.routes.items()
        }
        return self.model_copy(update={**_absolute_paths(self, folder), "routes": routes})


Hooks = Annotated[tuple[Hook, ...], BeforeValidator(listed, json_schema_input_type=Hook | list[Hook])]
Port = Annotated[int, Field(ge=0, le=65535)]
HostName = Annotated[str, Field(min_length=1)]
HostNames = Annotated[
    tuple[HostName, ...], BeforeValidator(listed, json_schema_input_type=HostName | list[HostName])
]


class PageConfig(StrictModel):
    """The page in the browser: where it listens, and by which names browsers may ask for it."""

    port: Port = Field(8765, description="port of the page; 0: any that is free")
    host: HostName | None = Field(
        None, description="address to listen on, which needs a token; this machine alone if left out"
    )
    allow_hosts: HostNames = Field(
        (), description="more names by which browsers may ask for the page, such as that of a reverse proxy"
    )


class RayConfig(StrictModel):
    """The Ray cluster that `executor: ray` uses."""

    address: Annotated[str, Field(min_length=1)] = Field(
        "auto", description="HOST:PORT of the head node; auto: RAY_ADDRESS, or the cluster of this machine"
    )
    ship: bool = Field(
        False, description="send pictures to the nodes, which then need no file system in common"
    )


NamePattern = Annotated[str, Field(min_length=1)]
NamePatterns = Annotated[
    tuple[NamePattern, ...], BeforeValidator(listed, json_schema_input_type=NamePattern | list[NamePattern])
]


class Config(StrictModel):
    """Where things are, and how jobs run unless a manifest or a flag says otherwise.

    Once read, paths are absolute. A relative path starts at the folder of the file.
    """

    outbox: ConfigPath = Field(Path("outbox"), description="where results are published")
    state_dir: ConfigPath = Field(
        default_factory=lambda: _at_home("state_dir", platformdirs.user_state_dir),
        description="attempts and checkpoints; must be on a local disk",
    )
    cache_dir: ConfigPath = Field(
        default_factory=lambda: _at_home("cache_dir", platformdirs.user_cache_dir),
        description="style targets, which may be deleted at any time, and imported weights",
    )
    cache_max_mb: Count = Field(1024, description="most style targets kept on disk, in MB")
    weights: ConfigPath | None = Field(None, description="another VGG-19 for the encoder vgg19")
    device: Annotated[
        str,
        Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,4})?)$"),
        expecting("auto, cpu, mps, cuda or cuda:N"),
    ] = Field("auto", description="auto, cpu, mps, cuda or cuda:N")
    workers: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=64)],
        expecting("auto, or a whole number from 1 to 64"),
    ] = Field(
        "auto", description="processes that make pictures at the same time in `run`; auto: the fastest number"
    )
    executor: Literal["local", "ray"] = Field(
        "local", description="where `run` makes pictures: on this machine, or on a Ray cluster"
    )
    ray: RayConfig = Field(default_factory=RayConfig, description="the Ray cluster")
    micro_batch: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=256)],
        expecting("auto, or a whole number from 1 to 256"),
    ] = Field(
        "auto", description="pictures of one recipe and size that share a tensor; auto: the fastest that fits"
    )
    memory_mb: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=256, le=10**9)],
        expecting("auto, or a whole number of MB from 256"),
    ] = Field(
        "auto",
        description="memory of the device that all processes of a run may take together, in MB; a picture "
        "that does not fit is made with less; auto: what is free",
    )
    max_megapixels: Annotated[int, Field(ge=1, le=10_000)] = Field(
        DEFAULT_MEGAPIXELS,
        description="refuse pictures of more pixels, and results of more, in millions; this is checked "
        "before anything is decoded or made",
    )
    tiles: Annotated[
        Literal["auto", "off"] | Annotated[int, Field(ge=64, le=65536)],
        expecting("auto, off, or a whole number from 64 to 65536"),
    ] = Field(
        "auto",
        description="compute a picture in tiles, which gives the same picture in less memory; auto: where it "
        "does not fit otherwise; a number: always, in tiles of so many pixels",
    )
    max_attempts: Count = Field(3, description="quarantine a job that ended the process this many times")
    max_failures: int = Field(
        0, ge=0, le=10**9, description="stop the batch after this many failed jobs; 0: never"
    )
    keep_times: bool = Field(False, description="give results the modification time of their content")
    checkpoint_s: Seconds = Field(30.0, description="seconds between checkpoints of a running job")
    ignore: NamePatterns = Field(
        (),
        description="more names of files and folders that the inbox and globs leave alone, such as "
        "'*_small.*'; case does not count",
    )
    hooks: Hooks = Field((), description="commands that are run when something happens")
    recipe: RecipeFields = Field(default_factory=dict, description="fields for every job")
    watch: WatchConfig = Field(default_factory=WatchConfig, description="the watched folder")
    page: PageConfig = Field(default_factory=PageConfig, description="the page in the browser")

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Check fields that have to make sense where no other source adds any."""
        Recipe.model_validate(fields)
        return fields

    @field_validator("ignore")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if "/" in pattern:
                raise ValueError(f"expected names without folders, found '{pattern}'")
        return patterns

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, data: Any) -> Any:
        """Accept `together`, the old name of `micro_batch`, for one more version."""
        if isinstance(data, Mapping) and "together" in data and "micro_batch" not in data:
            return {("micro_batch" if key == "together" else key): value for key, value in data.items()}
        return data

    @model_validator(mode="after")
    def _check_routes(self) -> Config:
        for name in self.watch.routes:
            if reason := reason_to_ignore(name, self.ignore):
                raise ValueError(f"watch.routes.{name}: a folder of this name is left alone ({reason})")
        return self

    @property
    def memory_bytes(self) -> int | None:
        """What `memory_mb` allows; None is all that is free."""
        return None if self.memory_mb == "auto" else self.memory_mb << 20

    def exclusions(self) -> Exclusions:
        """Return what globs never find: ignored names, results, moved originals, state and cache."""
        watch = self.watch
        folders = (self.outbox, watch.archive_dir, watch.quarantine_dir, self.state_dir, self.cache_dir)
        return Exclusions(self.ignore, tuple(folder.resolve() for folder in folders))

    def resolved(self, folder: Path) -> Config:
        """Return the same configuration with absolute paths; relative ones start at `folder`."""
        recipe, watch = anchor_init(self.recipe, folder), self.watch.resolved(folder)
        parts = {
            "recipe": recipe,
            "watch": watch,
            "hooks": tuple(hook.resolved(folder) for hook in self.hooks),
        }
        return self.model_copy(update={**_absolute_paths(self, folder), **parts})


def _absolute_paths(section: StrictModel, folder: Path) -> dict[str, Any]:
    return {name: (folder / value).resolve() for name, value in section if isinstance(value, Path)}


def _at_home(key: str, find: Callable[..., str]) -> Path:
    """Return a folder of the user.

    Raises:
        UsageError: the user has no home folder.
    """
    with suppress(RuntimeError):
        path = Path(find("style-pipeline", appauthor=False))
        if path.is_absolute():  # else it begins with ~
            return path
    raise UsageError(
        f"There is no place for {key}: this user has no home folder.", f"Set {key} in config.yaml, or HOME."
    )


def anchor_init(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the fields with an absolute path in `init`; a relative one starts at `folder`."""
    init = fields.get("init")
    if not isinstance(init, str) or init in INIT_MODES:
        return fields
    try:
        return {**fields, "init": str(DiskNames().as_on_disk(folder / expanded(init)).resolve())}
    except (RuntimeError, ValueError, OSError):  # reported later: there is no such file
        return fields


def read_config(path: Path | None) -> Config:
    """Read `path`, or config.yaml in the current folder if there is one, or return the defaults.

    Raises:
        UsageError: `path` is missing, or something in the file is wrong.
    """
    if path is None and not Path(CONFIG_NAME).is_file():
        return Config().resolved(Path.cwd())
    path = path or Path(CONFIG_NAME)
    document = read_document(path)
    return document.validate(Config).resolved(path.parent)
