"""Numbers, durations, lists and names as readable text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def one_line(text: Path | str) -> str:
    """Return a name or text as one line that can be written anywhere, whatever it is made of."""
    plain = str(text).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def shortened(text: str, most: int) -> str:
    """Return a text, cut off after `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def first_few(names: Sequence[str], most: int) -> str:
    """Return the first `most` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, noun: str) -> str:
    """Return a number of things whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def are(number: int) -> str:
    """Return the verb that agrees with a number of things."""
    return "is" if number == 1 else "are"


def duration(seconds: float) -> str:
    """Return a time span in the units that suit it."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
