"""Files -> pictures: upright, in sRGB, transparency apart, 16 bits where the file has them.

Shapes in names: H rows, W columns, C channels. Arrays are uint8 or uint16, full scale is full light.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from ..errors import ImageError
from ..threads import SharedContext
from . import png
from .colorspaces import read_nclx, said_colors
from .directories import beginning_at, is_tiff, picture_page, read_pages
from .exif import NO_EXIF, Exif, kept_exif, tiff_exif
from .profiles import ROWS, deep_to_srgb, to_eight_bits, to_srgb

# What is read, whatever else Pillow and its plug-ins could read. MPO comes as JPEG, APNG as PNG.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "HEIF")
# Many other files begin as these do.
WITHOUT_SIGNATURE = {"DIB", "PPM"}
# The first bytes of a HEIC file, after its size.
HEIC_BRANDS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"mif1"))

EIGHT_BITS = "8 of its 16 bits are read"
FIRST_FRAME = "there are several frames or pages; the first is taken"
LARGEST_PAGE = "there are several pages; the first is much smaller than another, which is taken"

# Decoding takes at most so much memory for every pixel, beyond the file itself.
BYTES_PER_PIXEL = 48

# How Pillow names samples of 16 bits of which it keeps the first byte, and how it has to be told to keep
# the second. N is the machine's own order.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_SPLIT = {f"{bands};16{order}" for bands in ("RGB", "RGBX", "RGBA") for order in _OTHER_BYTE}
_GREY_ALPHA = "LA;16B"
_ENDS = (("I;16", "S"), ("I;32", "S"), ("F;32", "F"))
# What libtiff has decompressed is in the machine's own order, and Pillow takes it to be in the file's.
_NATIVE = {f"{kind}{order}{end}": f"{kind}N{end}" for kind, end in _ENDS for order in ("", "B")}


@dataclass(frozen=True)
class Decoded:
    """A picture, ready to be worked with.

    `image` is RGB in 8 bits, transparency put on white; `deep_HWC` the same in 16, where the file has more
    than 8. `alpha_HW` is there where something is transparent. `exif` is what may be given to a result, and
    `notes` say what was left out. `profile` is the ICC profile, of any kind, that the file's colours have.
    """

    image: Image.Image
    deep_HWC: NDArray[np.uint16] | None = None
    alpha_HW: NDArray[Any] | None = None
    exif: Exif = NO_EXIF
    notes: tuple[str, ...] = ()
    profile: bytes = b""

    @property
    def shows(self) -> bool:
        """Whether anything of it is not transparent, to a 255th."""
        return self.alpha_HW is None or bool(self.alpha_HW.max() >= np.iinfo(self.alpha_HW.dtype).max // 255)


# What cameras write before anything is developed, beside what is a TIFF: the first bytes, and from where on.
RAW_SIGNATURES = (
    (0, b"FUJIFILMCCD-RAW"), (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"), (0, b"IIU\0"), (0, b"\0MRM"),
    (0, b"FOVb"), (4, b"ftypcrx "), (6, b"HEAPCCDR"), (8, b"CR\2\0"),
)  # fmt: skip
# Colours of a TIFF that are a sensor's: behind a pattern of filters, or before any white balance (DNG).
RAW_PHOTOMETRIC = (32803, 34892)

# Tags of a TIFF.
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION, SAMPLE_FORMAT = 258, 262, 284, 339
UNSIGNED, SIGNED = 1, 2
UINT32_MAX = 2**32 - 1

# What a pixel takes in a file at most: four samples of 32 bits.
BYTES_PER_PIXEL_IN_FILE = 16
# Bytes that signatures are looked for in.
SIGNATURE_BYTES = 64


def read_bytes(path: Path) -> bytes:
    """Read a picture's file, but only if it is a file, begins as a picture and has the size of one.

    Raises:
        ImageError: it is missing, cannot be read, or is no picture.
    """
    largest = BYTES_PER_PIXEL_IN_FILE * (Image.MAX_IMAGE_PIXELS or sys.maxsize)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            raise ImageError(f"{path}: not a file, but a folder, a pipe or a device.", "Give a picture.")
        with path.open("rb") as file:
            head = file.read(SIGNATURE_BYTES)
            if head and not _begins_as_a_picture(head):
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


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode a picture to RGB in 8 bits. Errors as in `decode_picture`."""
    return decode_picture(data, name).image


