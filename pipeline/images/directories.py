"""Directories of fields, as TIFF and EXIF have them (TIFF 6.0, section 2): every value as the bytes it is.

`order` is the byte order of a file's numbers, "<" or ">" as in `struct`. Places are bytes from its beginning.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TypeAlias

BYTE, ASCII, SHORT, LONG, UNDEFINED = 1, 2, 3, 4, 7
# Bytes of an item by the type of its field; 129 is UTF-8 (CIPA DC-008, version 3).
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}
# The same for places of directories: LONG, IFD, and those of BigTIFF.
_PLACES = {4: 4, 13: 4, 16: 8, 18: 8}
_ORDERS = {b"II": "<", b"MM": ">"}
# Bytes of a number that is no place: SHORT, LONG, and LONG8 of BigTIFF.
_NUMBERS = {3: 2, 4: 4, 16: 8}

# Tags of a page.
SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, HEIGHT, PHOTOMETRIC, ORIENTATION = 254, 255, 256, 257, 262, 274
SUB_DIRECTORIES = 330
# A file may claim any number of pages.
MOST_PAGES = 1000


@dataclass(frozen=True)
class Field:
    """A value of `count` items, in the byte order of its file."""

    kind: int
    count: int
    data: bytes


Fields: TypeAlias = Mapping[int, Field]


@dataclass(frozen=True)
class Directories:
    """The first directory of a file, and others by the tag that has their place in the first.

    `lost` has the folder, 0 for the first directory, and the tag of what cannot be read; None for several.
    """

    order: str
    main: Fields
    folders: Mapping[int, Fields]
    lost: tuple[tuple[int, int | None], ...] = ()


def numbers(order: str, kind: int, *values: int) -> Field:
    """Return a field of SHORT or LONG."""
    code = "H" if kind == SHORT else "I"
    return Field(kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values))


def plain(kind: int, data: bytes) -> Field:
    """Return a field of BYTE, UNDEFINED or ASCII, which is to end with a zero."""
    return Field(kind, len(data), data)


def read_directories(
    file: IO[bytes], folders: Sequence[int], wanted: Callable[[int, int], bool] = lambda _folder, _tag: True
) -> Directories:
    """Read the first directory of a TIFF or BigTIFF, and those of `folders` that it has.

    Only fields are read of which `wanted` says so, by folder and tag. Their values together hold no more
    bytes than the file has, whatever it claims.

    Raises:
        ValueError: it does not begin as a TIFF does.
    """
    reader = _Reader(file)
    entries = reader.entries(0, reader.first)
    main = reader.fields(0, {tag: entry for tag, entry in entries.items() if tag not in folders}, wanted)
    found = {}
    for folder in folders:
        if folder in entries:
            inside = reader.entries(folder, reader.place(entries[folder]))
            found[folder] = reader.fields(folder, inside, wanted)
    kept = {folder: fields for folder, fields in found.items() if fields}
    return Directories(reader.order, main, kept, tuple(reader.lost))


@dataclass(frozen=True)
class Page:
    """A directory that has a picture: its size in pixels, and whether it is a smaller copy or a mask.

    It is `inside` another, or one of the file's row of pages. Tags that it lacks are 0.
    """

    place: int
    width: int
    height: int
    is_reduced: bool
    photometric: int
    orientation: int
    inside: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height


def is_tiff(head: bytes) -> bool:
    """Tell whether a file begins as a TIFF or BigTIFF does."""
    # The version is 42, or 43 of a BigTIFF; some programs swap its bytes.
    return head[:2] in _ORDERS and set(head[2:4]) in ({0, 42}, {0, 43})


def read_pages(file: IO[bytes]) -> list[Page]:
    """Read what pages a TIFF or BigTIFF has, those in a row first, then those inside of others.

    Raises:
        ValueError: it does not begin as a TIFF does.
    """
    reader = _Reader(file)
    inner: list[int] = []
    seen: set[int] = set()
    place, pages = reader.first, []
    while place and place not in seen and len(seen) < MOST_PAGES:
        seen.add(place)
        entries = reader.entries(0, place)
        pages.append(reader.page(place, entries, False))
        inner += reader.places(entries.get(SUB_DIRECTORIES))
        place = reader.following(place)
    for place in inner:  # grows meanwhile
        if place not in seen and len(seen) < MOST_PAGES:
            seen.add(place)
            entries = reader.entries(0, place)
            pages.append(reader.page(place, entries, True))
            inner += reader.places(entries.get(SUB_DIRECTORIES))
    return [page for page in pages if page.pixels]


def picture_page(pages: Sequence[Page]) -> Page:
    """Return which of several pages is the picture, rather than a smaller copy of it.

    It is the first that is not said to be one and has half as many pixels as the largest, or more: pages of a
    document differ a little, and thumbnails are not always said to be some.
    """
    whole = [page for page in pages if not page.is_reduced] or pages
    most = max(page.pixels for page in whole)
    return next(page for page in whole if 2 * page.pixels >= most)


def beginning_at(data: bytes, place: int) -> bytes:
    """Return a TIFF or BigTIFF whose first directory is the one at `place`."""
    order = _ORDERS[data[:2]]
    start, code = (8, "Q") if 43 in data[2:4] else (4, "I")
    packed = struct.pack(order + code, place)
    return b"".join((data[:start], packed, memoryview(data)[start + len(packed) :]))


@dataclass(frozen=True)
class _Entry:
    """A field as it stands in its directory: `slot` is its value, or the place of a longer one."""

    kind: int
    count: int
    slot: bytes


class _Reader:
    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.length = self.left = file.seek(0, 2)
        head = self.bytes_at(0, 16)
        if not is_tiff(head):
            raise ValueError(f"no TIFF begins with {head[:4]!r}")
        self.order, self.big = _ORDERS[head[:2]], 43 in head[2:4]
        self.first = self.number(head[8:16] if self.big else head[4:8])
        self.lost: list[tuple[int, int | None]] = []

    def bytes_at(self, place: int, size: int) -> bytes:
        """Return so many bytes, or as many as there are."""
        self.file.seek(min(place, self.length))
        return self.file.read(min(size, self.length))

    def number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")

    def place(self, entry: _Entry) -> int:
        """Return the place of a directory; beyond the file's end if it is no such entry."""
        size = _PLACES.get(entry.kind, 0)
        return self.number(entry.slot[:size]) if size and entry.count == 1 else self.length

    def entries(self, folder: int, place: int) -> dict[int, _Entry]:
        """Return the entries of a directory by tag; of those with the same tag the first counts."""
        counter, layout = ("Q", "HHQ8s") if self.big else ("H", "HHI4s")
        width, step = struct.calcsize(counter), struct.calcsize(self.order + layout)
        expected = self.number(self.bytes_at(place, width))
        table = self.bytes_at(place + width, expected * step)
        found: dict[int, _Entry] = {}
        for start in range(0, len(table) - step + 1, step):
            tag, kind, count, slot = struct.unpack_from(self.order + layout, table, start)
            found.setdefault(tag, _Entry(kind, count, slot))
        if not expected or len(table) < expected * step:
            self.lost.append((folder, None))
        return found

    def following(self, place: int) -> int:
        """Return the place of the directory that follows one in the row; 0 if none does."""
        width, step = (8, 20) if self.big else (2, 12)
        count = self.number(self.bytes_at(place, width))
        return self.number(self.bytes_at(place + width + count * step, 8 if self.big else 4))

    def places(self, entry: _Entry | None) -> list[int]:
        """Return the places of several directories."""
        size = _PLACES.get(entry.kind, 0) if entry else 0
        if not entry or not size:
            return []
        length = size * min(entry.count, MOST_PAGES)
        data = entry.slot if length <= len(entry.slot) else self.bytes_at(self.number(entry.slot), length)
        return [self.number(data[start : start + size]) for start in range(0, min(length, len(data)), size)]

    def page(self, place: int, entries: Mapping[int, _Entry], inside: bool) -> Page:
        def of(tag: int) -> int:
            entry = entries.get(tag)
            size = _NUMBERS.get(entry.kind, 0) if entry and entry.count == 1 else 0
            return self.number(entry.slot[:size]) if entry and size else 0

        # Bit 1 says that it is one page of several, which is no other kind of picture.
        is_reduced = bool(of(SUBFILE_TYPE) & ~2) or of(OLD_SUBFILE_TYPE) == 2
        return Page(place, of(WIDTH), of(HEIGHT), is_reduced, of(PHOTOMETRIC), of(ORIENTATION), inside)

    def fields(
        self, folder: int, entries: Mapping[int, _Entry], wanted: Callable[[int, int], bool]
    ) -> dict[int, Field]:
        found = {}
        for tag, entry in entries.items():
            if not entry.count or not wanted(folder, tag):
                continue
            if data := self.value(entry):
                found[tag] = Field(entry.kind, entry.count, data)
            else:
                self.lost.append((folder, tag))
        return found

    def value(self, entry: _Entry) -> bytes:
        """Return the bytes of a value; empty if it is of an unknown type, or not all there."""
        size = entry.count * SIZES.get(entry.kind, 0)
        if size <= len(entry.slot):
            return entry.slot[:size]
        if size > self.left:
            return b""
        self.left -= size
        data = self.bytes_at(self.number(entry.slot), size)
        return data if len(data) == size else b""


def file_bytes(order: str, main: Fields, folders: Mapping[int, Fields]) -> bytes:
    """Return a file of directories: its head, the first directory at byte 8, the others."""
    places = dict.fromkeys(folders, 0)

    def first() -> bytes:
        pointers = {tag: numbers(order, LONG, place) for tag, place in places.items()}
        return _directory(order, {**main, **pointers}, 8)

    rest, start = b"", 8 + len(first())
    for tag, fields in folders.items():
        places[tag] = start + len(rest)
        rest += _directory(order, fields, places[tag])
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(f"{order}HI", 42, 8) + first() + rest


def _directory(order: str, fields: Fields, start: int) -> bytes:
    """Return a directory that begins at `start`, and the values that its entries have no room for."""
    entries, values = [struct.pack(f"{order}H", len(fields))], bytearray()
    values_start = start + 2 + 12 * len(fields) + 4
    for tag, field in sorted(fields.items()):
        slot = field.data
        if len(slot) > 4:
            slot = struct.pack(f"{order}I", values_start + len(values))
            values += field.data + bytes(len(field.data) % 2)  # values begin at even places
        entries.append(struct.pack(f"{order}HHI4s", tag, field.kind, field.count, slot))
    return b"".join([*entries, bytes(4), values])
