from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.errors import UsageError
from pipeline.spec.config import read_config
from pipeline.spec.jobs import EncoderInfo, Job, Style, job_key
from pipeline.spec.manifest import read_manifest
from pipeline.spec.presets import PRESETS
from pipeline.spec.problems import explain
from pipeline.spec.recipe import Recipe
from pipeline.spec.removed import REMOVED, values_now, without_removed

OTHER = {"bures_epsilon": 0.5, "match_when": "after", "range_weight": 3, "stop_tolerance": 0.05}


def write(folder: Path, name: str, text: str) -> Path:
    for picture in ("a.png", "s.png"):
        (folder / picture).write_bytes(b"x")
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", OTHER)
def test_a_removed_field_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(UsageError, match=rf"recipe: {name}: is no longer accepted: .*; remove it") as caught:
        Recipe(**{name: OTHER[name]})
    assert "found" not in caught.value.message


def test_other_problems_are_reported_with_removed_fields() -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(size=5, match_when="after")  # type: ignore[call-arg]
    assert len(caught.value.message.splitlines()) == 2


def test_mixed_is_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="recipe: precision: mixed is no longer a precision; remove it"):
        Recipe(precision="mixed")  # type: ignore[arg-type]


def test_a_manifest_with_removed_fields_names_every_line(tmp_path: Path) -> None:
    text = (
        "recipe:\n  size: 300\n  bures_epsilon: 0.1\n"
        "contents: a.png\nstyles: s.png\n"
        "pairs:\n  - content: a.png\n    style: s.png\n    recipe: {stop_tolerance: 0.1}\n"
        "sweep:\n  match_when: [before, after]\n"
    )
    path = write(tmp_path, "m.yaml", text)
    with pytest.raises(UsageError) as caught:
        read_manifest(path, {}, {})
    expected = [(3, "recipe.bures_epsilon"), (9, "pairs[0].recipe.stop_tolerance"), (11, "sweep.match_when")]
    lines = caught.value.message.splitlines()
    for line, (number, keys) in zip(lines, expected, strict=True):
        assert line.startswith(f"{path}:{number}: {keys}: is no longer accepted: ")
        assert "remove it" in line


def test_a_config_with_removed_fields_names_every_line(tmp_path: Path) -> None:
    text = (
        "recipe: {range_weight: 10}\nwatch:\n  routes:\n    r:\n      recipe:\n        match_when: before\n"
    )
    path = write(tmp_path, "config.yaml", text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    one, other = caught.value.message.splitlines()
    assert one.startswith(
        f"{path}:1: recipe.range_weight: is no longer accepted: it is 10 with `canvas: rgb`"
    )
    assert other.startswith(f"{path}:6: watch.routes.r.recipe.match_when: is no longer accepted")


def test_flags_explain_removed_fields() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"stop_tolerance": 0.1, "bures_epsilon": 1})
    assert [text.partition(":")[0] for text in explain(caught.value, Recipe)] == [
        "stop_tolerance",
        "bures_epsilon",
    ]


def test_the_range_weight_follows_from_the_canvas() -> None:
    assert Recipe().range_weight == 10
    assert Recipe(canvas="imagenet").range_weight == 0


def test_a_recipe_of_an_earlier_version_loses_removed_fields() -> None:
    recipe = Recipe(size=300).model_dump()
    assert without_removed(recipe) == (recipe, {})
    assert without_removed({**recipe, **values_now("rgb")}) == (recipe, {})
    assert without_removed({**recipe, **OTHER}) == (recipe, OTHER)
    imagenet = Recipe(canvas="imagenet").model_dump()
    assert without_removed({**imagenet, "range_weight": 0.0}) == (imagenet, {})
    assert without_removed({**imagenet, "range_weight": 10.0}) == (imagenet, {"range_weight": 10.0})
    left, lost = without_removed({**recipe, "precision": "mixed"})
    assert lost == {"precision": "mixed"}
    assert Recipe.model_validate(left).precision == "auto"


# Keys as the version computed them that still had the removed fields.
KEYS = {
    "default": "734c32b8234e4a49ddab3edecee6f49d1e10f914f425758f46bb7c9a18de3fbc",
    "gatys-lbfgs": "b63e84a98d02314babfcdf274f9c7fa198b5e045c4f56cdc232b20cec0aa4867",
}


@pytest.mark.parametrize("preset", KEYS)
def test_pictures_finished_by_an_earlier_version_stay_finished(preset: str) -> None:
    content, style = Path("/in/a.png"), Path("/in/s.png")
    job = Job("night", content, Style("s", ((style, 1.0),)), Recipe(preset=preset), "a--s")
    assert job_key(job, {content: "a" * 64, style: "s" * 64}, EncoderInfo("vgg19", "1" * 64)) == KEYS[preset]


def test_no_preset_names_a_removed_field() -> None:
    names: set[str] = set().union(*(preset.fields for preset in PRESETS.values()))
    assert names.isdisjoint(REMOVED)
    assert set(OTHER) == set(values_now("rgb")) < set(REMOVED)
