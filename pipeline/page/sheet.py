"""The sheet of a batch: one HTML file in its folder, with all that it needs but the pictures.

What records say reaches the page as JSON and is shown as text only; the page's own script builds everything.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from ..errors import PathError, UsageError
from ..spec.yaml12 import dump_yaml
from ..storage.files import disk_errors
from ..storage.paths import SHEET
from ..storage.temporary import write_file
from ..version import VERSION
from .assets import joined_script, read_asset
from .layout import Layout, arrange
from .records import BatchRecords, Curves, Picture, read_batch
from .stamps import batch_stamp, thumbs_stamp
from .thumbnails import THUMBS, Thumbnails, content_name, large_name, result_name, style_name

STYLES = ("base.css", "viewer.css", "sheet.css")
# A file that this program wrote says so within as many bytes.
MARK, HEAD_BYTES = b'<meta name="generator" content="style-pipeline', 1024
STAMP = re.compile(rb'<meta name="stamp" content="([0-9a-f]+)">')
# Curves are drawn on a grid of this height; a point has two digits of base 36.
HEIGHT = 36 * 36 - 1
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Sheet:
    """What a sheet shows. `thumbs` are the names of its thumbnails; `is_complete`: there was time for all."""

    batch: BatchRecords
    layout: Layout
    thumbs: frozenset[str]
    is_complete: bool = True


def read_sheet(folder: Path, originals: Sequence[tuple[Path, Path]] = (), limit_s: float = math.inf) -> Sheet:
    """Read a batch and make its thumbnails, for at most `limit_s`.

    `originals` are pairs of folders: contents of the first may have been moved to the second.

    Raises:
        UsageError: there is nothing to show.
        DiskError: the folder cannot be read or written.
    """
    batch = read_batch(folder)
    if not batch.pictures:
        raise UsageError(
            f"{folder}: has no pictures and no records of any.", "Give the folder of a batch, in the outbox."
        )
    thumbnails = Thumbnails(folder, originals)
    with disk_errors(folder, "its thumbnails cannot be written"):
        made = thumbnails.make(thumbnails.plan(batch.pictures), limit_s)
    return Sheet(batch, arrange(batch.pictures), made.names, made.is_complete)


def write_sheet(folder: Path, originals: Sequence[tuple[Path, Path]] = (), limit_s: float = math.inf) -> Path:
    """Write the sheet of a batch's folder and return its path. Arguments as in `read_sheet`.

    Raises:
        UsageError: there is nothing to show.
        PathError: a file of someone else has its name.
        DiskError: it cannot be written.
    """
    path = folder / SHEET
    with disk_errors(path, "cannot be read"):
        if os.path.lexists(path) and MARK not in _head(path):
            raise PathError(
                f"{path}: is a file of another program, and is left alone.",
                "Move or rename it, then try again.",
            )
        before = batch_stamp(folder)  # what changes while it is read is shown the next time
    sheet = read_sheet(folder, originals, limit_s)
    write_file(path, render_sheet(sheet, _stamp(folder, before) if sheet.is_complete else ""))
    return path


def renew_sheet(folder: Path, originals: Sequence[tuple[Path, Path]] = (), limit_s: float = math.inf) -> Path:
    """Write the sheet as `write_sheet` does, unless it shows the batch as it is."""
    path = folder / SHEET
    with disk_errors(path, "cannot be read"):
        stamp = STAMP.search(_head(path))
        if stamp and stamp[1].decode() == _stamp(folder, batch_stamp(folder)):
            return path
    return write_sheet(folder, originals, limit_s)


def renew_in_time(folder: Path, originals: Sequence[tuple[Path, Path]], limit_s: float) -> bool:
    """Renew the sheet of a batch, if it has pictures; return whether there was time for all thumbnails.

    Raises:
        PathError, DiskError: as `write_sheet`.
    """
    try:
        page = renew_sheet(folder, originals, limit_s)
    except UsageError:
        return True  # there is nothing to show
    return STAMP.search(_head(page)) is not None


def _stamp(folder: Path, batch: str) -> str:
    """Return a digest of what a sheet is made from: the stamp of its batch, its thumbnails, this program."""
    program = VERSION, read_asset("sheet.html"), *_style_and_script()
    return hashlib.sha256("".join((batch, thumbs_stamp(folder), *program)).encode()).hexdigest()


def _style_and_script() -> tuple[str, str]:
    return "\n".join(map(read_asset, STYLES)), joined_script("sheet.js")


def _head(path: Path) -> bytes:
    """Return the beginning of a page; nothing if it is not a file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def render_sheet(sheet: Sheet, stamp: str = "") -> bytes:
    """Return the page of a sheet."""
    style, script = _style_and_script()
    text = Template(read_asset("sheet.html")).substitute(
        title=html.escape(sheet.batch.name),
        version=html.escape(VERSION),
        stamp=stamp,
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
        data=_json(sheet_data(sheet)),
    )
    return text.encode(errors="backslashreplace")


