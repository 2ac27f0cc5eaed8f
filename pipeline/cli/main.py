"""The command line: all commands, and how every error ends."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from ..errors import DiskError, PipelineError, Unexpected
from ..spec.text import one_line
from ..threads import sleep_while_waiting
from ..version import VERSION
from .commands import batch, control, flags, hooks, information, picture, serve, sheet, trial, watch, weights
from .commands.help import SET_UP, WATCH, Commands
from .commands.output import print_result, say
from .streams import guarded, open_closed_streams

app = Commands(
    name="style-pipeline",
    help="Neural style transfer as a batch pipeline and a watched folder: pictures in, styled pictures out.",
    no_args_is_help=True,
    epilog="style-pipeline stylize me.jpg scream.jpg -o out.png\nstyle-pipeline COMMAND --help",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (
    picture.app,
    batch.app,
    trial.app,
    sheet.app,
    watch.app,
    control.app,
    serve.app,
    hooks.app,
    information.app,
):
    app.add_typer(group)
app.add_typer(weights.app, name="weights", rich_help_panel=SET_UP)
app.add_typer(watch.service, name="service", rich_help_panel=WATCH)

# What typer raises for a wrong command line; it exports only subclasses.
CommandLineError: type[Any] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def main() -> None:
    """Run the command line; every error ends here with its message and its exit code."""
    open_closed_streams()
    sleep_while_waiting()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = guarded(sys.stdout, 1), guarded(sys.stderr, 2)
    try:
        sys.exit(exit_code())
    finally:
        sys.stdout, sys.stderr = streams


def exit_code() -> int:
    """Run the command line; report its error, if there is one, and return its exit code."""
    try:
        return app(prog_name="style-pipeline", standalone_mode=False) or 0
    except (typer.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except CommandLineError as error:
        error.message = "\n".join(map(one_line, _in_plain_words(error).split("\n")))
        error.show()
        return int(error.exit_code)
    except PipelineError as error:
        return report(error)
    except Exception as error:
        if isinstance(error, OSError) and "--install-completion" in sys.argv:
            return report(_not_installed(error))
        details = "".join(traceback.format_exception(error))
        return report(Unexpected(f"unexpected {type(error).__name__}: {error}", details))


def _not_installed(error: OSError) -> DiskError:
    return DiskError(
        f"{error.filename}: cannot be written ({error.strerror or error}).",
        "Put what --show-completion prints where your shell reads it.",
    )


def report(error: PipelineError) -> int:
    """Say what went wrong, and return its exit code."""
    if isinstance(error, Unexpected):
        say(*error.details.splitlines(), err=True)
    first, *others = error.lines
    say(f"Error: {first}", *others, *filter(None, [error.next_step]), err=True)
    return error.exit_code


def _in_plain_words(error: Any) -> str:
    """Return what is wrong with a command line, worded as for config.yaml and manifests."""
    from pydantic import ValidationError

    from ..spec.problems import explain_value

    cause = error.__cause__
    return explain_value(cause) if isinstance(cause, ValidationError) else str(error.message)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_result(f"style-pipeline {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: flags.Verbose = False,
    quiet: flags.Quiet = False,
) -> None:
    pass
