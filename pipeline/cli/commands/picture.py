"""`stylize` and `inspect`: one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...errors import Interrupted
from . import flags
from .help import FILES, LOOK, MAKE, WHAT, Commands
from .output import print_document, print_result, say
from .showing import show_run

app = Commands(MAKE)


@app.command(
    examples=[
        "style-pipeline stylize me.jpg scream.jpg -o out.png",
        "style-pipeline stylize me.jpg scream.jpg -o more.png --preset draft --set strength=1.5",
    ]
)
def stylize(
    context: typer.Context,
    content: Annotated[Path, typer.Argument(help="The picture to restyle.")],
    style: Annotated[
        list[str],
        typer.Argument(
            metavar="STYLE", help="The picture with the style; with --mask several, each as STYLE=COLOUR."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="Result; by default CONTENT--STYLE.png in this folder.",
            rich_help_panel=FILES,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            metavar="FILE",
            help="A picture whose colours mark where in the content each style goes.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    config: flags.ConfigPath = None,
    device: flags.Device = None,
    preset: flags.Preset = None,
    assignments: flags.Assignments = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the result if it exists.", rich_help_panel=WHAT)
    ] = False,
    verbose: flags.Verbose = False,
    quiet: flags.Quiet = False,
) -> None:
    """Paint one picture in the style of another."""
    from ...batch.single import run_single, single_job, single_style
    from ...execution.executors import InProcessExecutor
    from ..signals import stop_signal

    settings = flags.read_settings(config, device=device)
    fields = flags.recipe_fields(preset, assignments)
    job, path = single_job(content, single_style(style, mask), out, settings.recipe, fields)
    with (
        show_run(settings, 1, flags.log_level(context, verbose, quiet)) as display,
        stop_signal(display.stopping, with_hang_up=True) as stopped,
    ):
        executor = InProcessExecutor(settings)
        finished = run_single(job, path, executor, display, lambda: bool(stopped), force, settings.keep_times)
    if finished.status == "skipped":
        say(f"{path} is there already; --force makes it again.", err=True)
    if finished.status == "stopped":
        raise Interrupted(stopped[0])
    say(path)


@app.command(examples=["style-pipeline inspect out.png"], rich_help_panel=LOOK)
def inspect(
    picture: Annotated[Path, typer.Argument(help="A result of style-pipeline.")],
    as_json: flags.OneObject = False,
) -> None:
    """Print how a picture was made, as a manifest that makes it again."""
    from ...batch.inspection import manifest_of, manifest_text, read_origin

    found = read_origin(picture)
    if as_json:
        print_result(json.dumps({**found, "manifest": manifest_of(found)}))
    else:
        print_document(manifest_text(picture, found))
