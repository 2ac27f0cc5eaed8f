"""Pillow images and samples of 16 bits -> `Decoded`: upright, in sRGB, transparency apart.

Shapes in names: H rows, W columns, C channels. Arrays are uint8 or uint16; full scale is full light.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from .colorspaces import declared_colors
from .exif import orientation_of
from .metadata import NO_METADATA, Metadata, read_metadata
from .profiles import to_srgb_8, to_srgb_16
from .samples import on_white, possible_whites, split_alpha, to_8_bits, to_16_bits, upright

# How a picture becomes upright, by its orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EIGHT_BITS = "only 8 of its 16 bits are used"

# Magic number, width, height and the sample that is full light.
_PPM_HEADER = re.compile(rb"P[36]" + rb"(?:\s|#[^\r\n]*+)++(\d++)" * 3 + rb"\s")
# Undocumented: what Pillow calls the samples of a PNG of 16 bits while it keeps their first bytes, and what
# it has to be called for the second ones. Grey with alpha is read as four channels of a byte each.
_SECOND_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}


@dataclass(frozen=True)
class Decoded:
    """A decoded picture, upright and in sRGB.

    `image` is RGB in 8 bits, on white where it is transparent; `rgb16_HWC` is the same in 16, if the file has
    more than 8. `alpha_HW`, of 8 or 16 bits, is there if something is transparent. `metadata` is
    what else the file says; `notes` say what was left out or assumed. `profile` is the ICC profile, of any
    kind, of the colours in the file.
    """

    image: Image.Image
    rgb16_HWC: NDArray[np.uint16] | None = None
    alpha_HW: NDArray[Any] | None = None
    metadata: Metadata = NO_METADATA
    notes: tuple[str, ...] = ()
    profile: bytes = b""

    @property
    def is_visible(self) -> bool:
        """Whether some pixel is opaque, if only by a 255th."""
        return self.alpha_HW is None or bool(self.alpha_HW.max() >= np.iinfo(self.alpha_HW.dtype).max // 255)


def decode_pillow(image: Image.Image, samples_HWC: NDArray[np.uint16] | None = None) -> Decoded:
    """Decode any Pillow image. `samples_HWC` is the same in 16 bits, where Pillow keeps 8 of them."""
    metadata, transparent = read_metadata(image), image.info.get("transparency")
    declared = declared_colors(image.info, is_grey=Image.getmodebase(image.mode) == "L")
    notes: tuple[str, ...] = ()
    if samples_HWC is None and image.mode.startswith(("I", "F")):
        samples_HWC, notes = _grey_samples(image)
    if samples_HWC is None:
        found = _from_8_bits(_upright(_without_false_alpha(image)), declared.profile)
    else:
        samples_HWC = upright(samples_HWC, orientation_of(image))
        found = decode_samples(samples_HWC, declared.profile, transparent)
    profile = declared.profile if declared.can_be_kept else b""
    return replace(found, metadata=metadata, profile=profile, notes=(*notes, *declared.notes, *found.notes))


def decode_samples(samples_HWC: NDArray[np.uint16], profile: bytes, transparent: object = None) -> Decoded:
    """Decode samples of 16 bits: grey or RGB in the colours of `profile`, and alpha if there is one more.

    `transparent` is the grey or the colour that is transparent, in a picture without alpha.
    """
    colors_HWC, alpha_HW = split_alpha(samples_HWC, transparent)
    colors_HWC, notes = to_srgb_16(colors_HWC, profile)
    if colors_HWC.shape[2] == 1:
        colors_HWC = np.repeat(colors_HWC, 3, axis=2)
    if alpha_HW is not None:
        colors_HWC = on_white(colors_HWC, alpha_HW)
    return Decoded(Image.fromarray(to_8_bits(colors_HWC)), colors_HWC, alpha_HW, notes=notes, profile=profile)


def decode_samples_in_8_bits(samples_HWC: NDArray[np.uint16], mode: str, profile: bytes) -> Decoded:
    """Decode samples of one of Pillow's modes of 8 bits: L, LA, RGB, RGBA or CMYK."""
    height, width, _ = samples_HWC.shape
    image = Image.frombytes(mode, (width, height), to_8_bits(samples_HWC).tobytes())
    return replace(_from_8_bits(image, profile), profile=profile)


