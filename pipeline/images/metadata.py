"""What a picture's file says beside its pixels, and what of it a result carries.

Descriptions are kept: who, what, where and when. What is about the pixels of the photograph is not, except
its resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image

from . import iptc, jpeg, xmp
from .exif import NO_EXIF, Exif, kept_exif, orientation_of, tiff_exif, with_resolution
from .ifd import TAGS
from .resolution import Dpi, plausible, upright
from .tiff import Page

# Some bytes of a segment of a JPEG are for its header.
JPEG_EXIF_BYTES = 65_500
# The tag of IPTC in a TIFF.
RICH_TIFF_IPTC = 33723


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file: EXIF that may be kept, XMP and IPTC as they are there, and its resolution."""

    exif: Exif = NO_EXIF
    xmp: bytes = b""
    iptc: bytes = b""
    dpi: Dpi | None = None


@dataclass(frozen=True)
class Kept:
    """What a result carries: EXIF with its prefix, as in a JPEG; a part of an XMP packet; IPTC data sets."""

    exif: bytes = b""
    xmp: str = ""
    iptc: bytes = b""
    dpi: Dpi | None = None


NO_METADATA, NOTHING = Metadata(), Kept()


def read_metadata(image: Image.Image) -> Metadata:
    """Return the metadata of a picture that Pillow has read, by the names that Pillow gives it."""
    exif, info = kept_exif(image), image.info
    packet, data_sets = info.get("xmp"), info.get("iptc")
    return Metadata(
        exif,
        packet if isinstance(packet, bytes) else b"",
        data_sets if isinstance(data_sets, bytes) else b"",
        upright(plausible(info.get("dpi")) or exif.dpi, orientation_of(image)),
    )


def tiff_metadata(data: bytes, page: Page, first: Page, orientation: int) -> Metadata:
    """Return the metadata of a TIFF's page. What it leaves out is taken from the first page."""
    exif, outer = (tiff_exif(data, each.ifd.offset) for each in (page, first))
    packet, data_sets = (
        page.ifd.data(tag) or first.ifd.data(tag) for tag in (TAGS.XMLPacket, RICH_TIFF_IPTC)
    )
    dpi = upright(exif.dpi or outer.dpi, orientation)
    return Metadata(exif if exif.data else outer, packet, iptc.in_file_order(data_sets), dpi)


def keep(metadata: Metadata, image_format: str) -> tuple[Kept, tuple[str, ...]]:
    """Return what a result in a format carries of its content's metadata, and notes about the rest."""
    notes = list(metadata.exif.notes)
    found = iptc.read_iptc(metadata.iptc)
    if not found.is_whole:
        notes.append("parts of its IPTC cannot be read and are left out")
    properties: xmp.Properties = {}
    if metadata.xmp:
        try:
            properties = xmp.read_properties(metadata.xmp)
        except ValueError as error:
            notes.append(f"its XMP cannot be read and is left out ({error})")
    # What only IPTC says would be lost in a format that has none.
    description = xmp.description({**found.properties(), **properties})
    exif = with_resolution(metadata.exif.data, metadata.dpi)
    kept = Kept(exif, description, found.data, metadata.dpi)
    if image_format == "jpeg":
        kept, too_long = _within_a_jpeg(kept)
        notes += [f"its {name} is too long for a JPEG and is left out" for name in too_long]
    return kept, tuple(notes)


def _within_a_jpeg(kept: Kept) -> tuple[Kept, list[str]]:
    """Return what a JPEG holds of it, and the names of the rest."""
    too_long = []
    if len(kept.exif) > JPEG_EXIF_BYTES:
        kept = replace(kept, exif=b"")
        too_long.append("EXIF")
    if len(xmp.packet(kept.xmp).encode()) > jpeg.XMP_BYTES:
        kept = replace(kept, xmp="")
        too_long.append("XMP")
    if len(kept.iptc) > jpeg.IPTC_BYTES:
        kept = replace(kept, iptc=b"")
        too_long.append("IPTC")
    return kept, too_long
