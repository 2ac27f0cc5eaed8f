"""Finds the files that an entry of a manifest names, and says what it passed over.

A name without wildcards is taken as it is. A wildcard finds only names of pictures, and none that are hidden
or ignored. It enters no folder that is hidden, ignored or excluded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .names import composed, is_picture, matches, reason_to_ignore

WILDCARDS = frozenset("*?[")
# The number of names that are listed of each kind that is passed over.
EXAMPLES = 3


@dataclass(frozen=True)
class Exclusions:
    """What wildcards never match: folders, and patterns of names in addition to those of `names.py`."""

    names: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()


NO_EXCLUSIONS = Exclusions()


@dataclass
class Found:
    """The files that a glob found, and what it passed over: by its suffix, its name, or its folder."""

    files: list[Path] = field(default_factory=list)
    others: set[Path] = field(default_factory=set)
    ignored: set[Path] = field(default_factory=set)
    excluded: set[Path] = field(default_factory=set)
    unreadable: dict[Path, str] = field(default_factory=dict)

    def passed_over(self) -> str:
        """Say what was passed over; "" if nothing was."""
        suffixes = [path.suffix.lower() or "no suffix" for path in self.others]
        kinds = (
            ("with other suffixes", suffixes),
            ("with ignored names", [path.name for path in self.ignored]),
            ("for results, originals, state or cache", [path.name for path in self.excluded]),
        )
        parts = [f"{len(found)} {kind} ({_listed(found)})" for kind, found in kinds if found]
        parts += [f"{folder}, which cannot be read ({why})" for folder, why in self.unreadable.items()]
        return ", ".join(parts)


def is_glob(entry: str) -> bool:
    return not WILDCARDS.isdisjoint(entry)


class DiskNames:
    """The names in folders. Each folder is read once: a manifest may list 100,000 files of one."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[dict[str, str], dict[str, str]]] = {}

    def child(self, folder: Path, name: str) -> Path | None:
        """Return the entry of a folder with this name, in any Unicode form."""
        if name == ".." or os.path.lexists(folder / name):
            return folder / name
        found = self._names(folder)[0].get(composed(name))
        return folder / found if found else None

    def as_on_disk(self, path: Path) -> Path:
        """Return a path in the Unicode form that the disk uses, if it exists under an equivalent name."""
        if os.path.lexists(path):
            return path
        there = Path(path.anchor)
        for part in path.relative_to(there).parts:
            there = self.child(there, part) or there / part
        return there

    def in_other_case(self, path: Path) -> str:
        """Return the name of a file that differs only in case; "" if there is none."""
        return self._names(path.parent)[1].get(composed(path.name).lower(), "")

    def _names(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """Return the names in a folder by their composed form, and by that in lower case."""
        if folder not in self._read:
            by_form: dict[str, str] = {}
            by_case: dict[str, str] = {}
            with suppress(OSError):  # missing or not readable: no name is found in it either way
                for name in sorted(os.listdir(folder)):
                    by_form.setdefault(composed(name), name)
                    by_case.setdefault(composed(name).lower(), name)
            self._read[folder] = by_form, by_case
        return self._read[folder]


def find(start: Path, parts: Sequence[str], exclusions: Exclusions = NO_EXCLUSIONS) -> Found:
    """Find the files below `start` that the parts of a pattern name.

    `**` stands for any folders, and at the end for everything below; it follows no symbolic links. If a
    folder contains a part literally, even with brackets in it, the part is that name. Case does not count.
    """
    walk = _Walk(parts, exclusions)
    walk.run(start)
    walk.found.files = sorted(set(walk.found.files))
    return walk.found


class _Walk:
    """Walks folders for a pattern. A position is a folder and the index of the part to match in it."""

    def __init__(self, parts: Sequence[str], exclusions: Exclusions) -> None:
        self.parts = parts
        self.exclusions = exclusions
        self.found = Found()
        self._names = DiskNames()
        self._excluded: list[Path] = []
        self._todo: list[tuple[Path, int]] = []

    def run(self, start: Path) -> None:
        named = self._named(start)
        # An entry that names an excluded folder itself means it.
        self._excluded = [folder for folder in self.exclusions.folders if not named.is_relative_to(folder)]
        self._todo, seen = [(start, 0)], set()
        while self._todo:
            place = self._todo.pop()
            if place not in seen:
                seen.add(place)
                self._scan(*place)

    def _named(self, start: Path) -> Path:
        """Return the folder or file that a pattern names before its first wildcard."""
        folder = start
        for part in self.parts:
            child = self._names.child(folder, part)
            if child is None:
                break
            folder = child
        return folder.resolve()

    def _scan(self, folder: Path, number: int) -> None:
        part = self.parts[number]
        if part == "**":
            self._scan_below(folder, number)
        elif not is_glob(part):
            if child := self._names.child(folder, part):
                self._add(child, number, wild=False)
        else:
            paths = [Path(entry.path) for entry in self._entries(folder)]
            named = [path for path in paths if composed(path.name) == composed(part)]
            for path in named or paths:
                if named or matches(path.name, (part,)):
                    self._add(path, number, wild=not named)

    def _scan_below(self, folder: Path, number: int) -> None:
        last = number == len(self.parts) - 1
        if not last:
            self._todo.append((folder, number + 1))
        for entry in self._entries(folder):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                if self._is_allowed(path) and not self._is_excluded(path):
                    self._todo.append((path, number))
            elif last:
                self._add(path, number, wild=True)

    def _add(self, path: Path, number: int, wild: bool) -> None:
        """Continue in a folder, or add a file that the last part matches."""
        last = number == len(self.parts) - 1
        try:
            if not (path.is_file() if last else path.is_dir()) or (wild and not self._is_allowed(path)):
                return
            if last and wild and not is_picture(path.name):
                self.found.others.add(path)
            elif last and not (path.is_symlink() and self._is_excluded(path)):
                self.found.files.append(path.resolve())
            elif not last and not self._is_excluded(path):
                self._todo.append((path, number + 1))
        except OSError as error:
            self.found.unreadable[path] = error.strerror or str(error)

    def _is_allowed(self, path: Path) -> bool:
        if reason_to_ignore(path.name, self.exclusions.names):
            self.found.ignored.add(path)
            return False
        return True

    def _is_excluded(self, path: Path) -> bool:
        """Return whether a folder, or the target of a link, is inside an excluded folder."""
        there = path.resolve()
        if any(there.is_relative_to(folder) for folder in self._excluded):
            self.found.excluded.add(path)
            return True
        return False

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self.found.unreadable[folder] = error.strerror or str(error)
            return []


def _listed(names: Sequence[str]) -> str:
    """List the most frequent names, with a count for those that occur more than once."""
    counts = Counter(sorted(names))
    named = [name if count == 1 else f"{name} {count} times" for name, count in counts.most_common(EXAMPLES)]
    return ", ".join([*named, *(["..."] if len(counts) > EXAMPLES else [])])
