"""The resolution of a picture: dots per inch across and down, and its fields in TIFF and EXIF."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any, TypeAlias

from .ifd import SHORT, TAGS, Field, Fields, Ifd, numbers

Dpi: TypeAlias = tuple[float, float]

# Less is no resolution but a ratio or a mistake; a JPEG cannot say more.
LEAST, MOST = 2, 65_535
# A PNG counts pixels per metre, so that a whole number of dots per inch may be off by half of such a step.
PNG_ROUNDING = 0.0127
# Orientations in which rows and columns change places.
TURNED = frozenset({5, 6, 7, 8})

_RATIONAL = 5
_INCH = 2
# Dots per inch of the units of TIFF and EXIF; 1 is only a ratio. Without a unit it is the inch.
_UNITS = {_INCH: 1.0, 3: 2.54}


def plausible(dpi: Any) -> Dpi | None:
    """Return two numbers as a resolution; None if they are none."""
    try:
        across, down = (_rounded(float(each)) for each in dpi)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return (across, down) if LEAST <= across <= MOST and LEAST <= down <= MOST else None


def _rounded(dpi: float) -> float:
    whole = round(dpi) if math.isfinite(dpi) else 0
    return float(whole) if abs(dpi - whole) <= PNG_ROUNDING else round(dpi, 3)


def upright(dpi: Dpi | None, orientation: object) -> Dpi | None:
    """Return the resolution of a picture that was turned as its orientation says."""
    return (dpi[1], dpi[0]) if dpi and orientation in TURNED else dpi


def read_resolution(ifd: Ifd) -> Dpi | None:
    """Return the resolution that an IFD gives, None if there is none."""
    scale = _UNITS.get(ifd.number(TAGS.ResolutionUnit, _INCH), 0.0)
    found = [_rational(ifd, tag) * scale for tag in (TAGS.XResolution, TAGS.YResolution)]
    return plausible(found)


def _rational(ifd: Ifd, tag: int) -> float:
    field = ifd.field(tag) if tag in ifd.entries else None
    if field is None or field.kind != _RATIONAL:
        return 0.0
    above, below = struct.unpack_from(f"{ifd.file.order}II", field.data)
    return float(above / below) if below else 0.0


def resolution_fields(order: str, dpi: Dpi) -> Fields:
    """Return the fields of a resolution."""
    across, down = (Fraction(each).limit_denominator(10_000) for each in dpi)
    return {
        TAGS.XResolution: _rational_field(order, across),
        TAGS.YResolution: _rational_field(order, down),
        TAGS.ResolutionUnit: numbers(order, SHORT, _INCH),
    }


def _rational_field(order: str, value: Fraction) -> Field:
    return Field(_RATIONAL, 1, struct.pack(f"{order}II", value.numerator, value.denominator))
