"""Arranges the pictures of a batch: which are rows, columns and groups, and how they differ. Pure."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ..spec.recipe import FIRST_FIELDS
from .records import Picture, Source

# A grid with fewer of its cells filled is harder to read than a wall.
FILLED = 2 / 3
# A column with fewer is not worth its place: its pictures go to a wall below.
COLUMN_FILLED = 1 / 3
# Recipe fields that say nothing about how a picture looks.
ONLY_NAMES = frozenset({"name"})


@dataclass(frozen=True)
class Group:
    """Columns that belong together, with their labels. The style of `picture` heads the group."""

    label: str
    columns: tuple[str, ...]
    picture: int


@dataclass(frozen=True)
class Row:
    """A row of cells, each with the indices of its pictures. Its head is part of what made `picture`."""

    label: str
    cells: tuple[tuple[int, ...], ...]
    picture: int


@dataclass(frozen=True)
class Layout:
    """A grid of `rows` if there are any, then a wall of the pictures that are in no cell.

    `differences` says how each picture differs from its neighbours. `rows_are` says what heads the rows:
    contents, styles, or values of a recipe field.
    """

    wall: tuple[int, ...]
    differences: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    rows: tuple[Row, ...] = ()
    rows_are: str = "contents"


def arrange(pictures: Sequence[Picture]) -> Layout:
    """Arrange pictures: contents are rows, and styles and swept values columns; single pairs are a wall.

    With one content, styles are the rows and swept values the columns. With one style, too, the values of the
    first swept field are the rows.
    """
    known = [index for index, picture in enumerate(pictures) if picture.content is not None]
    variants = variant_labels([pictures[index].recipe for index in known])
    contents = content_labels([pictures[index] for index in known])
    styles = style_labels([pictures[index] for index in known])
    placed = [_Placed(*each) for each in zip(known, contents, styles, variants, strict=True)]
    placed.sort(key=lambda one: tuple(map(natural, (one.content, one.style, one.variant))))
    unknown = tuple(index for index, picture in enumerate(pictures) if picture.content is None)
    groups, rows, rows_are = _grid(placed) or ((), (), "contents")
    in_grid = {index for row in rows for cell in row.cells for index in cell}
    differences, differing = [""] * len(pictures), _differing(placed)
    for one in placed:
        parts = ("variant",) if one.index in in_grid else differing
        differences[one.index] = " · ".join(filter(None, (getattr(one, part) for part in parts)))
    wall = (*(one.index for one in placed if one.index not in in_grid), *unknown)
    return Layout(wall, tuple(differences), groups, rows, rows_are)


@dataclass(frozen=True)
class _Placed:
    index: int
    content: str
    style: str
    values: tuple[str, ...]

    @property
    def variant(self) -> str:
        return ", ".join(self.values)


@dataclass(frozen=True)
class _Cell:
    """Where a picture goes in a grid: its row, and its column in a group."""

    row: str
    group: str
    column: str


def _cell_in_rows_of(kind: str, one: _Placed) -> _Cell:
    if kind == "contents":
        return _Cell(one.content, one.style, one.variant)
    if kind == "styles":
        *groups, column = one.values or ("",)
        return _Cell(one.style, ", ".join(groups), column)
    row, *columns = one.values or ("",)
    return _Cell(row, "", ", ".join(columns))


def _differing(placed: Sequence[_Placed]) -> tuple[str, ...]:
    """Return in which of their parts pictures on a wall differ."""
    parts = ("content", "style", "variant")
    return tuple(part for part in parts if len({getattr(one, part) for one in placed}) > 1)


def _grid(placed: Sequence[_Placed]) -> tuple[tuple[Group, ...], tuple[Row, ...], str] | None:
    """Return the groups of columns, the rows, and what the rows are; None where a wall is better.

    A column of few pictures, such as that of a single pair with a recipe of its own, is left out.
    """
    contents, styles = ({getattr(one, part) for one in placed} for part in ("content", "style"))
    rows_are = "contents" if len(contents) > 1 else "styles" if len(styles) > 1 else "values"
    heads: dict[str, int] = {}  # of rows, with their first pictures
    groups: dict[str, int] = {}
    columns: dict[tuple[str, str], dict[str, list[int]]] = {}
    for one in placed:
        cell = _cell_in_rows_of(rows_are, one)
        heads.setdefault(cell.row, one.index)
        groups.setdefault(cell.group, one.index)
        columns.setdefault((cell.group, cell.column), {}).setdefault(cell.row, []).append(one.index)
    kept = [column for column in columns if len(columns[column]) >= COLUMN_FILLED * len(heads)]
    kept.sort(key=lambda column: [(natural(part), part) for part in column])
    rows = tuple(
        Row(head, tuple(tuple(columns[column].get(head, ())) for column in kept), heads[head])
        for head in sorted(heads, key=natural)
        if any(head in columns[column] for column in kept)
    )
    filled = sum(len(columns[column]) for column in kept)
    if len(rows) < 2 or len(kept) < 2 or filled < FILLED * len(rows) * len(kept):
        return None
    return tuple(_groups(kept, groups if rows_are == "contents" else {})), rows, rows_are


def _groups(columns: Sequence[tuple[str, str]], pictures: Mapping[str, int]) -> Iterator[Group]:
    """Yield the groups of columns in their order; `pictures` are of the styles that head them."""
    for name, same in itertools.groupby(columns, lambda column: column[0]):
        yield Group(name, tuple(label for _, label in same), pictures.get(name, -1))


def variant_labels(recipes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Say in which fields each recipe differs from the others, a text a field; none where all are the same.

    Fields that follow from others are left out: those of a preset, where there are several.
    """
    wholes = [json.dumps(recipe) for recipe in recipes]  # most pictures share a recipe
    distinct = dict(zip(wholes, recipes, strict=True))
    labels = dict(zip(distinct, _labels_of_distinct(list(distinct.values())), strict=True))
    return [labels[whole] for whole in wholes]