def _digest(text: str) -> str:
    """Return the digest by which the page's policy knows its own style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> str:
    """Return JSON that cannot end the element that it is in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def sheet_data(sheet: Sheet) -> dict[str, Any]:
    """Return what the page's script shows."""
    batch, layout = sheet.batch, sheet.layout
    recipes: dict[str, int] = {}
    pictures = [
        _picture_data(picture, difference, sheet.thumbs, recipes)
        for picture, difference in zip(batch.pictures, layout.differences, strict=True)
    ]
    return {
        "batch": batch.name,
        "reason": batch.reason,
        "fault": batch.fault,
        "notes": batch.notes,
        "recipes": [dump_yaml({"recipe": json.loads(recipe)}) for recipe in recipes],
        "pictures": pictures,
        "groups": [vars(group) for group in layout.groups],
        "rows": [vars(row) for row in layout.rows],
        "rowsAre": layout.rows_are,
        "wall": layout.wall,
    }


def _picture_data(
    picture: Picture, difference: str, thumbs: frozenset[str], recipes: dict[str, int]
) -> dict[str, Any]:
    def thumb(name: str) -> str:
        return f"{THUMBS}/{name}" if name in thumbs else ""

    image = quote(os.fsencode(picture.image))
    content = thumb(content_name(picture.content)) if picture.content else ""
    styles = [
        {"name": Path(style.path).name, "share": style.share, "thumb": thumb(style_name(style))}
        for style in picture.styles
    ]
    data = {
        **picture_facts(picture),
        "difference": difference,
        "image": image,
        "large": image and (thumb(large_name(picture)) or image),
        "thumb": image and (thumb(result_name(picture)) or thumb(large_name(picture)) or image),
        "content": content,
        "styles": styles,
    }
    if picture.recipe:
        data["recipe"] = recipes.setdefault(json.dumps(picture.recipe), len(recipes))
    return {name: value for name, value in data.items() if value or name == "recipe"}


def picture_facts(picture: Picture) -> dict[str, Any]:
    """Return what a page says of a picture, without where its files are."""
    return {
        "name": picture.name,
        "status": picture.status,
        "contentName": Path(picture.content.path).name if picture.content else "",
        "style": picture.style,
        "width": picture.width,
        "height": picture.height,
        "seconds": round(picture.seconds, 2),
        "finished": picture.finished,
        "facts": dict(picture.facts),
        "notes": picture.notes,
        "error": picture.error,
        "briefly": _briefly(picture),
        "nextStep": picture.next_step,
        "curves": curve_data(picture.curves) if picture.curves else None,
    }


def _briefly(picture: Picture) -> str:
    """Return the error of a picture without the folders of its content."""
    path = picture.content.path if picture.content else ""
    return picture.error.replace(path, Path(path).name) if path and path in picture.error else ""


def curve_data(curves: Curves) -> dict[str, Any]:
    """Return loss curves in little space: heights on one logarithmic scale, in two digits each."""
    values = [value for losses in curves.losses.values() for value in losses if value > 0]
    low, high = (math.log(limit) for limit in (min(values, default=1.0), max(values, default=1.0)))
    span = (high - low) or 1.0

    def height(value: float) -> str:
        level = round(HEIGHT * (math.log(value) - low) / span) if value > 0 else 0
        return DIGITS[level // 36] + DIGITS[level % 36]

    levels = [
        [index, size]
        for index, size in enumerate(curves.sizes)
        if index == 0 or size != curves.sizes[index - 1]
    ]
    return {
        "steps": [curves.steps[0], curves.steps[-1]],
        "levels": levels,
        "lines": {name: "".join(map(height, losses)) for name, losses in curves.losses.items()},
        "ends": {name: f"{losses[-1]:.3g}" for name, losses in curves.losses.items()},
    }
