from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import MakeManifest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_manifests import ONE, failure

from pipeline.errors import UsageError
from pipeline.spec.batches import Batch
from pipeline.spec.manifest import read_manifest
from pipeline.spec.recipe import Recipe


def test_a_name_template_for_the_batch(read: Any) -> None:
    (job,) = read("recipe: {name: '{style}/{content}_{size}_{step}', steps: 9, pyramid: 0}\n" + ONE).jobs()
    assert job.name == "s/a_512_9"


def test_the_picture_to_start_from_is_found_beside_the_manifest(read: Any, here: Path) -> None:
    start = str(here / "start.png")
    text = "recipe: {init: ../start.png}\npairs:\n"
    text += "  - {content: ../photos/a.jpg, style: ../styles/s.png}\n"
    text += "  - {content: ../photos/c.jpg, style: ../styles/s.png, recipe: {init: ../photos/a.jpg}}\n"
    first, second = read(text, name="sub/night.yaml").jobs()
    assert first.recipe.init == start
    assert second.recipe.init == str(here / "photos/a.jpg")
    assert second.init_path in second.input_paths
    swept = "contents: [../photos/a.jpg]\nstyles: [../styles/s.png]\nsweep: {init: [content, ../start.png]}\n"
    jobs = list(read(swept, name="sub/night.yaml").jobs())
    assert [job.recipe.init for job in jobs] == ["content", start]
    assert len({job.name for job in jobs}) == 2


# A manifest that was moved


def test_a_moved_manifest_is_read_as_at_its_original_path(here: Path, make_manifest: MakeManifest) -> None:
    """A manifest dropped into the inbox is read after it was claimed."""
    (here / "sub").mkdir()
    text = "contents: [../photos/*.jpg]\nstyles: [../styles/s.png]\nrecipe: {init: ../start.png}\n"
    batch = read_manifest(make_manifest(text, "claimed/ID/x.yaml"), {}, {}, here / "sub/night.yaml")
    assert batch.name == "night"
    jobs = list(batch.jobs())
    assert [job.content for job in jobs] == [here / "photos/a.jpg", here / "photos/c.jpg"]
    assert jobs[0].style.images == ((here / "styles/s.png", 1.0),)
    assert jobs[0].recipe.init == str(here / "start.png")


def test_problems_of_a_moved_manifest_name_its_original_path(here: Path, make_manifest: MakeManifest) -> None:
    path, place = make_manifest(ONE, "claimed/ID/night.yaml"), here / "sub/night.yaml"
    with pytest.raises(UsageError) as caught:
        read_manifest(path, {}, {}, place)
    assert [line.split(": ")[0] for line in caught.value.message.splitlines()] == [f"{place}:1", f"{place}:2"]
    assert "claimed" not in caught.value.message


# Masks


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("", "night"),
        ("batch: autumn leaves", "autumn leaves"),
        ("batch: ../x", "x"),
        ("batch: /etc/x", None),
        ("batch: a/b", None),
        ("batch: ..", "unnamed"),
        ("batch: .hidden", "hidden"),
        ("batch: 'a\\b'", None),
        ("batch: '~'", "~"),
        ('batch: "a\\0b"', "a_b"),
    ],
)
def test_a_batch_is_one_folder_in_the_outbox(line: str, name: str | None, read: Any) -> None:
    batch = read(f"{line}\n{ONE}")
    assert name is None or batch.name == name
    assert Path("/outbox", batch.name).resolve().parent == Path("/outbox")
    assert not batch.name.startswith(".")


# What is wrong


def test_a_problem_is_reported_once_however_many_pictures_it_concerns(read: Any) -> None:
    lines = failure(read, "pairs:\n- content: 'photos/*'\n  style: missing.png\n")
    assert [line.split(": ")[:2] for line in lines] == [["3", "pairs[0].style"]]


def test_files_and_recipes_are_checked_together(read: Any) -> None:
    lines = failure(read, "contents: [photos/missing.jpg]\nstyles: [styles/s.png]\nsweep: {size: [3]}\n")
    assert [line.split(": ")[0] for line in lines] == ["1", "3"]


