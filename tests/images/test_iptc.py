from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xmp_packets import UTF_8, full_name, iptc_data

from pipeline.images import xmp
from pipeline.images.iptc import KEPT, in_file_order, read_iptc

SETS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=8)


def test_keywords_and_captions_are_kept_byte_for_byte() -> None:
    data = UTF_8 + iptc_data((25, b"harbour"), (25, "Zoë".encode()), (120, b"a caption"))
    found = read_iptc(data)
    assert (found.data, found.is_whole) == (data, True)
    assert found.texts == {25: ("harbour", "Zoë"), 120: ("a caption",)}


def test_previews_and_what_belongs_to_the_old_file_are_not_kept() -> None:
    preview = iptc_data((200, b"\0\1"), (202, b"SMALLCOPY"), (65, b"a program"), (70, b"2.0"))
    others = iptc_data((5, b"of record 3"), record=3)
    found = read_iptc(preview + iptc_data((25, b"harbour")) + others)
    assert found.data == iptc_data((25, b"harbour"))
    assert read_iptc(UTF_8 + iptc_data((0, b"\0\4"))).data == b"", "that says nothing"


@pytest.mark.parametrize(
    ("value", "encoding", "text"),
    [
        ("Zoë".encode(), b"", "Zoë"),
        ("Zoë €".encode("cp1252"), b"", "Zoë €"),
        (b"\xff\x81", b"", "ÿ\ufffd"),
        ("Zoë".encode("latin-1"), UTF_8, "Zo\ufffd"),
        (b"a\0b\x1b", UTF_8, "ab"),
    ],
)
def test_texts_are_decoded(value: bytes, encoding: bytes, text: str) -> None:
    assert read_iptc(encoding + iptc_data((25, value))).texts == {25: (text,)}


def test_the_same_facts_in_xmp() -> None:
    made = read_iptc(iptc_data((25, b"a"), (25, b"b"), (80, b"Zoe"), (90, b"Kiel"), (15, b"x"))).properties()
    assert list(made) == [full_name(name) for name in ("dc:subject", "dc:creator", "photoshop:City")]
    found = xmp.read_properties(xmp.packet(xmp.description(made)).encode())
    assert [each.text for each in found[full_name("dc:subject")].iter() if each.text] == ["a", "b"]
    assert found[full_name("photoshop:City")].text == "Kiel"


def test_a_long_value_has_its_size_in_more_bytes() -> None:
    value = b"x" * 40_000
    data = b"\x1c\x02\x78" + (0x8004).to_bytes(2) + len(value).to_bytes(4) + value
    assert read_iptc(data).data == data
    assert read_iptc(data[:-1]).is_whole is False
    assert read_iptc(b"\x1c\x02\x78\xff\xff" + b"\xff" * 60).is_whole is False


def test_damage_ends_the_reading_and_is_noticed() -> None:
    good = iptc_data((25, b"harbour"))
    for bad in (b"\x1c\x02\x19\0\x90short", b"\x1d\x02\x19\0\0", b"\x1c", b"junk"):
        found = read_iptc(good + bad + good)
        assert (found.data, found.is_whole) == (good, False)
    assert read_iptc(good + bytes(3)).is_whole, "zeros that fill up a field of a TIFF"


@pytest.mark.parametrize("length", range(8))
def test_data_sets_written_as_numbers_are_put_in_order(length: int) -> None:
    data = iptc_data((25, b"harbour"[:length]))
    data += bytes(-len(data) % 4)
    swapped = b"".join(data[place : place + 4][::-1] for place in range(0, len(data), 4))
    assert in_file_order(data) == in_file_order(swapped) == data
    assert in_file_order(b"") == b""


@given(SETS, st.booleans())
def test_data_sets_are_those_that_were_written(sets: list[tuple[int, bytes]], is_utf_8: bool) -> None:
    found = read_iptc((UTF_8 if is_utf_8 else b"") + iptc_data(*sets))
    kept = [each for each in sets if each[0] in KEPT]
    assert found.is_whole
    if any(number for number, _ in kept):
        assert found.data == (UTF_8 if is_utf_8 else b"") + iptc_data(*kept)
    assert sum(map(len, found.texts.values())) <= len(kept)
    xmp.read_properties(xmp.packet("<rdf:Description/>", xmp.description(found.properties())).encode())


@given(SETS, st.binary(max_size=30), st.integers(0, 200))
def test_no_bytes_raise_or_grow(sets: list[tuple[int, bytes]], noise: bytes, place: int) -> None:
    data = iptc_data(*sets)
    data = data[:place] + noise + data[place:]
    found = read_iptc(data)
    assert len(found.data) <= len(data)
    assert read_iptc(found.data).data == found.data
    in_file_order(data)
