"""What of a picture's EXIF may go to a result: who, when, where and with which camera."""

from __future__ import annotations

from PIL import ExifTags, Image

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


def kept_exif(image: Image.Image) -> bytes:
    """Return a picture's EXIF as far as it holds for a result; empty where there is none that can be read."""
    try:
        found, kept = image.getexif(), Image.Exif()
        for tag in KEPT:
            # Pillow would write anything but ASCII as question marks: no name is better than another's.
            if tag in found and str(found[tag]).isascii():
                kept[tag] = found[tag]
        for folder in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            entries = {tag: value for tag, value in found.get_ifd(folder).items() if tag not in DROPPED}
            if entries:
                kept[folder] = entries
        return kept.tobytes() if len(kept) else b""
    except Exception:  # damaged metadata is no reason to refuse a picture
        return b""
