"""Segments of a JPEG that hold its metadata (ITU-T T.81, annex B; JFIF 1.02; XMP part 3; image resources).

Pillow refuses a picture for image resources that are damaged, so it is not given any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\xff\xd8\xff"
# A segment holds this much after its length.
SEGMENT_BYTES = 65_533

_JFIF, _XMP, _RESOURCES = b"JFIF\0", b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_APP0, _APP1, _APP13, _START_OF_SCAN = 0xE0, 0xE1, 0xED, 0xDA
# The number of the image resource that is IPTC, and what each resource begins with.
_IPTC, _RESOURCE = 0x0404, b"8BIM"
# Dots per inch of the units of JFIF; 0 is only a ratio.
_UNITS = {1: 1.0, 2: 2.54}

# The most bytes of XMP and of IPTC that a JPEG holds: a segment each.
XMP_BYTES = SEGMENT_BYTES - len(_XMP)
IPTC_BYTES = SEGMENT_BYTES - len(_RESOURCES) - 12 - 1


@dataclass(frozen=True)
class JpegFile:
    """A JPEG for Pillow, and what was found in it. `dpi` is that of JFIF, None if it names no unit."""

    data: bytes
    xmp: bytes = b""
    iptc: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def read_segments(data: bytes) -> JpegFile:
    """Read a JPEG's metadata, and hide from Pillow what it may refuse the picture for."""
    xmp, dpi, resources = b"", None, list[bytes]()
    hidden: bytearray | None = None
    for marker, start, end in _segments(data):
        if marker == _APP0 and data.startswith(_JFIF, start) and end - start >= 12:
            unit, *density = struct.unpack_from(">BHH", data, start + 7)
            if scale := _UNITS.get(unit):
                dpi = density[0] * scale, density[1] * scale
        elif marker == _APP1 and data.startswith(_XMP, start) and not xmp:
            xmp = data[start + len(_XMP) : end]
        elif marker == _APP13 and data.startswith(_RESOURCES, start):
            resources.append(data[start + len(_RESOURCES) : end])
            hidden = hidden or bytearray(data)
            hidden[start : start + len(_RESOURCES)] = bytes(len(_RESOURCES))
    iptc, is_whole = _iptc_of_segments(resources)
    notes = () if is_whole else ("some of its image resources are damaged and are left out",)
    return JpegFile(data if hidden is None else bytes(hidden), xmp, iptc, dpi, notes)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment before the pixels, and where its content begins and ends."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == _START_OF_SCAN or length < 2 or place + 2 + length > len(data):
            return
        yield marker, place + 4, place + 2 + length
        place += 2 + length


def _iptc_of_segments(segments: list[bytes]) -> tuple[bytes, bool]:
    """Return the IPTC in all segments of image resources, and whether all resources are whole.

    A resource that is too long for one segment continues in the next.
    """
    found = [_iptc_in(each) for each in segments]
    if all(is_whole for _, is_whole in found):
        return b"".join(iptc for iptc, _ in found), True
    joined = _iptc_in(b"".join(segments))
    return joined if joined[1] else (b"".join(iptc for iptc, _ in found), False)


def _iptc_in(resources: bytes) -> tuple[bytes, bool]:
    """Return the IPTC in image resources, and whether all of them are whole."""
    found, place = b"", 0
    while resources.startswith(_RESOURCE, place):
        number = int.from_bytes(resources[place + 4 : place + 6])
        name = resources[place + 6 : place + 7]
        # Names and values are filled up to an even length.
        size_at = place + 6 + (2 + name[0] & ~1 if name else 0)
        size, start = int.from_bytes(resources[size_at : size_at + 4]), size_at + 4
        if not name or start > len(resources) or start + size > len(resources):
            return found, False
        if number == _IPTC:
            found += resources[start : start + size]
        place = start + size + size % 2
    return found, not resources[place:].strip(b"\0")


def metadata_segments(xmp: str, iptc: bytes) -> bytes:
    """Return the segments of XMP and IPTC that are not too long; see XMP_BYTES and IPTC_BYTES."""
    found = b""
    if xmp:
        found += _segment(_APP1, _XMP + xmp.encode())
    if iptc:
        value = iptc + bytes(len(iptc) % 2)
        head = _RESOURCE + struct.pack(">HHI", _IPTC, 0, len(iptc))
        found += _segment(_APP13, _RESOURCES + head + value)
    return found


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
