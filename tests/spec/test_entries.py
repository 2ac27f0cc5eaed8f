from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from small_manifests import failure, pairs

from pipeline.spec.config import Config
from pipeline.spec.entries import Manifest
from pipeline.spec.jobs import Masks
from pipeline.spec.recipe import ALIASES, Recipe


def test_a_named_style(read: Any) -> None:
    (job,) = read("contents: [photos/a.jpg]\nstyles: [{name: night/sky, image: styles/s.png}]\n").jobs()
    assert job.style.name == "night/sky"
    assert job.name == "a--night_sky"


def test_a_blend(read: Any, here: Path) -> None:
    batch = read(
        "contents: [photos/a.jpg]\nstyles:\n"
        "  - {name: mix, blend: {styles/s.png: 0.7, styles/t.png: 3}}\n"
        "  - {blend: {styles/t.png: 1, styles/s.png: 1}}\n"
    )
    named, unnamed = batch.jobs()
    assert named.style.images == ((here / "styles/s.png", 0.7), (here / "styles/t.png", 3.0))
    assert (named.name, unnamed.name) == ("a--mix", "a--t+s")


@pytest.mark.parametrize(
    ("style", "key"),
    [
        ("{blend: {}}", "styles[0].blend"),
        ("{blend: {styles/s.png: 0}}", "styles[0].blend.styles/s.png"),
        ("{blend: {styles/s.png: -1}}", "styles[0].blend.styles/s.png"),
        ("{blend: {styles/s.png: .inf}}", "styles[0].blend.styles/s.png"),
        ("{blend: {styles/s.png: .nan}}", "styles[0].blend.styles/s.png"),
        ("{blend: {styles/s.png: 1e308}}", "styles[0].blend.styles/s.png"),
        ("{blend: {styles/s.png: half}}", "styles[0].blend.styles/s.png"),
        ("{blend: {styles/missing.png: 1}}", "styles[0].blend.styles/missing.png"),
        ("{blend: styles/s.png}", "styles[0].blend"),
        ("{image: styles/s.png, blend: {styles/t.png: 1}}", "styles[0]"),
        ("{name: x}", "styles[0]"),
        ("{image: styles/missing.png, name: x}", "styles[0].image"),
        ("{image: 'styles/*', name: x}", "styles[0]"),
        ("{image: styles/s.png, nam: x}", "styles[0].nam"),
        ("[styles/s.png]", "styles[0]"),
        ("3", "styles[0]"),
        ("''", "styles[0]"),
    ],
)
def test_a_wrong_style_is_named(style: str, key: str, read: Any) -> None:
    (line,) = failure(read, f"contents: [photos/a.jpg]\nstyles:\n\n  - {style}\n")
    number, name, text = line.split(": ", 2)
    assert number == "4"
    assert name.startswith(key)
    assert text


# Pairs, recipes, sweeps


def test_single_values_need_no_list(read: Any, here: Path) -> None:
    batch = read("contents: photos/*.jpg\nstyles: styles/s.png\nsweep: {style_weight: 5, steps: [[4, 2]]}\n")
    assert [(job.name, job.recipe.style_weight) for job in batch.jobs()] == [
        (f"{content}--s--style_weight-5--steps-4_2", 5) for content in "ac"
    ]
    assert pairs(read("pairs: {content: photos/a.jpg, style: styles/s.png}\n")) == [("a.jpg", "s")]
    blend = read("contents: photos/a.jpg\nstyles: {blend: {styles/s.png: 1, styles/t.png: 1}}\n")
    assert pairs(blend) == [("a.jpg", "s+t")]
    assert failure(read, "contents: no.jpg\nstyles: {nam: x}\n")[0] == "1: contents: no.jpg: no such file"


MASKED = "pairs:\n  - content: photos/a.jpg\n    masks:\n"


def test_masks_give_several_styles_to_one_content(read: Any, here: Path) -> None:
    text = (
        MASKED
        + "      content: ../start.png\n      styles: {../styles/t.png: 1, ../styles/s.png: '#ff0000'}\n"
    )
    text += "    recipe: {seed: 3}\nsweep: {size: [64, 128]}\n"
    jobs = list(read(text.replace("photos", "../photos"), name="sub/night.yaml").jobs())
    assert [job.name for job in jobs] == ["a--t+s--size-64", "a--t+s--size-128"]
    for job in jobs:
        assert job.style.images == ((here / "styles/t.png", 1.0), (here / "styles/s.png", 1.0))
        assert job.masks == Masks(here / "start.png", ((1, 1, 1), (1, 0, 0)))
        assert job.recipe.seed == 3
        assert here / "start.png" in job.input_paths


def test_masks_have_a_name_and_globs_that_match_one(read: Any, here: Path) -> None:
    text = MASKED.replace("a.jpg", "*.jpg") + "      content: 'start.*'\n      name: sky\n"
    batch = read(text + "      styles: {'styles/s*': 0, styles/t.png: 0.5}\n")
    assert pairs(batch) == [("a.jpg", "sky"), ("c.jpg", "sky")]
    assert {job.masks for job in batch.jobs()} == {Masks(here / "start.png", ((0, 0, 0), (0.5, 0.5, 0.5)))}


TWO = "{styles/s.png: 0, styles/t.png: 1}"


