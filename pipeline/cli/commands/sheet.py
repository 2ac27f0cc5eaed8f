"""`sheet`: a batch as a page to look at, and the same at the end of every run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import PipelineError, UsageError
from . import complete, flags
from .help import FILES, LOOK, Commands
from .output import print_result, say

if TYPE_CHECKING:
    from ...spec.config import Config
    from ...storage.outbox import BatchFolder

app = Commands(LOOK)

# A run spends at most this many seconds on thumbnails at its end, and fewer if someone waits for the end.
AT_THE_END_S, IN_A_HURRY_S = 120.0, 3.0


@app.command(examples=["style-pipeline sheet overnight", "style-pipeline sheet overnight --image sheet.jpg"])
def sheet(
    batch: Annotated[
        str,
        typer.Argument(
            help="A batch: its folder, or its name in the outbox.", autocompletion=complete.batches
        ),
    ],
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            rich_help_panel=FILES,
            help="Write one labelled picture (.jpg, .png, .webp) instead, to send by mail.",
        ),
    ] = None,
    config: flags.ConfigPath = None,
    outbox: flags.Outbox = None,
) -> None:
    """Write the page that shows a batch."""
    from ...page.contact import picture_format, write_contact
    from ...page.sheet import read_sheet, write_sheet

    settings = flags.read_settings(config, outbox=outbox)
    folder = _batch_folder(settings, batch)
    if image is not None:
        picture_format(image)  # before anything is read
        write_contact(read_sheet(folder, _moved(settings)), folder, image)
    print_result(image or write_sheet(folder, _moved(settings)))


def write_at_the_end(settings: Config, folder: BatchFolder, in_a_hurry: bool, err: bool) -> None:
    """Write the sheet of a run that ends, if something changed. Whatever is wrong with it is a warning.

    Of several shards, the last to end takes its time for the thumbnails.
    """
    from ...page.sheet import renew_sheet

    try:
        with folder.shards.merging():
            limit_s = IN_A_HURRY_S if in_a_hurry or folder.shards.not_ended() else AT_THE_END_S
            path = renew_sheet(folder.path, _moved(settings), limit_s)
    except UsageError:
        return  # there is nothing to show
    except Exception as error:
        kind = "" if isinstance(error, PipelineError) else f"unexpected {type(error).__name__}: "
        say(f"Warning: the sheet was not written: {kind}{error}", err=True)
    else:
        say(f"Look at them: {path}", err=err)


def _batch_folder(settings: Config, batch: str) -> Path:
    """Return the folder of a batch.

    Raises:
        UsageError: there is none.
    """
    from ...spec.text import first_few
    from ...storage.outbox import batch_names
    from ...storage.paths import BatchPaths

    for folder in (settings.outbox / batch, Path(batch)):
        if os.path.isdir(BatchPaths(folder).logs):
            return folder
    names = batch_names(settings.outbox)
    there = f"Its batches: {first_few(names, 5)}." if names else "It has no batches yet."
    raise UsageError(f"{batch}: is no batch in {settings.outbox}, nor a folder of one.", there)


def _moved(settings: Config) -> tuple[tuple[Path, Path], ...]:
    """Return where contents may have been moved: from the inbox to the archive."""
    return ((settings.watch.inbox, settings.watch.archive_dir),)
