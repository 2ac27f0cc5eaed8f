"""Files -> pictures: which formats are read, the limits that hold before anything is decoded, and errors."""

from __future__ import annotations

import io
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ..errors import ImageError
from ..threads import SharedContext
from . import jpeg, png, tiff
from .decoding import (
    EIGHT_BITS,
    Decoded,
    decode_pillow,
    decode_samples,
    decode_samples_in_8_bits,
    samples_beyond_pillow,
)
from .heif import read_nclx
from .ifd import TAGS, is_tiff, with_first_ifd
from .metadata import Metadata, tiff_metadata
from .samples import upright

# The formats that are read; Pillow and its plug-ins know more. MPO comes as JPEG, APNG as PNG.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "HEIF")
# Formats without a signature: files of many other kinds begin as these do.
WITHOUT_SIGNATURE = {"DIB", "PPM"}
# The first bytes of a HEIC file, after its size.
HEIC_BRANDS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"mif1"))
# Raw formats of cameras that are not TIFFs: their first bytes, with the offset of these.
RAW_SIGNATURES = (
    (0, b"FUJIFILMCCD-RAW"), (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"), (0, b"\0MRM"),
    (0, b"FOVb"), (4, b"ftypcrx "), (6, b"HEAPCCDR"), (8, b"CR\2\0"),
)  # fmt: skip
# Signatures lie within this many bytes of the start.
SIGNATURE_BYTES = 64

# The most bytes that a file may have for each pixel: four samples of 32 bits.
FILE_BYTES_PER_PIXEL = 16

FIRST_FRAME = "it has several frames or pages; only the first is used"
LARGEST_PAGE = "it has several pages; the first is much smaller than the one that is used"


def read_bytes(path: Path) -> bytes:
    """Read a picture's file, but only if it is a file, begins as a picture and has the size of one.

    Raises:
        ImageError: it is missing, cannot be read, or is not a picture.
    """
    largest = FILE_BYTES_PER_PIXEL * _most_pixels()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise ImageError(f"{path}: not a file, but a folder, a pipe or a device.", "Give a picture.")
        with path.open("rb") as file:
            head = file.read(SIGNATURE_BYTES)
            if head and not _begins_as_picture(head):
                raise _unknown(head, str(path))
            if (size := os.fstat(file.fileno()).st_size) > largest:
                raise ImageError(
                    f"{path}: a file of {size:,} bytes; no picture that is read has more than {largest:,}.",
                    "Save the picture again, alone in its file and smaller.",
                )
            file.seek(0)
            return file.read()
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror or error}).", "Check the path and its permissions."
        ) from error


def decode_picture(data: bytes, name: str) -> Decoded:
    """Decode a picture; of an animation or a file of several pages, one. `name` is used in messages.

    Raises:
        ImageError: empty, damaged, too large, in a format that is not read here, or not a picture.
    """
    opened = open_picture(data, name)
    with _damage_reported(name), _QUIET:
        found = opened.decode()
    notes = tuple(f"{Path(name).name}: {note}." for note in (*found.notes, *opened.notes))
    return replace(found, metadata=opened.metadata or found.metadata, notes=notes)


@dataclass(frozen=True)
class OpenedPicture:
    """A picture of which only the header was read.

    `size` is that of the file, which may be turned. `info` is its metadata, by Pillow's names. `decode` reads
    the pixels, and raises what the decoder does.
    `metadata`, if it is not None, counts whatever `decode` finds.
    """

    size: tuple[int, int]
    info: Mapping[Any, Any]
    decode: Callable[[], Decoded]
    notes: tuple[str, ...] = ()
    metadata: Metadata | None = None