@pytest.mark.parametrize(
    ("masks", "place", "words"),
    [
        (f"{{styles: {TWO}}}", "pairs[0].masks.content", "required"),
        ("{content: start.png}", "pairs[0].masks.styles", "required"),
        (f"{{content: missing.png, styles: {TWO}}}", "pairs[0].masks.content", "missing.png: no such file"),
        (
            f"{{content: 'photos/*', styles: {TWO}}}",
            "pairs[0].masks.content",
            "expected one picture; 3 match",
        ),
        (f"{{content: start.png, stiles: {TWO}, styles: {TWO}}}", "pairs[0].masks.stiles", "mean 'styles'"),
        ("{content: start.png, styles: {styles/s.png: 0}}", "pairs[0].masks.styles", "two styles or more"),
        ("{content: start.png, styles: [styles/s.png]}", "pairs[0].masks.styles", "keys and values"),
        (
            "{content: start.png, styles: {styles/s.png: 0.0, styles/t.png: '#000000'}}",
            "pairs[0].masks.styles",
            "styles/s.png and styles/t.png have the same colour",
        ),
        (
            "{content: start.png, styles: {styles/s.png: 0, styles/t.png: red}}",
            "pairs[0].masks.styles.styles/t.png",
            "a colour such as '#3366cc', found 'red'",
        ),
        (
            "{content: start.png, styles: {styles/s.png: 0, styles/t.png: 255}}",
            "pairs[0].masks.styles.styles/t.png",
            "from 0 to 1",
        ),
        (
            "{content: start.png, styles: {styles/s.png: 0, styles/u.png: 1}}",
            "pairs[0].masks.styles.styles/u.png",
            "styles/u.png: no such file",
        ),
        (
            "{content: start.png, styles: {styles/s.png: 0, ./styles/s.png: 1}}",
            "pairs[0].masks.styles../styles/s.png",
            "has a region already",
        ),
        (
            f"{{content: start.png, styles: {TWO}}}\n   style: styles/s.png",
            "pairs[0].style",
            "cannot be given beside masks",
        ),
    ],
)
def test_wrong_masks_are_named(masks: str, place: str, words: str, read: Any) -> None:
    (line,) = failure(read, f"pairs:\n\n - content: photos/a.jpg\n   masks: {masks}\n")
    number, name, text = line.split(": ", 2)
    assert number == ("5" if name == "pairs[0].style" else "4")
    assert name == place
    assert words in text


def test_an_unquoted_colour_is_explained(read: Any) -> None:
    text = MASKED + "      content: start.png\n      styles:\n        styles/s.png: 0\n"
    (line,) = failure(read, text + "        styles/t.png: #ff0000\n")
    assert line.startswith("7: pairs[0].masks.styles.styles/t.png: ")
    assert "in quotes" in line


def test_an_unquoted_colour_on_one_line_is_explained(read: Any) -> None:
    text = MASKED + "      content: start.png\n      styles: {styles/s.png: 0, styles/t.png: #ff0000}\n"
    for rest in ("", "sweep: {size: [300]}\n"):
        (line,) = failure(read, text + rest)
        assert "not valid YAML" in line
        assert line.endswith("in line 5 a # begins a comment: write the colour in quotes, '#ff0000'")


def test_a_pair_has_a_style_or_masks(read: Any) -> None:
    (line,) = failure(read, "pairs: [{content: photos/a.jpg}]\n")
    assert line == "1: pairs[0].style: a pair needs a style, or masks"


def test_missing_files_of_masks_are_reported_with_other_problems(read: Any) -> None:
    lines = failure(
        read,
        "batch: ''\n" + MASKED + "      content: no.png\n      styles:\n        styles/s.png: 0\n"
        "        styles/u.png: 2\n",
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["1", "batch"],
        ["5", "pairs[0].masks.content"],
        ["8", "pairs[0].masks.styles.styles/u.png"],
        ["8", "pairs[0].masks.styles.styles/u.png"],
    ]


# The batch's name


def test_the_schema_for_editors_knows_every_key() -> None:
    schema = Manifest.model_json_schema()
    assert set(schema["properties"]) == set(Manifest.model_fields)
    assert schema["additionalProperties"] is False
    assert "size" in schema["$defs"]["Recipe"]["properties"]


@pytest.mark.parametrize("model", [Manifest, Config])
def test_the_schema_for_editors_describes_every_field(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    models = {"": schema, **schema["$defs"]}
    bare = [
        f"{name}.{key}"
        for name, part in models.items()
        for key, field in part.get("properties", {}).items()
        if not field.get("description")
    ]
    assert bare == []


def test_the_schema_for_editors_checks_what_is_swept() -> None:
    sweep = Manifest.model_json_schema()["properties"]["sweep"]
    assert set(sweep["properties"]) == {*Recipe.model_fields, *ALIASES}
    assert sweep["additionalProperties"] is False
    many, one = sweep["properties"]["size"]["anyOf"]
    assert many["items"] == one
    assert (one["type"], one["minimum"]) == ("integer", 16)
    assert many["minItems"] == 1
    contents = Manifest.model_json_schema()["properties"]["contents"]["anyOf"]
    assert [kind["type"] for kind in contents] == ["string", "array"]