def decode_picture(data: bytes, name: str) -> Decoded:
    """Decode a picture: EXIF orientation applied, colours brought to sRGB, transparency put on white.

    Of an animation or a file of several pages the first picture is taken. `name` is used in messages.

    Raises:
        ImageError: empty, truncated, too large, of a format that is not read here, or no picture at all.
    """
    with opened_picture(data, name) as (opened, source):
        _refuse_misread(opened, name)
        opened.tile = [_in_own_order(tile) for tile in opened.tile]
        ppm_HWC = _deep_ppm(data, opened)
        low = _low_bytes(source.data, opened)
        shallow = ppm_HWC is None and low is None and _is_shallowed(opened)
        if ppm_HWC is None:
            opened.load()
            decoded = to_decoded(opened, low)
        else:
            decoded = Decoded(Image.fromarray(to_eight_bits(ppm_HWC)), ppm_HWC)
        found = (*decoded.notes, EIGHT_BITS if shallow else "", _several(opened, source), *source.notes)
        notes = tuple(f"{Path(name).name}: {note}." for note in found if note)
        exif = decoded.exif if decoded.exif.data or not source.exif.data else source.exif
        return replace(decoded, exif=exif, notes=notes)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence what Pillow says of odd metadata in pictures that are fine."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.|pillow_heif\.")
        yield


# Filters of warnings belong to the process.
_QUIET = SharedContext(_without_warnings)


@dataclass(frozen=True)
class Source:
    """A file as Pillow is to see it, and what else is known of it.

    `info` is what Pillow does not find out. `exif` and `orientation` are there where they stand in another
    directory than the picture's. `several`, where it is known, says that there are more pictures and which is
    taken, or is "".
    """

    data: bytes
    info: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    exif: Exif = NO_EXIF
    orientation: int = 0
    several: str | None = None


def _source(data: bytes, name: str) -> Source:
    """Look through a file for what Pillow would not find, or would stumble over.

    Raises:
        ImageError: it is a RAW.
    """
    if is_tiff(data):
        return _tiff_source(data, name)
    if data.startswith(png.SIGNATURE):
        found = png.read_chunks(data)
        several = FIRST_FRAME if found.is_animated else ""
        return Source(found.data, found.info, found.notes, several=several)
    if data[4:8] == b"ftyp" and (nclx := read_nclx(data)):
        return Source(data, {"nclx_profile": nclx})
    return Source(data)


def _tiff_source(data: bytes, name: str) -> Source:
    """Find the picture among the pages of a TIFF, of which Pillow takes the first.

    Raises:
        ImageError: it is the raw data of a camera.
    """
    if not (pages := read_pages(io.BytesIO(data))):
        return Source(data)
    if _is_raw(data) or any(page.photometric in RAW_PHOTOMETRIC for page in pages):
        raise _raw(name)
    page = picture_page(pages)
    whole = [one for one in pages if one == page or not (one.is_reduced or one.inside)]
    several = (FIRST_FRAME if page == whole[0] else LARGEST_PAGE) if len(whole) > 1 else ""
    if page == pages[0]:
        return Source(data, several=several)
    # Of a directory inside of another, that one says what holds for both.
    orientation = pages[0].orientation if page.inside and not page.orientation else 0
    exif = tiff_exif(data)
    return Source(beginning_at(data, page.place), exif=exif, orientation=orientation, several=several)


