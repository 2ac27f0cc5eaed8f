from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.errors import UsageError
from pipeline.spec.config import Config, read_config
from pipeline.spec.hooks import Hook


def read(place: Path, *hooks: object) -> Config:
    path = place / "etc/config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"hooks": hooks[0] if len(hooks) == 1 else list(hooks)}))
    return read_config(path)


def only(place: Path, **fields: object) -> Hook:
    (hook,) = read(place, {"when": "done", "run": "true", **fields}).hooks
    return hook


def problem(place: Path, **fields: object) -> str:
    with pytest.raises(UsageError) as caught:
        only(place, **fields)
    return str(caught.value)


def test_there_are_none_by_default() -> None:
    assert read_config(None).hooks == ()


def test_a_list_is_the_words_as_they_are(environment: Path) -> None:
    words = ["curl", "-d", "a b", "https://example.org/?a=1&b=$2", ""]
    assert only(environment, run=words).run == tuple(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("true", ("true",)),
        ("notify-send 'Picture done'", ("notify-send", "Picture done")),
        ('mail -s "it\'s done" me@example.org', ("mail", "-s", "it's done", "me@example.org")),
        ("curl https://example.org/?a=1", ("curl", "https://example.org/?a=1")),
        (r"a\ b c", ("a b", "c")),
    ],
)
def test_text_is_split_into_words_as_by_a_shell(environment: Path, text: str, words: tuple[str, ...]) -> None:
    assert only(environment, run=text).run == words


@pytest.mark.parametrize(
    "text", ["a | b", "a && b", "a > b", "cp *.png /x", "echo $HOME", "a; b", "echo `a`"]
)
def test_text_that_needs_a_shell_is_refused_with_the_way_to_have_one(environment: Path, text: str) -> None:
    assert "needs a shell" in problem(environment, run=text)
    assert "[sh, -c, '...']" in problem(environment, run=text)
    assert only(environment, run=["sh", "-c", text]).run == ("sh", "-c", text)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"run": []}, "hooks.run: expected a program and its arguments"),
        ({"run": ""}, "hooks.run: expected a program and its arguments"),
        ({"run": ["", "a"]}, "hooks.run: expected a program and its arguments"),
        ({"run": "say 'hello"}, "hooks.run: not a command, as it has no closing quotation"),
        ({"run": ["sleep", 5]}, "hooks.run[1]: expected text, found 5; in quotes it is text: '5'"),
        ({"run": {"a": 1}}, "hooks.run: expected a list"),
        ({"run": ["a\0b"]}, "NUL"),
        ({"run": "~no-such-user/tell.sh"}, "hooks.run: there is no home folder '~no-such-user'"),
        ({"when": "don"}, "did you mean 'done'?"),
        ({"when": []}, "hooks.when: must not be empty"),
        ({"timeout_s": 0}, "hooks.timeout_s: must be more than 0"),
        ({"timeout_s": True}, "hooks.timeout_s: expected a number, found true"),
        ({"timeout": 3}, "did you mean 'timeout_s'?"),
    ],
)
def test_mistakes_are_named_with_their_place(environment: Path, fields: dict, text: str) -> None:
    message = problem(environment, **fields)
    assert text in message
    assert "config.yaml:" in message


def test_what_is_required_is_named(environment: Path) -> None:
    with pytest.raises(UsageError, match=r"hooks\[1\]\.run: is required"):
        read(environment, {"when": "done", "run": "true"}, {"when": "done"})


def test_one_or_several_things_may_have_to_happen(environment: Path) -> None:
    assert only(environment, when="failed").when == ("failed",)
    assert only(environment, when=["failed", "paused"]).when == ("failed", "paused")
    hooks = read(environment, {"when": "done", "run": "a"}, {"when": "resumed", "run": "b"}).hooks
    assert [hook.run for hook in hooks] == [("a",), ("b",)]


def test_paths_start_at_the_folder_of_the_file(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    etc = environment / "etc"
    assert only(environment).folder == etc
    assert only(environment, folder="../work").folder == environment / "work"
    assert only(environment, run=["./tell.sh", "./a"]).run == (f"{etc}/tell.sh", "./a")
    assert only(environment, run="../bin/tell").run == (f"{etc}/../bin/tell",)
    assert only(environment, run="~/tell.sh a").run == ("/home/me/tell.sh", "a")
    assert only(environment, run="/usr/bin/tell").run == ("/usr/bin/tell",)
    assert only(environment, run="tell").run == ("tell",)


def test_editors_are_told_of_both_forms() -> None:
    schema = Config.model_json_schema()
    forms = schema["$defs"]["Hook"]["properties"]["run"]["anyOf"]
    assert {form["type"] for form in forms} == {"string", "array"}
