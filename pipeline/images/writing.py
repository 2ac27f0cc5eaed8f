"""Pictures -> files, each with a colour profile and its provenance, and the provenance back.

Arrays are `pixels_HWC`: uint8 in 0..255 or uint16 in 0..65535; red, green, blue and perhaps alpha, not
premultiplied; sRGB unless a profile is given. H rows, W columns, C channels.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Literal
from xml.sax.saxutils import escape, unescape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ..errors import ImageError
from ..spec.recipe import LONGEST
from ..storage.files import parse_json_object
from . import jpeg, xmp
from .exif import ExifFields, read_exif
from .ifd import ASCII, BYTE, LONG, SHORT, TAGS, UNDEFINED, Field, exif_bytes, numbers, raw
from .metadata import NOTHING, RICH_TIFF_IPTC, Kept
from .png import SIGNATURE
from .profiles import srgb_profile
from .reading import open_picture

ImageFormat = Literal["png", "jpeg", "webp", "tiff"]

# Formats that hold transparency.
WITH_ALPHA = frozenset({"png", "webp", "tiff"})

# A JPEG's comment is one segment, which holds this much.
JPEG_COMMENT_BYTES = 65_533
# The key of the reason in provenance that had to be shortened.
LEFT_OUT = "left_out"

STRIP_ROWS = 64
# Adobe's deflate, and the difference of each sample from its left neighbour (TIFF 6.0, section 14, and its
# second supplement).
DEFLATE, DIFFERENCES = 8, 2

_XMP_PROVENANCE = (
    '<rdf:Description rdf:about="" xmlns:sp="urn:style-pipeline"><sp:provenance>{}</sp:provenance>'
    "</rdf:Description>"
)
_XMP_TEXT = re.compile("<sp:provenance>(.*?)</sp:provenance>", re.DOTALL)


def check_size(image_format: str, size: tuple[int, int]) -> None:
    """Refuse a picture that its format cannot hold, before it is made.

    Raises:
        ImageError: a side is too long.
    """
    longest = LONGEST.get(image_format)
    if longest is not None and max(size) > longest:
        raise ImageError(
            f"{image_format} holds at most {longest:,} pixels on a side, not {max(size):,}.",
            "Choose format png or tiff, or lower size.",
        )


def fits(provenance: Mapping[str, object], image_format: ImageFormat) -> bool:
    """Return whether a format has room for `provenance`."""
    return image_format != "jpeg" or len(json.dumps(provenance)) <= JPEG_COMMENT_BYTES


def encode_image(
    picture: Image.Image | NDArray[Any],
    image_format: ImageFormat,
    quality: int,
    provenance: Mapping[str, object],
    kept: Kept = NOTHING,
    profile: bytes = b"",
) -> bytes:
    """Return the bytes of a file with `provenance` as JSON in its metadata, beside what is `kept`.

    `picture` is `pixels_HWC`, uint16 for PNG and TIFF only, or a Pillow image of mode RGB, in the colours of
    `profile`; b"" is sRGB. `quality`, 1 to 100, is for JPEG, which is 4:4:4, and WebP. The same
    arguments give the same bytes: nothing here depends on the time.
    """
    profile = profile or srgb_profile()
    pixels_HWC = np.ascontiguousarray(picture)
    text = json.dumps(provenance)
    if image_format == "tiff":
        return _tiff(pixels_HWC, _xmp_with_provenance(text, kept), kept, profile)
    if image_format == "png" and pixels_HWC.dtype == np.uint16:
        return _png_16(pixels_HWC, _png_text(text, kept), kept, profile)
    options: dict[str, Any] = {"icc_profile": profile}
    options |= {"exif": kept.exif} if kept.exif else {}
    options |= {"dpi": kept.dpi} if kept.dpi else {}
    if image_format == "jpeg":
        # Undocumented: `extra` is written as it is, before the comment.
        extra = jpeg.metadata_segments(xmp.packet(kept.xmp), kept.iptc)
        options |= {"quality": quality, "subsampling": 0, "comment": text.encode(), "extra": extra}
    elif image_format == "webp":
        options |= {"quality": quality, "xmp": _xmp_with_provenance(text, kept)}
    else:
        options |= {"pnginfo": _png_text(text, kept)}
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, image_format.upper(), **options)
    return buffer.getvalue()


def _xmp_with_provenance(text: str, kept: Kept) -> bytes:
    return xmp.packet(_XMP_PROVENANCE.format(escape(text)), kept.xmp).encode()


def _png_text(text: str, kept: Kept) -> PngImagePlugin.PngInfo:
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("Software", "style-pipeline")
    metadata.add_itxt("style-pipeline", text)
    if kept.xmp:
        metadata.add_itxt("XML:com.adobe.xmp", xmp.packet(kept.xmp))
    return metadata


def _png_16(
    pixels_HWC: NDArray[np.uint16], metadata: PngImagePlugin.PngInfo, kept: Kept, profile: bytes
) -> bytes:
    """Write a PNG of 16 bits (the PNG specification, third edition); Pillow writes colours in 8 bits only."""
    height, width, channels = pixels_HWC.shape
    # Colour type 2 is RGB, 6 is RGBA; compression, filters and interlace have only one value worth having.
    header = struct.pack(">2I5B", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))]
    chunks += [(name, data) for name, data, *_ in metadata.chunks]
    if kept.dpi:  # in pixels per metre
        chunks += [(b"pHYs", struct.pack(">2IB", *(round(dpi / 0.0254) for dpi in kept.dpi), 1))]
    chunks += [(b"eXIf", kept.exif.removeprefix(b"Exif\0\0"))] if kept.exif else []
    packer = zlib.compressobj(6)
    packed = [packer.compress(strip) for strip in _filtered(pixels_HWC)]
    chunks += [(b"IDAT", b"".join([*packed, packer.flush()])), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _filtered(pixels_HWC: NDArray[np.uint16]) -> Iterator[bytes]:
    """Filter rows for compression, strip by strip: each byte less the one above it, filter 2."""
    last = np.zeros((1, pixels_HWC[0].nbytes), np.uint8)
    for top in range(0, len(pixels_HWC), STRIP_ROWS):
        strip_HWC = pixels_HWC[top : top + STRIP_ROWS].astype(">u2")
        rows = strip_HWC.view(np.uint8).reshape(len(strip_HWC), -1)
        above, last = np.concatenate([last, rows[:-1]]), rows[-1:]
        yield np.concatenate([np.full((len(rows), 1), 2, np.uint8), rows - above], axis=1).tobytes()


def _tiff(pixels_HWC: NDArray[Any], packet: bytes, kept: Kept, profile: bytes) -> bytes:
    """Write a TIFF of strips, in the byte order of its EXIF; Pillow writes no colours in 16 bits."""
    found = read_exif(kept.exif) if kept.exif else ExifFields("<", {}, {})
    height, width, channels = pixels_HWC.shape
    order = found.order
    strips = [_strip(pixels_HWC[top : top + STRIP_ROWS], order) for top in range(0, height, STRIP_ROWS)]
    sizes = [len(strip) for strip in strips]
    fields: dict[int, Field] = {
        **found.main,
        TAGS.ImageWidth: numbers(order, LONG, width),
        TAGS.ImageLength: numbers(order, LONG, height),
        TAGS.BitsPerSample: numbers(order, SHORT, *[8 * pixels_HWC.itemsize] * channels),
        TAGS.Compression: numbers(order, SHORT, DEFLATE),
        TAGS.PhotometricInterpretation: numbers(order, SHORT, 2),  # RGB
        TAGS.SamplesPerPixel: numbers(order, SHORT, channels),
        TAGS.RowsPerStrip: numbers(order, LONG, STRIP_ROWS),
        TAGS.StripByteCounts: numbers(order, LONG, *sizes),
        TAGS.Software: raw(ASCII, b"style-pipeline\0"),
        TAGS.Predictor: numbers(order, SHORT, DIFFERENCES),
        TAGS.XMLPacket: raw(BYTE, packet),
        TAGS.InterColorProfile: raw(UNDEFINED, profile),
    }
    if kept.iptc:
        fields[RICH_TIFF_IPTC] = raw(UNDEFINED, kept.iptc)
    if channels == 4:  # alpha that colours are not multiplied with
        fields[TAGS.ExtraSamples] = numbers(order, SHORT, 2)

    def ifds(start: int) -> bytes:
        *offsets, _ = accumulate(sizes, initial=start)
        return exif_bytes(order, fields | {TAGS.StripOffsets: numbers(order, LONG, *offsets)}, found.sub_ifds)

    # The strips come after the IFDs, whose length does not depend on the offsets in them.
    return ifds(len(ifds(0))) + b"".join(strips)


def _strip(rows_HWC: NDArray[Any], order: str) -> bytes:
    differences = np.diff(rows_HWC, axis=1, prepend=np.zeros_like(rows_HWC[:, :1]))
    return zlib.compress(differences.astype(differences.dtype.newbyteorder(order)).tobytes(), 6)


def read_provenance(data: bytes, name: str) -> dict[str, Any] | None:
    """Return the provenance in a file of `encode_image`, None if there is none. No pixels are decoded.

    Raises:
        ImageError: it is not a picture.
    """
    info = open_picture(data, name).info
    stored = info.get("style-pipeline") or info.get("comment") or _xmp_text(info.get("xmp"))
    return (parse_json_object(stored) if isinstance(stored, bytes | str) else {}) or None


def _xmp_text(packet: Any) -> str:
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    found = _XMP_TEXT.search(text)
    return unescape(found[1]) if found else ""
