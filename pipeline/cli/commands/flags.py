"""Flags that several commands have, and what they make of the configuration, the recipe and the log."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from . import complete
from .help import FILES, LIMITS, OUTPUT, RECIPE, WHAT

if TYPE_CHECKING:
    from ...spec.config import Config

ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration file; by default config.yaml in this folder.",
        rich_help_panel=FILES,
    ),
]
Outbox = Annotated[
    Path | None,
    typer.Option("--outbox", metavar="FOLDER", help="Folder for the results.", rich_help_panel=FILES),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where to compute: auto, cpu, mps, cuda or cuda:N.",
        autocompletion=complete.devices,
        rich_help_panel=LIMITS,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A named recipe; see `presets`.",
        autocompletion=complete.presets,
        rich_help_panel=RECIPE,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a field of the recipe; repeatable.",
        rich_help_panel=RECIPE,
    ),
]
For = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="SPAN",
        help="Stop after this time, such as 90min or 2h30m.",
        rich_help_panel=LIMITS,
    ),
]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="HH:MM", help="Stop at this time of day.", rich_help_panel=LIMITS),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be made, and why; write nothing.", rich_help_panel=WHAT),
]
Force = Annotated[
    bool, typer.Option("--force", help="Make everything, even what exists already.", rich_help_panel=WHAT)
]
Missing = Annotated[
    bool, typer.Option("--missing", help="Also make what was deleted or renamed.", rich_help_panel=WHAT)
]
OneObject = Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per job.", rich_help_panel=OUTPUT)
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=64,
        help="Processes side by side; by default the quickest number.",
        rich_help_panel=LIMITS,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Use a Ray cluster: HOST:PORT of its head node, or the one this machine is in.",
        rich_help_panel=LIMITS,
    ),
]
RayShip = Annotated[
    bool,
    typer.Option(
        "--ray-ship",
        help="Send pictures to the nodes, which then need no file system in common.",
        rich_help_panel=LIMITS,
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Log every step and other details.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Log only warnings and errors.", rich_help_panel=OUTPUT)]


@dataclass(frozen=True)
class BatchFlags:
    """The flags that `run` and `try` share."""

    config: ConfigPath = None
    outbox: Outbox = None
    device: Device = None
    preset: Preset = None
    assignments: Assignments = None
    dry_run: DryRun = False
    force: Force = False
    missing: Missing = False
    as_json: AsJson = False
    for_: For = None
    until: Until = None
    workers: Workers = None
    verbose: Verbose = False
    quiet: Quiet = False


def with_batch_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the fields of BatchFlags as flags, and pass them on as its parameter `given`.

    Typer reads flags from a function's signature, and has no groups of them.
    """
    own, shared = (inspect.signature(each, eval_str=True).parameters for each in (command, BatchFlags))

    @wraps(command)
    def call(**values: Any) -> None:
        given = BatchFlags(**{name: values.pop(name) for name in shared})
        command(**values, given=given)

    flags = [flag for name in own for flag in (shared.values() if name == "given" else [own[name]])]
    by_keyword = [flag.replace(kind=inspect.Parameter.KEYWORD_ONLY) for flag in flags]
    vars(call)["__signature__"] = inspect.Signature(by_keyword)
    return call


def log_level(context: typer.Context, verbose: bool, quiet: bool) -> int:
    """Return the level of the log from the flags of a command and those given before its name.

    Raises:
        UsageError: both are given.
    """
    before = context.find_root().params
    verbose, quiet = verbose or before["verbose"], quiet or before["quiet"]
    if verbose and quiet:
        raise UsageError("--verbose and --quiet exclude each other.", "Give one of them.")
    return logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO


def read_settings(path: Path | None, **flags: Any) -> Config:
    """Read the configuration, and let the flags that were given replace its values.

    Raises:
        UsageError: the file or a flag is wrong.
    """
    from pydantic import ValidationError

    from ...spec.config import DEFAULT_MEGAPIXELS, Config, read_config
    from ...spec.problems import explain

    given = {name: value for name, value in flags.items() if value is not None}
    settings = read_config(path)
    if settings.max_megapixels > DEFAULT_MEGAPIXELS:  # what this command reads may be as large
        from ...images.reading import allow_megapixels

        allow_megapixels(settings.max_megapixels)
    try:
        found = Config.model_validate({**dict(settings), **given})
    except ValidationError as error:
        raise UsageError.of_lines([_as_option(problem) for problem in explain(error, Config)]) from error
    return found.model_copy(update={"outbox": found.outbox.resolve()})


def on_ray(settings: Config, address: str | None, ship: bool = False) -> Config:
    """Return the configuration with what `--ray` and `--ray-ship` say.

    Raises:
        UsageError: `--ray-ship` without a cluster.
    """
    if address is not None:
        found = settings.ray.address if address == "auto" else address
        cluster = settings.ray.model_copy(update={"address": found})
        settings = settings.model_copy(update={"executor": "ray", "ray": cluster})
    if not ship:
        return settings
    if settings.executor != "ray":
        raise UsageError("--ray-ship needs a Ray cluster.", "Give --ray as well.")
    return settings.model_copy(update={"ray": settings.ray.model_copy(update={"ship": True})})


def _as_option(problem: str) -> str:
    """Return a problem `key: text` with its key written as a flag."""
    key, colon, text = problem.partition(":")
    return f"--{key.replace('_', '-')}{colon}{text}"


def recipe_fields(preset: str | None, assignments: list[str] | None) -> dict[str, Any]:
    """Return the recipe fields that `--preset` and `--set` give.

    Raises:
        UsageError: one of them is wrong.
    """
    from pydantic import ValidationError

    from ...spec.config import anchor_init
    from ...spec.problems import explain
    from ...spec.recipe import Recipe, given_fields
    from ...spec.yaml12 import parse_value

    fields: dict[str, Any] = {} if preset is None else {"preset": preset}
    for assignment in assignments or []:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: expected KEY=VALUE, such as --set size=1024.")
        key = key.strip()
        is_template = key == "name" and text.startswith("{")  # YAML would take it for a mapping
        try:
            fields[key] = text if is_template else parse_value(text)
        except ValueError as error:
            raise UsageError(f"--set {assignment}: {error}.") from error
    try:
        return anchor_init(given_fields(fields), Path.cwd())
    except ValidationError as error:
        problems = [f"--preset or --set: {problem}" for problem in explain(error, Recipe)]
        raise UsageError.of_lines(problems, "See `style-pipeline presets default`.") from error