def _labels_of_distinct(recipes: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    texts = [{name: json.dumps(value) for name, value in recipe.items()} for recipe in recipes]
    others = sorted({name for text in texts for name in text} - {"preset", *FIRST_FIELDS, *ONLY_NAMES})
    chosen: list[str] = []
    parts: list[tuple[str, ...]] = [()] * len(recipes)
    for name in ("preset", *FIRST_FIELDS, *others):
        finer = [(*part, text.get(name, "")) for part, text in zip(parts, texts, strict=True)]
        if len(set(finer)) > len(set(parts)):
            chosen.append(name)
            parts = finer
    return [tuple(f"{name} {_plain(recipe.get(name))}" for name in chosen) for recipe in recipes]


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def content_labels(pictures: Sequence[Picture]) -> list[str]:
    """Name each picture's content as shortly as it is unique; other bytes at the same path get a number."""
    contents = [picture.content or Source("", "") for picture in pictures]
    names = _short_names([content.path for content in contents])
    numbers: dict[str, dict[str, int]] = {}
    labels = []
    for content in contents:
        same_path = numbers.setdefault(content.path, {"": 1})  # bytes that could not be read
        number = same_path.setdefault(content.sha256, len(same_path))
        labels.append(names[content.path] + (f" ({number})" if number > 1 else ""))
    return labels


def style_labels(pictures: Sequence[Picture]) -> list[str]:
    """Return the name of each picture's style, with a number where another style has it too."""
    keys = [_style_identity(picture) for picture in pictures]
    named: dict[str, dict[Hashable, str]] = {}
    for picture, key in zip(pictures, keys, strict=True):
        same_name = named.setdefault(picture.style, {})
        number = f" ({len(same_name) + 1})" if same_name else ""
        same_name.setdefault(key, f"{picture.style or 'style'}{number}")
    return [named[picture.style][key] for picture, key in zip(pictures, keys, strict=True)]


def _style_identity(picture: Picture) -> Hashable:
    def identity(source: Source) -> tuple[str, float]:
        return source.path, source.share

    return tuple(map(identity, picture.styles))


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return for each path its stem, or as much more of the path as tells it from the others."""
    left, names, depth = set(paths), dict[str, str](), 0
    while left:
        tries: dict[str, list[str]] = {}
        for path in left:
            tries.setdefault(_end_of(path, depth), []).append(path)
        for short, same in tries.items():
            if len(same) == 1 or depth > len(PurePath(same[0]).parts):
                names |= dict.fromkeys(same, short)
        left -= names.keys()
        depth += 1
    return names


def _end_of(path: str, depth: int) -> str:
    """Return the stem of a path; from depth 1 on its name, with one folder more for each further step."""
    pure = PurePath(path)
    return pure.stem if depth == 0 else "/".join(pure.parts[-depth:])


def natural(text: str) -> tuple[tuple[int, float, str], ...]:
    """Return a key that sorts numbers in a text by their value."""
    parts = re.findall(r"\d+(?:\.\d+)?|\D+|\d+", text)
    return tuple(
        (0, float(part), part) if part[0].isdecimal() else (1, 0.0, part.casefold()) for part in parts
    )
