from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.spec.batches import Batch
from pipeline.spec.recipe import PRESETS, Recipe, merged_recipe
from pipeline.spec.trials import read_trial, small_fields

DRAFT = Recipe(preset="draft")
LONG = "x" * 300


def trial(*styles: str, config: Any = None, flags: Any = None, **more: Any) -> Batch:
    found = [Path(style) for style in styles or ("styles",)]
    return read_trial(Path("photos/a.jpg"), found, config or {}, flags or {}, **more)


def names(batch: Batch) -> list[str]:
    return [job.name for job in batch.jobs()]


def test_every_style_of_a_folder_is_tried_as_a_draft(here: Path) -> None:
    batch = trial()
    assert (batch.name, len(batch), names(batch)) == ("try-a", 2, ["a--s", "a--t"])
    assert {job.recipe for job in batch.jobs()} == {DRAFT}
    assert {job.content for job in batch.jobs()} == {here / "photos/a.jpg"}


def test_styles_are_folders_and_pictures_each_once_and_never_the_photo(here: Path) -> None:
    assert names(trial("styles/t.png", "photos", "photos/c.jpg")) == ["a--t", "a--b", "a--c"]
    assert names(trial("photos/c.jpg")) == ["a--c"]


def test_strengths_keep_the_name_of_the_usual_one(here: Path) -> None:
    batch = trial("styles/s.png", strengths="0.5, 1,2.0,2")
    assert names(batch) == ["a--s--strength-0.5", "a--s", "a--s--strength-2"]
    assert [job.recipe.strength for job in batch.jobs()] == [0.5, 1, 2]
    assert list(trial("styles/s.png").jobs()) == list(batch.jobs())[1:2]
    configured = trial("styles/s.png", strengths="1,2", config={"strength": 2})
    assert names(configured) == ["a--s--strength-1", "a--s"]


def test_seeds_start_from_noise(here: Path) -> None:
    batch = trial("styles/s.png", seeds="0,7", config={"init": "content"})
    assert names(batch) == ["a--s--seed-0", "a--s--seed-7"]
    assert [(job.recipe.seed, job.recipe.init) for job in batch.jobs()] == [(0, "noise"), (7, "noise")]
    both = trial(seeds="1,2", strengths="1,2")
    assert len(both) == len(set(names(both))) == 8
    assert names(both)[-1] == "a--t--strength-2--seed-2"


@pytest.mark.parametrize(
    ("config", "flags", "expected"),
    [
        ({}, {}, {"preset": "draft"}),
        ({"size": 1024, "steps": [500], "strength": 2}, {}, {"preset": "draft", "strength": 2}),
        ({"size": 100}, {}, {"preset": "draft", "size": 100}),
        ({"size": "100"}, {}, {"preset": "draft", "size": 100}),
        ({}, {"size": 300, "steps": 9}, {"preset": "draft", "size": 300, "steps": 9}),
        ({"preset": "bold"}, {}, {"preset": "bold", "size": 256, "steps": DRAFT.steps}),
        ({"preset": "bold"}, {"preset": "print"}, {"preset": "print", "size": 256}),
        ({}, {"preset": "thumbnail"}, {"preset": "thumbnail"}),
    ],
)
def test_recipes_are_small_whatever_the_preset(config: Any, flags: Any, expected: Any) -> None:
    assert merged_recipe(config, small_fields(config, flags), flags) == Recipe(**expected)


@given(st.sampled_from(sorted(PRESETS)), st.integers(16, 4000))
def test_a_trial_is_never_larger_than_a_draft(preset: str, size: int) -> None:
    config = {"preset": preset, "size": size}
    recipe = merged_recipe(config, small_fields(config, {}))
    assert recipe.size == min(size, 256)
    assert recipe.preset == preset


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"strengths": "1,x"}, "--strengths 1,x: expected a number, found 'x'."),
        ({"strengths": "9"}, "--strengths 9: must be at most 4, found 9."),
        ({"strengths": "1,,2"}, "--strengths 1,,2: expected a number, found nothing."),
        ({"seeds": "1.5"}, "--seeds 1.5: expected a whole number, found 1.5."),
        ({"seeds": "["}, "--seeds [: not a valid value"),
        ({"strengths": "1", "flags": {"strength": 2}}, "--strengths and --set strength exclude each other."),
        ({"seeds": "1", "flags": {"seed": 2}}, "--seeds and --set seed exclude each other."),
        ({"seeds": "1", "flags": {"init": "blank"}}, "--seeds and --set init=blank exclude each other."),
        (
            {"config": {"encoder": "vgg19-slim"}, "flags": {"style_layers": {"relu5_4": 1}}},
            "vgg19-slim ends at relu5_1",
        ),
        ({"config": {"name": "{strength:d}"}}, "The output name '{strength:d}' cannot be filled"),
    ],
)
def test_values_that_make_no_sense_are_refused(here: Path, problem: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        trial(**problem)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("photo", "styles", "message"),
    [
        ("photos/A.jpg", ["styles"], "photos/A.jpg: no such file; there is 'a.jpg'."),
        ("photos", ["styles"], "photos: is a folder; a trial takes one photo."),
        ("photos/[ac].jpg", ["styles"], "photos/[ac].jpg: expected one picture; 2 match."),
        ("photos/a.jpg", ["no"], "no: no such file."),
        ("photos/a.jpg", ["~no-such-user/x"], "~no-such-user/x: no such file."),
        ("photos/a.jpg", [LONG], f"{LONG[:100]}: cannot be read (File name too long)."),
        (LONG, ["styles"], f"{LONG[:100]}: cannot be read (File name too long)."),
        ("photos/a.jpg", ["photos/a.jpg"], "photos/a.jpg: is the only style found."),
        ("no.jpg", ["nowhere"], "no.jpg: no such file.\nnowhere: no such file."),
    ],
)
def test_what_is_not_there_is_named(here: Path, photo: str, styles: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_trial(Path(photo), [Path(style) for style in styles], {}, {})
    assert caught.value.message == message


def test_an_empty_folder_of_styles_is_an_error_that_says_what_it_has(here: Path) -> None:
    (here / "empty").mkdir()
    (here / "empty/notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"empty/\*: no picture matches; passed over: 1 with other suffixes"):
        trial("empty")


def test_a_folder_with_brackets_in_its_name_is_that_folder(here: Path) -> None:
    (here / "styles").rename(here / "styles [old]")
    assert names(trial("styles [old]")) == ["a--s", "a--t"]


def test_a_name_may_begin_like_that_of_a_users_home(here: Path) -> None:
    (here / "styles").rename(here / "~styles")
    (here / "photos/a.jpg").rename(here / "~a.jpg")
    assert names(read_trial(Path("~a.jpg"), [Path("~styles")], {}, {})) == ["~a--s", "~a--t"]


def test_notes_say_what_was_passed_over_and_which_names_are_shared(here: Path) -> None:
    assert trial("photos").notes == (
        "photos/*: passed over: 1 with other suffixes (.txt), 1 with ignored names (.hidden.jpg)",
    )
    (here / "more").mkdir()
    (here / "more/s.png").write_bytes(b"other")
    (note,) = trial("styles", "more").notes
    assert note.startswith("s: several styles have this name")
