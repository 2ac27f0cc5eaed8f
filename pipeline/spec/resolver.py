"""Turns the entries of a manifest into existing files and styles, and gathers every problem on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .batches import PairRow
from .entries import Pair, StyleEntry, StyleField
from .globs import DiskNames, Exclusions, find, is_glob
from .jobs import Masks, Style
from .models import expanded, listed
from .problems import Problem
from .regions import Color
from .text import counted
from .yaml12 import KeyPath


class Resolver:
    """Finds files relative to `folder`. `problems` are errors; `notes` are what globs passed over."""

    def __init__(self, folder: Path, exclusions: Exclusions) -> None:
        self.folder = folder
        self.exclusions = exclusions
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._found: dict[str, list[Path]] = {}
        self._names = DiskNames()

    def contents(self, entries: Sequence[str]) -> tuple[Path, ...]:
        found = (self._files(entry, ("contents", index)) for index, entry in enumerate(entries))
        return tuple(path for paths in found for path in paths)

    def styles(self, entries: Sequence[StyleEntry]) -> tuple[Style, ...]:
        found = (self._styles(entry, ("styles", index)) for index, entry in enumerate(entries))
        return tuple(style for styles in found for style in styles)

    def pairs(self, pairs: Sequence[Pair], fields: Sequence[Mapping[str, Any]]) -> tuple[PairRow, ...]:
        """Return every content of a pair with every style of it, and the pair's own `fields`."""
        rows: list[PairRow] = []
        for index, (pair, own) in enumerate(zip(pairs, fields, strict=True)):
            contents = self._files(pair.content, ("pairs", index, "content"))
            styles = self._pair_styles(pair, ("pairs", index))
            rows += [PairRow(content, *style, own) for content in contents for style in styles]
        return tuple(rows)

    def zipped(self, contents: Sequence[Path], styles: Sequence[Style]) -> tuple[PairRow, ...]:
        """Return each content with the style in its place; unequal numbers are a problem."""
        # Where a file is missing, that is the problem.
        if len(contents) != len(styles) and not self.problems:
            found = f"{counted(len(contents), 'content')} and {counted(len(styles), 'style')}"
            self.problems.append(Problem(("pair",), f"zip needs as many contents as styles; found {found}"))
        return tuple(PairRow(*each, None, {}) for each in zip(contents, styles, strict=False))

    def check_invalid(self, data: Mapping[str, Any]) -> None:
        """Check the files of a manifest that has other errors, where its entries can be understood."""
        for index, entry in enumerate(listed(data.get("contents")) or []):
            if isinstance(entry, str) and entry:
                self._files(entry, ("contents", index))
        for index, entry in enumerate(listed(data.get("styles")) or []):
            try:
                style = TypeAdapter(StyleField).validate_python(entry)
            except ValidationError:
                continue
            self._styles(style, ("styles", index))
        for index, entry in enumerate(listed(data.get("pairs")) or []):
            for keys, path in _paths_in_pair(entry):
                self._files(path, ("pairs", index, *keys))

    def _files(self, entry: str, keys: KeyPath) -> list[Path]:
        """Return the files of an entry. A missing file is reported at every entry that names it."""
        if not self._found.get(entry):
            self._found[entry] = self._find(entry, keys)
        return self._found[entry]

    def _find(self, entry: str, keys: KeyPath) -> list[Path]:
        try:
            path = self._names.as_on_disk(self.folder / expanded(entry))
            if path.is_file():  # perhaps with brackets in its name
                return [path.resolve()]
            if is_glob(entry):
                return self._matches(entry, keys)
            why = _why_no_file(path, entry, self._names)
        except OSError as error:
            why = f"cannot be read ({error.strerror or error})"
        except ValueError as error:  # a NUL
            why = str(error)
        self.problems.append(Problem(keys, f"{entry[:100]}: {why}"))
        return []

    def _matches(self, entry: str, keys: KeyPath) -> list[Path]:
        pattern = expanded(entry)
        start = Path(pattern.anchor) if pattern.anchor else self.folder
        found = find(start, pattern.relative_to(pattern.anchor).parts, self.exclusions)
        passed_over = found.passed_over()
        if not found.files:
            why = f"; passed over: {passed_over}" if passed_over else ""
            hint = "; if a name contains brackets, write [[] for [" if "[" in entry else ""
            self.problems.append(Problem(keys, f"{entry}: no picture matches{why}{hint}"))
        elif passed_over:
            self.notes.append(f"{entry}: passed over: {passed_over}")
        return found.files

    def _one_file(self, entry: str, keys: KeyPath) -> Path | None:
        found = self._files(entry, keys)
        if len(found) > 1:
            self.problems.append(Problem(keys, f"{entry}: expected one picture; {len(found)} match"))
        return found[0] if found else None

    def _styles(self, entry: StyleEntry, keys: KeyPath) -> list[Style]:
        if entry.blend is not None:
            parts = [
                (found, share)
                for pattern, share in entry.blend.items()
                for found in self._files(pattern, (*keys, "blend", pattern))
            ]
            name = entry.name or "+".join(path.stem for path, _ in parts)
            return [Style(name, tuple(parts))]
        found = self._files(entry.image or "", (*keys, "image") if entry.name else keys)
        if entry.name and len(found) > 1:
            self.problems.append(Problem(keys, f"name '{entry.name}' is for one picture; {len(found)} match"))
        return [Style(entry.name or path.stem, ((path, 1.0),)) for path in found]

    def _pair_styles(self, pair: Pair, keys: KeyPath) -> list[tuple[Style, Masks | None]]:
        """Return the styles that a pair's content gets: one after another, or together with masks."""
        if pair.masks is None:
            assert pair.style is not None  # it has one of them
            return [(style, None) for style in self._styles(pair.style, (*keys, "style"))]
        masks, keys = pair.masks, (*keys, "masks")
        mask = self._one_file(masks.content, (*keys, "content"))
        colors: dict[Path, Color] = {}
        for entry, color in masks.styles.items():
            here = (*keys, "styles", entry)
            found = self._one_file(entry, here)
            if found in colors:
                self.problems.append(Problem(here, f"{entry}: this file has a region already"))
            if found is not None:
                colors[found] = color
        name = masks.name or "+".join(path.stem for path in colors)
        style = Style(name, tuple((path, 1.0) for path in colors))
        return [] if mask is None else [(style, Masks(mask, tuple(colors.values())))]


def _why_no_file(path: Path, entry: str, names: DiskNames) -> str:
    if path.is_dir():
        return f"is a folder; name its pictures, as in {entry.rstrip('/')}/*.jpg"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        there = names.in_other_case(path)
        return f"no such file; there is '{there}'" if there else "no such file"
    return "is not a file, but a pipe or a device"


def _paths_in_pair(entry: Any) -> Iterator[tuple[KeyPath, str]]:
    """Yield every path in a pair that may have other errors, with its place."""
    pair = _mapping(entry)
    masks = _mapping(pair.get("masks"))
    found: list[tuple[KeyPath, Any]] = [
        (("content",), pair.get("content")),
        (("style",), pair.get("style")),
        (("masks", "content"), masks.get("content")),
        *((("masks", "styles", path), path) for path in _mapping(masks.get("styles"))),
    ]
    yield from ((keys, path) for keys, path in found if isinstance(path, str) and path)


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