@contextmanager
def opened_picture(data: bytes, name: str) -> Iterator[tuple[ImageFile.ImageFile, Source]]:
    """Open a picture without decoding it; what its decoder raises meanwhile is an ImageError.

    Raises:
        ImageError: empty, damaged, too large, or of a format that is not read here.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes).", "Copy the picture again.")
    try:
        source = _source(data, name)
        with _QUIET, _open(source.data, name) as opened:
            opened.info.update(source.info)
            if source.orientation:
                opened.getexif()[ExifTags.Base.Orientation] = source.orientation
            yield opened, source
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders report damage as anything
        raise ImageError(
            f"{name}: damaged or cut short ({error or type(error).__name__}).",
            "Copy or export the picture again.",
        ) from error


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    try:
        opened = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:
        raise _unknown(data, name) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, _size(data)) from error
    # Pillow itself only warns up to twice its limit.
    if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or sys.maxsize):
        opened.close()
        raise _too_large(name, opened.size)
    return opened


def _unknown(data: bytes, name: str) -> ImageError:
    if data[4:].startswith(HEIC_BRANDS) and "HEIF" not in _formats():
        return ImageError(
            f"{name}: HEIC pictures need the package pillow-heif, which is not installed.",
            "Install it with `pip install 'style-pipeline[heic]'`, or save the picture as JPEG.",
        )
    if _is_raw(data):
        return _raw(name)
    if begun := _begun_as(data):
        return ImageError(
            f"{name}: begins as {begun}, but is damaged, cut short, or of a kind that is not read here.",
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


def _begins_as_a_picture(head: bytes) -> bool:
    """Tell whether any format that is read here may begin so."""
    accepting = (Image.OPEN[one][1] for one in _formats())
    return any(accept is None or accept(head[:16]) for accept in accepting)


def _begun_as(data: bytes) -> str:
    """Return the format whose signature a file begins with, "" if there is none."""
    for one in _formats():
        _, accept = Image.OPEN[one]
        if one not in WITHOUT_SIGNATURE and accept and accept(data[:16]) is True:
            return one
    return ""


def _too_large(name: str, size: tuple[int, int] | None) -> ImageError:
    found = f": it has {size[0]:,} x {size[1]:,}" if size else ""
    return ImageError(
        f"{name}: more than {Image.MAX_IMAGE_PIXELS:,} pixels{found}.", "Make the picture smaller first."
    )


def _size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a picture that Pillow does not open for its size, None if unknown."""
    for one in _formats():
        factory, accept = Image.OPEN[one]
        with suppress(Exception):
            if accept and accept(data[:16]) is True:
                with factory(io.BytesIO(data), "") as opened:
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


def _refuse_misread(opened: ImageFile.ImageFile, name: str) -> None:
    """Refuse the rare TIFFs that Pillow reads as other pixels, and says nothing.

    Raises:
        ImageError: 8 bits with a sign; or more bits with colours in planes of their own, or grey with white
            as zero; or 12 bits.
    """
    tags = getattr(opened, "tag_v2", None)
    if tags is None:
        return
    bits = tags.get(BITS_PER_SAMPLE, (8,))
    if max(bits) <= 8:
        misread = SIGNED in tags.get(SAMPLE_FORMAT, ())
    else:
        planes = tags.get(PLANAR_CONFIGURATION) == 2 and len(bits) > 1
        misread = planes or tags.get(PHOTOMETRIC) == 0 or 12 in bits
    if misread:
        raise ImageError(
            f"{name}: a kind of TIFF that is not read here (planes, white as zero, 12 bits, 8 with a sign).",
            "Save it as PNG, or as TIFF with 8 or 16 bits, black as zero, and samples side by side.",
        )


def _several(opened: ImageFile.ImageFile, source: Source) -> str:
    """Say which of several pictures is taken; "" if there is one."""
    if source.several is not None:
        return source.several
    if opened.format == "MPO":  # what comes after the picture are previews and depth
        return ""
    try:
        return FIRST_FRAME if getattr(opened, "is_animated", False) else ""
    except Exception:  # a later frame is damaged, and nobody asked for it
        return FIRST_FRAME


def _rawmode(tile: Any) -> str:
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)


def _is_shallowed(opened: ImageFile.ImageFile) -> bool:
    if opened.format == "PPM" and opened.mode == "RGB":  # written in digits, or all of it is read
        return _ppm_maximum(opened) > 255
    if opened.mode.startswith(("I", "F")):
        return False
    # Without a byte order it is a pixel that has 16 bits, as in some BMPs.
    return any(_rawmode(tile).endswith((";16L", ";16B", ";16N")) for tile in opened.tile)


