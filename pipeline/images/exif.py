"""What of a picture's EXIF may go to a result: who, when, where and with which camera.

Fields go over byte for byte: what EXIF calls ASCII is in practice UTF-8 or anything else, and does not say.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO

from PIL import ExifTags, Image

from ..spec.text import first_few
from .directories import Directories, file_bytes, read_directories

_BASE = ExifTags.Base

# Of the main directory only these: in a TIFF it also says how the pixels lie in the file. Orientation was
# applied; the thumbnail is another directory, which is never asked for.
KEPT = (
    _BASE.ImageDescription,
    _BASE.Make,
    _BASE.Model,
    _BASE.DateTime,
    _BASE.Artist,
    _BASE.Copyright,
)
# Of the camera's directory not these: sizes and colours of other pixels, and makers' notes, which hold
# places in the old file and do not survive a move.
DROPPED = (
    _BASE.ExifImageWidth,
    _BASE.ExifImageHeight,
    _BASE.ColorSpace,
    _BASE.MakerNote,
    _BASE.ExifInteroperabilityOffset,
)
FOLDERS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
PREFIX = b"Exif\0\0"
NAMED_IN_NOTES = 5


@dataclass(frozen=True)
class Exif:
    """EXIF for a result, empty or with its prefix as JPEG has it; `notes` say what of it was left out."""

    data: bytes = b""
    notes: tuple[str, ...] = ()


NO_EXIF = Exif()


def kept_exif(image: Image.Image) -> Exif:
    """Return a picture's EXIF as far as it holds for a result, and what of that cannot be read."""
    try:
        # As Pillow found it, in a chunk, a segment or the file itself, without a prefix.
        file = getattr(image.getexif(), "fp", None)
        return NO_EXIF if file is None else _kept(file)
    except Exception:  # Pillow reports damage as anything, and metadata is no reason to refuse a picture
        return Exif(notes=("its EXIF cannot be read, and is left out",))


def tiff_exif(data: bytes) -> Exif:
    """Return the same of the first directory of a file that begins as a TIFF does."""
    return _kept(io.BytesIO(data))


def _kept(file: IO[bytes]) -> Exif:
    found = read_directories(file, FOLDERS, _is_kept)
    data = PREFIX + file_bytes(found.order, found.main, found.folders) if found.main or found.folders else b""
    return Exif(data, _notes(found))


def parsed_exif(data: bytes) -> Directories:
    """Return the directories of an EXIF that is not empty."""
    return read_directories(io.BytesIO(data.removeprefix(PREFIX)), FOLDERS)


def _is_kept(folder: int, tag: int) -> bool:
    return tag not in DROPPED if folder else tag in KEPT


def _notes(found: Directories) -> tuple[str, ...]:
    names = [_name(folder, tag) for folder, tag in found.lost]
    if not names:
        return ()
    return (f"of its EXIF this cannot be read, and is left out: {first_few(names, NAMED_IN_NOTES)}",)


def _name(folder: int, tag: int | None) -> str:
    if tag is None:
        where = {0: "main", ExifTags.IFD.Exif: "Exif", ExifTags.IFD.GPSInfo: "GPS"}
        return f"entries of the {where[folder]} directory"
    known = ExifTags.GPSTAGS if folder == ExifTags.IFD.GPSInfo else ExifTags.TAGS
    return known.get(tag, f"{tag:#06x}")