def test_keys_and_files_are_checked_together(read: Any) -> None:
    """Nobody has to start a night three times to find three mistakes."""
    lines = failure(read, "contents: [photos/missing.jpg]\nstyles: [styles/s.png]\nrecipe: {size: 3}\n")
    assert [line.split(": ")[0] for line in lines] == ["1", "3"]


def test_swept_fields_are_checked_with_the_rest(read: Any) -> None:
    lines = failure(read, "contents: photos/no.jpg\nstyles: 3\nsweep:\n  seed: 1\n  sise: 64\n")
    assert [line.split(": ")[:2] for line in lines] == [
        ["1", "contents"],
        ["2", "styles"],
        ["5", "sweep.sise"],
    ]
    assert "did you mean 'size'?" in lines[2]
    (line,) = failure(read, ONE + "sweep: {seed: [1, 2], sise: [64, 65]}\n")
    assert line.startswith("3: sweep.sise: unknown key; did you mean 'size'? Accepted: preset, ")


def test_unknown_keys_are_named_with_what_is_accepted(read: Any) -> None:
    lines = failure(read, "content: [photos/a.jpg]\n" + ONE + "recipe:\n  styel_weight: 3\n")
    assert lines[0].startswith("1: content: unknown key; did you mean 'contents'?")
    assert "pairs" in lines[0]
    assert lines[1].startswith("5: recipe.styel_weight: unknown key; did you mean 'style_weight'?")


@pytest.mark.parametrize(
    ("text", "number", "words"),
    [
        ("", "1", "nothing to do"),
        ("batch: x\n", "1", "nothing to do"),
        ("contents: [photos/a.jpg]\n", "1", "there are no styles"),
        ("styles: [styles/s.png]\n", "1", "there are no contents"),
        ("contents: [photos/a.jpg]\nstyles: [2024]\n", "2", "found 2024; in quotes it is text: '2024'"),
        ("contents: []\nstyles: []\n", "1", "nothing to do"),
        ("contents: {a: b}\nstyles: [styles/s.png]\n", "1", "expected text"),
        (ONE + "batch: ''\n", "3", "batch"),
        (ONE + "batch: [x]\n", "3", "batch"),
        (ONE + "pairs: [{content: photos/a.jpg}]\n", "3", "pairs[0].style"),
        (ONE + "pairs: [photos/a.jpg]\n", "3", "pairs[0]"),
        (ONE + "pair: [photos/a.jpg]\n", "3", "single pairs are listed under 'pairs'"),
        (ONE + "pair: zap\n", "3", "'product' or 'zip'"),
        ("pair: zip\ncontents: photos/*\nstyles: styles/*\n", "1", "found 3 contents and 2 styles"),
        ("pair: zip\ncontents: photos/*\nstyles: [styles/s.png]\n", "1", "3 contents and 1 style"),
        ("pair: zip\ncontents: [photos/no.jpg]\nstyles: styles/*\n", "2", "no such file"),
        (ONE + "sweep: {size: null}\n", "3", "sweep.size"),
        (ONE + "sweep: {size: []}\n", "3", "sweep.size"),
        (ONE + "sweep: [size]\n", "3", "sweep"),
        (ONE + "sweep: {sise: [64]}\n", "3", "did you mean 'size'?"),
        (ONE + "sweep:\n  seed: [1]\n  size: [64, 3]\n", "5", "size"),
        (ONE + "sweep:\n  seed: [1]\n  sise: [64]\n", "5", "did you mean 'size'?"),
        (ONE + "sweep: {size: [64, null]}\n", "3", "size"),
        (ONE + "sweep: {preset: [draft, nice]}\n", "3", "'nice' is not a preset"),
        (ONE + "sweep: {preset: [[draft]]}\n", "3", "preset"),
        (ONE + "sweep: {init: [3]}\n", "3", "init"),
        (ONE + "sweep: {init: [[content]]}\n", "3", "init"),
        (ONE + "sweep: {init: [missing.png]}\n", "3", "missing.png: no such file"),
        (ONE + "sweep: {alpha: [1], content_weight: [2]}\n", "3", "given twice"),
        (ONE + "sweep: {style_layers: [[[relu1_1]]]}\n", "3", "style_layers"),
        (ONE + "recipe: {init: missing.png}\n", "3", "missing.png: no such file"),
        (ONE + "recipe: {init: photos}\n", "3", "photos"),
        (ONE + "recipe: {alpha: 1, content_weight: 1}\n", "3", "given twice"),
        (ONE + "recipe: {name: '{contnet}'}\n", "3", "contnet"),
        (ONE + "recipe: {name: '{size:q}'}\n", "3", "cannot be filled"),
        (ONE + "recipe: {name: '{style:{0}}'}\n", "3", "cannot be filled"),
    ],
)
def test_every_problem_of_a_manifest_has_its_line(text: str, number: str, words: str, read: Any) -> None:
    lines = failure(read, text)
    assert [line.partition(":")[0] for line in lines] == [number]
    assert words in lines[0]


