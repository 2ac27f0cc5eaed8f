"""`presets`, `schema` and `doctor`: what can be chosen, and what this machine has."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from . import complete, flags
from .help import SET_UP, Commands
from .optional_address import WithOptionalAddress
from .output import print_checks, print_document, print_result

app = Commands(SET_UP)


@app.command(examples=["style-pipeline presets", "style-pipeline presets default"])
def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the full recipe of this preset as YAML.", autocompletion=complete.presets),
    ] = None,
) -> None:
    """List the named recipes, or print one to paste into a manifest."""
    from ...spec.presets import PRESETS

    if name is None:
        width = max(map(len, PRESETS))
        print_result(*(f"{label:<{width}}  {preset.summary}" for label, preset in PRESETS.items()))
    else:
        print_document(_preset_document(name))


def _preset_document(name: str) -> str:
    """Return a preset as the `recipe` of a manifest; the fields that people change first stand apart."""
    from ...spec.recipe import FIRST_FIELDS, Recipe
    from ...spec.yaml12 import dump_yaml

    recipe = Recipe(preset=name).model_dump(mode="json")
    text = dump_yaml({"recipe": recipe})
    others = [field for field in recipe if field not in {"preset", *FIRST_FIELDS}]
    for field, comment in ((FIRST_FIELDS[0], "Change these first."), (others[0], "All other fields.")):
        text = text.replace(f"\n  {field}: ", f"\n\n  # {comment}\n  {field}: ", 1)
    return text


@app.command(examples=["style-pipeline schema manifest > manifest.schema.json"])
def schema(
    kind: Annotated[Literal["manifest", "config"], typer.Argument(help="Which file.")],
) -> None:
    """Print a JSON schema of manifests or of config.yaml, for editors."""
    from ...spec.config import Config
    from ...spec.entries import Manifest

    model = Manifest if kind == "manifest" else Config
    print_document(json.dumps(model.model_json_schema(), indent=2) + "\n")


@app.command(
    examples=["style-pipeline doctor", "style-pipeline doctor --ray"],
    cls=WithOptionalAddress,
)
def doctor(config: flags.ConfigPath = None, device: flags.Device = None, ray: flags.Ray = None) -> None:
    """Check this machine: Python, torch, devices, weights, folders.

    With --ray, check a Ray cluster as well.
    """
    from ..doctor import examine, examine_cluster

    settings = flags.on_ray(flags.read_settings(config, device=device), ray)
    print_checks([*examine(settings), *(examine_cluster(settings) if settings.executor == "ray" else ())])
