"""`weights`: those of VGG-19."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import flags
from .help import Commands
from .output import print_result, say

app = Commands(help="Show or import the weights of VGG-19.", no_args_is_help=True)


@app.command(examples=["style-pipeline weights show"])
def show(config: flags.ConfigPath = None) -> None:
    """Show which weights are used, and what `auto` takes."""
    from ..doctor import weights_lines

    print_result(*weights_lines(flags.read_settings(config)))


@app.command("import", examples=["style-pipeline weights import vgg19.pth"])
def import_(
    path: Annotated[Path, typer.Argument(help="A VGG-19 checkpoint in torchvision's format.")],
    config: flags.ConfigPath = None,
) -> None:
    """Use another VGG-19 than the one that comes with the package."""
    from ...execution.encoders import imported_path
    from ...vgg.weights import import_weights

    found = import_weights(path, imported_path(flags.read_settings(config)))
    say(f"`encoder: vgg19` is {found.digest[:8]} from now on: {found.path}")
    say("Delete that file to use the network that comes with the package again.")
