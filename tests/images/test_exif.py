from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from pipeline.images.exif import NO_EXIF, PREFIX, Exif, kept_exif
from pipeline.images.metadata import Kept
from pipeline.images.reading import decode_picture
from pipeline.images.writing import encode_image

BASE, IFD = ExifTags.Base, ExifTags.IFD
ASCII = 2
NAME, RIGHTS = "Zoë Müller".encode(), "© 2024 Zoë".encode()
# What stands in for them while Pillow writes, which has no way to write their bytes.
STAND_INS = {b"ZoXX MXXller": NAME, b"YY 2024 ZoYY": RIGHTS}
PIXELS = np.random.default_rng(0).integers(0, 256, (70, 9, 3), np.uint8)


def written_exif(order: str) -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[BASE.Artist], exif[BASE.Copyright], exif[BASE.Orientation] = "ZoXX MXXller", "YY 2024 ZoYY", 1
    exif[IFD.Exif] = {
        BASE.CameraOwnerName: "ZoXX MXXller",
        BASE.ExifVersion: b"0232",
        BASE.ExposureTime: TiffImagePlugin.IFDRational(10, 1250),
        BASE.MakerNote: b"maker's own",
    }
    exif[IFD.GPSInfo] = {0: b"\2\3\0\0", 1: "N", 2: (48.0, 12.0, 30.0)}
    data = exif.tobytes()
    for stand_in, value in STAND_INS.items():
        data = data.replace(stand_in, value)
    return data


def picture(image_format: str, exif: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, image_format, exif=exif)
    return buffer.getvalue()


def fields(data: bytes, folder: int = 0) -> dict[int, tuple[int, bytes]]:
    """Return type and bytes of every field of a file's EXIF, as Pillow finds them."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        exif = opened.getexif()
        exif.fp.seek(0)
        head = exif.fp.read(8)
        directory = TiffImagePlugin.ImageFileDirectory_v2(head)
        exif.fp.seek(exif[folder] if folder else directory.next)
        directory.load(exif.fp)
        return {tag: (directory.tagtype[tag], directory._tagdata[tag]) for tag in directory}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("source", ["JPEG", "MPO", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("target", "bits"), [("jpeg", 8), ("png", 8), ("png", 16), ("webp", 8), ("tiff", 8), ("tiff", 16)]
)
def test_every_kept_field_has_the_type_and_the_bytes_that_it_had(order, source, target, bits):
    exif = written_exif(order)
    before = picture(source, exif)
    found = decode_picture(before, "picture").metadata.exif
    assert found.notes == ()
    pixels_HWC = PIXELS.astype(np.uint16) * 257 + 1 if bits == 16 else PIXELS
    after = encode_image(pixels_HWC, target, 95, {"key": "abc"}, Kept(found.data))
    main = fields(after)
    assert (main[BASE.Artist], main[BASE.Copyright]) == ((ASCII, NAME + b"\0"), (ASCII, RIGHTS + b"\0"))
    assert BASE.Orientation not in main
    expected = fields(before, IFD.Exif)
    assert expected[BASE.CameraOwnerName] == (ASCII, NAME + b"\0"), "the test's own picture"
    del expected[BASE.MakerNote]
    assert fields(after, IFD.Exif) == expected
    assert fields(after, IFD.GPSInfo) == fields(before, IFD.GPSInfo)
    again = decode_picture(after, "picture")
    assert again.metadata.exif == found
    if target in {"png", "tiff"}:  # a TIFF has one byte order for its EXIF and its pixels
        assert np.array_equal(np.asarray(again.image) if bits == 8 else again.rgb16_HWC, pixels_HWC)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_keeps_what_it_has(order):
    """Its main IFD is the picture's own, in which EXIF is a small part."""
    jpeg = picture("JPEG", written_exif(order))
    tiff = encode_image(PIXELS, "tiff", 95, {}, Kept(decode_picture(jpeg, "picture").metadata.exif.data))
    found = decode_picture(tiff, "picture.tif").metadata.exif
    again = encode_image(PIXELS, "jpeg", 95, {}, Kept(found.data))
    assert fields(again)[BASE.Artist] == (ASCII, NAME + b"\0")
    assert fields(again, IFD.Exif)[BASE.CameraOwnerName] == (ASCII, NAME + b"\0")
    assert set(fields(again)) == {BASE.Artist, BASE.Copyright, IFD.Exif, IFD.GPSInfo}


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}, {"save_all": True}])
def test_every_kind_of_tiff_is_looked_into(options):
    pages = {"append_images": [Image.fromarray(PIXELS)]} if "save_all" in options else {}
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[BASE.Artist] = "ZoXX MXXller"
    if with_folder := "compression" not in options:  # libtiff writes none
        exif[IFD.Exif] = {BASE.CameraOwnerName: "ZoXX MXXller"}
    Image.fromarray(PIXELS).save(buffer, "TIFF", exif=exif.tobytes(), **options, **pages)
    data = buffer.getvalue().replace(b"ZoXX MXXller", NAME)
    found = decode_picture(data, "picture.tif").metadata.exif
    assert found.notes == ()
    again = encode_image(PIXELS, "jpeg", 95, {}, Kept(found.data))
    assert fields(again)[BASE.Artist] == (ASCII, NAME + b"\0")
    if with_folder:
        assert fields(again, IFD.Exif) == {BASE.CameraOwnerName: (ASCII, NAME + b"\0")}


