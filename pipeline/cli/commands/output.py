"""How commands print. Every text stays on one line, even if a file name in it has line breaks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ...errors import DiskError, MachineError
from ...spec.text import one_line
from ..streams import write_error

if TYPE_CHECKING:
    from ...watch.status import Check


def say(*lines: object, err: bool = False) -> None:
    """Print lines."""
    for line in lines:
        typer.echo(one_line(str(line)), err=err)


def print_result(*lines: object) -> None:
    """Print the result of a command.

    Raises:
        DiskError: it cannot be written.
    """
    say(*lines)
    check_printed()


def print_document(text: str) -> None:
    """Print text of several lines as it is. Errors as in `print_result`."""
    typer.echo(text, nl=False)
    check_printed()


def print_checks(checks: Sequence[Check]) -> None:
    """Print checks.

    Raises:
        MachineError: one of them failed.
        DiskError: they cannot be written.
    """
    print_result(*(f"{'ok ' if check.ok else 'BAD'}  {check.label:<12} {check.text}" for check in checks))
    if not all(check.ok for check in checks):
        raise MachineError("Something above needs attention.")


def check_printed() -> None:
    """Check that everything was written to standard output. Errors as in `print_result`."""
    if error := write_error(sys.stdout):
        raise DiskError(
            f"Standard output cannot be written ({error.strerror or error}).", "Send it elsewhere."
        )
