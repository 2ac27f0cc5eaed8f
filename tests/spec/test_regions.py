from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.spec.regions import check_regions, color_value, region_color


@given(st.floats(0, 1) | st.integers(0, 1) | st.from_regex("#[0-9a-fA-F]{6}", fullmatch=True))
@example("#808080")
@example(0.5)
def test_a_colour_is_written_as_it_was_read(value: float | str) -> None:
    color = region_color(value)
    assert all(0 <= channel <= 1 for channel in color)
    assert region_color(color_value(color)) == color


@pytest.mark.parametrize(
    "value", [1.5, -0.1, 255, float("nan"), True, None, "red", "#fff", "#12345g", [0, 0, 0]]
)
def test_invalid_colours_are_refused(value: Any) -> None:
    with pytest.raises(
        ValueError, match="a grey level from 0 to 1, or a colour such as '#3366cc', found"
    ) as found:
        region_color(value)
    assert ("in quotes" in str(found.value)) == (value is None)


def test_regions_are_at_least_two_and_have_different_colours() -> None:
    check_regions({"a": region_color("#000000"), "b": region_color("#000001")})
    with pytest.raises(ValueError, match="two styles or more"):
        check_regions({"a": region_color(0)})
    with pytest.raises(ValueError, match=r"a\.jpg and b\.jpg have the same colour"):
        check_regions({"a.jpg": region_color(0.5), "c": region_color(0), "b.jpg": region_color("#808080")})


# Names
