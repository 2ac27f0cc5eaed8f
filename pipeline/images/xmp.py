"""XMP (ISO 16684-1): which properties of a picture a result may carry, read from RDF and written as RDF.

Only what is listed here is kept. Everything else may describe other pixels than those of the result
(orientation, sizes, thumbnails, regions, edits that a program would apply again), or the file they were in.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias
from xml.sax.saxutils import escape, quoteattr

# The most bytes of a packet that is read, elements in it, and elements inside of each other.
LONGEST_PACKET, MOST_ELEMENTS, DEEPEST = 1 << 20, 20_000, 32

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML = "http://www.w3.org/XML/1998/namespace"
DC = "http://purl.org/dc/elements/1.1/"
PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
IPTC_CORE = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
TIFF = "http://ns.adobe.com/tiff/1.0/"
EXIF = "http://ns.adobe.com/exif/1.0/"


@dataclass(frozen=True)
class _Namespace:
    """The usual prefix of a namespace, and which of its properties are kept: some, or all but some."""

    prefix: str
    kept: frozenset[str] | None = None
    dropped: frozenset[str] = frozenset()

    def keeps(self, name: str) -> bool:
        return name not in self.dropped if self.kept is None else name in self.kept


def _only(prefix: str, names: str) -> _Namespace:
    return _Namespace(prefix, frozenset(names.split()))


def _all_but(prefix: str, names: str = "") -> _Namespace:
    return _Namespace(prefix, dropped=frozenset(names.split()))


_NAMESPACES: Mapping[str, _Namespace] = {
    DC: _all_but("dc", "format identifier"),
    "http://ns.adobe.com/xap/1.0/": _only("xmp", "CreateDate Label Rating"),
    "http://ns.adobe.com/xap/1.0/rights/": _all_but("xmpRights"),
    PHOTOSHOP: _only(
        "photoshop",
        "AuthorsPosition CaptionWriter Category City Country Credit DateCreated Headline Instructions Source "
        "State SupplementalCategories TransmissionReference Urgency",
    ),
    IPTC_CORE: _all_but("Iptc4xmpCore"),
    # The source type says that it is a photograph, which the result is not.
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": _all_but(
        "Iptc4xmpExt",
        "DigImageGUID DigitalSourceFileType DigitalSourceType ImageRegion MaxAvailHeight MaxAvailWidth",
    ),
    "http://ns.useplus.org/ldf/xmp/1.0/": _only(
        "plus",
        "CopyrightOwner CreditLineRequired DataMining ImageCreator ImageSupplier Licensor ModelReleaseID "
        "ModelReleaseStatus PropertyReleaseID PropertyReleaseStatus",
    ),
    "http://creativecommons.org/ns#": _all_but("cc"),
    "http://ns.adobe.com/lightroom/1.0/": _only("lr", "hierarchicalSubject weightedFlatSubject"),
    "http://www.digikam.org/ns/1.0/": _only("digiKam", "TagsList"),
    "http://ns.microsoft.com/photo/1.0/": _only("MicrosoftPhoto", "LastKeywordIPTC LastKeywordXMP Rating"),
    "http://www.metadataworkinggroup.com/schemas/keywords/": _all_but("mwg-kw"),
    # As in EXIF itself: see `exif.KEPT` and `exif.DROPPED`.
    TIFF: _only("tiff", "Artist Copyright DateTime ImageDescription Make Model"),
    EXIF: _all_but("exif", "ColorSpace MakerNote NativeDigest PixelXDimension PixelYDimension"),
    "http://cipa.jp/exif/1.0/": _all_but("exifEX", "InteroperabilityIndex"),
    "http://ns.adobe.com/exif/1.0/aux/": _only(
        "aux", "Firmware FlashCompensation Lens LensID LensInfo LensSerialNumber OwnerName SerialNumber"
    ),
}
_PREFIXES = {_RDF: "rdf", _XML: "xml", **{name: each.prefix for name, each in _NAMESPACES.items()}}

# Properties by their names as ElementTree writes them: {namespace}name.
Properties: TypeAlias = Mapping[str, ET.Element]

_HEAD = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    f'<rdf:RDF xmlns:rdf="{_RDF}">'
)
_TAIL = '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'


def read_properties(packet: bytes) -> Properties:
    """Return the properties in a packet that a result may carry, in their order.

    Raises:
        ValueError: it is damaged, too long, or declares entities, which no XMP does and which may expand to
            any size.
    """
    if len(packet) > LONGEST_PACKET:
        raise ValueError("it is too long")
    parser = ET.XMLParser(target=_Builder())
    try:
        parser.feed(packet if b"\0" in packet[:4] else packet.strip(b"\0 \t\r\n"))  # UTF-16 has zeros
        root: ET.Element = parser.close()
    except (ET.ParseError, LookupError) as error:  # of a syntax; of an unknown encoding
        raise ValueError(str(error)) from error
    found: dict[str, ET.Element] = {}
    for each in _all_properties(root):
        if _is_kept(each):
            found.setdefault(each.tag, each)
    return found


class _Builder(ET.TreeBuilder):
    """Builds elements, but not for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._elements = self._depth = 0

    def doctype(self, *_: object) -> None:
        raise ValueError("it declares a document type")

    def start(self, tag: str, attributes: dict[str, str]) -> ET.Element:
        self._elements, self._depth = self._elements + 1, self._depth + 1
        if self._elements > MOST_ELEMENTS or self._depth > DEEPEST:
            raise ValueError("it has too many elements")
        return super().start(tag, attributes)

    def end(self, tag: str) -> ET.Element:
        self._depth -= 1
        return super().end(tag)


