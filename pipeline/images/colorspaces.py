"""ICC profiles for colours that a file declares without one: by gamma and chromaticities (PNG), or by code
points (ITU-T H.273: cICP of PNG, nclx of AVIF and HEIC).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .profiles import SRGB_TO_XYZ

# Red, green and blue, then white, as CIE x and y (H.273, table 2).
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_NTSC = (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65)
_P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
PRIMARIES: Mapping[int, tuple[float, ...]] = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *_D65),
    4: (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, *_C),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    6: _NTSC,
    7: _NTSC,
    8: (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, *_C),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (*_P3, 0.314, 0.351),
    12: (*_P3, *_D65),
    22: (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *_D65),
}
BT709, UNSPECIFIED = 1, 2
# Codes of curves (table 3). The curves of video cameras are taken for sRGB's, as displays do.
_AS_SRGB = {1, 6, 7, 11, 12, 13, 14, 15}
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
PQ, HLG = 16, 18
HDR = {PQ: "PQ", HLG: "HLG"}
# SDR white: in cd/m² for PQ, as a sample for HLG (ITU-R BT.2408, table 1); and the system gamma of HLG on a
# display of 1,000 cd/m² (BT.2100).
SDR_WHITE, HLG_WHITE, HLG_GAMMA = 203.0, 0.75, 1.2

# Encoders declare sRGB, whose curve is not a power, by a gamma in this range (PNG specification, sRGB).
SRGB_GAMMA = (0.45, 0.46)
PLAUSIBLE_GAMMA = (0.1, 10.0)
# Chromaticities that differ by less are the same.
SAME_POINT = 2e-3

# The white of profiles as their header has it, and as our matrix has it.
D50, MATRIX_D50 = (0.9642, 1.0, 0.8249), SRGB_TO_XYZ.sum(1)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

HALF_A_PROFILE = "its colour profile is incomplete or damaged and is not used"
NOT_FULL_RANGE = "it declares the limited range of video; its samples are used as they are"


@dataclass(frozen=True)
class DeclaredColors:
    """The ICC profile of a picture's colours, b"" for sRGB, and notes about it.

    `can_be_kept` is false for a profile that a result cannot have, such as one for HDR.
    """

    profile: bytes
    notes: tuple[str, ...] = ()
    can_be_kept: bool = True


def declared_colors(info: Mapping[Any, Any], is_grey: bool) -> DeclaredColors:
    """Return the colours that a picture's metadata declares. `info` is as Pillow has it.

    In a PNG cICP counts before iCCP, then sRGB, then gAMA with cHRM (PNG specification, section on colour
    spaces). In AVIF and HEIC a profile counts before nclx.
    """
    notes: tuple[str, ...] = ()
    if cicp := info.get("cicp"):
        primaries, transfer, _, is_full = cicp
        notes = () if is_full else (NOT_FULL_RANGE,)
        if found := _of_codes(primaries, transfer, is_grey):
            return replace(found, notes=notes + found.notes)
        notes += _unknown_codes(primaries, transfer)
    if profile := info.get("icc_profile"):
        return DeclaredColors(profile, notes)
    if "icc_profile" in info and info["icc_profile"] is None:
        notes += (HALF_A_PROFILE,)
    if nclx := info.get("nclx_profile"):
        codes = nclx["color_primaries"], nclx["transfer_characteristics"]
        found = _of_codes(*codes, is_grey) or DeclaredColors(b"", _unknown_codes(*codes))
        return replace(found, notes=notes + found.notes)
    if "srgb" in info or not info.get("gamma"):
        return DeclaredColors(b"", notes)
    found = _of_gamma(info["gamma"], info.get("chromaticity"), is_grey)
    return replace(found, notes=notes + found.notes)


def _unknown_codes(primaries: int, transfer: int) -> tuple[str, ...]:
    if primaries == transfer == UNSPECIFIED:
        return ()
    return (
        f"its colours are declared by unknown code points, {primaries} and {transfer}, which are not used",
    )


def _of_codes(primaries: int, transfer: int, is_grey: bool) -> DeclaredColors | None:
    """Return the colours of code points; None if they are unspecified or unknown."""
    if primaries == transfer == UNSPECIFIED:
        return None
    points = PRIMARIES.get(BT709 if primaries == UNSPECIFIED else primaries)
    curve = _curve_of_code(13 if transfer == UNSPECIFIED else transfer)
    if points is None or curve is None:
        return None
    if transfer in HDR:
        note = (
            f"it has a high dynamic range ({HDR[transfer]}); everything brighter than SDR white becomes white"
        )
        return DeclaredColors(rgb_profile(curve, points, is_grey), (note,), can_be_kept=False)
    return DeclaredColors(_unless_srgb(curve, points, is_grey))


def _of_gamma(gamma: float, chromaticity: Sequence[float] | None, is_grey: bool) -> DeclaredColors:
    """Return the colours of a PNG's gAMA and cHRM, in which white comes first."""
    if not PLAUSIBLE_GAMMA[0] <= gamma <= PLAUSIBLE_GAMMA[1]:
        return DeclaredColors(b"", (f"its gamma, {gamma:g}, is not plausible and is not used",))
    curve = SRGB_CURVE if SRGB_GAMMA[0] <= gamma <= SRGB_GAMMA[1] else power_curve(1 / gamma)
    notes: tuple[str, ...] = ()
    if chromaticity is not None:
        try:
            return DeclaredColors(_unless_srgb(curve, (*chromaticity[2:8], *chromaticity[:2]), is_grey))
        except (ValueError, np.linalg.LinAlgError):
            notes = ("its chromaticities are not plausible and are not used",)
    return DeclaredColors(_unless_srgb(curve, PRIMARIES[BT709], is_grey), notes)


