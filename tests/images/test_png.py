"""PNGs whose picture is whole, whatever is wrong with their metadata."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from icc_profiles import PROFILES
from PIL import Image, ImageCms

from pipeline.errors import ImageError
from pipeline.images import png
from pipeline.images.reading import FIRST_FRAME, decode_picture
from pipeline.images.writing import encode_image, read_provenance

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
LEFT_OUT = "p.png: some of its metadata is damaged or too long and is left out: {}."


def chunk(name: bytes, body: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ wrong)


def picture(*more: bytes, after: bytes = b"", kind: int = 2, depth: int = 8, rows: bytes = b"") -> bytes:
    """Return a PNG with more chunks before its pixels, and after them."""
    height, width = PIXELS.shape[:2]
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0))
    rows = rows or b"".join(b"\0" + row.tobytes() for row in PIXELS)
    data = [head, *more, chunk(b"IDAT", zlib.compress(rows)), after, chunk(b"IEND", b"")]
    return png.SIGNATURE + b"".join(data)


def notes_of(data: bytes) -> tuple[str, ...]:
    found = decode_picture(data, "in/p.png")
    assert np.array_equal(np.asarray(found.image), PIXELS)
    return found.notes


LONG = zlib.compress(b"x" * 1_400_000)
ITXT = b"XML:com.adobe.xmp\0\1\0\0\0"
PACKED = zlib.compress(b"fine")
# Chunks that Pillow refuses a picture for, and how they are called.
REFUSED = {
    "zTXt workflow": chunk(b"zTXt", b"workflow\0\0" + LONG),
    "iTXt XML:com.adobe.xmp": chunk(b"iTXt", ITXT + LONG),
    "tEXt Comment": chunk(b"tEXt", b"Comment\0fine", wrong=1),
    "zTXt how": chunk(b"zTXt", b"how\0\7" + PACKED),
    "gAMA": chunk(b"gAMA", b"\0\0"),
    "cHRM": chunk(b"cHRM", bytes(31)),
    "sRGB": chunk(b"sRGB", b""),
    "pHYs": chunk(b"pHYs", bytes(8)),
    "tRNS": chunk(b"tRNS", b"\0\0\0\0"),
    "eXIf": chunk(b"eXIf", b"II*\0", wrong=1 << 31),
    "iCCP": chunk(b"iCCP", b"name without an end"),
    "abCD": chunk(b"abCD", b"private", wrong=2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_with_its_metadata_is_left_out_and_said(name):
    with pytest.raises((SyntaxError, ValueError, OSError, IndexError)):
        Image.open(io.BytesIO(picture(REFUSED[name]))).load()
    assert notes_of(picture(REFUSED[name])) == (LEFT_OUT.format(name),)


def test_texts_after_the_pixels_count_as_well():
    assert notes_of(picture(after=REFUSED["zTXt workflow"])) == (LEFT_OUT.format("zTXt workflow"),)


def test_many_texts_are_too_long_together(monkeypatch):
    monkeypatch.setattr(png, "MOST_TEXT", 100)
    texts = [chunk(b"tEXt", b"t%d\0" % number + bytes(37)) for number in range(9)]
    assert notes_of(picture(*texts)) == (
        LEFT_OUT.format("tEXt t2, tEXt t3, tEXt t4, tEXt t5, tEXt t6 and 2 more"),
    )


def test_what_is_well_is_read_as_before():
    texts = [
        chunk(b"zTXt", b"k\0\0" + PACKED),
        chunk(b"iTXt", b"k\0\1\0\0\0" + PACKED),
        chunk(b"tIME", bytes(7)),
    ]
    data = picture(*texts, chunk(b"tEXt", b"style-pipeline\0" + b'{"key": "abc"}'))
    assert png.read_chunks(data).data is data
    assert notes_of(data) == ()
    assert read_provenance(data, "p.png") == {"key": "abc"}
    beside = picture(REFUSED["zTXt workflow"], chunk(b"tEXt", b"style-pipeline\0" + b'{"key": "abc"}'))
    assert read_provenance(beside, "p.png") == {"key": "abc"}


def test_names_that_would_confuse_a_terminal_are_not_said():
    assert notes_of(picture(chunk(b"tEXt", b"\x1b[2J\0x", wrong=1))) == (LEFT_OUT.format("tEXt"),)


def test_a_profile_of_more_than_a_megabyte_is_used():
    profile = PROFILES["Display P3"] + bytes(1_200_000)
    plain = decode_picture(encode_image(PIXELS, "png", 90, {}, profile=PROFILES["Display P3"]), "p.png")
    found = decode_picture(picture(chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile))), "p.png")
    assert (found.notes, found.profile) == ((), profile)
    assert np.array_equal(np.asarray(found.image), np.asarray(plain.image))
    assert not np.array_equal(np.asarray(found.image), PIXELS)


def test_a_profile_that_is_a_bomb_is_left_out(monkeypatch):
    monkeypatch.setattr(png, "LONGEST_PROFILE", 1000)
    body = b"icc\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() * 9)
    assert notes_of(picture(chunk(b"iCCP", body))) == (LEFT_OUT.format("iCCP"),)


def test_frames_that_are_damaged_do_not_matter():
    control = struct.pack(">5I2H2B", 1, 9, 8, 0, 0, 1, 10, 0, 0)
    animated = chunk(b"acTL", struct.pack(">2I", 2, 0)), chunk(b"fcTL", bytes(4) + control[4:])
    frame = chunk(b"fcTL", control, wrong=1) + chunk(b"fdAT", b"\0\0\0\x09no pixels", wrong=1)
    assert notes_of(picture(*animated, after=frame)) == (f"p.png: {FIRST_FRAME}.",)
    out_of_order = (
        chunk(b"acTL", struct.pack(">2I", 2, 0)),
        chunk(b"fcTL", struct.pack(">I", 9) + control[4:]),
    )
    assert notes_of(picture(*out_of_order)) == (f"p.png: {FIRST_FRAME}.",)
    assert notes_of(picture(chunk(b"acTL", struct.pack(">2I", 1, 0)))) == ()


def test_damage_to_the_picture_itself_is_still_refused():
    data = picture()
    wrong = data[:16] + bytes([data[16] ^ 1]) + data[17:]  # the width, without its checksum
    with pytest.raises(ImageError, match=r"p\.png"):
        decode_picture(wrong, "p.png")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("key", [0, 1, -1])
def test_the_grey_that_is_transparent(depth, key):
    """`key` is the sample, or the last one there is."""
    levels = 1 << depth
    key %= levels
    samples = np.arange(-1, 71).reshape(8, 9) % levels
    bits = (samples[:, :, None] >> np.arange(depth)[::-1]) & 1
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits.astype(np.uint8).reshape(8, -1))
    data = picture(chunk(b"tRNS", struct.pack(">H", key)), kind=0, depth=depth, rows=rows)
    found = decode_picture(data, "p.png")
    assert found.alpha_HW is not None
    assert np.array_equal(found.alpha_HW == 0, samples == key)
    shown = np.asarray(found.image)[:, :, 0]
    assert np.array_equal(shown, np.where(samples == key, 255, samples * 255 // (levels - 1)))


def test_no_damage_to_what_is_said_of_a_picture_refuses_it():
    chunks = [
        chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
        chunk(b"gAMA", struct.pack(">I", 55_556)), chunk(b"cICP", b"\x0c\x0d\0\1"),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(PROFILES["Display P3"])), chunk(b"tRNS", bytes(6)),
        chunk(b"iTXt", ITXT + PACKED), chunk(b"zTXt", b"k\0\0" + PACKED), chunk(b"acTL", bytes(8)),
    ]  # fmt: skip
    random = np.random.default_rng(0)
    for _ in range(300):
        number = int(random.integers(len(chunks)))
        body, more = bytearray(chunks[number][8:-4]), list(chunks)
        for place in random.integers(0, len(body), 2):
            body[place] ^= int(random.integers(1, 256))
        more[number] = chunk(chunks[number][4:8], bytes(body), wrong=int(random.integers(2)))
        assert decode_picture(picture(*more), "p.png").image.size == (9, 8)


def test_no_damage_to_chunks_raises_anything_else():
    data, random = picture(chunk(b"gAMA", bytes(4)), REFUSED["zTXt workflow"]), np.random.default_rng(0)
    cases = [data[:length] for length in range(0, len(data), 7)]
    for _ in range(300):
        flipped = bytearray(data)
        flipped[int(random.integers(len(data)))] ^= int(random.integers(1, 256))
        cases.append(bytes(flipped))
    for case in cases:
        try:
            decode_picture(case, "p.png")
        except ImageError as error:
            assert error.next_step
