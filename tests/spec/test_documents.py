from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict

from pipeline.errors import UsageError
from pipeline.spec import documents
from pipeline.spec.config import Blend, Config, Route, WatchConfig
from pipeline.spec.documents import Document, dump_yaml, listed, parse_document, parse_value, read_document
from pipeline.spec.manifest import Manifest, MasksEntry, Pair, StyleEntry
from pipeline.spec.recipe import ALIASES, Recipe

PATH = Path("night.yaml")


class Lamp(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: str = "white"
    watts: float = 5


class Room(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    lamps: list[Lamp] = []
    spare: Lamp | None = None


def failure(text: str, model: type[BaseModel] = Room) -> list[str]:
    """The lines of the error that `text` gives."""
    with pytest.raises(UsageError) as caught:
        parse_document(text, PATH).validate(model)
    assert caught.value.exit_code == 2
    return caught.value.message.splitlines()


def tried(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or the error it may raise."""
    try:
        return function(*arguments)
    except (UsageError, ValueError) as error:
        return error


def assert_a_document_or_a_usage_error(text: str) -> None:
    found = tried(parse_document, text, PATH)
    if isinstance(found, Document):
        assert isinstance(found.data, dict)
        assert all(line >= 1 for line in found.lines.values())
    else:
        assert isinstance(found, UsageError)
        assert str(PATH) in found.message


def test_a_good_document_becomes_its_model() -> None:
    room = parse_document("name: hall\nlamps: [{watts: 1e3}]\n", PATH).validate(Room)
    assert room == Room(name="hall", lamps=[Lamp(watts=1000)])


def test_all_problems_at_once_each_with_its_line() -> None:
    lines = failure("name: 3\nlamps:\n  - watts: 5\n  - watts: much\n\n  - color: red\nspare: []\n")
    assert [line.split(": ")[0:2] for line in lines] == [
        ["night.yaml:1", "name"],
        ["night.yaml:4", "lamps[1].watts"],
        ["night.yaml:6", "lamps[2].color"],
        ["night.yaml:7", "spare"],
    ]
    assert "'much'" in lines[1]


def test_an_unknown_key_says_what_is_accepted_and_what_was_meant() -> None:
    (line,) = failure("name: hall\nlamps:\n- color: red\n")
    assert line.startswith("night.yaml:3: lamps[0].color: unknown key")
    assert "did you mean 'colour'?" in line
    assert "colour, watts" in line


def test_an_unknown_key_below_an_alternative_is_explained_too() -> None:
    (line,) = failure("name: hall\nspare:\n  wats: 3\n")
    assert line.startswith("night.yaml:3: spare.wats")
    assert "'watts'" in line


def test_an_unknown_key_like_nothing_gets_no_suggestion() -> None:
    (line,) = failure("name: hall\nzzz: 1\n")
    assert "did you mean" not in line
    assert "key Accepted" not in line, "two sentences need a stop between them"
    assert "name, lamps, spare" in line


def test_a_missing_key_points_at_what_lacks_it() -> None:
    (line,) = failure("lamps: []\n")
    assert line.startswith("night.yaml:1: name: ")
    assert "required" in line.lower()


def test_a_key_given_twice_is_an_error_with_the_second_line() -> None:
    assert failure("2: a\n02: b\n") == ["night.yaml:2: [2]: given twice"]
    lines = failure("name: a\nlamps:\n  - watts: 1\n    watts: 2\nname: b\n")
    assert [line.split(" ")[0] for line in lines] == ["night.yaml:4:", "night.yaml:5:"]
    assert all("twice" in line for line in lines)


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
def test_a_tag_does_not_bring_back_what_is_no_value_any_more(text: str) -> None:
    with pytest.raises(ValueError, match="not a valid value"):
        parse_value(text)


def test_names_that_look_like_something_else_keep_their_lines() -> None:
    document = parse_document("no: a\n010: b\n\n12:30: [x,\n  off]\n", PATH)
    assert document.data == {"no": "a", 10: "b", "12:30": ["x", "off"]}
    assert document.lines[("12:30", 1)] == 5
    assert (document.line(("no",)), document.line((10,))) == (1, 2)


@pytest.mark.parametrize(
    "value",
    ["no", "1e3", "0o7", "010", "12:30", "2001-01-01", "true", "~", "", "Ä", "0x1F", ".5", "1_000", "a: b"],
)
def test_what_is_written_is_read_as_it_was(value: str) -> None:
    data = {"text": value, value or "key": [1, 1e20, 0.1, True, None, value]}
    assert parse_document(dump_yaml(data), PATH).data == data


@pytest.mark.parametrize(
    "text", ["a:\n\tb: 1\n", "a: 1\n  \tb: 2\n", "a: [b,\n\t\tc\n\td: e\n", "a: {b: 1\n\tc: 2\n"]
)
def test_a_tab_is_called_a_tab(text: str) -> None:
    (line,) = failure(text)
    assert "begins with a tab; indent with spaces" in line


def test_a_tab_that_does_no_harm_is_not_named() -> None:
    assert parse_document("a:\tb\nc: |\n  x\n  \ty\n", PATH).data == {"a": "b", "c": "x\n\ty\n"}
    assert "tab" not in failure("a:\tb\nc: [\n")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b: c\n", "a second ': ' in one line"),
        ("a:\n  - b\n c: 1\n", "the column"),
        ("a: [b, c\nd: e\n", "begun with [ lacks"),
        ("a: {b: c\nd: [e]\n", "began with { lacks"),
        ("a: 1\nb\n", "a key lacks its colon"),
    ],
)
def test_what_is_wrong_with_yaml_is_said_plainly(text: str, words: str) -> None:
    assert words in failure(text)[0]


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "\ufeff"])
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    assert parse_document(text, PATH).data == {}


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: hall\n")
    assert read_document(path).data == {"name": "hall"}


def test_windows_line_ends_keep_the_line_numbers() -> None:
    (line,) = failure("name: hall\r\nlamps: []\r\nzzz: 1\r\n")
    assert line.startswith("night.yaml:3:")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: caf\xe9\n", "UTF-8"),
        (b"\xff\xfen\x00a\x00", "UTF-8"),
        (b"- a\n- b\n", "found a list"),
        (b"just words\n", "found 'just words'"),
        (b"3\n", "found 3"),
        (b"a: [1, 2\nb: 3\n", ":2: not valid YAML"),
        (b"a: b: c\n", ":1: not valid YAML"),
        (b"a: 1\n\tb: 2\n", ":2: not valid YAML"),
        (b"a: \x00\n", "not valid YAML"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"a: *nobody\n", ":1: not valid YAML"),
        (b"a: !!python/object/apply:os.system [id]\n", ":1: not valid YAML"),
    ],
)
def test_what_is_no_document_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_document(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message


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
def test_a_colour_that_is_not_the_fault_is_not_named(text: str) -> None:
    assert "colour" not in failure(text)[0]


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_document(Path(name))
    assert caught.value.next_step


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


def test_a_problem_in_a_merged_key_points_near_it() -> None:
    (line,) = failure("name: hall\nspare:\n  <<: {wats: 3}\n")
    assert line.startswith(("night.yaml:2: spare.wats", "night.yaml:3: spare.wats"))


def test_many_aliases_stay_as_small_as_the_file() -> None:
    """The bill of a `billion laughs` file is paid only by who walks every path in it."""
    levels = [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 15)]
    document = parse_document("\n".join(["l0: &l0 ha", *levels]), PATH)
    assert len(document.lines) < 1000


def test_a_problem_is_told_in_few_words_however_large_the_value() -> None:
    levels = [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 13)]
    lines = failure("\n".join(["l0: &l0 ha", *levels, "name: *l12", f"spare: {'x' * 10_000}"]))
    assert len(lines) == 15
    assert max(map(len, lines)) < 1000


def test_deep_nesting_is_refused_and_kills_nothing() -> None:
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


WRONG = ["x", 3, -1, 1e308, True, None, [], {}, [[]], [3], {"x": 3}, {3: 4}, {"x": {}}, "2.5", 10**30]
JARGON = re.compile(
    "Input should|valid (dict|list|str|int|number)|instance of|[Ff]ield required|match pattern|"
    "literal|constrained|function-|should have|unable to|tuple|model|NoneType"
)


@pytest.mark.parametrize("model", [Manifest, Config])
def test_whatever_is_wrong_is_said_in_plain_words(model: type[BaseModel]) -> None:
    for path in [*places(model), ("zzz",)]:
        for value in WRONG:
            data: Any = value
            for key in reversed(path):
                data = [data] if key == "[]" else {key: data}
            found = tried(parse_document(dump_yaml(data), PATH).validate, model)
            for line in found.message.splitlines() if isinstance(found, UsageError) else []:
                said = line.partition("found")[0].partition("Accepted")[0]
                assert not JARGON.search(said), (path, value, line)


def places(model: type[BaseModel]) -> list[tuple[str, ...]]:
    """Every key below a model; `[]` stands for a place in a list."""
    below: dict[tuple[str, ...], type[BaseModel]] = {("recipe",): Recipe}
    if model is Manifest:
        below |= {("styles", "[]"): StyleEntry, ("pairs", "[]"): Pair}
        below |= {("pairs", "[]", "style"): StyleEntry, ("pairs", "[]", "masks"): MasksEntry}
    else:
        below |= {
            ("watch",): WatchConfig,
            ("watch", "routes", "cards"): Route,
            ("watch", "styles", "[]"): Blend,
        }
    keys = [(*place, key) for place, part in {(): model, **below}.items() for key in part.model_fields]
    return [*below, *keys]


def test_a_single_value_is_named_without_a_place_in_a_list() -> None:
    class Shelf(BaseModel):
        books: Annotated[list[int], BeforeValidator(listed)]

    assert failure("books: x\n", Shelf) == ["night.yaml:1: books: expected a whole number, found 'x'"]
    assert failure("books:\n - x\n", Shelf) == ["night.yaml:2: books[0]: expected a whole number, found 'x'"]


def test_several_kinds_are_named_in_one_sentence() -> None:
    (line,) = failure("workers: many\n", Config)
    assert line == "night.yaml:1: workers: expected auto, or a whole number from 1 to 64, found 'many'"
    (line,) = failure("device: gpu\n", Config)
    assert line == "night.yaml:1: device: expected auto, cpu, mps, cuda or cuda:N, found 'gpu'"
    (line,) = failure("watch: {styles: [monet, 3]}\n", Config)
    assert line.startswith("night.yaml:1: watch.styles[1]: expected the name of a style, or a blend such as")


def test_a_number_where_text_is_meant_is_to_be_quoted() -> None:
    lines = failure("contents: [12, true]\nstyles: [s.png]\n", Manifest)
    assert [line.partition("expected")[2] for line in lines] == [
        " text, found 12; in quotes it is text: '12'",
        " text, found true; in quotes it is text: 'true'",
    ]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.binary(max_size=3)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
RECIPES = st.dictionaries(st.sampled_from([*Recipe.model_fields, *ALIASES]), VALUES, max_size=4) | VALUES
STYLES = st.fixed_dictionaries({}, optional={"image": VALUES, "blend": VALUES, "name": VALUES}) | VALUES
PAIRS = st.fixed_dictionaries({}, optional={"content": VALUES, "style": STYLES, "recipe": RECIPES}) | VALUES
MANIFESTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "batch": VALUES,
        "recipe": RECIPES,
        "contents": st.lists(VALUES, max_size=3) | VALUES,
        "styles": st.lists(STYLES, max_size=3) | VALUES,
        "pairs": st.lists(PAIRS, max_size=3) | VALUES,
        "sweep": st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)), VALUES, max_size=3) | VALUES,
        "zzz": VALUES,
    },
)


@given(MANIFESTS)
@settings(max_examples=300)
@example({"recipe": {"style_layers": [["conv1_1"]]}})
@example({"recipe": {"preset": ["draft"]}})
def test_any_data_is_a_manifest_or_a_usage_error(data: dict[str, Any]) -> None:
    document = parse_document(yaml.safe_dump(data, allow_unicode=True), PATH)
    found = tried(document.validate, Manifest)
    if not isinstance(found, Manifest):
        assert isinstance(found, UsageError)
        assert found.message.startswith(f"{PATH}:")


def test_a_schema_is_made_once_however_many_keys_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    made, make = [], Manifest.model_json_schema

    def counted(**options: Any) -> dict[str, Any]:
        made.append(options)
        return make(**options)

    monkeypatch.setattr(Manifest, "model_json_schema", counted)
    documents._schema.cache_clear()
    pairs = [{"content": "a", "style": "b", "recipe": {}, f"key{number}": 1} for number in range(20)]
    found = parse_document(yaml.safe_dump({"pairs": pairs}), PATH).check(Manifest)
    assert isinstance(found, list)
    assert len(found) == 20
    assert len(made) == 1


def test_no_more_than_a_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "movie.yml"
    with path.open("wb") as file:
        file.truncate(20 << 30)  # it takes no room
    with pytest.raises(UsageError, match=r"movie\.yml: more than 8 MB of text"):
        read_document(path)


def test_aliases_do_not_multiply_without_end() -> None:
    """A few hundred bytes that stand for a thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UsageError, match="more than 1,000,000 values"):
        parse_document("\n".join(lines), Path("bomb.yaml"))


def test_of_very_many_problems_the_first_are_told() -> None:
    text = "\n".join(f"k{number}: {'x' * 5000}" for number in range(200))
    with pytest.raises(UsageError) as caught:
        parse_document(text, Path("many.yaml")).validate(Simple)
    assert len(caught.value.message) < 100_000
    assert caught.value.message.endswith("many.yaml: and 150 problems more")


class Simple(BaseModel):
    model_config = {"extra": "forbid"}
