"""The colours that mark the regions of a mask."""

from __future__ import annotations

import itertools
import re
import reprlib
from collections.abc import Mapping
from typing import Any, TypeAlias

# Red, green and blue, each in [0, 1].
Color: TypeAlias = tuple[float, float, float]


def region_color(value: Any) -> Color:
    """Read the colour of a region in a mask: a grey level in [0, 1], or text such as "#3366cc".

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        red, green, blue = (int(value[start : start + 2], 16) / 255 for start in (1, 3, 5))
        return red, green, blue
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return (float(value),) * 3
    hint = "; in YAML a # begins a comment, so put a colour in quotes" if value is None else ""
    found = reprlib.repr(value) + hint
    raise ValueError(f"expected a grey level from 0 to 1, or a colour such as '#3366cc', found {found}")


def check_regions(colors: Mapping[str, Color]) -> None:
    """Check the colours of the styles, by their paths, that share a picture.

    Raises:
        ValueError: there are fewer than two, or two are the same.
    """
    if len(colors) < 2:
        raise ValueError("a mask is for two styles or more; for a single style, leave it out")
    for (one, color), (other, same) in itertools.combinations(colors.items(), 2):
        # A mask has 8 bits for each of red, green and blue.
        if all(round(255 * a) == round(255 * b) for a, b in zip(color, same, strict=True)):
            raise ValueError(f"{one} and {other} have the same colour, {color_value(color)}")


def color_value(color: Color) -> float | str:
    """Return a colour as people write it, which `region_color` reads back."""
    red, green, blue = color
    if red == green == blue:
        return int(red) if red in {0, 1} else red
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in color)


def color_text(color: Color) -> str:
    """Return a colour for a message, a grey level with three digits."""
    value = color_value(color)
    return value if isinstance(value, str) else f"{value:.3g}"
