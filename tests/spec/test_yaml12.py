from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_documents import PATH, Lamp, Room, failure, tried

from pipeline.errors import UsageError
from pipeline.spec.documents import Document, parse_document
from pipeline.spec.yaml12 import dump_yaml, parse_value


def assert_a_document_or_a_usage_error(text: str) -> None:
    found = tried(parse_document, text, PATH)
    if isinstance(found, Document):
        assert isinstance(found.data, dict)
        assert all(line >= 1 for line in found.lines.values())
    else:
        assert isinstance(found, UsageError)
        assert str(PATH) in found.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("1E3", 1000.0),
        ("-1e-3", -0.001),
        ("+2e+2", 200.0),
        ("1.5e3", 1500.0),
        ("1.e2", 100.0),
        ("12", 12),
        ("0.5", 0.5),
        ("1e", "1e"),
        ("e3", "e3"),
        ("'1e3'", "1e3"),
        ("1e3x", "1e3x"),
        ("[1e2, a]", [100.0, "a"]),
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("-.5", -0.5),
        ("+12", 12),
        ("0x1F", 31),
        ("0o17", 15),
        # YAML 1.1 has another reading of these.
        ("yes", "yes"),
        ("no", "no"),
        ("off", "off"),
        ("Y", "Y"),
        ("12:30", "12:30"),
        ("1:30.5", "1:30.5"),
        ("010", 10),
        ("08", 8),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("2001-99-99", "2001-99-99"),
        ("=", "="),
        ("[no, 010]", ["no", 10]),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: object) -> None:
    for read in (parse_value(text), parse_document(f"key: {text}\n", PATH).data["key"]):
        assert read == value
        assert type(read) is type(value)


@pytest.mark.parametrize(("text", "value"), [(".inf", math.inf), ("-.INF", -math.inf), (".NaN", math.nan)])
def test_numbers_that_are_not_finite(text: str, value: float) -> None:
    assert repr(parse_value(text)) == repr(value)


@pytest.mark.parametrize("text", ["!!bool yes", "!!int 0b1", "!!int 1:30", "!!int 1_0"])
def test_a_tag_does_not_allow_values_of_yaml_1_1(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid value"):
        parse_value(text)


@pytest.mark.parametrize(
    "value",
    ["no", "1e3", "0o7", "010", "12:30", "2001-01-01", "true", "~", "", "Ä", "0x1F", ".5", "1_000", "a: b"],
)
def test_written_data_is_read_back_unchanged(value: str) -> None:
    data = {"text": value, value or "key": [1, 1e20, 0.1, True, None, value]}
    assert parse_document(dump_yaml(data), PATH).data == data


@pytest.mark.parametrize(
    "text", ["a:\n\tb: 1\n", "a: 1\n  \tb: 2\n", "a: [b,\n\t\tc\n\td: e\n", "a: {b: 1\n\tc: 2\n"]
)
def test_a_tab_in_the_indentation_is_named(text: str) -> None:
    (line,) = failure(text)
    assert "begins with a tab; indent with spaces" in line


def test_a_character_that_yaml_refuses_is_named_with_its_line() -> None:
    (line,) = failure("é: ü\n# ü\nb: x\x07y\x07\n")
    assert line.startswith(
        f"{PATH}:3: not valid YAML: the character U+0007 is not allowed; remove it, or write \\u0007"
    )
    with pytest.raises(ValueError, match=r"not a valid value: the character U\+001B is not allowed"):
        parse_value("\x1b[0m")
    assert parse_value('"x\\u0007y"') == "x\x07y"


def test_a_harmless_tab_is_not_named() -> None:
    assert parse_document("a:\tb\nc: |\n  x\n  \ty\n", PATH).data == {"a": "b", "c": "x\n\ty\n"}
    assert "tab" not in failure("a:\tb\nc: [\n")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b: c\n", "a second ': ' in one line"),
        ("a:\n  - b\n c: 1\n", "the column"),
        ("a: [b, c\nd: e\n", "begins with [ lacks"),
        ("a: {b: c\nd: [e]\n", "begins with { lacks"),
        ("a: 1\nb\n", "a key lacks its colon"),
    ],
)
def test_invalid_yaml_is_explained_in_plain_words(text: str, words: str) -> None:
    assert words in failure(text)[0]


