"""`serve`: the page that shows an outbox and its inbox; `watch --page` shows it beside the daemon."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from . import flags
from .output import print_result

if TYPE_CHECKING:
    from ...page.server import PageOptions
    from ...page.watched import Watched
    from ...spec.config import Config

app = typer.Typer()

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0 for any free one.")]
Host = Annotated[
    str, typer.Option("--host", help="Address to listen on, if not only this machine; needs --token.")
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="STYLE_PIPELINE_TOKEN",
        help="Secret that lets a browser in; by default a new one at every start.",
    ),
]
AllowHosts = Annotated[
    list[str] | None,
    typer.Option("--allow-host", help="Name by which browsers may ask for the page; repeatable."),
]


@app.command()
def serve(
    config: flags.ConfigPath = None,
    outbox: flags.Outbox = None,
    port: Port = 8765,
    host: Host = "",
    token: Token = "",
    allow_host: AllowHosts = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show an outbox and its inbox as a page in the browser."""
    from ...page.server import PageOptions
    from ..signals import stop_signal

    settings = flags.read_settings(config, outbox=outbox)
    options = PageOptions(host, port, token, tuple(allow_host or ()))
    stopping: SimpleQueue[None] = SimpleQueue()  # a handler may put into it whatever it interrupts
    with stop_signal(lambda: stopping.put(None)) as stopped, show_page(settings, options) as address:
        print_result(f"The page: {address}")
        if open_:
            webbrowser.open(address)
        stopping.get()
    raise typer.Exit(128 + stopped[0])


@contextmanager
def show_page(settings: Config, options: PageOptions) -> Iterator[str]:
    """Serve the page while the block runs, and yield its address. Errors as for `page.server.serving`."""
    from ...page.server import serving

    with serving(settings, watched_folder(settings), options) as address:
        yield address


def watched_folder(settings: Config) -> Watched:
    """Return what the page knows and does about an inbox."""
    from ...page.watched import Watched
    from ...storage.files import Disk
    from ...storage.ledger import Ledger
    from ...watch.quarantine import Quarantine, try_again
    from ...watch.status import read_status

    watch = settings.watch
    quarantine = Quarantine(watch.inbox, watch.quarantine_dir, Disk())

    def status() -> Mapping[str, Any]:
        with closing(Ledger(settings.state_dir)) as ledger:
            return read_status(settings, ledger)

    def retry(id: str) -> None:
        found = next((one for one in quarantine.files() if one.id == id), None)
        if found is None:
            raise UsageError(f"{id}: is not quarantined any more.")
        with closing(Ledger(settings.state_dir)) as ledger:
            try_again(quarantine, found, ledger)

    return Watched(watch.inbox, status, retry, settings.ignore, watch.min_free_mb << 20)
