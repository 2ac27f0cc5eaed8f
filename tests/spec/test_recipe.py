from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.errors import UsageError
from pipeline.spec.manifest import read_manifest
from pipeline.spec.presets import PRESETS
from pipeline.spec.recipe import ALIASES, INIT_MODES, Recipe, canonical_keys, merged_recipe


def test_every_field_has_a_default_and_the_preset_default_is_it() -> None:
    assert Recipe() == Recipe(preset="default") == merged_recipe()


def test_a_preset_with_one_field_changed() -> None:
    draft, changed = Recipe(preset="draft"), Recipe(preset="draft", size=300)
    assert changed.size == 300
    assert draft.size != 300
    assert changed.model_copy(update={"size": draft.size}) == draft


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="'nice' is not a preset") as caught:
        Recipe(preset="nice")
    with pytest.raises(ValidationError, match="'nice' is not a preset") as refused:
        Recipe.model_validate({"preset": "nice"})
    for preset in PRESETS:
        assert preset in str(caught.value)
        assert preset in str(refused.value)


def test_a_misspelt_word_gets_a_suggestion() -> None:
    for fields, words in (
        ({"preset": "drfat"}, "'drfat' is not a preset; did you mean 'draft'? Accepted: default, draft"),
        ({"style_layers": ["rel4_1"]}, "'rel4_1' is not a layer; did you mean 'relu4_1'? Accepted: conv1_1"),
        ({"optimizer": "lbgfs"}, "expected 'lbfgs' or 'adam', found 'lbgfs'; did you mean 'lbfgs'?"),
        ({"name": "{contnet}"}, "'{contnet}' is not known; did you mean 'content'? Accepted: "),
        ({"stylewight": 3}, "stylewight: unknown key; did you mean 'style_weight'? Accepted: "),
    ):
        with pytest.raises(UsageError) as caught:
            Recipe(**fields)
        assert words in caught.value.message


def test_a_recipe_made_in_python_raises_a_usage_error() -> None:
    """With all problems at once. `model_validate` raises pydantic's error, which documents gather."""
    with pytest.raises(UsageError) as caught:
        Recipe(stylewight=3, size=3)  # type: ignore[call-arg]
    first, second = sorted(caught.value.message.splitlines())
    assert first.startswith("recipe: size: must be at least 16, found 3")
    assert second.startswith("recipe: stylewight: unknown key; did you mean 'style_weight'?")
    assert caught.value.next_step
    with pytest.raises(ValidationError):
        Recipe.model_validate({"stylewight": 3})
    assert pickle.loads(pickle.dumps(Recipe(size=64))) == Recipe(size=64)
    assert "style_weight" in inspect.signature(Recipe).parameters


NUMBERS = [
    name
    for name, field in Recipe.model_json_schema()["properties"].items()
    if {field.get("type"), *(branch.get("type") for branch in field.get("anyOf", []))} & {"integer", "number"}
]


@pytest.mark.parametrize("value", [1e308, 1e13, float("inf"), float("nan"), -1e308, -1e-320])
def test_every_number_has_bounds(value: float) -> None:
    assert {"style_weight", "learning_rate", "seed", "steps", "beta"} <= set(NUMBERS)
    fields: list[dict[str, Any]] = [{name: value} for name in NUMBERS]
    fields += [{name: {"relu1_1": value}} for name in ("content_layers", "style_layers")]
    fields += [{"steps": [5, value]}]
    for each in fields:
        if value == 1e13 and "seed" in each:
            continue
        with pytest.raises(UsageError, match=r"must be (at least|more than|at most|less than)|expected"):
            Recipe(**each)


def test_true_and_false_are_not_numbers() -> None:
    fields: list[dict[str, Any]] = [{name: True} for name in NUMBERS if name != "bit_depth"]
    fields += [{"steps": [5, True]}, {"style_layers": {"relu1_1": False}}]
    for each in fields:
        with pytest.raises(UsageError, match=r"expected a (whole )?number.*, found (true|false)"):
            Recipe(**each)
    assert Recipe(square=True, recolor=False).square


def test_a_field_of_several_types_has_one_message() -> None:
    for fields, words in (
        ({"steps": "12:30"}, "steps: expected a whole number, or a list of them, found '12:30'"),
        ({"style_layers": 4}, "expected names of layers, or a mapping of names to weights, found 4"),
    ):
        with pytest.raises(UsageError) as caught:
            Recipe(**fields)  # type: ignore[arg-type]
        assert words in caught.value.message


