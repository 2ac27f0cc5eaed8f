"""Chunks of a PNG (PNG specification, third edition): which ones are passed on to Pillow.

Pillow refuses a picture because of its metadata: a chunk that is damaged, or too long once inflated.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import PngImagePlugin

from ..spec.text import first_few

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Pillow's limits, in bytes, for one inflated text and for all of them.
LONGEST_TEXT, MOST_TEXT = PngImagePlugin.MAX_TEXT_CHUNK - 1, PngImagePlugin.MAX_TEXT_MEMORY
# Profiles of tables, for printing, have some megabytes.
LONGEST_PROFILE = 1 << 24
NAMED_IN_NOTES = 5

# Frames after the picture are never read, and Pillow would refuse the picture for a damaged one.
_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
# Minimum lengths in bytes.
_LEAST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"pHYs": 9}
_GREY, _RGB = 0, 2


@dataclass(frozen=True)
class PngFile:
    """A PNG for Pillow; `info` is what Pillow does not find in it, under Pillow's names."""

    data: bytes
    info: dict[str, Any]
    notes: tuple[str, ...]
    is_animated: bool


def read_chunks(data: bytes) -> PngFile:
    """Read a PNG's metadata, and leave out frames and whatever cannot be read."""
    reader, kept, start = _Reader(), [], 0
    for name, place, end in _chunks(data):
        body = memoryview(data)[place + 8 : end - 4]
        if not reader.keeps(name, body, struct.unpack_from(">I", data, end - 4)[0]):
            kept.append(memoryview(data)[start:place])
            start = end
    clean = b"".join([*kept, memoryview(data)[start:]]) if kept else data
    return PngFile(clean, reader.info, reader.notes(), reader.frames > 1)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Return the name of every whole chunk, where it begins and where it ends."""
    place, name = len(SIGNATURE), b""
    while place + 12 <= len(data) and name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, place)
        if (end := place + 12 + length) > len(data):
            return
        yield name, place, end
        place = end


@dataclass
class _Reader:
    info: dict[str, Any] = field(default_factory=dict)
    frames: int = 0
    left_out: list[str] = field(default_factory=list)
    text_bytes: int = 0
    depth: int = 8
    kind: int = _RGB

    def keeps(self, name: bytes, body: memoryview, crc: int) -> bool:
        """Read a chunk, and return whether it is passed on to Pillow."""
        if name == b"IHDR" and len(body) >= 10:
            self.depth, self.kind = body[8], body[9]
        if not name[:1].islower() or not name.isalpha():  # critical, or no name: left to Pillow
            return True
        if name in _ANIMATION:
            if name == b"acTL" and len(body) >= 4:
                self.frames = int.from_bytes(body[:4])
            return False
        if zlib.crc32(body, zlib.crc32(name)) == crc and self._reads(name, bytes(body)):
            return name != b"iCCP"  # that is in `info`
        self.left_out.append(_label(name, bytes(body[:80])))
        return False

    def _reads(self, name: bytes, body: bytes) -> bool:
        """Return whether a chunk is well-formed and not too long; keep what Pillow does not read."""
        if name == b"iCCP":
            return self._reads_profile(body)
        if name == b"tRNS":
            return self._reads_transparency(body)
        if name in _TEXTS:
            length = _text_length(name, body)
            if length is None or self.text_bytes + length > MOST_TEXT:
                return False
            self.text_bytes += length
        if len(body) < _LEAST.get(name, 0):
            return False
        if name == b"cICP":
            self.info["cicp"] = tuple(body[:4])
        return True

    def _reads_profile(self, body: bytes) -> bool:
        _, zero, packed = body.partition(b"\0")
        profile = _inflated(packed[1:], LONGEST_PROFILE) if zero and packed[:1] == b"\0" else None
        if profile:
            self.info["icc_profile"] = profile
        return bool(profile)

    def _reads_transparency(self, body: bytes) -> bool:
        if self.kind == _GREY and self.depth < 8 and len(body) >= 2:
            # Pillow scales the samples to 8 bits, but not the transparent one.
            top = (1 << self.depth) - 1
            self.info["transparency"] = (body[1] & top) * 255 // top
        return len(body) >= {_GREY: 2, _RGB: 6}.get(self.kind, 0)

    def notes(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        listed = first_few(self.left_out, NAMED_IN_NOTES)
        return (f"some of its metadata is damaged or too long and is left out: {listed}",)


def _text_length(name: bytes, body: bytes) -> int | None:
    """Return how long a text is, inflated; None if it is too long, damaged, or packed in an unknown way."""
    _, _, rest = body.partition(b"\0")
    if name == b"tEXt" or (name == b"iTXt" and rest[:1] != b"\1"):
        return len(body)
    packed = rest[1:] if name == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    method = rest[:1] if name == b"zTXt" else rest[1:2]
    text = _inflated(packed, LONGEST_TEXT) if method == b"\0" else None
    return None if text is None else len(text)


def _inflated(packed: bytes, most: int) -> bytes | None:
    """Inflate at most `most` bytes; None if there are more, or the data is damaged."""
    try:
        data = zlib.decompressobj().decompress(packed, most + 1)
    except zlib.error:
        return None
    return data if len(data) <= most else None


def _label(name: bytes, body: bytes) -> str:
    """Return what messages call a chunk: its name, and the keyword of a text."""
    keyword = body.partition(b"\0")[0].decode("latin-1") if name in _TEXTS else ""
    return f"{name.decode()} {keyword}" if keyword.isprintable() and keyword else name.decode()