@pytest.mark.parametrize(
    "text",
    [
        "a: ['#ff0000', ]]\n",
        "# a: #ff0000\nb: [\n",
        "a: [#1\n",
        "a: ]\nb: {c: #ff0000}\n",
        "a: {b: '#ff0000'\n",
    ],
)
def test_a_colour_that_is_not_the_cause_is_not_named(text: str) -> None:
    assert "colour" not in failure(text)[0]


@pytest.mark.parametrize(
    "text",
    [
        "? [a, b]\n: c\n",
        "? {a: b}\n: c\n",
        "{[a]: b}",
        "a: !!bool maybe\n",
        "a: !!int ''\n",
        "a: !!float ''\n",
        "a: !!timestamp soon\n",
        "a: !!binary é\n",
        "a: !!set [b]\n",
        "a: !!omap {b: c}\n",
        "!!str : !!map [x]\n",
        "a: " + "1:" * 300 + "00.5\n",
        "a: 0x_\n",
        "<<: 3\n",
        "&a a: *a\n",
        "a: &a [*a]\n",
        "&a ? *a\n: b\n",
        "a: \ud800\n",
        "a: " + "9" * 5000 + "\n",
    ],
)
def test_odd_yaml_is_read_or_refused_but_never_a_crash(text: str) -> None:
    assert_a_document_or_a_usage_error(text)
    tried(parse_value, text)


def test_aliases_and_merge_keys_are_read() -> None:
    document = parse_document(
        "lamps:\n  - &base {colour: red, watts: 3}\n  - *base\n  - <<: *base\n    watts: 4\nname: hall\n",
        PATH,
    )
    lamp = Lamp(colour="red", watts=3)
    assert document.validate(Room).lamps == [lamp, lamp, Lamp(colour="red", watts=4)]


def test_many_aliases_stay_as_small_as_the_file() -> None:
    """A `billion laughs` file costs only those who walk every path in it."""
    levels = [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 15)]
    document = parse_document("\n".join(["l0: &l0 ha", *levels]), PATH)
    assert len(document.lines) < 1000


def test_deep_nesting_is_refused_without_a_crash() -> None:
    code = (
        "from pathlib import Path\n"
        "from pipeline.spec.documents import parse_document\n"
        "from pipeline.errors import UsageError\n"
        "for text in ('[' * 50_000, '{a: ' * 50_000, '- ' * 50_000, '[' * 5_000 + ']' * 5_000):\n"
        "    try:\n"
        "        parse_document('a: ' * (text[0] != '-') + text, Path('m.yaml'))\n"
        "    except UsageError:\n"
        "        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-500:]}"
    assert done.stdout.split() == ["refused"] * 4


SIGNS = ["~", "''", '"', "'", "[", "]", "{", "}", ",", "? ", ": ", "- ", "&x ", "*x", "<<: ", "#", "@", "`"]
SPACES = ["\n", "  ", "\t", "\r\n", ">-\n", "---\n", "...\n", "%YAML 9.9\n", "\x85", "\u2028", "\ufeff"]
WORDS = ["a", "b", "key", "1e3", "é", "2001-01-01", "-0", "0o8", "1:99", "\x00", "\ud800"]
TAGS = [
    "!x ",
    *(
        f"!!{kind} "
        for kind in ["int", "bool", "float", "timestamp", "binary", "set", "omap", "pairs", "map", "seq"]
    ),
]
TOKENS = st.sampled_from([*SIGNS, *SPACES, *WORDS, *TAGS])


@given(st.text() | st.lists(TOKENS, max_size=14).map("".join))
@settings(max_examples=400)
@example("a: 1\na: 2")
def test_any_text_is_a_document_or_a_usage_error(text: str) -> None:
    assert_a_document_or_a_usage_error(text)


@given(st.text() | st.lists(TOKENS, max_size=10).map("".join))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    assert not isinstance(tried(parse_value, text), UsageError)


def test_aliases_that_multiply_are_refused() -> None:
    """A few hundred bytes that stand for a thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UsageError, match="more than 1,000,000 values"):
        parse_document("\n".join(lines), Path("bomb.yaml"))