def _from_8_bits(image: Image.Image, profile: bytes) -> Decoded:
    if image.mode == "La":  # Pillow converts it to no other mode
        image = image.convert("LA")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    image, notes = to_srgb_8(image, profile)
    if alpha is None or alpha.getextrema() == (255, 255):
        return Decoded(image, notes=notes)
    image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return Decoded(image, alpha_HW=np.asarray(alpha), notes=notes)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its metadata says. Pillow's own function fails on damage in the rest of it."""
    turn = _TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def _without_false_alpha(image: Image.Image) -> Image.Image:
    """Remove alpha that is only padding: programs leave the fourth byte of a BMP's pixels at zero."""
    is_bmp = image.format in {"BMP", "DIB"} and image.mode == "RGBA"
    return image.convert("RGB") if is_bmp and image.getchannel("A").getextrema() == (0, 0) else image


def _grey_samples(image: Image.Image) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """Return the samples of a mode that holds more than 8 bits: I;16, I or F."""
    values_HWC = np.asarray(image)[:, :, None]
    if values_HWC.dtype.itemsize == 2:
        return values_HWC.astype(np.uint16), ()
    if image.mode == "F":
        return to_16_bits(values_HWC, possible_whites("f", 32))
    if image.format == "PPM":  # Pillow has scaled it by its own maximum
        return to_16_bits(values_HWC, (65535,))
    # The mode I holds integers of several kinds; the tags of an opened TIFF tell which.
    tags = getattr(image, "tag_v2", {})
    is_unsigned = bool(tags) and tags.get(ExifTags.Base.SampleFormat, (1,)) == (1,)
    (bits,) = tags.get(ExifTags.Base.BitsPerSample, (32,))
    if is_unsigned:
        values_HWC = values_HWC.view(np.uint32)
    return to_16_bits(values_HWC, possible_whites("u" if is_unsigned else "i", bits))


def samples_beyond_pillow(
    data: bytes, opened: ImageFile.ImageFile
) -> tuple[NDArray[np.uint16] | None, tuple[str, ...]]:
    """Return the samples of a file in colour with 16 bits, of which Pillow keeps 8; None for any other.

    There is a note if only 8 of the bits are used.

    Raises:
        TypeError: the file is cut short.
    """
    if opened.format == "PNG":
        return _png_samples(data, opened), ()
    header = _PPM_HEADER.match(data) if opened.format == "PPM" else None
    if header is None or (maximum := int(header[3])) <= 255:
        return None, ()
    if data.startswith(b"P3"):  # written in digits
        return None, (EIGHT_BITS,)
    samples_HWC = np.ndarray((opened.height, opened.width, 3), ">u2", data, header.end())
    return to_16_bits(samples_HWC, (maximum,))[0], ()


def _png_samples(data: bytes, opened: ImageFile.ImageFile) -> NDArray[np.uint16] | None:
    """Return the samples of a PNG in colour with 16 bits, of which Pillow keeps the first bytes; else None.

    The file is decoded twice, the second time as if its samples had the other byte order.
    """
    (rawmode,) = {tile.args for tile in opened.tile}
    if rawmode not in _SECOND_BYTES:
        return None
    opened.load()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as again:
        again.tile = [tile._replace(args=_SECOND_BYTES[rawmode]) for tile in again.tile]
        low_HWC = np.asarray(again)
    if rawmode == "LA;16B":
        low_HWC = low_HWC[:, :, [1, 1, 1, 3]]
    samples_HWC = np.asarray(opened).astype(np.uint16)
    samples_HWC *= 256
    samples_HWC += low_HWC
    return samples_HWC
