from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.errors import UsageError
from pipeline.spec.config import read_config
from pipeline.spec.manifest import read_manifest
from pipeline.spec.presets import PRESETS
from pipeline.spec.problems import explain
from pipeline.spec.recipe import Recipe
from pipeline.spec.removed import REMOVED

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


def test_no_preset_names_a_removed_field() -> None:
    names: set[str] = set().union(*(preset.fields for preset in PRESETS.values()))
    assert names.isdisjoint(REMOVED)
