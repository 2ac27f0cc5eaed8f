"""`weights`: those of VGG-19."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import ConfigOption, read_settings
from .output import answer, console, say

app = typer.Typer(help="Show, download or import the weights of VGG-19.", no_args_is_help=True)


@app.command()
def show(config: ConfigOption = None) -> None:
    """Show which weights are here and what `auto` takes."""
    from ..doctor import weights_lines

    answer(*weights_lines(read_settings(config)))


@app.command(short_help="Download VGG-19's weights (548 MB).")
def fetch(config: ConfigOption = None) -> None:
    """Download VGG-19's weights (548 MB) and keep the 80 MB that are needed."""
    from ...execution.executors import weights_dir
    from ...vgg.weights import resolve_encoder
    from ..display import download_lines

    settings = read_settings(config)
    report = download_lines(console())
    found = resolve_encoder("vgg19", weights_dir(settings), settings.weights, on_progress=report)
    say(f"vgg19 {found.digest[:8]} is ready: {found.path}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A VGG-19 checkpoint in torchvision's format.")],
    config: ConfigOption = None,
) -> None:
    """Take VGG-19's weights from a file."""
    from ...execution.executors import weights_dir
    from ...vgg.weights import import_weights

    found = import_weights(path, weights_dir(read_settings(config)))
    say(f"vgg19 {found.digest[:8]} is ready: {found.path}")