def _unless_srgb(curve: bytes, points: Sequence[float], is_grey: bool) -> bytes:
    apart = np.abs(np.subtract(points, PRIMARIES[BT709])).max()
    if curve == SRGB_CURVE and (is_grey or apart < SAME_POINT):
        return b""
    return rgb_profile(curve, tuple(points), is_grey)


# Curves and profiles in the format of ICC.1:2022.


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def power_curve(power: float) -> bytes:
    return b"para" + bytes(8) + _fixed(power)


SRGB_CURVE = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
SRGB_CURVE += _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _curve_of_code(transfer: int) -> bytes | None:
    if transfer in _AS_SRGB:
        return SRGB_CURVE
    if transfer in _POWERS:
        return power_curve(_POWERS[transfer])
    if transfer not in HDR:
        return None
    light = (_pq_light if transfer == PQ else _hlg_light)(np.linspace(0, 1, 4096)).clip(0, 1)
    return b"curv" + struct.pack(">II", 0, len(light)) + (light * 65535).round().astype(">u2").tobytes()


def _pq_light(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return linear light of which 1 is SDR white (BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = sample ** (1 / m2)
    return np.asarray(10_000 / SDR_WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1))


def _hlg_light(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the same of HLG (BT.2100, table 5); the system gamma is applied to each channel."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)

    def scene(value: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)

    return np.asarray((scene(sample) / scene(np.array(HLG_WHITE))) ** HLG_GAMMA)


def rgb_profile(curve: bytes, points: tuple[float, ...], is_grey: bool) -> bytes:
    """Return an ICC profile with one curve for all channels, and primaries unless it `is_grey`.

    Raises:
        ValueError, LinAlgError: the primaries are not plausible.
    """
    text = "Colours as the picture's file says them".encode("utf-16-be")
    text_tag = b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    tags = {b"desc": text_tag, b"cprt": text_tag, b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50)}
    if is_grey:
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip((b"r", b"g", b"b"), _columns(points).T, strict=True):
            tags |= {letter + b"XYZ": b"XYZ " + bytes(4) + _fixed(*column), letter + b"TRC": curve}
    start, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    space = b"GRAY" if is_grey else b"RGB "
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _columns(points: Sequence[float]) -> NDArray[np.float64]:
    """Return the matrix from linear light to XYZ under D50 (SMPTE RP 177, adapted after Bradford)."""
    xy_42 = np.array(points, float).reshape(4, 2)
    # Some primaries are just outside of real colours: the blue of ProPhoto has 0.0001 as y.
    if np.abs(xy_42).max() > 2 or np.abs(xy_42[:, 1]).min() < 1e-5:
        raise ValueError("implausible primaries")
    xyz_34 = np.stack([xy_42[:, 0], xy_42[:, 1], 1 - xy_42.sum(1)]) / xy_42[:, 1]
    primaries_33, white_3 = xyz_34[:, :3], xyz_34[:, 3]
    to_xyz_33 = primaries_33 * np.linalg.solve(primaries_33, white_3)
    cones_3 = BRADFORD @ MATRIX_D50 / (BRADFORD @ white_3)
    columns_33 = np.linalg.inv(BRADFORD) @ np.diag(cones_3) @ BRADFORD @ to_xyz_33
    if np.abs(columns_33).max() > 4 or abs(np.linalg.det(columns_33)) < 1e-3:
        raise ValueError("implausible primaries")
    return np.asarray(columns_33)
