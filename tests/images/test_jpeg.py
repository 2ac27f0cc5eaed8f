"""JPEGs whose picture is whole, whatever is wrong with their metadata."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import encoded, halves
from PIL import Image
from xmp_packets import iptc_data, resource, segment, with_segments, xmp_packet

from pipeline.images.jpeg import IPTC_BYTES, XMP_BYTES, metadata_segments, read_segments
from pipeline.images.reading import decode_picture

XMP, RESOURCES = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
PLAIN = encoded(halves(), "JPEG")
DATA = iptc_data((25, b"harbour"))
DAMAGED = ("p.jpg: some of its image resources are damaged and are left out.",)


def photoshop(*resources: bytes) -> bytes:
    return with_segments(PLAIN, segment(0xED, RESOURCES + b"".join(resources)))


def test_xmp_iptc_and_resolution_are_found() -> None:
    data = with_segments(
        encoded(halves(), "JPEG", dpi=(300, 240)),
        segment(0xE1, XMP + xmp_packet()),
        segment(0xED, RESOURCES + resource(0x0404, DATA) + resource(0x040C, b"SMALLCOPY")),
    )
    found = read_segments(data)
    assert (found.xmp, found.iptc, found.dpi, found.notes) == (xmp_packet(), DATA, (300, 240), ())
    assert len(found.data) == len(data)


def test_a_jpeg_without_any_is_not_copied() -> None:
    found = read_segments(PLAIN)
    assert found.data is PLAIN
    assert (found.xmp, found.iptc, found.dpi) == (b"", b"", None)


def test_a_resolution_in_centimetres_and_one_that_is_a_ratio() -> None:
    unit = PLAIN.index(b"JFIF") + 7
    for number, dpi in ((0, None), (2, (254.0, 254.0))):
        data = PLAIN[:unit] + bytes([number]) + (100).to_bytes(2) * 2 + PLAIN[unit + 5 :]
        assert read_segments(data).dpi == (pytest.approx(dpi) if dpi else None)


def test_resources_with_names_and_odd_lengths() -> None:
    resources = (resource(1, b"odd", b"name"), resource(2, b"", b"odd"), resource(0x0404, DATA + b"\0"[:0]))
    assert read_segments(photoshop(*resources)).iptc == DATA
    halves_of = with_segments(
        PLAIN,
        segment(0xED, RESOURCES + resource(0x0404, DATA)),
        segment(0xED, RESOURCES + resource(0x0404, DATA)),
    )
    assert read_segments(halves_of).iptc == DATA + DATA


def test_resources_that_continue_in_the_next_segment() -> None:
    whole = resource(0x040C, b"preview") + resource(0x0404, DATA)
    for cut in range(1, len(whole)):
        parts = whole[:cut], whole[cut:]
        found = read_segments(with_segments(PLAIN, *(segment(0xED, RESOURCES + part) for part in parts)))
        assert (found.iptc, found.notes) == (DATA, ())


def test_a_damaged_segment_costs_no_other() -> None:
    bad, good = RESOURCES + b"8BIM\x04\x04\xff", RESOURCES + resource(0x0404, DATA)
    found = read_segments(with_segments(PLAIN, segment(0xED, bad), segment(0xED, good)))
    assert found.iptc == DATA
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"8BIM",
        b"8BIM\x04",
        b"8BIM\x04\x04",
        b"8BIM\x04\x04\x00",
        b"8BIM\x04\x04\x00\x00\x00\x00",
        b"8BIM\x04\x04\x00\x00\x00\x00\xff\xff" + DATA,
        b"8BIM\x03\xed\x00\x00\x00\x00\x00\x02ab",
        b"8BIM\x04\x04\xffname",
        b"junk",
    ],
)
def test_resources_that_are_damaged_cost_a_note_and_no_picture(bad: bytes) -> None:
    data = photoshop(resource(0x0404, DATA), bad)
    assert read_segments(data).iptc == DATA
    found = decode_picture(data, "p.jpg")
    assert found.image.tobytes() == decode_picture(PLAIN, "p.jpg").image.tobytes()
    assert found.notes in {DAMAGED, ()}
    assert (found.notes == ()) == (bad.startswith(b"8BIM\x03\xed")), "of another kind, and never looked at"


def test_what_is_written_is_read_again_up_to_the_last_byte() -> None:
    for packet, data in (("x" * XMP_BYTES, b"y" * IPTC_BYTES), ("ä", b"odd"), ("", b"odd"), ("x", b"")):
        picture = with_segments(PLAIN, metadata_segments(packet, data))
        found = read_segments(picture)
        assert (found.xmp, found.iptc, found.notes) == (packet.encode(), data, ())
        Image.open(io.BytesIO(picture)).load()
    assert metadata_segments("", b"") == b""


@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 20))
def test_no_bytes_raise(noise: bytes, place: int, length: int) -> None:
    data = with_segments(
        PLAIN, segment(0xE1, XMP + b"<x/>"), segment(0xED, RESOURCES + resource(0x0404, DATA))
    )
    data = data[:place] + noise + data[place + length :]
    found = read_segments(data)
    assert len(found.data) == len(data)


@given(st.binary(max_size=80))
def test_any_image_resources_leave_the_picture_whole(content: bytes) -> None:
    data = photoshop(content)
    assert decode_picture(data, "p.jpg").image.size == (40, 20)
