"""What a result carries of its content's metadata: from every format that is read to every one written."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import camera_exif, encoded, halves, tiff_file
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
from xmp_packets import (
    KEPT,
    KEPT_NAMES,
    UTF_8,
    full_name,
    iptc_data,
    resource,
    segment,
    with_segments,
    xmp_packet,
)

from pipeline.images import jpeg, png, xmp
from pipeline.images.metadata import NOTHING, Kept, Metadata, keep
from pipeline.images.reading import decode_picture
from pipeline.images.writing import encode_image, read_provenance

IPTC = UTF_8 + iptc_data((25, "Zoë".encode()), (25, b"harbour"), (116, b"Zoe 2024"), (202, b"SMALLCOPY"))
KEPT_IPTC = UTF_8 + iptc_data((25, "Zoë".encode()), (25, b"harbour"), (116, b"Zoe 2024"))
RESOURCES = b"Photoshop 3.0\0"
DPI = (300.0, 240.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
TARGETS = [("jpeg", 8), ("png", 8), ("png", 16), ("webp", 8), ("tiff", 8), ("tiff", 16)]


def jpeg_content(turned: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    plain = encoded(halves(), "JPEG", exif=exif.tobytes(), **options)
    parts = segment(0xE1, jpeg._XMP + xmp_packet()), segment(0xED, RESOURCES + resource(0x0404, IPTC))
    return with_segments(plain, *parts)


def png_content() -> bytes:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp_packet().decode().rstrip("\0"), zip=True)
    return encoded(halves(), "PNG", pnginfo=texts, dpi=DPI)


def tiff_content(dtype: type, order: str) -> bytes:
    def words(kind: str, *numbers: int) -> bytes:
        return np.array(numbers, f"{order}{kind}").tobytes()

    samples = np.random.default_rng(0).integers(0, 200, (20, 40, 3)).astype(dtype)
    resolution = {282: words("u4", 300, 1), 283: words("u4", 240, 1)}
    data = tiff_file(samples, order, data={700: xmp_packet(), 33723: IPTC, **resolution})
    for tag in resolution:  # they are written as bytes of no type, and become one fraction
        data = data.replace(words("u2", tag, 7) + words("u4", 8), words("u2", tag, 5) + words("u4", 1))
    return data


def heif_content() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 300.0, 240.0, 2
    pillow_heif.from_pillow(halves()).save(buffer, exif=exif.tobytes(), xmp=xmp_packet())
    return buffer.getvalue()


def with_resolution_in_exif(kind: str) -> bytes:
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 300.0, 240.0, 2
    return encoded(halves(), kind, exif=exif.tobytes(), xmp=xmp_packet())


SOURCES: dict[str, tuple[Callable[[], bytes], bool]] = {
    "JPEG": (lambda: jpeg_content(dpi=(300, 240)), True),
    "PNG": (png_content, False),
    "TIFF": (lambda: tiff_content(np.uint8, "<"), True),
    "TIFF, other order": (lambda: tiff_content(np.uint8, ">"), True),
    "TIFF, 16 bits": (lambda: tiff_content(np.uint16, ">"), True),
    "WebP": (lambda: with_resolution_in_exif("WEBP"), False),
    "AVIF": (lambda: with_resolution_in_exif("AVIF"), False),
    "HEIF": (heif_content, False),
}


def properties_of(kept: Kept) -> xmp.Properties:
    return xmp.read_properties(xmp.packet(kept.xmp).encode()) if kept.xmp else {}


@pytest.mark.parametrize(("target", "bits"), TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_keywords_and_resolution_go_from_every_format_to_every_other(
    source: str, target: str, bits: int
) -> None:
    make, has_iptc = SOURCES[source]
    kept, notes = keep(decode_picture(make(), "content").metadata, target)
    assert notes == ()
    assert kept.dpi == DPI
    assert kept.iptc == (KEPT_IPTC if has_iptc else b"")
    names = {full_name(name) for name in KEPT_NAMES} | ({full_name("dc:rights")} if has_iptc else set())
    assert set(properties_of(kept)) == names
    pixels_HWC = PIXELS.astype(np.uint16) * 257 if bits == 16 else PIXELS
    data = encode_image(pixels_HWC, target, 95, {"key": "abc"}, kept)
    assert data == encode_image(pixels_HWC, target, 95, {"key": "abc"}, kept)
    assert read_provenance(data, "result") == {"key": "abc"}
    for word in (b"SMALLCOPY", b"FARAWAY", b"stale", b"Orientation"):
        assert word not in data
    # And on again, through another job.
    again, notes = keep(decode_picture(data, "result").metadata, target)
    holds_iptc = target in {"jpeg", "tiff"}
    assert (again.xmp, again.dpi, notes) == (kept.xmp, kept.dpi, ())
    assert again.iptc == (kept.iptc if holds_iptc else b"")


def test_programs_find_it_where_each_format_has_it() -> None:
    kept, _ = keep(decode_picture(jpeg_content(dpi=(300, 240)), "content").metadata, "jpeg")
    opened = {kind: Image.open(io.BytesIO(encode_image(PIXELS, kind, 95, {}, kept))) for kind, _ in TARGETS}
    for kind, image in opened.items():
        image.load()
        assert b"harbour" in (image.info.get("xmp") or b""), kind
    assert opened["jpeg"].info["dpi"] == (300, 240)
    assert opened["png"].info["dpi"] == pytest.approx((300, 240), abs=0.01)
    assert opened["tiff"].info["dpi"] == (300, 240)
    assert opened["jpeg"].info["photoshop"] == {0x0404: KEPT_IPTC}
    assert opened["tiff"].tag_v2[33723] == KEPT_IPTC
    for kind in ("jpeg", "webp", "png"):
        assert [opened[kind].getexif()[tag] for tag in (282, 283, 296)] == [300, 240, 2]


def test_without_anything_to_keep_files_are_as_they_are_without_keeping() -> None:
    kept, notes = keep(decode_picture(encoded(halves(), "JPEG"), "content").metadata, "png")
    assert (kept, notes) == (NOTHING, ())


@pytest.mark.parametrize(
    ("turned", "dpi"), [(1, (300, 240)), (3, (300, 240)), (6, (240, 300)), (8, (240, 300))]
)
def test_a_picture_that_was_turned_has_its_resolution_turned(turned: int, dpi: tuple[float, float]) -> None:
    found = decode_picture(jpeg_content(turned, dpi=(300, 240)), "content")
    assert found.image.size == ((20, 40) if dpi[0] < dpi[1] else (40, 20))
    assert found.metadata.dpi == dpi


def test_what_only_iptc_says_is_in_the_xmp_as_well_and_xmp_wins() -> None:
    kept, _ = keep(Metadata(iptc=IPTC), "png")
    found = properties_of(kept)
    words = [each.text for each in found[full_name("dc:subject")].iter() if each.text]
    assert words == ["Zoë", "harbour"]
    kept, _ = keep(Metadata(xmp=xmp_packet(KEPT, ""), iptc=IPTC), "png")
    found = properties_of(kept)
    assert [each.text for each in found[full_name("dc:subject")].iter()][-1] == "sea < sky & 夜"
    assert full_name("dc:rights") in found


# Damage and size


@pytest.mark.parametrize(
    ("metadata", "note"),
    [
        (Metadata(xmp=b"<x>"), "its XMP cannot be read and is left out (no element found: line 1, column 3)"),
        (
            Metadata(xmp=b"<a/>" + bytes(xmp.LONGEST_PACKET)),
            "its XMP cannot be read and is left out (it is too long)",
        ),
        (Metadata(iptc=IPTC[:-3]), "parts of its IPTC cannot be read and are left out"),
    ],
)
def test_damage_is_a_note(metadata: Metadata, note: str) -> None:
    kept, notes = keep(metadata, "png")
    assert notes == (note,)
    encode_image(PIXELS, "png", 95, {}, kept)


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        (Metadata(xmp=xmp_packet(f"<dc:subject>{'x' * 70_000}</dc:subject>")), "XMP"),
        (Metadata(iptc=iptc_data(*[(202, b"")], *[(25, b"x" * 30_000)] * 3)), "IPTC"),
    ],
)
def test_what_is_too_long_for_a_jpeg_is_left_out_and_said(metadata: Metadata, name: str) -> None:
    kept, notes = keep(metadata, "jpeg")
    assert f"its {name} is too long for a JPEG and is left out" in notes
    assert read_provenance(encode_image(PIXELS, "jpeg", 95, {"key": "abc"}, kept), "r") == {"key": "abc"}
    kept, notes = keep(metadata, "tiff")
    assert notes == ()
    assert len(encode_image(PIXELS, "tiff", 95, {}, kept)) > 70_000


def test_a_packet_that_expands_without_end_never_gets_far() -> None:
    """A megabyte in a PNG's text is the limit, however small it is packed."""
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", "<a>" + "x" * (png.LONGEST_TEXT + 1), zip=True)
    found = decode_picture(encoded(halves(), "PNG", pnginfo=texts), "p.png")
    assert found.metadata.xmp == b""
    assert "iTXt XML:com.adobe.xmp" in found.notes[0]


