"""Pictures as files, made by code."""

from __future__ import annotations

import io
import struct
import zlib
from itertools import accumulate

import numpy as np
from PIL import Image

RED = (200, 30, 20)


def encoded(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def halves() -> Image.Image:
    """Red on the left, white on the right, wider than high."""
    image = Image.new("RGB", (40, 20), "white")
    image.paste(RED, (0, 0, 20, 20))
    return image


def noise(channels: int = 3, dtype: type = np.uint8, height: int = 9, width: int = 8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(channels).integers(0, top, (height, width, channels), dtype, endpoint=True)


def png(size: tuple[int, int], colour_type: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of 16 bits with more chunks, without filters."""
    height, width = size
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    data = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">2I5B", width, height, 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + joined(parts)


def joined(parts: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts
    )


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8298] = "Camera", 6, "Someone"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 40, 0x927C: b"maker's own"}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.0)}
    return exif


# Compressions of TIFF that Pillow does, by number and by its names; and those done here.
BY_PILLOW = {5: "tiff_lzw", 32773: "packbits", 34925: "lzma"}
COMPRESSIONS = (1, 8, 32946, 50000, *BY_PILLOW)
KINDS = {"u": 1, "i": 2, "f": 3}


def tiff_file(
    samples: np.ndarray,
    order: str = "<",
    *,
    photometric: int | None = None,
    bits: int | None = None,
    planar: bool = False,
    tile: tuple[int, int] | None = None,
    rows: int | None = None,
    compression: int = 1,
    predictor: int = 1,
    tags: dict[int, list[int]] | None = None,
    data: dict[int, bytes] | None = None,
) -> bytes:
    """Return a TIFF of `samples`, HW or HWC. `tile` is height and width; `data` are values of bytes."""
    samples_HWC = samples.reshape(*samples.shape[:2], -1)
    height, width, channels = samples_HWC.shape
    bits = bits or 8 * samples.itemsize
    high, wide = tile or (rows or height, width)
    planes = np.split(samples_HWC, channels, axis=2) if planar else [samples_HWC]
    segments = []
    for plane in planes:
        for top in range(0, height, high):
            for left in range(0, width, wide):
                block = plane[top : top + high, left : left + wide]
                if tile:
                    missing = high - block.shape[0], wide - block.shape[1]
                    block = np.pad(block, ((0, missing[0]), (0, missing[1]), (0, 0)))
                segments.append(_compressed(_packed(block, order, bits, predictor), compression))
    lengths = [len(segment) for segment in segments]
    *offsets, end = accumulate(lengths, initial=8)
    values = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [compression],
        262: [(2 if channels > 2 else 1) if photometric is None else photometric],
        (324 if tile else 273): offsets, 277: [channels], (325 if tile else 279): lengths, 284: [1 + planar],
        317: [predictor], 339: [KINDS[samples.dtype.kind]] * channels,
    }  # fmt: skip
    values |= {322: [wide], 323: [high]} if tile else {278: [high]}
    body, ifd = b"".join(segments), b""
    extra_at = end + 2 + 12 * (len(values | (tags or {})) + len(data or {})) + 4
    fields = {tag: (4, len(each), struct.pack(f"{order}{len(each)}I", *each))
              for tag, each in (values | (tags or {})).items()}  # fmt: skip
    fields |= {tag: (7, len(each), each) for tag, each in (data or {}).items()}
    extra = b""
    for tag, (kind, count, value) in sorted(fields.items()):
        slot = value
        if len(value) > 4:
            slot, extra = struct.pack(f"{order}I", extra_at + len(extra)), extra + value
        ifd += struct.pack(f"{order}HHI4s", tag, kind, count, slot)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, end)
    return head + body + struct.pack(f"{order}H", len(fields)) + ifd + bytes(4) + extra


def _packed(block: np.ndarray, order: str, bits: int, predictor: int) -> bytes:
    """Return rows as bytes: packed bits, and differences from the sample to the left."""
    size = block.itemsize
    if bits != 8 * size:
        whole = np.ascontiguousarray(block.astype(f">u{size}")).view(np.uint8)
        spread = np.unpackbits(whole.reshape(-1, size), axis=1)[:, -bits:]
        return np.packbits(spread.reshape(len(block), -1), axis=1).tobytes()
    if predictor == 3:
        by_byte = block.astype(f">f{size}").view(np.uint8).reshape(len(block), -1, size)
        flat = np.moveaxis(by_byte, 2, 1).reshape(len(block), -1)
        flat = flat.reshape(len(block), -1, block.shape[2])
        return np.diff(flat, axis=1, prepend=np.zeros_like(flat[:, :1])).tobytes()
    whole = block.view(f"u{size}") if predictor == 2 else block
    if predictor == 2:
        whole = np.diff(whole, axis=1, prepend=np.zeros_like(whole[:, :1]))
    return whole.astype(whole.dtype.newbyteorder(order)).tobytes()


def _compressed(data: bytes, compression: int) -> bytes:
    """Compress bytes; Pillow does it for a picture of one row of grey."""
    if compression == 1:
        return data
    if compression in (8, 32946):
        return zlib.compress(data)
    if compression == 50000:  # a frame of Zstandard (RFC 8878) with one block, stored as it is
        return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<II", len(data), len(data) << 3 | 1)[:7] + data
    buffer = io.BytesIO()
    Image.frombytes("L", (len(data), 1), data).save(buffer, "TIFF", compression=BY_PILLOW[compression])
    with Image.open(buffer) as opened:
        (offset,), (size,) = opened.tag_v2[273], opened.tag_v2[279]
        assert opened.tag_v2.get(317, 1) == 1
    return buffer.getvalue()[offset : offset + size]
