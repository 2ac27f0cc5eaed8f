"""Code points of AVIF and HEIC, in boxes written by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from pipeline.images.heif import read_nclx


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("version", [0, 1])
def test_the_main_picture_says_the_colours(wide, version):
    """Of three properties, the second picture has the second and third."""
    item = (
        (lambda number: struct.pack(">I", number)) if version else (lambda number: struct.pack(">H", number))
    )
    number = (
        (lambda value: struct.pack(">H", value | 0x8000)) if wide else (lambda value: bytes([value | 0x80]))
    )
    colour = [box(b"colr", b"nclx", struct.pack(">3HB", code, 13, 0, 128)) for code in (9, 12)]
    properties = box(b"ipco", colour[0], box(b"ispe", bytes(12)), colour[1])
    table = item(1) + b"\1" + number(1) + item(2) + b"\2" + number(2) + number(3)
    full = bytes([version, 0, 0, int(wide)])
    main = box(b"pitm", full[:3], b"\0", item(2))
    used = box(b"ipma", full, struct.pack(">I", 2), table)
    meta = box(b"meta", bytes(4), main, box(b"iprp", properties, used))
    data = box(b"ftyp", b"avif", bytes(4)) + meta + box(b"mdat", bytes(9))
    assert read_nclx(data) == {"color_primaries": 12, "transfer_characteristics": 13}
    for length in range(len(data)):
        read_nclx(data[:length])
    random = np.random.default_rng(0)
    for _ in range(500):
        flipped = bytearray(data)
        flipped[int(random.integers(len(data)))] ^= int(random.integers(1, 256))
        read_nclx(bytes(flipped))
