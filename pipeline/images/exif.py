"""The part of a picture's EXIF that a result may carry: who, when, where and with which camera.

Fields are copied byte for byte: what EXIF calls ASCII is UTF-8 in practice, or something else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

from PIL import ExifTags, Image

from ..spec.text import first_few
from .ifd import TAGS, Field, Fields, Ifd, IfdFile, exif_bytes
from .resolution import Dpi, read_resolution, resolution_fields

# Tags of the main IFD that are kept. In a TIFF it also describes the layout of the pixels. The orientation
# was applied; the thumbnail is in another IFD, which is never read.
KEPT = (TAGS.ImageDescription, TAGS.Make, TAGS.Model, TAGS.DateTime, TAGS.Artist, TAGS.Copyright)
# Tags of the Exif IFD that are dropped: sizes and colours of other pixels, and makers' notes, which contain
# offsets into the old file and do not survive a move.
DROPPED = (
    TAGS.ExifImageWidth,
    TAGS.ExifImageHeight,
    TAGS.ColorSpace,
    TAGS.MakerNote,
    TAGS.ExifInteroperabilityOffset,
)
_EXIF, _GPS = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
# The key of the main IFD, beside the tags that point to the others.
_MAIN = 0
_IFD_NAMES = {_MAIN: "main", _EXIF: "Exif", _GPS: "GPS"}
PREFIX = b"Exif\0\0"
NAMED_IN_NOTES = 5


@dataclass(frozen=True)
class Exif:
    """EXIF for a result, with its prefix as in a JPEG, or b""; `notes` say what was left out of it.

    `dpi` is the resolution that it gave, which is not part of `data`.
    """

    data: bytes = b""
    notes: tuple[str, ...] = ()
    dpi: Dpi | None = None


NO_EXIF = Exif()


@dataclass(frozen=True)
class ExifFields:
    """The fields of the main IFD, and of the Exif and GPS IFDs by the tag that points to each."""

    order: str
    main: Fields
    sub_ifds: Mapping[int, Fields]
    unreadable: tuple[str, ...] = ()
    dpi: Dpi | None = None


def kept_exif(image: Image.Image) -> Exif:
    """Return what a result may carry of a picture's EXIF, and notes about what cannot be read."""
    try:
        # Undocumented: `fp` is the EXIF as a file of its own, without a prefix, or the whole TIFF.
        file = getattr(image.getexif(), "fp", None)
        return NO_EXIF if file is None else _kept(file)
    except Exception:  # Pillow raises anything for damage, and bad metadata must not lose a picture
        return Exif(notes=("its EXIF cannot be read and is left out",))


def orientation_of(image: Image.Image) -> int:
    """Return the orientation that a picture's metadata gives, 1 to 8; 1, upright, if it cannot be read."""
    try:
        found = image.getexif().get(TAGS.Orientation)
    except Exception:  # as above
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def tiff_exif(data: bytes, offset: int) -> Exif:
    """Return the same for the IFD at an offset of a TIFF."""
    return _kept(io.BytesIO(data), offset)


def read_exif(data: bytes) -> ExifFields:
    """Return the fields of an EXIF that is not empty."""
    return _read_fields(io.BytesIO(data.removeprefix(PREFIX)), None, lambda _ifd, _tag: True)


def with_resolution(data: bytes, dpi: Dpi | None) -> bytes:
    """Return an EXIF, which may be empty, with the fields of a resolution."""
    if dpi is None:
        return data
    found = read_exif(data) if data else ExifFields("<", {}, {})
    main = {**found.main, **resolution_fields(found.order, dpi)}
    return PREFIX + exif_bytes(found.order, main, found.sub_ifds)


def _kept(file: IO[bytes], offset: int | None = None) -> Exif:
    found = _read_fields(file, offset, _is_kept)
    is_empty = not (found.main or found.sub_ifds)
    data = b"" if is_empty else PREFIX + exif_bytes(found.order, found.main, found.sub_ifds)
    if not found.unreadable:
        return Exif(data, dpi=found.dpi)
    named = first_few(found.unreadable, NAMED_IN_NOTES)
    return Exif(data, (f"parts of its EXIF cannot be read and are left out: {named}",), found.dpi)


def _is_kept(pointer: int, tag: int) -> bool:
    return tag in KEPT if pointer == _MAIN else tag not in DROPPED


def _read_fields(file: IO[bytes], offset: int | None, is_wanted: Callable[[int, int], bool]) -> ExifFields:
    """Read the IFD at `offset`, the first if None, and the IFDs that it points to.

    Raises:
        ValueError: the file does not begin as a TIFF does.
    """
    ifds = IfdFile(file)
    main = ifds.first() if offset is None else Ifd(ifds, offset)
    found: dict[int, dict[int, Field]] = {}
    unreadable = []
    for pointer, name in _IFD_NAMES.items():
        if pointer != _MAIN and pointer not in main.entries:
            continue
        ifd = main if pointer == _MAIN else Ifd(ifds, main.number(pointer, ifds.length))
        if not ifd.is_whole:
            unreadable.append(f"entries of the {name} IFD")
        found[pointer] = {}
        for tag, entry in ifd.entries.items():
            if entry.count and tag not in (_EXIF, _GPS) and is_wanted(pointer, tag):
                if field := ifd.field(tag):
                    found[pointer][tag] = field
                else:
                    unreadable.append(_tag_name(pointer, tag))
    fields, others = found.pop(_MAIN), {key: ifd for key, ifd in found.items() if ifd}
    return ExifFields(ifds.order, fields, others, tuple(unreadable), read_resolution(main))


def _tag_name(pointer: int, tag: int) -> str:
    known = ExifTags.GPSTAGS if pointer == _GPS else ExifTags.TAGS
    return known.get(tag, f"{tag:#06x}")