@pytest.mark.parametrize(
    ("text", "config", "flags"),
    [
        ("recipe: {match_by: histogram}\n", {"color": "match"}, {}),
        ("recipe: {match_by: histogram}\n", {}, {"color": "match"}),
        ("recipe: {match_by: histogram}\nsweep: {color: [match]}\n", {}, {}),
        ("recipe: {style_layers: [relu5_4]}\n", {"encoder": "vgg19-slim"}, {"encoder": "vgg19"}),
        (
            "recipe: {content_weight: 0, style_weight: 0, tv_weight: 0}\nsweep: {style_weight: [1, 2]}\n",
            {},
            {},
        ),
        (
            "sweep: {color: [match]}\n"
            "pairs: [{content: photos/a.jpg, style: styles/t.png, recipe: {match_by: histogram}}]\n",
            {},
            {},
        ),
    ],
)
def test_fields_that_need_those_of_another_source_are_accepted(
    text: str, config: Any, flags: Any, read: Any
) -> None:
    """They contradict each other in one source, and not where all are merged."""
    assert len(read(ONE + text, config=config, flags=flags)) > 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("batch: x\nrecipe: {match_by: histogram}\n", "4: recipe: match_by: histogram has no effect"),
        (
            "pairs:\n- {content: photos/a.jpg, style: styles/t.png, recipe: {match_by: histogram}}\n",
            "4: pairs[0].recipe: match_by: histogram has no effect",
        ),
        ("recipe: {bit_depth: 16}\nsweep: {format: [png, jpeg]}\n", "3: recipe: jpeg has 8 bits"),
    ],
)
def test_merged_fields_that_contradict_each_other_are_named_by_their_recipe(
    text: str, line: str, read: Any
) -> None:
    (found,) = failure(read, ONE + text)
    assert found.startswith(line)


def test_a_pairs_recipe_is_named_by_its_place_in_the_file(read: Any) -> None:
    """A glob makes several jobs of one entry; the error is about the entry."""
    lines = failure(
        read,
        "pairs:\n  - {content: 'photos/*', style: styles/s.png, recipe: {seed: 1}}\n"
        "  - content: photos/a.jpg\n    style: styles/s.png\n    recipe:\n      init: missing.png\n",
    )
    assert [line.split(": ")[:2] for line in lines] == [["6", "pairs[1].recipe.init"]]


def test_nothing_is_yielded_before_everything_is_checked(read: Any) -> None:
    """Whatever a batch was made of, its jobs come without an error."""
    text = ONE + "pairs:\n  - {content: photos/a.jpg, style: styles/t.png, recipe: {name: '{size:{0}}'}}\n"
    (line,) = failure(read, text)
    assert line.startswith("4: pairs[0].recipe")
    (line,) = failure(read, ONE + "sweep: {seed: [1, 2, -3]}\n")
    assert line.startswith("3: sweep")


def test_wrong_fields_of_flags_are_refused_too(read: Any) -> None:
    with pytest.raises(UsageError):
        read(ONE, flags={"init": "/nowhere/start.png"})


# Anything at all