NOTHING: dict[str, Any] = {"content_weight": 0, "style_weight": 0, "tv_weight": 0}


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({}, False),
        ({"content_weight": 1}, True),
        ({"style_weight": 1}, True),
        ({"tv_weight": 1}, True),
        ({"content_weight": 1, "content_layers": {"relu4_2": 0}}, False),
        ({"style_weight": 1, "style_layers": {"relu1_1": 0, "relu2_1": 0}}, False),
        ({"style_weight": 1, "style_layers": {"relu1_1": 0, "relu2_1": 1}}, True),
        ({"style_weight": 1, "style_layers": {"relu1_1": 0}, "content_weight": 1}, True),
    ],
)
def test_a_recipe_whose_weights_are_all_0_is_refused(fields: dict[str, Any], counts: bool) -> None:
    if counts:
        Recipe(**{**NOTHING, **fields})
        return
    with pytest.raises(UsageError, match="nothing is asked for: content_weight, style_weight and tv_weight"):
        Recipe(**{**NOTHING, **fields})


def test_a_later_source_of_fields_wins() -> None:
    config = {"preset": "draft", "style_weight": 1, "content_weight": 1, "tv_weight": 1, "size": 100}
    manifest = {"style_weight": 2, "content_weight": 2, "tv_weight": 2}
    pair = {"beta": 3, "alpha": 3}
    flags = {"alpha": 4}
    recipe = merged_recipe(config, manifest, pair, flags)
    assert (recipe.content_weight, recipe.style_weight, recipe.tv_weight, recipe.size) == (4, 3, 2, 100)
    assert recipe.steps == Recipe(preset="draft").steps


def test_every_source_of_fields_overrides_the_preset() -> None:
    """A field set in config.yaml stays when the manifest names a preset that sets it too."""
    recipe = merged_recipe({"size": 300}, {"preset": "thumbnail"})
    assert recipe.size == 300
    assert recipe.steps == Recipe(preset="thumbnail").steps


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_aliases_stand_for_their_fields(alias: str) -> None:
    field = ALIASES[alias]
    assert getattr(Recipe.model_validate({alias: 7}), field) == 7
    assert getattr(merged_recipe({field: 1}, {alias: 2}), field) == 2
    assert getattr(merged_recipe({alias: 1}, {field: 2}), field) == 2
    for both in ({alias: 1, field: 1}, {field: 1, alias: 1}):
        with pytest.raises(ValueError, match=f"'{field}' is given twice"):
            canonical_keys(both)
        with pytest.raises(ValidationError, match=f"'{field}' is given twice"):
            Recipe.model_validate(both)


def test_the_papers_alpha_is_the_contents_weight() -> None:
    assert dict(ALIASES) == {"alpha": "content_weight", "beta": "style_weight"}


@pytest.mark.parametrize(
    "fields",
    [
        {"zzz": 1},
        {"size": 15},
        {"size": 70_000},
        {"size": "big"},
        {"size": 100.5},
        {"steps": 0},
        {"steps": []},
        {"steps": [10, 0]},
        {"steps": True},
        {"steps": "many"},
        {"optimizer": "sgd"},
        {"loss": "l1"},
        {"style_loss": "swd"},
        {"pooling": "mean"},
        {"format": "bmp"},
        {"format": "jpeg", "bit_depth": 16},
        {"format": "webp", "bit_depth": 16},
        {"format": "webp", "size": 16384},
        {"format": "jpeg", "size": 65501},
        {"size": 65537},
        {"bit_depth": 12},
        {"transparency": "black"},
        {"exif": "some"},
        {"profile": "p3"},
        {"match_by": "histogram"},
        {"color": "match", "match_by": "mean"},
        {"quality": 0},
        {"quality": 101},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"style_weight": -1},
        {"style_weight": float("inf")},
        {"tv_weight": float("nan")},
        {"history": 0},
        {"seed": -1},
        {"seed": 2**63},
        {"pyramid": -1},
        {"style_scale": 0},
        {"snapshot_every": -1},
        {"init": ""},
        {"init": 3},
        {"name": ""},
        {"content_layers": []},
        {"content_layers": {}},
        {"content_layers": 4},
        {"content_layers": "conv9_1"},
        {"content_layers": ["conv4_2", "pool4"]},
        {"style_layers": {"relu1_9": 1}},
        {"style_layers": {"relu1_1": -1}},
        {"style_layers": {"relu1_1": float("inf")}},
        {"style_layers": {"relu1_1": "heavy"}},
        {"style_layers": [["relu1_1"]]},
        {"style_layers": [{"relu1_1": 1}]},
        {"preset": None},
        {"preset": ["draft"]},
        {"preset": {}},
    ],
    ids=str,
)
def test_invalid_values_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(fields)


