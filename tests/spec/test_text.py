from __future__ import annotations

import pytest

from pipeline.spec.text import are, counted, duration, one_line


@pytest.mark.parametrize(("number", "text"), [(0, "0 files are"), (1, "1 file is"), (2, "2 files are")])
def test_nouns_and_verbs_agree(number: int, text: str) -> None:
    assert f"{counted(number, 'file')} {are(number)}" == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.4, "59.4 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min"),
        (60, "1 min"),
        (119, "2 min"),
        (3599, "1 h 0 min"),
        (3600, "1 h 0 min"),
        (5400, "1 h 30 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_time_spans_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Übung 字", "Übung 字"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("caf\udce9", "caf\\udce9"),
        ("\x1b[31m\u2028", "\\x1b[31m\\u2028"),
        ("", ""),
    ],
)
def test_any_text_is_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown
