"""Colour profiles for tests, made by formula."""

from __future__ import annotations

import struct

import numpy as np

# Adobe RGB (1998) and Display P3, adapted to D50.
ADOBE = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
P3 = [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)]
TABLE = tuple(round(65535 * (index / 255) ** 1.8) for index in range(256))


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def formula(kind: int, *numbers: float) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + fixed(*numbers)


def table(*values: int) -> bytes:
    return b"curv" + bytes(4) + struct.pack(f">I{len(values)}H", len(values), *values)


def make_profile(curve: bytes, primaries: list[tuple[float, float, float]] | None, **more: bytes) -> bytes:
    """Return an ICC profile of one curve for every channel, `more` tags; without primaries it is for grey."""
    white = (0.9642, 1.0, 0.8249)
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(*white), **{name.encode(): tag for name, tag in more.items()}}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        for letter, primary in zip((b"r", b"g", b"b"), primaries, strict=True):
            tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*primary)
            tags[letter + b"TRC"] = curve
    start, directory, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        directory += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    space = b"GRAY" if primaries is None else b"RGB "
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(*white)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + body


def lookup(primaries: list[tuple[float, float, float]], gamma: float) -> bytes:
    """Return the same as curves and a matrix, but as tables: type lut16, two points a side."""
    steps = np.linspace(0, 1, 256)
    corners = [np.array(corner) @ np.array(primaries) for corner in np.ndindex(2, 2, 2)]
    cells = np.array(corners) * 32768 / 65535
    tables = [*[steps**gamma] * 3, cells.ravel(), *[steps] * 3]
    samples = (np.concatenate(tables).clip(0, 1) * 65535).round().astype(">u2").tobytes()
    identity = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return b"mft2" + bytes(4) + bytes([3, 3, 2, 0]) + identity + struct.pack(">HH", 256, 256) + samples


LOOKUP = make_profile(formula(0, 1.8), P3, A2B0=lookup(P3, 1.8))
PROFILES = {
    "Adobe RGB": make_profile(table(round(2.19921875 * 256)), ADOBE),
    "a table": make_profile(table(*TABLE), ADOBE),
    "linear": make_profile(table(), P3),
    "a power": make_profile(formula(0, 2.4), P3),
    "a power from a point": make_profile(formula(1, 2.2, 0.95, 0.05), ADOBE),
    "a power on a pedestal": make_profile(formula(2, 2.2, 0.9, 0.01, 0.02), ADOBE),
    "Display P3": make_profile(formula(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045), P3),
    "all seven": make_profile(formula(4, 2.4, 0.94, 0.05, 1 / 12.92, 0.04, 0.001, 0.0), P3),
}