def _all_properties(root: ET.Element) -> Iterable[ET.Element]:
    """Yield the properties of all nodes; a simple one may be an attribute of its node."""
    for graph in root.iter(f"{{{_RDF}}}RDF"):
        for node in graph:
            for name, value in node.attrib.items():
                yield simple(name, value)
            yield from node


def _is_kept(found: ET.Element) -> bool:
    namespace, name = _split(found.tag)
    rule = _NAMESPACES.get(namespace)
    if rule is None or not rule.keeps(name):
        return False
    return all(_split(part)[0] in _PREFIXES for each in found.iter() for part in (each.tag, *each.attrib))


def _split(tag: str) -> tuple[str, str]:
    """Return the namespace and the local part of a name."""
    namespace, brace, name = tag.removeprefix("{").rpartition("}")
    return (namespace, name) if brace else ("", tag)


def simple(name: str, text: str) -> ET.Element:
    """Return a property with one value."""
    element = ET.Element(name)
    element.text = text
    return element


def array(name: str, kind: Literal["Bag", "Seq", "Alt"], texts: Iterable[str]) -> ET.Element:
    """Return a property with several values: unordered, ordered, or one in several languages."""
    element = ET.Element(name)
    values = ET.SubElement(element, f"{{{_RDF}}}{kind}")
    language = {f"{{{_XML}}}lang": "x-default"} if kind == "Alt" else {}
    for text in texts:
        ET.SubElement(values, f"{{{_RDF}}}li", language).text = text
    return element


def description(properties: Properties) -> str:
    """Return properties as part of a packet; "" if there are none."""
    if not properties:
        return ""
    parts = (part for top in properties.values() for each in top.iter() for part in (each.tag, *each.attrib))
    used = sorted({namespace for namespace, _ in map(_split, parts)} - {_RDF, _XML})
    declared = "".join(f" xmlns:{_PREFIXES[each]}={quoteattr(each)}" for each in used)
    body = "".join(map(_written, properties.values()))
    return f'<rdf:Description rdf:about=""{declared}>{body}</rdf:Description>'


def packet(*descriptions: str) -> str:
    """Return the packet of some descriptions; "" if all are empty."""
    body = "".join(descriptions)
    return f"{_HEAD}{body}{_TAIL}" if body else ""


def _written(element: ET.Element) -> str:
    name = _prefixed(element.tag)
    attributes = "".join(f" {_prefixed(key)}={quoteattr(value)}" for key, value in element.attrib.items())
    body = "".join(map(_written, element)) or escape(element.text or "", {"\r": "&#13;"})
    return f"<{name}{attributes}>{body}</{name}>"


def _prefixed(tag: str) -> str:
    namespace, name = _split(tag)
    return f"{_PREFIXES[namespace]}:{name}"