def open_picture(data: bytes, name: str) -> OpenedPicture:
    """Read the header of a picture: damage further on is not seen.

    Raises:
        ImageError: as in `decode_picture`.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes).", "Copy the picture again.")
    with _damage_reported(name), _QUIET:
        if is_tiff(data) and (pages := tiff.read_pages(data)):
            return _open_tiff(data, pages, name)
        if data.startswith(png.SIGNATURE):
            return _open_png(data, name)
        if data.startswith(jpeg.SIGNATURE):
            return _open_jpeg(data, name)
        opened = _open_with_pillow(data, name)
        if data[4:8] == b"ftyp" and (nclx := read_nclx(data)):
            opened.info["nclx_profile"] = nclx
        notes = (FIRST_FRAME,) * _is_animated(opened)
        return OpenedPicture(opened.size, opened.info, partial(_decode, data, opened), notes)


@contextmanager
def _damage_reported(name: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders report damage as anything
        raise ImageError(
            f"{name}: damaged or cut short ({error or type(error).__name__}).",
            "Copy or export the picture again.",
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata in pictures that are fine."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif\.")
        yield


# Warning filters belong to the process, so threads share this one.
_QUIET = SharedContext(_without_warnings)


def _open_tiff(data: bytes, pages: list[tiff.Page], name: str) -> OpenedPicture:
    """Open the page of a TIFF that is the picture.

    Raises:
        ImageError: it is the raw data of a camera, too large, or of a kind that is not read here.
    """
    if _is_raw(data) or any(page.photometric in tiff.RAW_PHOTOMETRIC for page in pages):
        raise _raw(name)
    page = tiff.main_page(pages)
    whole = [one for one in pages if one is page or not (one.is_reduced or one.is_sub)]
    notes = (FIRST_FRAME if page is whole[0] else LARGEST_PAGE,) if len(whole) > 1 else ()
    # What a sub-IFD leaves out is as in the IFD around it.
    outer = pages[0].ifd.number(TAGS.Orientation) if page.is_sub else 0
    orientation = page.ifd.number(TAGS.Orientation) or outer
    metadata = tiff_metadata(data, page, pages[0], orientation)
    _check_size(page.size, name)
    page.check_tiles()
    if page.is_read_by_pillow:
        data = data if page is pages[0] else with_first_ifd(data, page.ifd.offset)
        opened = _open_with_pillow(data, name)
        if orientation:
            opened.getexif()[ExifTags.Base.Orientation] = orientation
        return OpenedPicture(opened.size, opened.info, partial(_decode, data, opened), notes, metadata)
    decode = partial(_decode_tiff, tiff.SampleReader(data, page, name), page, orientation)
    return OpenedPicture(page.size, {"xmp": page.ifd.data(TAGS.XMLPacket)}, decode, notes, metadata)


def _decode_tiff(reader: tiff.SampleReader, page: tiff.Page, orientation: int) -> Decoded:
    samples_HWC, notes = reader.read()
    samples_HWC, profile = upright(samples_HWC, orientation), page.ifd.data(TAGS.InterColorProfile)
    is_cmyk = page.photometric == tiff.CMYK
    if reader.bits > 8 and not is_cmyk:
        found = decode_samples(samples_HWC, profile)
    else:
        mode = "CMYK" if is_cmyk else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples_HWC.shape[2]]
        found = decode_samples_in_8_bits(samples_HWC, mode, profile)
        notes += (EIGHT_BITS,) * (reader.bits > 8)
    return replace(found, notes=(*notes, *found.notes))


def _open_png(data: bytes, name: str) -> OpenedPicture:
    cleaned = png.read_chunks(data)
    opened = _open_with_pillow(cleaned.data, name)
    opened.info.update(cleaned.info)
    notes = (*(FIRST_FRAME,) * cleaned.is_animated, *cleaned.notes)
    return OpenedPicture(opened.size, opened.info, partial(_decode, cleaned.data, opened), notes)


def _open_jpeg(data: bytes, name: str) -> OpenedPicture:
    found = jpeg.read_segments(data)
    opened = _open_with_pillow(found.data, name)
    opened.info |= {"xmp": found.xmp, "iptc": found.iptc, "dpi": found.dpi}  # where Pillow may guess
    return OpenedPicture(opened.size, opened.info, partial(_decode, found.data, opened), found.notes)


def _decode(data: bytes, opened: ImageFile.ImageFile) -> Decoded:
    samples_HWC, notes = samples_beyond_pillow(data, opened)
    if samples_HWC is None:
        opened.load()
    found = decode_pillow(opened, samples_HWC)
    return replace(found, notes=(*found.notes, *notes))


def _open_with_pillow(data: bytes, name: str) -> ImageFile.ImageFile:
    try:
        opened = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:
        raise _unknown(data, name) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, _size(data)) from error
    _check_size(opened.size, name)  # Pillow itself only warns up to twice its limit
    return opened


def _is_animated(opened: ImageFile.ImageFile) -> bool:
    if opened.format == "MPO":  # what comes after the picture are previews and depth
        return False
    try:
        return bool(getattr(opened, "is_animated", False))
    except Exception:  # a later frame is damaged, which does not matter
        return True


def allow_megapixels(most: int) -> None:
    """Refuse pictures of more pixels, in millions, from now on in this process. So does Pillow."""
    Image.MAX_IMAGE_PIXELS = most * 1_000_000


def _most_pixels() -> int:
    return Image.MAX_IMAGE_PIXELS or sys.maxsize


def _check_size(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > _most_pixels():
        raise _too_large(name, size)


def _too_large(name: str, size: tuple[int, int] | None) -> ImageError:
    found = f": it has {size[0]:,} x {size[1]:,}" if size else ""
    return ImageError(
        f"{name}: more than {_most_pixels():,} pixels{found}.",
        "Make it smaller, or raise max_megapixels in config.yaml.",
    )


def _size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a picture that Pillow does not open for its size, None if unknown."""
    for kind in _signed_formats(data):
        factory, _ = Image.OPEN[kind]
        with suppress(Exception), factory(io.BytesIO(data), "") as opened:
            return opened.size
    return None


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats of `FORMATS` that this Pillow and its plug-ins read."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(one for one in FORMATS if one in Image.OPEN)


