"""`presets`, `schema` and `doctor`: what there is to choose from, and what is here."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from .options import ConfigOption, DeviceOption, read_settings
from .output import answer, answer_checks, answer_document

app = typer.Typer()


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print the full recipe of this preset as YAML.")] = None,
) -> None:
    """List the named recipes, or print one to paste into a manifest."""
    from ...spec.presets import PRESETS
    from ...spec.recipe import Recipe
    from ...spec.yaml12 import dump_yaml

    if name is None:
        width = max(map(len, PRESETS))
        answer(*(f"{label:<{width}}  {preset.summary}" for label, preset in PRESETS.items()))
    else:
        answer_document(dump_yaml({"recipe": Recipe(preset=name).model_dump(mode="json")}))


@app.command()
def schema(
    kind: Annotated[Literal["manifest", "config"], typer.Argument(help="Which file.")],
) -> None:
    """Print a JSON schema for editors. It describes a manifest or config.yaml."""
    from ...spec.config import Config
    from ...spec.entries import Manifest

    model = Manifest if kind == "manifest" else Config
    answer_document(json.dumps(model.model_json_schema(), indent=2) + "\n")


@app.command()
def doctor(config: ConfigOption = None, device: DeviceOption = None) -> None:
    """Check this machine: Python, torch, devices, weights, folders."""
    from ..doctor import examine

    answer_checks(examine(read_settings(config, device=device)))
