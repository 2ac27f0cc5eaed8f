"""The sheet of a batch as one labelled picture, to send by mail."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..errors import UsageError
from ..spec.text import counted, one_line
from ..storage.temporary import write_file
from .records import Picture
from .sheet import Sheet
from .thumbnails import THUMBS, content_name, result_name, style_name

# The side of a cell, and the most pixels that the whole picture may have.
LARGEST, SMALLEST, MOST_PIXELS = 320, 64, 40_000_000
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
LONGEST_SIDE = {"JPEG": 65_000, "PNG": 65_000, "WEBP": 16_383}
# The height of a content or style that heads a row or column, in parts of a cell's width.
HEAD_HEIGHT = 0.4
PAGE, HOLE, TEXT, QUIET, BAD = "#f5f4f1", "#e9e7e1", "#1d1c1a", "#6a6761", "#b3261e"


@dataclass(frozen=True)
class Tile:
    """What is at a place of the grid: a thumbnail or a short text, with a label below.

    `height` is that of the thumbnail, in parts of the cell's width.
    """

    column: int
    row: int
    thumb: str = ""
    label: str = ""
    text: str = ""
    height: float = 0.0
    is_head: bool = False


@dataclass(frozen=True)
class Measures:
    """Where things are, in pixels: the width of cells, the height of labels, and the top of each row."""

    cell: int
    label: int
    margin: int
    tops: tuple[int, ...]
    heights: tuple[int, ...]

    @property
    def inner(self) -> int:
        return self.cell - max(4, self.cell // 20)


def write_contact(sheet: Sheet, folder: Path, path: Path) -> None:
    """Write a sheet as one picture.

    Raises:
        UsageError: there are too many pictures.
        DiskError: it cannot be written.
    """
    image = draw_contact(sheet, folder / THUMBS)
    kind = picture_format(path)
    if max(image.size) > LONGEST_SIDE[kind]:
        count = counted(len(sheet.batch.pictures), "picture")
        raise UsageError(f"{path}: {count} are too many for one {kind} file.", "Open the sheet instead.")
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    write_file(path, file.getvalue())


def picture_format(path: Path) -> str:
    """Return the format that a name asks for.

    Raises:
        UsageError: it asks for none that is written here.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: expected a name that ends in {', '.join(FORMATS)}.")
    return kind


