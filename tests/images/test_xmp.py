from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xmp_packets import KEPT_NAMES, NAMESPACES, RDF, full_name, xmp_packet

from pipeline.images import xmp

XML_TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\n\r")
)


def texts(properties: xmp.Properties, name: str) -> list[str | None]:
    """The values of a property that has several."""
    return [item.text for item in properties[full_name(name)].iter(f"{{{RDF}}}li")]


def packet_of(properties: xmp.Properties) -> bytes:
    return xmp.packet(xmp.description(properties)).encode()


def test_what_describes_the_photograph_is_kept_and_nothing_about_its_pixels_or_its_file() -> None:
    found = xmp.read_properties(xmp_packet())
    assert set(found) == {full_name(name) for name in KEPT_NAMES}
    assert texts(found, "dc:subject") == ["harbour", "sea < sky & 夜"]
    written = packet_of(found).decode()
    for word in ("Orientation", "4000", "SMALLCOPY", "FARAWAY", "Exposure", "cropped", "stale", "ModifyDate"):
        assert word not in written


def test_what_is_written_is_read_again() -> None:
    found = xmp.read_properties(xmp_packet())
    written = packet_of(found)
    again = xmp.read_properties(written)
    assert packet_of(again) == written
    assert [ET.tostring(each) for each in again.values()] != []
    assert texts(again, "dc:subject") == texts(found, "dc:subject")
    assert again[full_name("tiff:Make")].text == "Cam & Co"
    (city,) = again[full_name("Iptc4xmpExt:LocationCreated")].iter(full_name("Iptc4xmpExt:City"))
    assert city.text == "Kiel"


@given(st.lists(XML_TEXT, min_size=1, max_size=4), XML_TEXT)
def test_any_text_comes_through_unchanged(values: list[str], rating: str) -> None:
    made = {
        full_name("dc:subject"): xmp.array(full_name("dc:subject"), "Bag", values),
        full_name("xmp:Rating"): xmp.simple(full_name("xmp:Rating"), rating),
    }
    found = xmp.read_properties(packet_of(made))
    assert [text or "" for text in texts(found, "dc:subject")] == values
    assert (found[full_name("xmp:Rating")].text or "") == rating


def test_nothing_is_nothing() -> None:
    assert xmp.packet(xmp.description({})) == ""
    assert xmp.read_properties(xmp_packet("", "")) == {}


def test_the_first_of_two_properties_of_one_name_counts() -> None:
    body = "<xmp:Label>one</xmp:Label><xmp:Label>two</xmp:Label>"
    found = xmp.read_properties(xmp_packet(body, 'xmp:Rating="1"'))
    assert found[full_name("xmp:Label")].text == "one"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_packets_in_any_encoding_are_read(encoding: str) -> None:
    text = xmp_packet().decode().rstrip("\0").partition("?>\n")[2]
    assert set(xmp.read_properties(text.encode(encoding))) == {full_name(name) for name in KEPT_NAMES}


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"", "no element found"),
        (b"not XML", "syntax error"),
        (xmp_packet()[:900], "unclosed token|no element"),
        (xmp_packet().replace(b"harbour", b"\xff\xfe", 1), "not well-formed"),
        (b"<?xml version='1.0' encoding='no-such'?><a/>", "unknown encoding"),
        (BOMB.encode() + xmp_packet(), "document type|not well-formed"),
        (f"{BOMB}<x>&b;</x>".encode(), "document type"),
        (f"{BOMB}<x>&b;</x>".encode("utf-16"), "document type"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "document type"),
        (b"<a>" * 1_000, "too many elements"),
        (b"<a>" + b"<b/>" * xmp.MOST_ELEMENTS + b"</a>", "too many elements"),
        (xmp_packet() + b" " * xmp.LONGEST_PACKET, "too long"),
    ],
)
def test_what_is_no_packet_is_refused(packet: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        xmp.read_properties(packet)


@given(st.binary(max_size=200), st.integers(0, 3000), st.integers(0, 40))
def test_damage_is_refused_or_harmless(noise: bytes, place: int, length: int) -> None:
    packet = xmp_packet()
    try:
        found = xmp.read_properties(packet[:place] + noise + packet[place + length :])
    except ValueError:
        return
    assert packet_of(xmp.read_properties(packet_of(found))) == packet_of(found) if found else True


@given(
    st.recursive(
        st.text("<>&\"'a:", max_size=4),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([*NAMESPACES, "unknown"]),
    st.sampled_from(["subject", "Rating", "GPSLatitude", "Orientation", "li"]),
)
def test_only_known_names_come_through(tree: object, prefix: str, name: str) -> None:
    """Whatever is nested in a property, what is written declares all of its prefixes."""
    namespace = NAMESPACES.get(prefix, "urn:unknown")

    def build(parent: ET.Element, part: object) -> None:
        element = ET.SubElement(parent, f"{{{namespace}}}{name}")
        if isinstance(part, list):
            for each in part:
                build(element, each)
        else:
            element.text = str(part)

    root = ET.Element(f"{{{RDF}}}RDF")
    build(ET.SubElement(root, f"{{{RDF}}}Description"), tree)
    found = xmp.read_properties(ET.tostring(root))
    if found:
        again = xmp.read_properties(packet_of(found))
        assert list(again) == list(found)
    assert not any("unknown" in each or each == full_name("tiff:Orientation") for each in found)