def test_match_by_needs_a_match() -> None:
    """It is an error without `color: match`, unless another source or a sweep may still set that."""
    with pytest.raises(UsageError, match="match_by: histogram has no effect without color: match"):
        Recipe(match_by="histogram")
    with pytest.raises(ValidationError, match="match_by: histogram has no effect without color: match"):
        merged_recipe({"size": 300}, {"match_by": "histogram"})
    config = {"color": "match", "match_by": "histogram"}
    assert merged_recipe(config, {"color": "content"}).color == "content"
    assert Recipe.model_validate(Recipe(**config).model_dump()) == Recipe(**config)


@pytest.mark.parametrize(
    ("given_", "steps"), [(5, (5,)), ([5, 6], (5, 6)), (1e3, (1000,)), ([1e2, 50], (100, 50))]
)
def test_steps_are_one_number_or_one_per_level(given_: Any, steps: tuple[int, ...]) -> None:
    assert Recipe.model_validate({"steps": given_}).steps == steps


def test_a_recipe_is_frozen() -> None:
    recipe = Recipe()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.size = 100  # type: ignore[misc]


def test_recipes_share_no_state_with_each_other_or_the_presets() -> None:
    for preset in PRESETS:
        Recipe(preset=preset).style_layers["relu1_1"] = 99.0
        Recipe(preset=preset).content_layers.clear()
        assert Recipe(preset=preset).style_layers.get("relu1_1") != 99.0
        assert Recipe(preset=preset).content_layers
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["draft"]  # type: ignore[index]


NAMES = [
    "{content}",
    "{style}",
    "{sweep}",
    "{step}",
    "{step:04d}",
    "{steps}",
    "{style_weight:g}",
    "{size!r}",
    "x",
]


@pytest.mark.parametrize("name", [*NAMES, "{content}/{preset}", "{{literal}}"])
def test_name_templates_know_the_fields(name: str) -> None:
    assert Recipe(name=name).name == name


@pytest.mark.parametrize(
    "name", ["{contents}", "{0}", "{}", "{content.parent}", "{style[0]}", "{", "}", "{a"]
)
def test_name_templates_know_nothing_else(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"name": name})
    assert caught.value.errors()[0]["loc"] == ("name",)


def test_the_suffix_follows_from_the_format() -> None:
    assert Recipe(format="png").suffix == ".png"
    assert Recipe(format="jpeg").suffix == ".jpg"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_pasted_into_a_manifest(preset: str, tmp_path: Path) -> None:
    recipe = Recipe(preset=preset)
    text = yaml.safe_dump(
        {"recipe": recipe.model_dump(mode="json")}, sort_keys=False, default_flow_style=None
    )
    for name in ("a.png", "s.png"):
        (tmp_path / name).write_bytes(b"x")
    path = tmp_path / "m.yaml"
    path.write_text(f"{text}pairs: [{{content: a.png, style: s.png}}]\n")
    (job,) = read_manifest(path, {}, {}).jobs()
    assert job.recipe == recipe
    # Nothing of a full recipe is left to the layers below it.
    (job,) = read_manifest(path, {"size": 64, "preset": "thumbnail", "style_weight": 3}, {}).jobs()
    assert job.recipe == recipe


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_summary_and_known_fields(preset: str) -> None:
    assert PRESETS[preset].summary
    assert set(PRESETS[preset].fields) <= set(Recipe.model_fields)
    assert Recipe(preset=preset).preset == preset


def test_init_modes() -> None:
    assert set(INIT_MODES) == {"content", "noise", "blank", "style"}


def test_the_schema_accepts_what_people_write() -> None:
    schema = Recipe.model_json_schema()["properties"]
    assert {"alpha", "beta"} <= schema.keys()
    assert {"integer", "array"} == {kind.get("type") for kind in schema["steps"]["anyOf"]}
    assert {"string", "array", "object"} == {kind.get("type") for kind in schema["style_layers"]["anyOf"]}
