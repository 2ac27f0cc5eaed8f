"""`try`: every style of a folder on one photo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UsageError
from . import flags
from .batch import batch_settings, make
from .help import MAKE, WHAT, Commands

if TYPE_CHECKING:
    from ...spec.config import Config

app = Commands(MAKE)


@app.command(
    "try",
    examples=[
        "style-pipeline try me.jpg",
        "style-pipeline try me.jpg --styles styles --strengths 0.5,1,2",
    ],
)
@flags.with_batch_flags
def try_(
    context: typer.Context,
    photo: Annotated[Path, typer.Argument(help="The picture to try styles on.")],
    styles: Annotated[
        list[Path] | None,
        typer.Option(
            "--styles",
            metavar="FOLDER",
            rich_help_panel=WHAT,
            help="A folder of styles, or one picture; repeatable; by default the watched folder's styles.",
        ),
    ] = None,
    strengths: Annotated[
        str,
        typer.Option(
            metavar="0.5,1,...",
            help="Try each style with each of these values of `strength`.",
            rich_help_panel=WHAT,
        ),
    ] = "",
    seeds: Annotated[
        str,
        typer.Option(
            metavar="1,2,...",
            help="Start from noise instead, once for each of these seeds.",
            rich_help_panel=WHAT,
        ),
    ] = "",
    *,
    given: flags.BatchFlags,
) -> None:
    """Try every style of a folder on one photo, small and quickly."""
    from ...spec.trials import read_trial

    settings = batch_settings(given)
    settings = settings.model_copy(update={"hooks": ()})  # someone is here and looks
    fields = flags.recipe_fields(given.preset, given.assignments)
    places, exclusions = styles or [_library(settings)], settings.exclusions()
    batch = read_trial(photo, places, settings.recipe, fields, strengths, seeds, exclusions)
    make(context, settings, batch, given)


def _library(settings: Config) -> Path:
    """Return the style library of the watched folder.

    Raises:
        UsageError: it has no pictures.
    """
    from ...spec.names import is_picture
    from ...watch.inbox import STYLES

    library = settings.watch.inbox / STYLES
    if os.path.isdir(library) and any(map(is_picture, os.listdir(library))):
        return library
    raise UsageError(
        f"There is no style to try: {library} has no pictures.",
        "Name a folder of paintings: `style-pipeline try PHOTO --styles FOLDER`.",
    )
