"""`serve`: the page that shows an outbox and its inbox; `watch --page` shows it beside the daemon."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UsageError
from . import flags, showing
from .help import LOOK, PAGE, Commands
from .output import print_result

if TYPE_CHECKING:
    from ...page.watched import Watched
    from ...spec.config import Config

app = Commands(LOOK)

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="N",
        min=0,
        max=65535,
        help="Port of the page; 0 for any that is free.",
        rich_help_panel=PAGE,
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        metavar="TEXT",
        envvar="STYLE_PIPELINE_TOKEN",
        help="Secret that lets a browser in; a new one at every start if left out.",
        rich_help_panel=PAGE,
    ),
]


@app.command(examples=["style-pipeline serve --open"])
def serve(
    context: typer.Context,
    config: flags.ConfigPath = None,
    outbox: flags.Outbox = None,
    port: Port = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on; other machines need the --token.",
            rich_help_panel=PAGE,
        ),
    ] = None,
    token: Token = "",
    open_: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.", rich_help_panel=PAGE)
    ] = False,
    verbose: flags.Verbose = False,
    quiet: flags.Quiet = False,
) -> None:
    """Show an outbox and its inbox as a page in the browser."""
    from ..signals import stop_signal

    settings = with_page(flags.read_settings(config, outbox=outbox), port=port, host=host)
    stopping: SimpleQueue[None] = SimpleQueue()  # a handler may put into it whatever it interrupts
    with (
        showing.show_log(flags.log_level(context, verbose, quiet)),
        stop_signal(lambda: stopping.put(None)) as stopped,
        show_page(settings, token) as address,
    ):
        print_result(f"The page: {address}", "Ctrl-C ends it.")
        if open_:
            webbrowser.open(address)
        stopping.get()
    raise typer.Exit(128 + stopped[0])


def with_page(settings: Config, **given: object) -> Config:
    """Let the flags that were given replace values of `page` in the configuration."""
    page = settings.page.model_copy(update={key: value for key, value in given.items() if value is not None})
    return settings.model_copy(update={"page": page})


@contextmanager
def show_page(settings: Config, token: str) -> Iterator[str]:
    """Serve the page while the block runs, and yield its address. Errors as for `page.server.serving`."""
    from ...page.server import serving

    with serving(settings, watched_folder(settings), token) as address:
        yield address


@contextmanager
def page_beside(settings: Config, token: str, notify: Callable[..., object]) -> Iterator[None]:
    """Serve the page beside a daemon, and notify of its address. Errors as for `show_page`."""
    with show_page(settings, token) as address:
        notify("page", f"the page: {address}", address=address)
        yield


def watched_folder(settings: Config) -> Watched:
    """Return what the page knows and does about an inbox."""
    from ...page.watched import Watched
    from ...storage.ledger import Ledger
    from ...watch.quarantine import Quarantine, try_again
    from ...watch.status import current_status

    watch = settings.watch
    quarantine = Quarantine.of(watch)

    def retry(id: str) -> None:
        found = next((one for one in quarantine.files() if one.id == id), None)
        if found is None:
            raise UsageError(f"{id}: is not quarantined any more.")
        with closing(Ledger(settings.state_dir)) as ledger:
            try_again(quarantine, found, ledger)

    return Watched(
        watch.inbox, partial(current_status, settings), retry, settings.ignore, watch.min_free_mb << 20
    )
