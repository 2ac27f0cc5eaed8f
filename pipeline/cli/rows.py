"""Progress rows that fit the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

SHORTEST_BAR, LONGEST_BAR = 12, 40
SHORTEST_NAME, LONGEST_NAME = 6, 32
GAP = 2
# Kept free at the end of a row, where a terminal shows ^C: it must not start a line of its own.
FREE = 4


@dataclass(frozen=True)
class Row:
    """The progress of a job or a batch, its remaining time, and further details, most important first.

    `begun` is the part of the next step that is done.
    """

    name: str
    done: int
    total: int
    left: str = ""
    more: tuple[str, ...] = ()
    begun: float = 0.0


@dataclass(frozen=True)
class Widths:
    """Widths of a table's columns, 0 for a column left out; `more` is the number of further columns."""

    name: int
    bar: int
    left: int
    more: int


def plan_widths(rows: Sequence[Row], width: int) -> Widths:
    """Divide a terminal's width: count and time left come first, then bar, name and further details."""
    count, left = _widest([_count(row) for row in rows]), _widest([row.left for row in rows])
    space = width - FREE - sum(column + GAP for column in (count, left) if column)
    names = min(_widest([row.name for row in rows]), LONGEST_NAME)
    bar = SHORTEST_BAR if space >= SHORTEST_BAR + GAP + min(names, SHORTEST_NAME) else 0
    name = max(min(names, space - (bar + GAP if bar else 0)), min(names, SHORTEST_NAME), 1)
    space -= name + (bar + GAP if bar else 0)
    more = 0
    for column in range(max((len(row.more) for row in rows), default=0)):
        needed = _widest([row.more[column] for row in rows if column < len(row.more)]) + GAP
        if needed > space:
            break
        space -= needed
        more += 1
    # On an even narrower terminal every column is cut at its end.
    left = max(min(left, width - name - count - 2 * GAP), 0)
    return Widths(name, min(bar + max(space, 0), LONGEST_BAR) if bar else 0, left, more)


def progress_table(rows: Sequence[Row], width: int) -> Table:
    """Return rows as a table of one line each."""
    widths = plan_widths(rows, width)
    count = 1 + bool(widths.bar) + 2 + widths.more
    table = Table(
        *(Column(no_wrap=True, overflow="crop") for _ in range(count)),
        box=None,
        show_header=False,
        padding=(0, GAP, 0, 0),
        pad_edge=False,
    )
    for row in rows:
        name = Text(row.name)
        name.truncate(widths.name, overflow="ellipsis")
        bar: list[RenderableType] = []
        if widths.bar:
            bar = [ProgressBar(max(row.total, 1), row.done + row.begun, widths.bar)]
        more = [row.more[i] if i < len(row.more) else "" for i in range(widths.more)]
        left = Text(row.left)
        left.truncate(widths.left)
        table.add_row(name, *bar, Text(_count(row)), left, *map(Text, more))
    return table


def _count(row: Row) -> str:
    return f"{row.done}/{row.total}"


def _widest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)
