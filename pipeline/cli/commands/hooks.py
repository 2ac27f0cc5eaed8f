"""`hooks`: which there are, and a trial; and what lets `run` and `watch` tell them what happens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ...spec.events import EventKind
from . import flags
from .help import SET_UP, Commands
from .output import print_result, say
from .showing import show_lines

if TYPE_CHECKING:
    from ...spec.config import Config
    from ..hook_display import HookDisplay

app = Commands(SET_UP)


@app.command(examples=["style-pipeline hooks", "style-pipeline hooks failed"])
def hooks(
    event: Annotated[EventKind | None, typer.Argument(help="Run the hooks of this event now.")] = None,
    config: flags.ConfigPath = None,
) -> None:
    """List the hooks of config.yaml, or try those of one event."""
    from ...hooks.queues import HookQueues, check_hooks
    from ..hook_display import example_event
    from ..signals import stop_signal

    settings = flags.read_settings(config)
    found = [hook for hook in settings.hooks if event is None or event in hook.when]
    if not found:
        say(f"No hooks{f' for {event}' if event else ''} in the configuration; see docs/hooks.md.", err=True)
    if event is None:
        print_result(*(f"{', '.join(hook.when)}: {hook.label}" for hook in found))
        return
    check_hooks(found)
    queues = HookQueues(found)
    with show_lines(logging.DEBUG), stop_signal(lambda: None) as stopped:
        queues.tell(example_event(event, settings))
        queues.close(lambda: bool(stopped))
    if stopped:
        raise typer.Exit(128 + stopped[0])
    if queues.failures:
        raise typer.Exit(1)


@contextmanager
def telling_hooks(settings: Config, is_run: bool = False) -> Iterator[HookDisplay]:
    """Give a display that tells hooks what happens, and wait for them at the end.

    Raises:
        UsageError: the command of a hook is not there.
    """
    from ...hooks.queues import check_hooks
    from ..hook_display import HookDisplay
    from ..signals import stop_signal

    check_hooks(settings.hooks)
    display = HookDisplay(settings, is_run)
    try:
        yield display
    finally:
        with stop_signal(display.stopping, with_hang_up=True):
            display.close()