def _ppm_maximum(opened: ImageFile.ImageFile) -> int:
    """Return the sample that is full light in a PPM in colour."""
    (tile,) = opened.tile
    return int(tile.args[1]) if isinstance(tile.args, tuple) else 255


def _deep_ppm(data: bytes, opened: ImageFile.ImageFile) -> NDArray[np.uint16] | None:
    """Return the samples of a binary PPM in colour with more than 8 bits, of which Pillow keeps 8.

    Raises:
        TypeError: the file is cut short.
    """
    if opened.format != "PPM" or opened.mode != "RGB" or opened.tile[0].codec_name != "ppm":
        return None
    if (maximum := _ppm_maximum(opened)) <= 255:
        return None
    shape = (opened.height, opened.width, 3)
    samples_HWC = np.ndarray(shape, ">u2", data, opened.tile[0].offset)
    result = np.empty(shape, np.uint16)
    for top in range(0, len(result), ROWS):
        rows = samples_HWC[top : top + ROWS].astype(np.uint32)
        # Stays below 2**32.
        result[top : top + ROWS] = (rows.clip(0, maximum) * 65535 + maximum // 2) // maximum
    return result


def _low_bytes(data: bytes, opened: ImageFile.ImageFile) -> Image.Image | None:
    """Return a picture of the second bytes of samples of 16 bits, where Pillow keeps only the first.

    The file is decoded once more as if its samples had the other byte order.
    """
    rawmodes = {_rawmode(tile) for tile in opened.tile}
    if not rawmodes or not (rawmodes <= _SPLIT or rawmodes == {_GREY_ALPHA}):
        return None
    with Image.open(io.BytesIO(data), formats=_formats()) as again:
        again.tile = [_read_as(tile, _other_byte(_rawmode(tile))) for tile in again.tile]
        again.load()
        if rawmodes == {_GREY_ALPHA}:
            # Read as four bytes: grey's two, then alpha's two.
            _, grey, _, alpha = again.split()
            low = Image.merge("RGBA", (grey, grey, grey, alpha))
            low.info = dict(again.info)
            return ImageOps.exif_transpose(low)
        return ImageOps.exif_transpose(again)


def _other_byte(rawmode: str) -> str:
    return "RGBA" if rawmode == _GREY_ALPHA else rawmode[:-1] + _OTHER_BYTE[rawmode[-1]]


def _in_own_order(tile: Any) -> Any:
    native = _NATIVE.get(_rawmode(tile)) if tile.codec_name == "libtiff" else None
    return _read_as(tile, native) if native else tile


def _read_as(tile: Any, rawmode: str) -> Any:
    return tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)


def to_decoded(image: Image.Image, low: Image.Image | None = None) -> Decoded:
    """Turn any Pillow image upright and into sRGB; `low`, upright, has the second bytes of its samples."""
    exif, key = kept_exif(image), image.info.get("transparency")
    said = said_colors(image.info, is_grey=Image.getmodebase(image.mode) == "L")
    whites = _whites(image)  # goes by what an image that is turned has no more
    image = ImageOps.exif_transpose(_without_false_alpha(image))
    samples_HWC, notes = _deep_samples(image, low, whites)
    if samples_HWC is None:
        found = _shallow_decoded(image, said.profile)
    else:
        found = _deep_decoded(samples_HWC, key, said.profile)
    profile = said.profile if said.is_kept else b""
    return replace(found, exif=exif, profile=profile, notes=(*notes, *said.notes, *found.notes))


def _without_false_alpha(image: Image.Image) -> Image.Image:
    """Take away what is no alpha: programs leave the fourth byte of a BMP's pixels at zero, as padding."""
    is_bmp = image.format in {"BMP", "DIB"} and image.mode == "RGBA"
    return image.convert("RGB") if is_bmp and image.getchannel("A").getextrema() == (0, 0) else image


def _shallow_decoded(image: Image.Image, profile: bytes) -> Decoded:
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    image, notes = to_srgb(image, profile)
    if alpha is None or alpha.getextrema() == (255, 255):
        return Decoded(image, notes=notes)
    image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return Decoded(image, alpha_HW=np.asarray(alpha), notes=notes)


