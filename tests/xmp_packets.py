"""XMP as programs write it."""

from __future__ import annotations

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "rdf": RDF,
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "xmpGImg": "http://ns.adobe.com/xap/1.0/g/img/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "sp": "urn:style-pipeline",
}

# What is kept of a photograph, and what is not: about its pixels, its file, or edits of it.
KEPT = """
 <dc:subject><rdf:Bag><rdf:li>harbour</rdf:li><rdf:li>sea &lt; sky &amp; 夜</rdf:li></rdf:Bag></dc:subject>
 <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Evening</rdf:li></rdf:Alt></dc:title>
 <lr:hierarchicalSubject><rdf:Bag><rdf:li>place|harbour</rdf:li></rdf:Bag></lr:hierarchicalSubject>
 <Iptc4xmpExt:LocationCreated><rdf:Bag><rdf:li rdf:parseType="Resource">
  <Iptc4xmpExt:City>Kiel</Iptc4xmpExt:City></rdf:li></rdf:Bag></Iptc4xmpExt:LocationCreated>
"""
KEPT_NAMES = {
    "tiff:Make", "xmp:Rating", "exif:GPSLatitude", "photoshop:City", "dc:subject", "dc:title",
    "lr:hierarchicalSubject", "Iptc4xmpExt:LocationCreated",
}  # fmt: skip
DROPPED = """
 <xmp:Thumbnails><rdf:Alt><rdf:li rdf:parseType="Resource"><xmpGImg:image>SMALLCOPY</xmpGImg:image>
 </rdf:li></rdf:Alt></xmp:Thumbnails>
 <xmpMM:History><rdf:Seq><rdf:li>cropped</rdf:li></rdf:Seq></xmpMM:History>
 <mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList/></mwg-rs:Regions>
 <Iptc4xmpExt:DigitalSourceType>digitalCapture</Iptc4xmpExt:DigitalSourceType>
 <dc:creator><rdf:Seq><rdf:li xmpMM:InstanceID="x">someone</rdf:li></rdf:Seq></dc:creator>
 <sp:provenance>{"key": "stale"}</sp:provenance>
 <dc:format>image/jpeg</dc:format>
"""
ATTRIBUTES = (
    'tiff:Make="Cam &amp; Co" xmp:Rating="4" exif:GPSLatitude="54,19.5N" photoshop:City="Kiel" '
    'tiff:Orientation="1" tiff:ImageWidth="4000" exif:PixelXDimension="4000" crs:Exposure2012="+1.00" '
    'GDepth:Data="FARAWAY" xmp:ModifyDate="2024-01-01"'
)


def xmp_packet(body: str = KEPT + DROPPED, attributes: str = ATTRIBUTES) -> bytes:
    """Return a packet of one node, padded so that it can be edited in place."""
    declared = " ".join(f'xmlns:{prefix}="{name}"' for prefix, name in NAMESPACES.items() if prefix != "rdf")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about="" {declared} {attributes}>{body}'
        f'</rdf:Description></rdf:RDF></x:xmpmeta>{" " * 64}<?xpacket end="w"?>\0'
    ).encode()


def full_name(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{NAMESPACES[prefix]}}}{local}"


def iptc_data(*sets: tuple[int, bytes], record: int = 2) -> bytes:
    """Return data sets of one record."""
    return b"".join(bytes([0x1C, record, number]) + len(value).to_bytes(2) + value for number, value in sets)


UTF_8 = iptc_data((90, b"\x1b%G"), record=1)


def resource(number: int, data: bytes, name: bytes = b"") -> bytes:
    """Return an image resource."""
    label = bytes([len(name)]) + name
    label += bytes(len(label) % 2)
    return b"8BIM" + number.to_bytes(2) + label + len(data).to_bytes(4) + data + bytes(len(data) % 2)


def segment(marker: int, content: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Return a JPEG with more segments after its header."""
    length = 4 + int.from_bytes(jpeg[4:6]) if jpeg[3] == 0xE0 else 2
    return jpeg[:length] + b"".join(segments) + jpeg[length:]
