"""Samples: arrays HWC of any bit depth to 16 bits, to 8, upright, and on white. Full scale is full light.

Shapes in names: H rows, W columns, C channels: grey or three colours, then perhaps alpha.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows converted at once, to bound the memory it takes.
ROWS = 64


def possible_whites(kind: str, bits: int) -> tuple[int, ...]:
    """Return what may be full light in samples of a kind, u, i or f as numpy has it; the least first.

    Unsigned samples of up to 16 bits have one; for the others it is not defined.
    """
    if kind == "f":
        return 1, 255, 65535
    top = 2 ** (bits - (kind == "i")) - 1
    if kind == "u" and bits <= 16:
        return (top,)
    return (*(white for white in (255, 65535) if white < top), top)


def to_16_bits(
    samples_HWC: NDArray[Any], whites: tuple[int, ...], colors: int = 3
) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """Scale samples by the smallest white that no colour exceeds, or by the largest; notes say which.

    A tenth of the samples may exceed a white of 1: lights of a scene. Values above white become white, values
    below zero and NaN become black. `colors` is the number of channels that are not alpha.
    """
    white = _white(samples_HWC[:, :, :colors], whites)
    notes = (f"it does not define which value is white; {white:,} is assumed",) if len(whites) > 1 else ()
    if samples_HWC.dtype == np.uint16 and white == 65535:
        return samples_HWC, notes
    result = np.empty(samples_HWC.shape, np.uint16)
    for top in range(0, len(result), ROWS):
        rows = samples_HWC[top : top + ROWS].astype(np.float64)
        rows = np.nan_to_num(rows, nan=0, posinf=white, neginf=0) * (65535 / white)
        result[top : top + ROWS] = rows.clip(0, 65535).round()
    return result, notes


def _white(colors_HWC: NDArray[Any], whites: tuple[int, ...]) -> int:
    if len(whites) == 1:
        return whites[0]
    if whites[0] == 1 and (colors_HWC > 1.5).mean() < 0.1:
        return 1
    top = colors_HWC.max(initial=0, where=np.isfinite(colors_HWC))
    return next((white for white in whites if top <= white + 0.5), whites[-1])


def to_8_bits(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Round samples of 16 bits: a 257th each, since 65535 / 257 = 255."""
    result = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), ROWS):
        result[top : top + ROWS] = (samples[top : top + ROWS].astype(np.uint32) + 128) // 257
    return result


def upright(samples_HWC: NDArray[np.uint16], orientation: object) -> NDArray[np.uint16]:
    """Apply an EXIF orientation, 1 to 8; anything else changes nothing."""
    if orientation in {5, 6, 7, 8}:
        samples_HWC = samples_HWC.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        samples_HWC = samples_HWC[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        samples_HWC = samples_HWC[::-1]
    return np.ascontiguousarray(samples_HWC)


def split_alpha(
    samples_HWC: NDArray[np.uint16], transparent: object = None
) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Return colours, and alpha HW unless nothing is transparent.

    `transparent` is the sample, or the three, that a PNG without alpha names as transparent.
    """
    alpha_HW = None
    if samples_HWC.shape[2] in {2, 4}:
        samples_HWC, alpha_HW = samples_HWC[:, :, :-1], samples_HWC[:, :, -1]
    elif isinstance(transparent, int | tuple):
        alpha_HW = np.where((samples_HWC == np.array(transparent)).all(axis=2), 0, 65535).astype(np.uint16)
    if alpha_HW is not None and alpha_HW.min(initial=65535) == 65535:
        alpha_HW = None
    return samples_HWC, alpha_HW


def on_white(colors_HWC: NDArray[np.uint16], alpha_HW: NDArray[np.uint16]) -> NDArray[np.uint16]:
    result = np.empty_like(colors_HWC)
    for top in range(0, len(result), ROWS):
        rows = slice(top, top + ROWS)
        alpha = alpha_HW[rows, :, None].astype(np.uint32)
        # Stays below 2**32.
        result[rows] = (colors_HWC[rows] * alpha + (65535 - alpha) * 65535 + 32767) // 65535
    return result


def without_association(samples_HWC: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Divide colours by the alpha that they were multiplied with, the last channel."""
    result = samples_HWC.copy()
    for top in range(0, len(result), ROWS):
        rows = samples_HWC[top : top + ROWS].astype(np.uint32)
        alpha = rows[:, :, -1:]
        colors = (rows[:, :, :-1] * 65535 + alpha // 2) // np.maximum(alpha, 1)
        result[top : top + ROWS, :, :-1] = np.minimum(colors, 65535)
    return result
