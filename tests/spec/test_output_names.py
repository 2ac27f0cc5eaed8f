from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.spec import output_names
from pipeline.spec.jobs import output_name
from pipeline.spec.output_names import fill_template, safe_name
from pipeline.spec.recipe import Recipe

RECIPE = Recipe()
NASTY = st.text(alphabet=st.sampled_from("ab./\\ ~-:*?<>|\"'\x00\x1f\x7f\x85\u2028\ud800\udcffé\u0301字%{}"))
ANY_TEXT = st.text(max_size=400) | NASTY | st.text(alphabet="é. 字", min_size=150, max_size=400)


def assert_safe(name: str) -> None:
    """`name` is a relative path that every file system takes and that never leaves its folder."""
    assert name
    assert not name.startswith("/")
    assert not os.path.isabs(name)
    for part in name.split("/"):
        assert part
        assert not part.startswith((".", " "))
        assert not part.endswith((".", " "))
        assert len(os.fsencode(part)) <= 255
        assert not set(part) & set('<>:"\\|?*')
        assert not [char for char in part if unicodedata.category(char) in {"Cc", "Cs"}]
    assert Path("/out", name).resolve().is_relative_to("/out")
    assert Path("/out", name).resolve() != Path("/out")


@given(ANY_TEXT)
@settings(max_examples=500)
@example("")
@example("..")
@example("../../etc/passwd")
@example("/etc/passwd")
@example("a/../../b")
@example(" . .hidden")
@example("caf\udce9")
@example("x" * 199 + ". y")
@example("x" * 199 + "é")
@example("C:\\temp")
@example("a\x85b")
def test_any_text_becomes_a_safe_name(text: str) -> None:
    name = safe_name(text)
    assert_safe(name)
    assert safe_name(name) == name


@given(st.text(alphabet="aZ0_-+. ~/é:", max_size=12) | st.text(alphabet="a .", min_size=198, max_size=202))
@settings(max_examples=300)
def test_the_shortcut_for_plain_names_changes_nothing(text: str) -> None:
    assert safe_name(text) == output_names._made_safe(text)


@given(ANY_TEXT)
def test_a_name_has_room_for_a_short_id_a_step_and_a_suffix(text: str) -> None:
    assert all(len(f"{part}-12345678-step00100.json".encode()) <= 255 for part in safe_name(text).split("/"))


def test_good_names_stay_as_they_are() -> None:
    for name in ("a--s", "Ünï cödé 字", "1_1e+06_1/generated_100", "a.b.c", "x'y & z (1)", "[b]"):
        assert safe_name(name) == name


def test_names_that_look_alike_are_alike() -> None:
    assert safe_name("e\u0301") == safe_name("\u00e9")


@given(ANY_TEXT, ANY_TEXT)
@example("../..", "../..")
@example("a/b", "/s")
@example("{step}", "{0.__class__}")
def test_no_content_and_no_style_leaves_the_folder(content: str, style: str) -> None:
    name = output_name(RECIPE, content, style, {})
    assert_safe(name)
    assert "/" not in name


@given(
    st.sampled_from(["init", "size", "style_layers", "x"]), ANY_TEXT | st.floats() | st.lists(st.integers())
)
def test_no_swept_value_leaves_the_folder(field: str, value: Any) -> None:
    name = output_name(Recipe(name="{content}{sweep}"), "a", "s", {field: value})
    assert_safe(name)
    assert "/" not in name


def test_swept_values_are_in_the_name() -> None:
    sweep = {"style_weight": 1e3, "size": 64}
    assert output_name(RECIPE, "a", "s", sweep) == ("a--s--style_weight-1000--size-64")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{content}/{style}", "a/s"),
        ("{content}_{step:04d}", "a_0012"),
        ("{content_weight:g}_{style_weight:g}_{learning_rate:g}/generated_{step}", "1_50_1/generated_12"),
        ("{preset}-{size}", "default-512"),
        ("/{content}", "a"),
        ("../{content}", "a"),
        ("{content}/../../{style}", "a/s"),
        ("{{{content}}}", "{a}"),
        ("...", "unnamed"),
    ],
)
def test_a_template_is_filled(template: str, name: str) -> None:
    assert output_name(Recipe(name=template), "a", "s", {}, 12) == name


@pytest.mark.parametrize(
    "template", ["{content:d}", "{size:q}", "{content!x}", "{content:{0}}", "{step:{zzz}}"]
)
def test_a_template_that_cannot_be_filled_is_an_error(template: str) -> None:
    with pytest.raises(UsageError, match="cannot be filled"):
        fill_template(template, {"content": "a", "size": 512, "step": 1})


# Values travel
