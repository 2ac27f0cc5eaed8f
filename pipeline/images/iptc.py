"""IPTC (IIM, version 4): the data sets that a result may carry, and the same facts in XMP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from . import xmp

_MARK = 0x1C
_ENVELOPE, _APPLICATION = 1, 2
# The data set that names the encoding of texts, and its value for UTF-8.
_ENCODING, _UTF_8 = 90, b"\x1b%G"
# Data sets of the application record that are kept. Among the others are previews, and what belongs to the
# old file.
KEPT = frozenset(
    {
        0, 5, 10, 15, 20, 25, 26, 27, 40, 55, 60, 80, 85, 90, 92, 95, 100, 101, 103, 105, 110, 115, 116, 118,
        120, 122,
    }
)  # fmt: skip
# What the same facts are in XMP, which formats without IPTC hold.
_IN_XMP: Mapping[int, tuple[str, str, Literal["", "Bag", "Seq", "Alt"]]] = {
    5: (xmp.DC, "title", "Alt"),
    25: (xmp.DC, "subject", "Bag"),
    40: (xmp.PHOTOSHOP, "Instructions", ""),
    80: (xmp.DC, "creator", "Seq"),
    85: (xmp.PHOTOSHOP, "AuthorsPosition", ""),
    90: (xmp.PHOTOSHOP, "City", ""),
    92: (xmp.IPTC_CORE, "Location", ""),
    95: (xmp.PHOTOSHOP, "State", ""),
    100: (xmp.IPTC_CORE, "CountryCode", ""),
    101: (xmp.PHOTOSHOP, "Country", ""),
    105: (xmp.PHOTOSHOP, "Headline", ""),
    110: (xmp.PHOTOSHOP, "Credit", ""),
    115: (xmp.PHOTOSHOP, "Source", ""),
    116: (xmp.DC, "rights", "Alt"),
    120: (xmp.DC, "description", "Alt"),
    122: (xmp.PHOTOSHOP, "CaptionWriter", ""),
}
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _DataSet:
    """`whole` is the value with its header."""

    record: int
    number: int
    value: bytes
    whole: bytes

    @property
    def is_kept(self) -> bool:
        if self.record == _ENVELOPE:
            return self.number == _ENCODING
        return self.record == _APPLICATION and self.number in KEPT


@dataclass(frozen=True)
class Iptc:
    """The data sets that may be kept, and the texts of the application record by the numbers of their sets.

    `is_whole`: nothing was damaged.
    """

    data: bytes
    texts: Mapping[int, tuple[str, ...]]
    is_whole: bool

    def properties(self) -> xmp.Properties:
        """Return the texts as XMP."""
        made = {}
        for number, texts in self.texts.items():
            if number in _IN_XMP:
                namespace, name, kind = _IN_XMP[number]
                full = f"{{{namespace}}}{name}"
                made[full] = xmp.array(full, kind, texts) if kind else xmp.simple(full, texts[0])
        return made


def read_iptc(data: bytes) -> Iptc:
    """Read data sets one after another, up to the first that is damaged."""
    found = list(_data_sets(data))
    end = sum(len(each.whole) for each in found)
    kept = [each for each in found if each.is_kept]
    is_utf_8 = any(each.record == _ENVELOPE and each.value == _UTF_8 for each in kept)
    texts: dict[int, tuple[str, ...]] = {}
    for each in kept:
        if each.record == _APPLICATION and (text := _text(each.value, is_utf_8)):
            texts[each.number] = (*texts.get(each.number, ()), text)
    # Zeros fill up the last four bytes in a TIFF.
    is_whole = not data[end:].strip(b"\0")
    has_values = any(each.record == _APPLICATION and each.number for each in kept)
    return Iptc(b"".join(each.whole for each in kept) if has_values else b"", texts, is_whole)


def _data_sets(data: bytes) -> Iterator[_DataSet]:
    place = 0
    while place + 5 <= len(data) and data[place] == _MARK:
        record, number, size = data[place + 1], data[place + 2], int.from_bytes(data[place + 3 : place + 5])
        start = place + 5
        if size & 0x8000:  # a long one: so many bytes hold its size
            start += size & 0x7FFF
            size = int.from_bytes(data[place + 5 : start])
        if start + size > len(data):
            return
        yield _DataSet(record, number, data[start : start + size], data[place : start + size])
        place = start + size


def _text(value: bytes, is_utf_8: bool) -> str:
    """Return a value as text. Without a declared encoding it is UTF-8 in practice, or that of Windows."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("utf-8" if is_utf_8 else "cp1252", "replace")
    return _NOT_IN_XML.sub("", text).strip()


def in_file_order(data: bytes) -> bytes:
    """Return data sets as they are; some programs write them into a TIFF as numbers in its byte order."""
    if data[:1] == bytes([_MARK]) or data[3:4] != bytes([_MARK]):
        return data
    return b"".join(data[start : start + 4][::-1] for start in range(0, len(data), 4))
