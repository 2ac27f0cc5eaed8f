"""ICC profiles: a picture's colours to sRGB, and a result's back.

Little CMS converts in 8 bits. Profiles of a curve per channel and a matrix, as photographs have, are applied
here in 16 (ICC.1:2022, sections 8.3.3 and 10).

Shapes in names: H rows, W columns, C channels. Arrays are uint16; 65535 is full light.
"""

from __future__ import annotations

import io
import struct
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from .samples import ROWS, to_8_bits

# Linear sRGB to XYZ under D50, the profiles' own white (IEC 61966-2-1, adapted after Bradford).
SRGB_TO_XYZ = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
# Curves and matrices that differ by less are the same.
ALMOST = 2e-3
# Bytes of a profile that can be kept: Pillow would not read a PNG with more.
LARGEST = 1 << 20
# The mean difference, of 65535, that is allowed for greys that were brought to a profile and back.
GREY_ERROR = 0.02 * 65535
NOT_USED = "its colour profile is damaged or of another kind; sRGB is assumed"

Curve = NDArray[np.float64]  # linear light in [0, 1] for each of 65536 samples


@cache
def srgb_profile() -> bytes:
    """Return an sRGB profile, the same bytes every time."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Little CMS writes when it was made into bytes 24 to 35.
    return data[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + data[36:]


def to_srgb_8(image: Image.Image, profile: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an 8-bit picture in sRGB, mode RGB, without its transparency, and notes.

    Perceptual. A profile that is damaged or for another kind of picture is not used, as in every viewer.
    """
    if image.mode in {"RGBA", "P", "PA", "LA"}:
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if not profile or image.mode not in {"RGB", "CMYK", "L", "LAB"}:
        return image.convert("RGB"), ()
    if image.mode == "L" and (table := _grey_table(profile)):
        return image.point(table).convert("RGB"), ()
    try:
        return _convert(image, source=profile, target=b""), ()
    except ValueError:
        return image.convert("RGB"), (NOT_USED,)


