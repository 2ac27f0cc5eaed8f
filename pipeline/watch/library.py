"""The style library: the pictures in `styles/` that drops may be painted with, by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from ..spec.names import composed
from .inbox import Seen, identity_of
from .settling import Settling


class StyleLibrary:
    """The style library of a watched inbox: a file of it counts once it has settled and decodes."""

    def __init__(self, inbox: Path, settling: Settling) -> None:
        self.inbox = inbox
        self.settling = settling
        self.known: set[str] = set()  # names, also of styles that are broken or gone
        self.files: tuple[Seen, ...] = ()  # that the last scan found
        self._faults: dict[Seen, str] = {}  # of settled styles that were checked; "" for none
        self._paths: dict[str, Path | None] | None = None  # None: to be read again

    def observe(self, files: tuple[Seen, ...]) -> None:
        """Note what one scan found in the library."""
        self.settling.observe(files)
        self.files, self._paths = files, None
        self._faults = {seen: self._faults[seen] for seen in files if seen in self._faults}
        self.known |= {composed(seen.relative.stem) for seen in files}

    def unchecked(self) -> list[Seen]:
        """Return the styles that have settled and were not checked yet."""
        return [seen for seen in self.settling.ready if seen not in self._faults]

    def note_check(self, seen: Seen, fault: str) -> None:
        """Add a style to the library, or leave it out for a fault."""
        self._faults[seen], self._paths = fault, None

    def is_current(self, path: Path) -> bool:
        """Tell whether a style's file is still the one that was checked."""
        identity = identity_of(path)
        return identity is not None and Seen(path.relative_to(self.inbox), identity) in self._faults

    def unchecked_among(self, paths: Iterable[Path]) -> list[Path]:
        """Return which of these are files of the library that were not checked as they are now."""
        found = {self.inbox / seen.relative for seen in self.files}
        return sorted(path for path in paths if path in found and not self.is_current(path))

    @property
    def paths(self) -> dict[str, Path | None]:
        """The library as `style_paths` returns it."""
        if self._paths is None:
            settled = {seen for seen, fault in self._faults.items() if not fault}
            self._paths = style_paths(self.usable(), settled, self.inbox)
        return self._paths

    def usable(self) -> list[Seen]:
        """Return the files in which no fault was found."""
        return [seen for seen in self.files if not self._faults.get(seen)]


def style_paths(styles: Iterable[Seen], settled: Collection[Seen], inbox: Path) -> dict[str, Path | None]:
    """Name the pictures of the style library by their stems; of two with one stem, the first counts.

    A style that has not settled has a name, but no path yet.
    """
    paths: dict[str, Path | None] = {}
    for seen in styles:
        paths.setdefault(composed(seen.relative.stem), inbox / seen.relative if seen in settled else None)
    return paths


def unused_styles(styles: Iterable[Seen]) -> list[tuple[Path, str]]:
    """Return the files of the style library that are not used because another has their name, and say so."""
    used: dict[str, Path] = {}
    pairs = [(seen.relative, used.setdefault(composed(seen.relative.stem), seen.relative)) for seen in styles]
    return [
        (path, f"not used, as {first.name} has the same name but for its suffix; rename one of them")
        for path, first in pairs
        if path != first
    ]