PATHS = ["photos/a.jpg", "photos/*.jpg", "styles/s.png", "styles/*", "missing.jpg", "photos", "é.jpg"]
ODD_PATHS = ["", "**", "a**b", "[", "../here/photos/c.jpg", "~/x", "~nobody/x", "\0", "x" * 300]
ENTRIES = st.sampled_from([*PATHS, *ODD_PATHS])
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 600)
    | st.floats()
    | ENTRIES
    | st.sampled_from(["content", "relu1_1", "draft", "adam", "{content}", "{size:d}", "{", "{step!z}"])
)
NESTED = VALUES | st.lists(VALUES, max_size=3) | st.dictionaries(ENTRIES, VALUES, max_size=2)
FIELDS = st.sampled_from([*Recipe.model_fields, "alpha", "beta", "zzz"])
RECIPES = st.dictionaries(FIELDS, NESTED, max_size=2)
STYLES = ENTRIES | st.fixed_dictionaries(
    {},
    optional={
        "image": ENTRIES,
        "blend": st.dictionaries(ENTRIES, st.floats(0.1, 2), min_size=1, max_size=2),
        "name": st.text(min_size=1, max_size=3),
    },
)
MASKS = VALUES | st.fixed_dictionaries(
    {
        "content": ENTRIES,
        "styles": VALUES | st.dictionaries(ENTRIES, VALUES | st.sampled_from(["#ff0000", 0, 1])),
    },
    optional={"name": st.text(max_size=3)},
)
PAIRS = st.fixed_dictionaries({"content": ENTRIES, "style": STYLES}, optional={"recipe": RECIPES}) | (
    st.fixed_dictionaries({"content": ENTRIES, "masks": MASKS}, optional={"style": STYLES})
)
MANIFESTS = st.fixed_dictionaries(
    {"contents": st.lists(ENTRIES, max_size=2), "styles": st.lists(STYLES, max_size=2)},
    optional={
        "batch": st.text(max_size=5),
        "pair": st.sampled_from(["zip", "product", "other"]),
        "recipe": RECIPES,
        "pairs": st.lists(PAIRS, max_size=2),
        "sweep": st.dictionaries(FIELDS, st.lists(NESTED, min_size=1, max_size=2), max_size=2),
    },
)
GOOD = {"contents": ["photos/*.jpg"], "styles": ["styles/*"]}


@given(MANIFESTS)
@settings(max_examples=150)
@example({**GOOD, "sweep": {"init": [3]}})
@example({**GOOD, "sweep": {"init": [["x"]]}})
@example({**GOOD, "sweep": {"name": ["{size!r}", "{"]}})
@example({**GOOD, "recipe": {"name": "{style_layers[relu1_1]}"}})
@example(
    {"pairs": [{"content": "photos/a.jpg", "masks": {"content": "styles/s.png", "styles": {"a": None}}}]}
)
def test_any_manifest_is_a_batch_or_a_usage_error(data: dict[str, Any]) -> None:
    for name in ("photos/a.jpg", "photos/c.jpg", "styles/s.png", "styles/t.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    path = Path("any.yaml")
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    batch = batch_or_message(path)
    if isinstance(batch, str):
        assert batch.startswith("any.yaml:")
        return
    jobs = list(batch.jobs())
    assert len(jobs) == len(batch) > 0
    for job in jobs:
        assert Path("/outbox", batch.name, job.name).resolve().is_relative_to("/outbox")
        assert job.content.is_file()


def batch_or_message(path: Path) -> Batch | str:
    try:
        return read_manifest(path, {}, {})
    except UsageError as error:
        return error.message


# Many


def test_a_sweep_of_too_many_pictures_is_refused_at_once(read: Any) -> None:
    values = list(range(1, 401))
    sweep = dict.fromkeys(
        ("style_weight", "content_weight", "tv_weight", "seed", "steps", "size", "history"), values
    )
    (line,) = failure(read, ONE + f"sweep: {json.dumps(sweep)}\n")
    assert f"asks for {400**7:,} pictures; at most 1,000,000" in line


@pytest.mark.parametrize("name", ["{size:1000000000}", "{style_weight:.999999999f}", "{size:{seed}}"])
def test_a_name_cannot_be_padded_without_limit(name: str, read: Any) -> None:
    (line,) = failure(read, ONE + f"recipe: {{name: '{name}'}}\n")
    assert "at most 200 characters wide" in line


def test_styles_that_share_a_name_are_reported(make_picture: Any, read: Any) -> None:
    make_picture("styles/s.jpg")
    batch = read("contents: [photos/a.jpg]\nstyles: [styles/s.png, styles/s.jpg]\n")
    assert batch.notes == (
        "s: several styles have this name; give each a name of its own, or results get a short id",
    )
    assert read("contents: [photos/a.jpg]\nstyles: [styles/s.png, styles/s.png]\n").notes == ()
