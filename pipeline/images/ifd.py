"""Image file directories (IFDs) of TIFF and EXIF (TIFF 6.0, section 2), read and written byte for byte.

`order` is the byte order of a file's numbers, "<" or ">" as in `struct`. Offsets are in bytes from its start.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TypeAlias

from PIL import ExifTags

TAGS = ExifTags.Base

BYTE, ASCII, SHORT, LONG, UNDEFINED = 1, 2, 3, 4, 7
# Bytes of an item by the type of its field; 129 is UTF-8 (CIPA DC-008, version 3).
ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}
# The same for types that hold counts and offsets: SHORT, LONG, IFD, and LONG8 and IFD8 of BigTIFF.
_NUMBER_BYTES = {3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
_ORDERS = {b"II": "<", b"MM": ">"}


@dataclass(frozen=True)
class Field:
    """A value of `count` items, as the bytes it has in its file."""

    kind: int
    count: int
    data: bytes


Fields: TypeAlias = Mapping[int, Field]


def numbers(order: str, kind: int, *values: int) -> Field:
    """Return a field of SHORT or LONG."""
    code = "H" if kind == SHORT else "I"
    return Field(kind, len(values), struct.pack(f"{order}{len(values)}{code}", *values))


def raw(kind: int, data: bytes) -> Field:
    """Return a field of BYTE, UNDEFINED, or ASCII, whose data must end with a zero."""
    return Field(kind, len(data), data)


def is_tiff(head: bytes) -> bool:
    """Return whether a file begins as a TIFF or BigTIFF does."""
    # The version is 42, or 43 for BigTIFF; some programs swap its bytes.
    return head[:2] in _ORDERS and set(head[2:4]) in ({0, 42}, {0, 43})


@dataclass(frozen=True)
class _Entry:
    """A field as its IFD has it: `slot` is the value, or the offset of a longer one."""

    kind: int
    count: int
    slot: bytes


class Ifd:
    """One IFD. Of entries with the same tag the first counts. `is_whole`: all entries are there."""

    def __init__(self, file: IfdFile, offset: int) -> None:
        self.file, self.offset = file, offset
        counter, layout, pointer = ("Q", "HHQ8s", 8) if file.is_big else ("H", "HHI4s", 4)
        width, step = struct.calcsize(counter), struct.calcsize(file.order + layout)
        expected = file.number(file.bytes_at(offset, width))
        table = file.bytes_at(offset + width, expected * step)
        self.is_whole = 0 < expected * step <= len(table)
        self.entries: dict[int, _Entry] = {}
        for start in range(0, len(table) - step + 1, step):
            tag, kind, count, slot = struct.unpack_from(file.order + layout, table, start)
            self.entries.setdefault(tag, _Entry(kind, count, slot))
        self.next_offset = file.number(file.bytes_at(offset + width + expected * step, pointer))

    def field(self, tag: int) -> Field | None:
        """Return the field of a tag; None if its type is unknown or not all of its value is there."""
        entry = self.entries[tag]
        data = self._data(entry, entry.count * ITEM_BYTES.get(entry.kind, 0))
        return Field(entry.kind, entry.count, data) if data else None

    def data(self, tag: int) -> bytes:
        """Return the bytes of a value, b"" if there is none."""
        found = self.field(tag) if tag in self.entries else None
        return found.data if found else b""

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the numbers of a tag; none if it is missing, damaged, or holds something else."""
        entry = self.entries.get(tag)
        size = _NUMBER_BYTES.get(entry.kind, 0) if entry else 0
        data = self._data(entry, size * entry.count) if entry and size else b""
        return tuple(self.file.number(data[start : start + size]) for start in range(0, len(data), size or 1))

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first number of a tag."""
        return next(iter(self.numbers(tag)), default)

    def _data(self, entry: _Entry, size: int) -> bytes:
        if size <= len(entry.slot):
            return entry.slot[:size]
        if size > self.file.bytes_left:
            return b""
        self.file.bytes_left -= size
        data = self.file.bytes_at(self.file.number(entry.slot), size)
        return data if len(data) == size else b""


class IfdFile:
    """A TIFF, a BigTIFF or the EXIF of another file, from which IFDs are read.

    All values that are read together hold no more bytes than the file, whatever it claims.

    Raises:
        ValueError: it does not begin as a TIFF does.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.length = self.bytes_left = file.seek(0, io.SEEK_END)
        head = self.bytes_at(0, 16)
        if not is_tiff(head):
            raise ValueError(f"no TIFF begins with {head[:4]!r}")
        self.order, self.is_big = _ORDERS[head[:2]], 43 in head[2:4]
        self.first_offset = self.number(head[8:16] if self.is_big else head[4:8])

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes, or as many as there are."""
        self._file.seek(min(offset, self.length))
        return self._file.read(min(size, self.length))

    def number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")

    def first(self) -> Ifd:
        return Ifd(self, self.first_offset)

    def chain(self, most: int) -> Iterator[Ifd]:
        """Yield the chain of IFDs, at most `most` of them, each once."""
        offset, seen = self.first_offset, set[int]()
        while offset and offset not in seen and len(seen) < most:
            seen.add(offset)
            yield (ifd := Ifd(self, offset))
            offset = ifd.next_offset


def with_first_ifd(data: bytes, offset: int) -> bytes:
    """Return a TIFF or BigTIFF whose first IFD is the one at `offset`."""
    order = _ORDERS[data[:2]]
    start, code = (8, "Q") if 43 in data[2:4] else (4, "I")
    packed = struct.pack(order + code, offset)
    return b"".join((data[:start], packed, memoryview(data)[start + len(packed) :]))


def exif_bytes(order: str, main: Fields, sub_ifds: Mapping[int, Fields]) -> bytes:
    """Return a header, the main IFD at byte 8, and the others, to which tags of the main one point."""
    offsets = dict.fromkeys(sub_ifds, 0)

    def first() -> bytes:
        pointers = {tag: numbers(order, LONG, offset) for tag, offset in offsets.items()}
        return ifd_bytes({**main, **pointers}, order, 8)

    rest, start = b"", 8 + len(first())
    for tag, fields in sub_ifds.items():
        offsets[tag] = start + len(rest)
        rest += ifd_bytes(fields, order, offsets[tag])
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(f"{order}HI", 42, 8) + first() + rest


def ifd_bytes(fields: Fields, order: str, start: int) -> bytes:
    """Return an IFD that begins at `start`, followed by the values that do not fit its entries."""
    entries, values = [struct.pack(f"{order}H", len(fields))], bytearray()
    values_start = start + 2 + 12 * len(fields) + 4
    for tag, field in sorted(fields.items()):
        slot = field.data
        if len(slot) > 4:
            slot = struct.pack(f"{order}I", values_start + len(values))
            values += field.data + bytes(len(field.data) % 2)  # values begin at even offsets
        entries.append(struct.pack(f"{order}HHI4s", tag, field.kind, field.count, slot))
    return b"".join([*entries, bytes(4), values])