def _deep_decoded(samples_HWC: NDArray[np.uint16], key: Any, profile: bytes) -> Decoded:
    colour_HWC, alpha_HW = _split_alpha(samples_HWC, key)
    colour_HWC, notes = deep_to_srgb(colour_HWC, profile)
    if colour_HWC.shape[2] == 1:
        colour_HWC = np.repeat(colour_HWC, 3, axis=2)
    if alpha_HW is not None:
        colour_HWC = _on_white(colour_HWC, alpha_HW)
    return Decoded(Image.fromarray(to_eight_bits(colour_HWC)), colour_HWC, alpha_HW, notes=notes)


def _deep_samples(
    image: Image.Image, low: Image.Image | None, whites: tuple[int, ...]
) -> tuple[NDArray[np.uint16] | None, tuple[str, ...]]:
    """Return samples of 16 bits, a channel each for grey, colour and alpha, or None; and notes."""
    if low is not None:
        return (np.asarray(image).astype(np.uint16) << 8) | np.asarray(low), ()
    if not image.mode.startswith(("I", "F")):
        return None, ()
    values_HW = np.asarray(image)
    if values_HW.dtype.itemsize == 2:
        return values_HW.astype(np.uint16)[:, :, None], ()
    values_HW, notes = _scaled(values_HW, whites)
    return values_HW[:, :, None], notes


def _whites(image: Image.Image) -> tuple[int, ...]:
    """Return what may be full light in samples of 32 bits, least first; it is one where the file says it."""
    if image.mode == "F":
        return 1, 255, 65535
    if image.format == "PPM":  # Pillow has scaled it by its own maximum
        return (65535,)
    tags = getattr(image, "tag_v2", {})
    if tags.get(BITS_PER_SAMPLE) == (16,):  # with a sign; without one the mode is I;16
        return 255, 2**15 - 1
    unsigned = tags and tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,)
    return 255, 65535, UINT32_MAX if unsigned else 2**31 - 1


def _scaled(values_HW: NDArray[Any], whites: tuple[int, ...]) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """Bring samples to 16 bits by the least white that all of them are below, or by the greatest.

    Above a white of 1 a tenth of the samples may lie: lights of a scene. A little more than white is white;
    what is below zero, or no number, is black.
    """
    if whites[-1] == UINT32_MAX:  # Pillow has given them a sign
        values_HW = values_HW.view(np.uint32)
    top = values_HW.max(initial=0, where=np.isfinite(values_HW))
    white = next((one for one in whites if top <= one + 0.5), whites[-1])
    if whites[0] == 1 and (values_HW > 1.5).mean() < 0.1:
        white = 1
    exact = np.nan_to_num(values_HW.astype(np.float64), nan=0, posinf=white, neginf=0)
    exact *= 65535 / white
    notes = (f"it does not say what its white is; {white:,} is taken for it",) if len(whites) > 1 else ()
    return exact.clip(0, 65535, out=exact).round(out=exact).astype(np.uint16), notes


def _split_alpha(
    samples_HWC: NDArray[np.uint16], key: Any
) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Take alpha apart, be it a channel or a colour that a PNG names as transparent."""
    alpha_HW = None
    if samples_HWC.shape[2] == 4:
        samples_HWC, alpha_HW = samples_HWC[:, :, :3], samples_HWC[:, :, 3]
    elif isinstance(key, int | tuple):
        alpha_HW = np.where((samples_HWC == np.array(key)).all(axis=2), 0, 65535).astype(np.uint16)
    if alpha_HW is not None and alpha_HW.min(initial=65535) == 65535:
        alpha_HW = None
    return samples_HWC, alpha_HW


def _on_white(colour_HWC: NDArray[np.uint16], alpha_HW: NDArray[np.uint16]) -> NDArray[np.uint16]:
    result = np.empty_like(colour_HWC)
    for top in range(0, len(result), ROWS):
        rows = slice(top, top + ROWS)
        alpha = alpha_HW[rows, :, None].astype(np.uint32)
        # Stays below 2**32.
        result[rows] = (colour_HWC[rows] * alpha + (65535 - alpha) * 65535 + 32767) // 65535
    return result
