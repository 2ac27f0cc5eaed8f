from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel
from small_documents import PATH, Lamp, Room, failure

from pipeline.errors import UsageError
from pipeline.spec.documents import parse_document, read_document


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


def test_a_key_given_twice_is_an_error_with_the_second_line() -> None:
    assert failure("2: a\n02: b\n") == ["night.yaml:2: [2]: given twice"]
    lines = failure("name: a\nlamps:\n  - watts: 1\n    watts: 2\nname: b\n")
    assert [line.split(" ")[0] for line in lines] == ["night.yaml:4:", "night.yaml:5:"]
    assert all("twice" in line for line in lines)


def test_names_that_look_like_something_else_keep_their_lines() -> None:
    document = parse_document("no: a\n010: b\n\n12:30: [x,\n  off]\n", PATH)
    assert document.data == {"no": "a", 10: "b", "12:30": ["x", "off"]}
    assert document.lines[("12:30", 1)] == 5
    assert (document.line(("no",)), document.line((10,))) == (1, 2)


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
def test_an_invalid_document_is_refused_with_its_path(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_document(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_document(Path(name))
    assert caught.value.next_step


def test_a_problem_in_a_merged_key_points_near_it() -> None:
    (line,) = failure("name: hall\nspare:\n  <<: {wats: 3}\n")
    assert line.startswith(("night.yaml:2: spare.wats", "night.yaml:3: spare.wats"))


def test_a_problem_is_reported_briefly_however_large_the_value() -> None:
    levels = [f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]" for n in range(1, 13)]
    lines = failure("\n".join(["l0: &l0 ha", *levels, "name: *l12", f"spare: {'x' * 10_000}"]))
    assert len(lines) == 15
    assert max(map(len, lines)) < 1000


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "movie.yml"
    with path.open("wb") as file:
        file.truncate(20 << 30)  # it takes no space
    with pytest.raises(UsageError, match=r"movie\.yml: more than 8 MB of text"):
        read_document(path)


def test_of_very_many_problems_the_first_are_reported() -> None:
    text = "\n".join(f"k{number}: {'x' * 5000}" for number in range(200))
    with pytest.raises(UsageError) as caught:
        parse_document(text, Path("many.yaml")).validate(Simple)
    assert len(caught.value.message) < 100_000
    assert caught.value.message.endswith("many.yaml: and 150 problems more")


class Simple(BaseModel):
    model_config = {"extra": "forbid"}