def _unknown(data: bytes, name: str) -> ImageError:
    if data[4:].startswith(HEIC_BRANDS) and "HEIF" not in _formats():
        return ImageError(
            f"{name}: HEIC pictures need the package pillow-heif, which is not installed.",
            "Install it with `pip install 'style-pipeline[heic]'`, or save the picture as JPEG.",
        )
    if _is_raw(data):
        return _raw(name)
    kind = next((one for one in _signed_formats(data) if one not in WITHOUT_SIGNATURE), None)
    if kind:
        return ImageError(
            f"{name}: begins as {kind}, but is damaged, cut short, or of a kind that is not read here.",
            "Copy the picture again; if that changes nothing, save it as PNG or JPEG.",
        )
    known = ", ".join(one for one in _formats() if one != "DIB")
    return ImageError(f"{name}: not a picture in any format known here.", f"Save it in one that is: {known}.")


def _is_raw(data: bytes) -> bool:
    return any(data.startswith(signature, start) for start, signature in RAW_SIGNATURES)


def _raw(name: str) -> ImageError:
    return ImageError(
        f"{name}: a camera's raw data, which is not a picture yet.",
        "Develop it, with darktable, RawTherapee or the camera's own program, and save it as TIFF or JPEG.",
    )


def _begins_as_picture(head: bytes) -> bool:
    """Return whether a file of any format that is read here may begin with these bytes."""
    # Plug-ins read numbers there without asking how long it is.
    beginning = head[:16].ljust(16, b"\0")
    accepting = (Image.OPEN[one][1] for one in _formats())
    return any(accept is None or accept(beginning) for accept in accepting)


def _signed_formats(data: bytes) -> list[str]:
    """Return the formats whose plug-in recognises the beginning of a file."""
    accepting = [(kind, Image.OPEN[kind][1]) for kind in _formats()]
    return [kind for kind, accept in accepting if accept and accept(data[:16].ljust(16, b"\0")) is True]
