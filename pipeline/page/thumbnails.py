"""Small copies of pictures, in `.thumbs/` of a batch: made once, and again when the picture is newer."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from ..storage.paths import claimed_folder
from ..storage.temporary import sweep_unfinished, write_file
from .records import Picture, Source

THUMBS = ".thumbs"
# The longer side of each kind, in pixels. A content is compared with its result: it is as large, up to this.
RESULT_EDGE, LARGE_EDGE, CONTENT_EDGE, STYLE_EDGE = 480, 2048, 1280, 640
QUALITY = 84
# Results that a browser shows as they are; of others it is given a large copy.
SHOWN_AS_THEY_ARE = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MOST_THREADS = 4


@dataclass(frozen=True)
class Thumbnail:
    """A small copy to be made of the first picture in `candidates` that is there.

    With `sha256` the copy is of these bytes, whatever becomes of the original; without, it is made again when
    the picture is newer.
    """

    name: str
    candidates: tuple[Path, ...]
    edge: int
    sha256: str = ""


@dataclass(frozen=True)
class Made:
    """The names of the thumbnails there are; `is_complete`: the time was enough to try all of them."""

    names: frozenset[str]
    is_complete: bool


class Thumbnails:
    """The thumbnails of one batch. `originals` are folders to which contents may have been moved."""

    def __init__(self, folder: Path, originals: Sequence[tuple[Path, Path]] = ()) -> None:
        self.folder = folder
        self.originals = originals

    def plan(self, pictures: Iterable[Picture]) -> list[Thumbnail]:
        """Return what a batch needs; the copies of contents and styles come first."""
        results: list[Thumbnail] = []
        sources: dict[str, Thumbnail] = {}
        for picture in pictures:
            if picture.image:
                path = self.folder / picture.image
                results.append(Thumbnail(result_name(picture), (path,), RESULT_EDGE))
                if path.suffix.lower() not in SHOWN_AS_THEY_ARE:
                    results.append(Thumbnail(large_name(picture), (path,), LARGE_EDGE))
            if picture.content is not None:
                edge = min(CONTENT_EDGE, max(picture.width, picture.height, RESULT_EDGE))
                self._add(sources, content_name(picture.content), picture.content, edge)
            for style in picture.styles:
                self._add(sources, style_name(style), style, STYLE_EDGE)
        return [*sources.values(), *results]

    def _add(self, sources: dict[str, Thumbnail], name: str, source: Source, edge: int) -> None:
        if not source.sha256 or (name in sources and sources[name].edge >= edge):
            return
        sources[name] = Thumbnail(name, tuple(self._places(source)), edge, source.sha256)

    def _places(self, source: Source) -> Iterator[Path]:
        """Yield where a picture may be: of a drop, where it lies while other styles of it are made, too.

        In an archive it has the id of its drop where its name was taken.
        """
        path = Path(source.path)
        yield path
        for start, archive in self.originals:
            if path.is_relative_to(start):
                relative = path.relative_to(start)
                yield archive / relative
                if source.drop:
                    yield archive / relative.with_stem(f"{relative.stem}-{source.drop}")
                    yield claimed_folder(start) / source.drop / relative

    def make(self, wanted: Sequence[Thumbnail], limit_s: float = math.inf) -> Made:
        """Make what is missing or old, for at most `limit_s`.

        A picture that cannot be read has none, and those that nothing needs any more are removed.

        Raises:
            DiskError: one cannot be written.
        """
        end, place = time.monotonic() + limit_s, self.folder / THUMBS
        made = _times(place)
        missing = [one for one in wanted if not is_current(one, made.get(one.name))]
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            done = list(
                pool.map(lambda one: make_thumbnail(one, place) if time.monotonic() < end else None, missing)
            )
        names = {one.name for one in wanted}
        for name in made.keys() - names:
            (place / name).unlink(missing_ok=True)
        if made:
            sweep_unfinished(place)
        failed = {one.name for one, is_made in zip(missing, done, strict=True) if not is_made}
        return Made(frozenset(names - failed), None not in done)


def result_name(picture: Picture) -> str:
    return f"result-{_token(picture.key or picture.name)}.jpg"


def large_name(picture: Picture) -> str:
    return f"large-{_token(picture.key or picture.name)}.jpg"


def content_name(source: Source) -> str:
    return f"content-{_token(source.sha256)}.jpg"


def style_name(source: Source) -> str:
    return f"style-{_token(source.sha256)}.jpg"


def _token(identity: str) -> str:
    """Return a part of a file's name for a digest, or for anything else that a record has in its place."""
    if not re.fullmatch(r"[0-9a-f]{64}", identity):
        identity = hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()
    return identity[:32]


def _times(place: Path) -> dict[str, float]:
    """Return the thumbnails that are there, with their times of modification."""
    if not place.is_dir():
        return {}
    with os.scandir(place) as found:
        return {entry.name: entry.stat().st_mtime for entry in found if entry.name.endswith(".jpg")}


def is_current(wanted: Thumbnail, made: float | None) -> bool:
    """Tell whether a thumbnail `made` at a time, or None, need not be made again."""
    if made is None:
        return False
    try:
        return bool(wanted.sha256) or made >= os.stat(wanted.candidates[0]).st_mtime
    except FileNotFoundError:  # moved to older/ just now
        return False


def make_thumbnail(wanted: Thumbnail, place: Path) -> bool:
    """Make a thumbnail, if one of its pictures can be read; return whether it was made.

    Raises:
        DiskError: it cannot be written.
    """
    from ..images.reading import decode_picture, read_bytes  # large, and not needed to name thumbnails

    for path in wanted.candidates:
        try:
            data = read_bytes(path)
            if wanted.sha256 and hashlib.sha256(data).hexdigest() != wanted.sha256:
                continue  # another picture by now
            image = decode_picture(data, str(path)).image
        except ImageError:
            continue
        image.thumbnail((wanted.edge, wanted.edge))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY, optimize=True, progressive=False)
        write_file(place / wanted.name, file.getvalue())
        return True
    return False
