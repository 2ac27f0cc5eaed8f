"""What people ask of the daemon: `pause`, `resume`, `cancel`, `first`. The page has a button for each."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete, flags
from .help import WATCH, Commands
from .output import say

if TYPE_CHECKING:
    from ...spec.config import Config
    from ...storage.control import Control, Drop

app = Commands(WATCH)

# How long `cancel` waits for the daemon, and how often it looks: a process that removes a file tells nobody.
PATIENCE_S, LOOK_S = 10.0, 0.1
RESUME = "`style-pipeline resume`"

Name = Annotated[
    str,
    typer.Argument(
        help="What `status` calls it: its path, its file's name, or the picture that is being made.",
        autocompletion=complete.waiting,
    ),
]


@app.command(examples=["style-pipeline pause"])
def pause(config: flags.ConfigPath = None) -> None:
    """Pause the daemon: the picture that it is making stops, too.

    What is done of the picture is kept, and nothing else is taken until `resume`. A pause outlives the
    daemon: one that starts meanwhile waits, too.
    """
    _, control, status = _open(config)
    if not control.pause():
        say(f"Paused already; {RESUME} ends the pause.")
    elif not status["alive"]:
        say(f"Paused: a daemon that starts takes nothing until {RESUME}.")
    elif running := status["running"]:
        say(f"Paused: {running['name']} stops soon. {RESUME} continues it from there.")
    else:
        say(f"Paused: nothing is taken until {RESUME}.")


@app.command(examples=["style-pipeline resume"])
def resume(config: flags.ConfigPath = None) -> None:
    """End a pause: the daemon continues where it stopped."""
    _, control, status = _open(config)
    if control.resume():
        say("Resumed.")
    elif status["paused"]:
        say(f"Nobody paused the daemon. It waits because of this: {status['paused']}")
    else:
        say("Nobody paused the daemon.")
    if not status["alive"]:
        say("No daemon is running; `style-pipeline watch` starts one.")


@app.command(examples=["style-pipeline cancel photo.jpg", "style-pipeline cancel photo--monet"])
def cancel(name: Name, config: flags.ConfigPath = None) -> None:
    """Cancel a picture that waits or is being made.

    Its original goes to the quarantine; `retry` brings it back. This cancels all that is made of it: every
    style, or every picture of a manifest. What was finished stays.
    """
    from ...watch.drops import find_drop

    settings, control, status = _open(config)
    drop = find_drop(name, status)
    control.cancel(drop)
    if not status["alive"]:
        say(f"{drop.path} is cancelled as soon as a daemon starts.")
    elif not _is_obeyed(control, drop):
        say(f"{drop.path} is to be cancelled; `style-pipeline status` shows when it is.")
    else:
        _report_cancelled(settings, drop)


@app.command(examples=["style-pipeline first photo.jpg"])
def first(name: Name, config: flags.ConfigPath = None) -> None:
    """Put a waiting picture before all others.

    What is being made now is finished first.
    """
    from ...watch.drops import find_drop

    _, control, status = _open(config)
    drop = find_drop(name, status)
    control.put_first(drop)
    if status["paused_by_user"] is not None:
        say(f"{drop.path} comes first after {RESUME}.")
    elif not status["alive"]:
        say(f"{drop.path} comes first when a daemon starts.")
    else:
        say(f"{drop.path} comes next.")


def _open(config: Path | None) -> tuple[Config, Control, dict[str, Any]]:
    """Return the configuration, the requests to its daemon, and what `read_status` says."""
    from ...storage.control import Control
    from ...watch.status import current_status

    settings = flags.read_settings(config)
    return settings, Control(settings.watch.inbox), current_status(settings)


def _is_obeyed(control: Control, drop: Drop) -> bool:
    """Wait until the daemon has removed the requests to cancel a drop; False if it takes long."""
    until = time.monotonic() + PATIENCE_S
    while any(one.kind == "cancel" and one.path == drop.path for one in control.requests()):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_S)
    return True


def _report_cancelled(settings: Config, drop: Drop) -> None:
    from ...watch.quarantine import Quarantine

    files = Quarantine.of(settings.watch).files()
    found = [one for one in files if one.report["path"] == drop.path and one.report.get("cancelled")]
    if not found:
        say(f"{drop.path} was finished before it could be cancelled.", err=True)
        raise typer.Exit(1)
    say(f"{drop.path} is cancelled. `style-pipeline retry {found[-1].id}` brings it back.")