def _convert(image: Image.Image, source: bytes, target: bytes) -> Image.Image:
    """Convert a picture of 8 bits from one profile to another, perceptual. b"" is sRGB; the target is RGB.

    Raises:
        ValueError: a profile is damaged, or of another kind.
    """
    srgb = ImageCms.createProfile("sRGB")
    try:
        source_profile = ImageCms.ImageCmsProfile(io.BytesIO(source)) if source else srgb
        target_profile = ImageCms.ImageCmsProfile(io.BytesIO(target)) if target else srgb
        converted = ImageCms.profileToProfile(image, source_profile, target_profile, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError("colours cannot be converted") from error
    return (converted or image).convert("RGB")


def _grey_table(profile: bytes) -> list[int]:
    """Return what each grey of 8 bits is in sRGB; empty if the profile is not a curve.

    Little CMS is nine steps off in the dark parts of linear light.
    """
    parsed = _parse(profile, 1)
    if parsed is None:
        return []
    (curve,), _ = parsed
    return [round(value) for value in (_encode(curve[:: 65535 // 255]) * 255).tolist()]


def to_srgb_16(samples_HWC: NDArray[np.uint16], profile: bytes) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """Return samples, one channel or three, in sRGB, and notes.

    Relative colorimetric, without black point compensation; what sRGB cannot show is clipped.
    """
    if not profile:
        return samples_HWC, ()
    parsed = _parse(profile, samples_HWC.shape[2])
    if parsed is None:
        return _to_srgb_through_8(samples_HWC, profile)
    curves, matrix = parsed
    if _is_srgb(curves, matrix):
        return samples_HWC, ()
    result = np.empty_like(samples_HWC)
    for top in range(0, len(samples_HWC), ROWS):
        rows = samples_HWC[top : top + ROWS]
        linear = np.stack([curve[rows[:, :, index]] for index, curve in enumerate(curves)], axis=2)
        result[top : top + ROWS] = np.round(_encode(linear @ matrix.T) * 65535)
    return result, ()


def why_not_kept(profile: bytes) -> str:
    """Return why a result cannot be in the colours of a content's profile; "" if it can."""
    if not profile:
        return "it has no colour profile to keep"
    # All profiles have the signature `acsp` (section 7.2); what has none is damaged.
    if profile[36:40] == b"acsp" and profile[16:20] != b"RGB ":
        return "its colour profile is not an RGB profile and is not kept"
    greys_HWC = np.linspace(0, 65535, 96).round().astype(np.uint16).reshape(1, 32, 3)
    greys_HWC[:] = greys_HWC[:, :, :1]
    try:
        there_HWC = from_srgb(greys_HWC, profile)
    except ValueError:
        there_HWC = None
    if there_HWC is not None and len(profile) <= LARGEST:
        back_HWC, notes = to_srgb_16(there_HWC, profile)
        if NOT_USED not in notes and np.abs(back_HWC.astype(float) - greys_HWC).mean() < GREY_ERROR:
            return ""
    return "its colour profile is damaged or cannot be converted to, and is not kept"


def from_srgb(samples_HWC: NDArray[np.uint16], profile: bytes) -> NDArray[np.uint16]:
    """Return samples, three channels of sRGB, in the colours of an RGB profile.

    For a profile of curves and a matrix, see `is_matrix_profile`, relative colorimetric in all 16 bits; for
    any other in 8 bits, perceptual, as pictures are read. What the profile cannot show is clipped.

    Raises:
        ValueError: colours cannot be converted to this profile.
    """
    parsed = _parse(profile, 3)
    if parsed is None or not np.linalg.det(parsed[1]):
        image = _convert(Image.fromarray(to_8_bits(samples_HWC)), source=b"", target=profile)
        return np.asarray(image).astype(np.uint16) * 257
    curves, matrix = parsed
    inverse = np.linalg.inv(matrix)
    if _is_srgb(curves, matrix):
        return samples_HWC
    # A curve is inverted by interpolation, for which it must not fall.
    rising = [np.maximum.accumulate(curve) for curve in curves]
    places, result = np.arange(65536.0), np.empty_like(samples_HWC)
    light = _decode(places / 65535)
    for top in range(0, len(samples_HWC), ROWS):
        linear = light[samples_HWC[top : top + ROWS]] @ inverse.T
        for index, curve in enumerate(rising):
            result[top : top + ROWS, :, index] = np.round(np.interp(linear[:, :, index], curve, places))
    return result


def is_matrix_profile(profile: bytes) -> bool:
    """Return whether an RGB profile is one of curves and a matrix, to which all 16 bits can be converted."""
    return _parse(profile, 3) is not None


def _to_srgb_through_8(
    samples_HWC: NDArray[np.uint16], profile: bytes
) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    samples_8 = to_8_bits(samples_HWC)
    image = Image.fromarray(samples_8 if samples_HWC.shape[2] == 3 else samples_8[:, :, 0])
    converted, notes = to_srgb_8(image, profile)
    if notes:
        return samples_HWC, notes
    note = "its colour profile has more than curves and a matrix; colours are converted in 8 bits"
    return np.asarray(converted).astype(np.uint16) * 257, (note,)


def _is_srgb(curves: list[Curve], matrix: NDArray[np.float64]) -> bool:
    own = _decode(np.arange(65536) / 65535)
    close = all(np.abs(curve - own).max() < ALMOST for curve in curves)
    return bool(close and np.abs(matrix - np.eye(len(matrix))).max() < ALMOST)


def _decode(value: NDArray[Any]) -> NDArray[np.float64]:
    """Turn sRGB's samples into linear light (IEC 61966-2-1)."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encode(linear: NDArray[Any]) -> NDArray[np.float64]:
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _parse(profile: bytes, channels: int) -> tuple[list[Curve], NDArray[np.float64]] | None:
    """Return a profile's curves, and the matrix from its linear light to that of sRGB.

    None if it is damaged, or not a profile of curves and a matrix for this number of channels.
    """
    try:
        with np.errstate(all="ignore"):
            return _parse_tags(profile, channels)
    except (ValueError, KeyError, struct.error, np.linalg.LinAlgError):
        return None


def _parse_tags(profile: bytes, channels: int) -> tuple[list[Curve], NDArray[np.float64]]:
    tags = _tags(profile)
    kind = {1: b"GRAY", 3: b"RGB "}[channels]
    if profile[16:20] != kind or profile[20:24] != b"XYZ " or b"A2B0" in tags:
        raise ValueError("not a profile of curves and a matrix for such samples")
    names = [b"kTRC"] if channels == 1 else [b"rTRC", b"gTRC", b"bTRC"]
    curves = [_curve(tags[name]) for name in names]
    if not np.isfinite(curves).all():
        raise ValueError("a curve with infinite values")
    if channels == 1:
        return curves, np.eye(1)
    columns = [_fixed(tags[name], 8, 3) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    return curves, np.linalg.inv(SRGB_TO_XYZ) @ np.stack(columns, axis=1)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    found = {}
    for index in range(min(count, 100)):
        name, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        found[name] = profile[start : start + size]
    return found


def _fixed(tag: bytes, start: int, count: int) -> NDArray[np.float64]:
    """Read numbers of 16 bits before and 16 after the point."""
    return np.array(struct.unpack_from(f">{count}i", tag, start)) / 65536


def _curve(tag: bytes) -> Curve:
    """Tabulate a curve: `curv` is a table or a power, `para` a formula (sections 10.6 and 10.18)."""
    x = np.arange(65536) / 65535
    if tag[:4] == b"para":
        return _parametric(tag, x)
    if tag[:4] != b"curv":
        raise ValueError("an unknown kind of curve")
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return x
    table = np.array(struct.unpack_from(f">{count}H", tag, 12))
    if count == 1:
        return np.asarray(x ** (table[0] / 256))
    return np.interp(x, np.linspace(0, 1, count), table / 65535)


def _parametric(tag: bytes, x: NDArray[np.float64]) -> Curve:
    (kind,) = struct.unpack_from(">H", tag, 8)
    if kind > 4:
        raise ValueError("an unknown formula")
    given = _fixed(tag, 12, (1, 3, 4, 5, 7)[kind])
    g, a, b, c, d, e, f = 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    match kind:
        case 0:
            (g,) = given
        case 1:
            g, a, b = given
            d = -b / a
        case 2:
            g, a, b, e = given
            d, f = -b / a, e
        case 3:
            g, a, b, c, d = given
        case _:
            g, a, b, c, d, e, f = given
    power = np.maximum(a * x + b, 0) ** g + e
    return np.asarray(np.where(x >= d, power, c * x + f).clip(0, 1))