def draw_contact(sheet: Sheet, thumbs: Path) -> Image.Image:
    """Draw the grid or wall of a sheet, with the thumbnails in a folder."""
    tiles = list(_tiles(sheet))
    columns = 1 + max(tile.column for tile in tiles)
    measures = _measures(tiles, columns)
    margin, label = measures.margin, measures.label
    size = (2 * margin + columns * measures.cell, measures.tops[-1] + margin)
    image = Image.new("RGB", size, PAGE)
    draw = ImageDraw.Draw(image)
    width = size[0] - 2 * margin
    _write(draw, (margin, margin), sheet.batch.name, width, label * 4 // 3, TEXT)
    _write(draw, (margin, margin + label * 7 // 4), _counts(sheet), width, label * 2 // 3, QUIET)
    for tile in tiles:
        _draw_tile(image, draw, tile, measures, thumbs)
    return image


def _counts(sheet: Sheet) -> str:
    statuses = [picture.status for picture in sheet.batch.pictures]
    failed = f", {statuses.count('failed')} failed" if "failed" in statuses else ""
    return f"{counted(statuses.count('done'), 'picture')}{failed}"


def _measures(tiles: Sequence[Tile], columns: int) -> Measures:
    """Choose cells that make the picture not too large. Each row is as high as its highest thumbnail."""
    parts: dict[int, float] = {}
    for tile in tiles:
        parts[tile.row] = max(parts.get(tile.row, 0.0), tile.height)
    rows = [parts.get(row, 0.0) for row in range(1 + max(parts))]
    cell = math.isqrt(int(MOST_PIXELS / (columns * sum(part + 0.2 for part in rows))))
    cell = max(SMALLEST, min(LARGEST, cell))
    label, margin = max(14, cell // 10), max(10, cell // 12)
    heights = tuple(round(part * cell) for part in rows)
    tops = itertools.accumulate((height + 2 * label for height in heights), initial=margin + label * 7 // 2)
    return Measures(cell, label, margin, tuple(tops), heights)


def _tiles(sheet: Sheet) -> Iterator[Tile]:
    """Yield the tiles of the grid, then those of the wall below it. A shared content is the first tile."""
    layout, shared = sheet.layout, _shared_content(sheet)
    below = len(layout.rows) + (1 if layout.rows else 0)
    across = 1 + sum(len(group.columns) for group in layout.groups)
    wall = [_picture_tile(sheet, index) for index in layout.wall]
    if layout.rows:
        yield from _grid_tiles(sheet)
        if shared is not None:
            yield replace(shared, height=min(shared.height, HEAD_HEIGHT), is_head=True)
    else:
        if shared is not None and len(wall) > 1:
            wall.insert(0, shared)
        across = max(1, math.ceil(math.sqrt(len(wall))))
    for place, tile in enumerate(wall):
        yield replace(tile, column=place % across, row=below + place // across)


def _grid_tiles(sheet: Sheet) -> Iterator[Tile]:
    pictures, layout = sheet.batch.pictures, sheet.layout
    column = 1
    for group in layout.groups:
        for place, variant in enumerate(group.columns):
            label = " · ".join(filter(None, (group.label, variant)))
            picture = pictures[group.picture] if group.picture >= 0 and place == 0 else None
            yield replace(_head_tile(sheet, "styles", picture, label), column=column)
            column += 1
    for number, row in enumerate(layout.rows, 1):
        yield replace(_head_tile(sheet, layout.rows_are, pictures[row.picture], row.label), row=number)
        for place, cell in enumerate(row.cells, 1):
            if cell:  # of several pictures of one pair and recipe, the first
                yield replace(_picture_tile(sheet, cell[0]), label="", column=place, row=number)


def _shared_content(sheet: Sheet) -> Tile | None:
    """Return a tile of the content that all pictures were made from; None if there is more than one."""
    known = [picture for picture in sheet.batch.pictures if picture.content is not None]
    names = {_content_thumb(sheet, picture) for picture in known}
    if len(names) != 1 or "" in names:
        return None
    made = next((picture for picture in known if picture.width), known[0])
    label = Path(made.content.path).name if made.content else ""
    return Tile(0, 0, names.pop(), label, height=_height(made))


def _picture_tile(sheet: Sheet, index: int) -> Tile:
    picture = sheet.batch.pictures[index]
    name, label = result_name(picture), sheet.layout.differences[index] or picture.name
    if picture.image and name in sheet.thumbs:
        return Tile(0, 0, name, label, height=_height(picture))
    return Tile(0, 0, label=label, text=picture.status.replace("_", " "), height=0.25)


def _height(picture: Picture) -> float:
    return min(1.0, picture.height / picture.width) if picture.width else 1.0


def _head_tile(sheet: Sheet, kind: str, picture: Picture | None, label: str) -> Tile:
    """Return the head of a row or column, with the content or style of a picture where `kind` says so."""
    thumb = ""
    if picture is not None and kind in {"contents", "styles"}:
        thumb = _content_thumb(sheet, picture) if kind == "contents" else _style_thumb(sheet, picture)
    return Tile(0, 0, thumb, label, height=HEAD_HEIGHT if thumb else 0.0, is_head=True)


def _style_thumb(sheet: Sheet, picture: Picture) -> str:
    name = style_name(picture.styles[0]) if picture.styles else ""
    return name if name in sheet.thumbs else ""


def _content_thumb(sheet: Sheet, picture: Picture) -> str:
    name = content_name(picture.content) if picture.content is not None else ""
    return name if name in sheet.thumbs else ""


def _draw_tile(
    image: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, measures: Measures, thumbs: Path
) -> None:
    left, top = measures.margin + tile.column * measures.cell, measures.tops[tile.row]
    inner, height = measures.inner, measures.heights[tile.row]
    if tile.thumb:
        with Image.open(thumbs / tile.thumb) as thumb:
            fitted = ImageOps.contain(
                thumb.convert("RGB"), (inner, height) if tile.is_head else (inner, inner)
            )
        image.paste(fitted, (left, top))
        height = fitted.height
    elif tile.text:
        height = measures.cell // 4
        draw.rectangle((left, top, left + inner, top + height), HOLE)
        corner = (left + measures.label // 2, top + (height - measures.label) // 2)
        _write(draw, corner, tile.text, inner - measures.label, measures.label * 2 // 3, BAD)
    elif tile.column == 0:
        height = 0  # the label of a row without a picture
    colour = TEXT if tile.is_head else QUIET
    _write(draw, (left, top + height + 3), tile.label, inner, measures.label * 2 // 3, colour)


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int, size: int, colour: str
) -> None:
    """Write a line of text, cut off so that it fits into `width`."""
    text, font = one_line(text), _font(max(9, size))
    if draw.textlength(text, font) > width:
        while text and draw.textlength(f"{text}…", font) > width:
            text = text[:-1]
        text += "…"
    draw.text(corner, text, colour, font)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
