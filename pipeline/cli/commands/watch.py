"""`watch`, and the commands that look after it: `status`, `retry`, `health`, `service`."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import DeadlineError, UsageError
from ...spec.text import are, counted
from . import complete, flags, showing
from .help import LIMITS, OUTPUT, PAGE, WATCH, Commands
from .hooks import telling_hooks
from .output import print_checks, print_document, print_result, say
from .serve import Port, Token, page_beside, with_page

if TYPE_CHECKING:
    from ...spec.config import Config
    from ...watch.daemon import Tally
    from ...watch.quarantine import Quarantined

app = Commands(WATCH)
service = Commands(help="Run the watched folder as a service.", no_args_is_help=True)


Once = Annotated[
    bool,
    typer.Option("--once", help="Process what has settled, then end; for cron.", rich_help_panel=LIMITS),
]
Page = Annotated[bool, typer.Option("--page", help="Also serve the page; see `serve`.", rich_help_panel=PAGE)]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Log lines as JSON objects.", rich_help_panel=OUTPUT)
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        metavar="FILE",
        help="Log to this file, rotated at 10 MB, instead of stderr.",
        rich_help_panel=OUTPUT,
    ),
]


@app.command(examples=["style-pipeline watch", "style-pipeline watch --once --log-file watch.log"])
def watch(
    context: typer.Context,
    once: Once = False,
    config: flags.ConfigPath = None,
    outbox: flags.Outbox = None,
    device: flags.Device = None,
    preset: flags.Preset = None,
    assignments: flags.Assignments = None,
    for_: flags.For = None,
    until: flags.Until = None,
    page: Page = False,
    port: Port = None,
    token: Token = "",
    log_json: LogJson = False,
    log_file: LogFile = None,
    verbose: flags.Verbose = False,
    quiet: flags.Quiet = False,
) -> None:
    """Restyle every picture that is dropped into the inbox."""
    from ...batch.deadline import read_deadline
    from ...execution.pool import watch_executor
    from ...hooks.queues import check_hooks
    from ...page.sheet import renew_in_time
    from ...watch.daemon import watch_inbox
    from ...watch.events import Waker, silence_watchdog
    from ...watch.setup import WatchOptions
    from ...watch.watcher import notify_mode
    from ..display import Display
    from ..signals import reload_signal, stop_signal

    def read() -> Config:
        read = flags.read_settings(config, outbox=outbox, device=device)
        check_hooks(read.hooks)
        return read

    silence_watchdog()
    settings = read()
    paged = with_page(settings, port=port)
    options = WatchOptions(once, read_deadline(for_, until), flags.recipe_fields(preset, assignments))
    waker = Waker(settings.watch.inbox, notify_mode(settings.watch))
    with (
        showing.show_watch(settings, flags.log_level(context, verbose, quiet), log_json, log_file) as shown,
        telling_hooks(settings) as hooks,
        stop_signal(waker.set) as stopped,
        reload_signal(waker.set, read) as reread,
    ):
        tally = watch_inbox(
            settings,
            options,
            Display(shown, hooks),
            watch_executor,
            waker,
            lambda: bool(stopped),
            reread,
            renew_in_time,
            partial(page_beside, paged, token, shown.notify) if page else nullcontext,
        )
        if stopped:
            hooks.stopping()
    _end(tally, stopped)


def _end(tally: Tally, stopped: list[int]) -> None:
    """Raise what sets the exit code of a watch."""
    if stopped:
        raise typer.Exit(128 + stopped[0])
    if tally.out_of_time:
        raise DeadlineError(
            f"The time is over; {counted(tally.left, 'file')} {are(tally.left)} left.",
            "The next run resumes from there.",
        )
    if tally.quarantined:
        raise typer.Exit(1)


@app.command(examples=["style-pipeline status"])
def status(
    config: flags.ConfigPath = None,
    as_json: flags.OneObject = False,
) -> None:
    """Show what the watched folder is doing."""
    from ...watch.status import current_status, status_lines

    found = current_status(flags.read_settings(config))
    print_result(*([json.dumps(found)] if as_json else status_lines(found)))


@app.command(examples=["style-pipeline retry photo.jpg", "style-pipeline retry --all-quarantined"])
def retry(
    job: Annotated[
        str | None,
        typer.Argument(help="The id or the name of a quarantined file.", autocompletion=complete.quarantined),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all-quarantined", help="Retry all quarantined files.")
    ] = False,
    config: flags.ConfigPath = None,
) -> None:
    """Put quarantined files back into the inbox, to be tried again."""
    from ...storage.ledger import Ledger
    from ...watch.quarantine import Quarantine, try_again

    if (job is None) == (not everything):
        raise UsageError(
            "Name a quarantined file, or give --all-quarantined.", "See `style-pipeline status`."
        )
    settings = flags.read_settings(config)
    quarantine = Quarantine.of(settings.watch)
    found = quarantine.files() if job is None else [_called(job, quarantine.files())]
    if not found:
        say("Nothing is quarantined.")
    failed = 0
    with closing(Ledger(settings.state_dir)) as ledger:
        for one in found:
            try:
                path = try_again(quarantine, one, ledger)
            except UsageError as error:
                if not everything:
                    raise
                failed += 1
                say(f"{one.id} stays: {error}", err=True)
                continue
            say(f"{one.id} is back: {path}")
    if failed:
        raise typer.Exit(1)


def _called(name: str, found: Sequence[Quarantined]) -> Quarantined:
    """Return the one file that a name means; a whole id wins over all else."""
    named = [one for one in found if one.id == name] or [one for one in found if one.is_called(name)]
    if not named:
        raise UsageError(f"No quarantined file is called '{name}'.", "See `style-pipeline status`.")
    if len(named) > 1:
        ids = ", ".join(one.id for one in named)
        raise UsageError(f"'{name}' means {len(named)} quarantined files: {ids}.", "Give a whole id.")
    return named[0]


@app.command(examples=["style-pipeline health"])
def health(config: flags.ConfigPath = None) -> None:
    """Check that the daemon runs and has free space. If not, the exit code is 3."""
    from ...storage.ledger import Ledger
    from ...watch.status import examine_daemon

    settings = flags.read_settings(config)
    with closing(Ledger(settings.state_dir)) as ledger:
        print_checks(examine_daemon(settings, ledger))


@service.command(examples=["style-pipeline service systemd --user"])
def systemd(
    config: flags.ConfigPath = None,
    user: Annotated[
        bool, typer.Option("--user", help="For the user's own manager instead of the system's.")
    ] = False,
) -> None:
    """Print a unit file for systemd."""
    from ...watch.service import systemd_unit

    settings = flags.read_settings(config)
    command = [str(Path(sys.executable).with_name("style-pipeline")), "watch"]
    command += ["--config", str(config.resolve())] if config else []
    print_document(systemd_unit(settings, command, Path.cwd(), "" if user else _user_name()))


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # this user id has no name; a unit accepts the number
        return str(os.getuid())