def kept(exif: bytes) -> Exif:
    """Return what is kept of an EXIF; Pillow's warnings are silenced where pictures are read."""
    image = Image.fromarray(PIXELS)
    image.info["exif"] = exif
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kept_exif(image)


def test_text_of_the_newest_version_is_kept():
    """Type 129 is UTF-8; Pillow does not know it."""
    exif = bytearray(written_exif("<"))
    entry = exif.index(BASE.Artist.to_bytes(2, "little") + b"\2\0")
    exif[entry + 2] = 129
    found = kept(bytes(exif))
    assert found.notes == ()
    assert BASE.Artist.to_bytes(2, "little") + b"\x81\0" in found.data


def test_a_field_that_cannot_be_read_is_left_out_and_said():
    exif = bytearray(written_exif("<"))
    entry = exif.index(BASE.Artist.to_bytes(2, "little") + b"\2\0")
    exif[entry + 8 : entry + 12] = b"\xff\xff\0\0"  # beyond the end
    found = kept(bytes(exif))
    assert found.notes == ("parts of its EXIF cannot be read and are left out: Artist",)
    assert (NAME in found.data, RIGHTS in found.data) == (True, True)


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (b"Exif\0\0XX*\0\0\0\0\x08", "its EXIF cannot be read"),
        (b"Exif\0\0II*\0\xff\0\0\0", "entries of the main IFD"),
        (
            PREFIX + b"II*\0\x08\0\0\0\1\0" + b"\x69\x87\4\0\1\0\0\0\xff\xff\0\0" + bytes(4),
            "entries of the Exif",
        ),
        (
            PREFIX + b"II*\0\x08\0\0\0\1\0" + b"\x25\x88\2\0\1\0\0\0\x08\0\0\0" + bytes(4),
            "entries of the GPS",
        ),
    ],
)
def test_damage_is_said(damage, note):
    found = kept(damage)
    assert found.data == b""
    (text,) = found.notes
    assert note in text


def test_nothing_is_nothing():
    assert kept(b"") == kept(PREFIX) == NO_EXIF
    assert kept_exif(Image.fromarray(PIXELS)) == NO_EXIF


def test_many_large_fields_at_one_place_are_not_read_again_and_again():
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\7\0" + (50_000).to_bytes(4, "little") + (8).to_bytes(4, "little")
        for tag in range(1, 2000)
    )
    folder = (1999).to_bytes(2, "little") + entries + bytes(4)
    main = b"\1\0\x69\x87\4\0\1\0\0\0\x1a\0\0\0" + bytes(4)
    found = kept(PREFIX + b"II*\0\x08\0\0\0" + main + folder + bytes(50_000))
    assert len(found.data) < 100_000
    (note,) = found.notes
    assert note.endswith("and 1993 more")


@pytest.mark.parametrize("order", ["<", ">"])
def test_no_damage_raises(order):
    exif, random = written_exif(order), np.random.default_rng(0)
    for length in range(len(exif)):
        kept(exif[:length])
    for _ in range(500):
        flipped = bytearray(exif)
        for place in random.integers(0, len(exif), random.integers(1, 4)):
            flipped[place] ^= int(random.integers(1, 256))
        found = kept(bytes(flipped))
        if found.data:
            encode_image(PIXELS, "tiff", 95, {}, Kept(found.data))
