"""What `--help` shows: examples, then commands and options under headings. Plain text, which is quick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Function = TypeVar("Function", bound=Callable[..., Any])
Rows = list[tuple[str, str]]

# Headings of commands.
MAKE, LOOK, WATCH, SET_UP = "Make pictures", "Look at them", "The watched folder", "Set up"
# Headings of options, in the order in which they are shown.
ARGUMENTS, WHAT, RECIPE, FILES = "Arguments", "What to make", "Recipe", "Folders and files"
LIMITS, PAGE, OUTPUT, OPTIONS = "Time and machine", "The page", "Output", "Options"
ORDER = (ARGUMENTS, WHAT, RECIPE, FILES, LIMITS, PAGE, OUTPUT, OPTIONS)


class Commands(typer.Typer):
    """Commands that the help lists under one heading."""

    def __init__(self, heading: str = "Commands", **more: Any) -> None:
        super().__init__(cls=Group, **more)
        self.heading = heading

    def command(
        self, name: str | None = None, *, examples: Sequence[str] = (), **more: Any
    ) -> Callable[[Function], Function]:
        """Add a command. Its `examples` are command lines that work as they stand."""
        parts = {"cls": Command, "epilog": "\n".join(examples), "rich_help_panel": self.heading}
        return super().command(name, **{**parts, **more})


class Command(TyperCommand):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_help(self, ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_sections(_option_rows(self.get_params(ctx), ctx), formatter)


class Group(TyperGroup):
    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_help(self, ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _write_sections(_option_rows(self.get_params(ctx), ctx), formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, command) for name, command in commands if command and not command.hidden]
        width = max((len(name) for name, _ in shown), default=0)
        sections: dict[str, Rows] = {}
        for name, command in shown:
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            # As wide as the widest of all sections, so that the texts stand in one column.
            row = f"{name:<{width}}", command.get_short_help_str(formatter.width - width - 6)
            sections.setdefault(heading, []).append(row)
        _write_sections(sections.items(), formatter)


def _option_rows(params: Iterable[Any], ctx: Any) -> Iterable[tuple[str, Rows]]:
    """Return parameters by their headings."""
    sections: dict[str, Rows] = {heading: [] for heading in ORDER}
    for param in params:
        if (row := param.get_help_record(ctx)) is not None:
            own = ARGUMENTS if param.param_type_name == "argument" else OPTIONS
            sections[getattr(param, "rich_help_panel", None) or own].append(row)
    return sections.items()


def _write_help(command: Command | Group, ctx: Any, formatter: Any) -> None:
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, formatter)
    if examples := (command.epilog or "").splitlines():
        with formatter.section("Examples" if len(examples) > 1 else "Example"):
            for line in examples:
                formatter.write(f"{' ' * formatter.current_indent}{line}\n")
    command.format_options(ctx, formatter)


def _write_sections(sections: Iterable[tuple[str, Rows]], formatter: Any) -> None:
    for heading, rows in sections:
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)
