from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.ifd import IfdFile, exif_bytes
from pipeline.images.resolution import LEAST, MOST, plausible, read_resolution, resolution_fields, upright


@pytest.mark.parametrize(
    ("found", "dpi"),
    [
        ((300, 300), (300, 300)),
        ((299.9994, 72.009), (300, 72)),  # of a PNG: 11811 and 2835 pixels per metre
        ((118.11 * 2.54, 96.4946), (300, 96.495)),
        ((1, 1), None),
        ((0, 300), None),
        ((-300, 300), None),
        ((1e9, 1e9), None),
        ((math.nan, 300), None),
        ((math.inf, 300), None),
        ((300,), None),
        (("x", "y"), None),
        (300, None),
        (None, None),
    ],
)
def test_what_is_a_resolution(found: Any, dpi: Any) -> None:
    assert plausible(found) == dpi


def test_a_picture_that_was_turned_has_the_numbers_the_other_way_round() -> None:
    assert [upright((1, 2), orientation) for orientation in (None, 1, 3, 6, 8)] == [
        (1, 2), (1, 2), (1, 2), (2, 1), (2, 1)
    ]  # fmt: skip
    assert upright(None, 6) is None


@given(st.floats(LEAST, MOST), st.floats(LEAST, MOST), st.sampled_from("<>"))
def test_fields_are_read_as_they_were_written(across: float, down: float, order: str) -> None:
    dpi = plausible((across, down))
    assert dpi is not None
    file = IfdFile(io.BytesIO(exif_bytes(order, resolution_fields(order, dpi), {})))
    assert read_resolution(file.first()) == pytest.approx(dpi, abs=2e-3)


@given(st.binary(max_size=60), st.integers(0, 60), st.sampled_from("<>"))
def test_no_damage_raises(noise: bytes, place: int, order: str) -> None:
    data = exif_bytes(order, resolution_fields(order, (300, 300)), {})
    place += 8
    file = IfdFile(io.BytesIO(data[:place] + noise + data[place + len(noise) :]))
    found = read_resolution(file.first())
    assert found is None or LEAST <= min(found) <= max(found) <= MOST
