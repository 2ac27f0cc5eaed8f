"""The pictures of an outbox on the page: their addresses there, and the files behind these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..spec.yaml12 import dump_yaml
from ..storage.files import is_inside
from .records import Picture
from .results import Result, Results
from .sheet import picture_facts
from .thumbnails import (
    SHOWN_AS_THEY_ARE,
    THUMBS,
    Thumbnail,
    Thumbnails,
    content_name,
    large_name,
    result_name,
    style_name,
)

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}


def address(result: Result, part: str) -> str:
    """Return the address of one of the pictures of a result. It changes with the record."""
    return f"/api/pictures/{result.id}/{part}?v={result.version:x}"


def picture_card(result: Result) -> dict[str, Any]:
    """Return what a list of pictures shows of a result."""
    return {
        "id": result.id,
        "batch": result.batch,
        "name": result.name,
        "contentName": result.content,
        "styleName": result.style,
        "imageName": Path(result.image).name,
        "width": result.width,
        "height": result.height,
        "seconds": round(result.seconds, 2),
        "finished": result.finished,
        **{part: address(result, part) for part in ("thumb", "image", "large", "content")},
        "styles": [address(result, f"styles/{number}") for number in range(result.styles)],
    }


def picture_details(result: Result, picture: Picture) -> dict[str, Any]:
    """Return all about a result, as a sheet shows it."""
    styles = [
        {"name": Path(style.path).name, "share": style.share, "thumb": address(result, f"styles/{number}")}
        for number, style in enumerate(picture.styles)
    ]
    return {
        **picture_facts(picture),
        **picture_card(result),
        "styles": styles,
        "recipe": dump_yaml({"recipe": dict(picture.recipe)}) if picture.recipe else "",
    }


class PictureFiles:
    """The files of results. `originals` are folders to which contents may have been moved."""

    def __init__(self, results: Results, originals: Sequence[tuple[Path, Path]]) -> None:
        self.results = results
        self.originals = originals

    def image(self, result: Result) -> Path | None:
        """Return the path of a result's own file; None if it is not there, or leads out of the outbox."""
        path = self.results.paths(result).folder / result.image
        if not result.image or path.suffix.lower() not in CONTENT_TYPES:
            return None
        try:
            path = path.resolve(strict=True)
        except (OSError, RuntimeError):  # a loop
            return None
        return path if path.is_file() and is_inside(path, self.results.outbox) else None

    def thumbnail(self, result: Result, part: str) -> tuple[Thumbnail, Path] | None:
        """Return the thumbnail of a part of a result, and its folder; None if there is no such part."""
        picture = self.results.read(result)
        if picture is None or (name := _thumbnail_name(picture, part)) is None:
            return None
        folder = self.results.paths(result).folder
        planned = Thumbnails(folder, self.originals).plan([picture])
        return next(((one, folder / THUMBS) for one in planned if one.name == name), None)


def is_shown_as_it_is(image: Path) -> bool:
    return image.suffix.lower() in SHOWN_AS_THEY_ARE


def _thumbnail_name(picture: Picture, part: str) -> str | None:
    if part == "thumb":
        return result_name(picture)
    if part == "large":
        return large_name(picture)
    if part == "content":
        return content_name(picture.content) if picture.content else None
    number = int(part.removeprefix("styles/"))
    return style_name(picture.styles[number]) if number < len(picture.styles) else None
