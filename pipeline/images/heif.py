"""Colours of AVIF and HEIC files as code points: `nclx`, in their boxes (ISO/IEC 14496-12 and 23008-12)."""

from __future__ import annotations

import struct


def read_nclx(data: bytes) -> dict[str, int] | None:
    """Return the code points of the main picture of an AVIF or HEIC; None if it has none that can be read."""
    try:
        return _read_nclx(data)
    except (struct.error, IndexError):
        return None


def _read_nclx(data: bytes) -> dict[str, int] | None:
    meta = next((body[4:] for kind, body in _boxes(data) if kind == b"meta"), b"")
    inside = dict(_boxes(meta))
    properties = list(_boxes(inside.get(b"iprp", b"")))
    boxes = [box for kind, body in properties if kind == b"ipco" for box in _boxes(body)]
    main = inside.get(b"pitm", bytes(6))
    item = int.from_bytes(main[4 : 8 if main[:1] != b"\0" else 6])
    for kind, body in properties:
        for number in _properties_of(body, item) if kind == b"ipma" else ():
            name, box = boxes[number - 1] if 0 < number <= len(boxes) else (b"", b"")
            if name == b"colr" and box[:4] == b"nclx":
                primaries, transfer = struct.unpack_from(">HH", box, 4)
                return {"color_primaries": primaries, "transfer_characteristics": transfer}
    return None


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return kind and body of every box, one after another."""
    place, found = 0, []
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if size == 1 and place + 16 <= len(data):
            size, head = int.from_bytes(data[place + 8 : place + 16]), 16
        end = place + size if size else len(data)
        if end < place + head or end > len(data):
            break
        # The data of the picture, which may be long, is not needed.
        found.append((kind, data[place + head : end] if kind != b"mdat" else b""))
        place = end
    return found


def _properties_of(table: bytes, item: int) -> list[int]:
    """Return the numbers, from 1 on, of an item's properties."""
    version, is_wide = table[0], bool(table[3] & 1)
    (entries,) = struct.unpack_from(">I", table, 4)
    place, width, step = 8, 2 if version < 1 else 4, 2 if is_wide else 1
    for _ in range(entries):
        found, count = int.from_bytes(table[place : place + width]), table[place + width]
        place += width + 1
        if found == item:
            numbers = (table[place + step * each : place + step * (each + 1)] for each in range(count))
            return [int.from_bytes(number) & (0x7FFF if is_wide else 0x7F) for number in numbers]
        place += step * count
    return []