def test_a_packet_in_a_content_never_passes_for_provenance() -> None:
    body = "<dc:title>&lt;sp:provenance&gt;{}&lt;/sp:provenance&gt;</dc:title>"
    kept, _ = keep(Metadata(xmp=xmp_packet(body, "")), "webp")
    data = encode_image(PIXELS, "webp", 95, {"key": "abc"}, kept)
    assert read_provenance(data, "r") == {"key": "abc"}


@settings(max_examples=40)
@given(st.sampled_from(["JPEG", "TIFF"]), st.integers(0, 1_500), st.binary(min_size=1, max_size=6))
def test_no_damaged_metadata_fails_a_picture(source: str, place: int, noise: bytes) -> None:
    data = SOURCES[source][0]()
    place += data.index(b"<?xpacket")
    damaged = data[:place] + noise + data[place + len(noise) :]
    found = decode_picture(damaged, "p")
    assert found.image.size == (40, 20)
    kept, _ = keep(found.metadata, "webp")
    encode_image(PIXELS[:2, :2], "webp", 95, {}, kept)


@given(st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_no_damaged_exif_fails_a_picture(damage: list[tuple[int, int]]) -> None:
    """Pillow writes EXIF anew when it turns a picture, and cannot where that is damaged."""
    exif = camera_exif().tobytes()
    data = bytearray(encoded(halves(), "JPEG", exif=exif))
    start = data.index(b"Exif\0\0") + 6
    for place, value in damage:
        data[start + place % (len(exif) - 6)] = value
    found = decode_picture(bytes(data), "p")
    assert sorted(found.image.size) == [20, 40]
    keep(found.metadata, "jpeg")


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_as_pillow_turns_them(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=exif.tobytes())
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode_picture(data, "p.png").image.tobytes() == expected.tobytes()
