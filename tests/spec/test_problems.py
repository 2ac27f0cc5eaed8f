from __future__ import annotations

import re
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator
from small_documents import PATH, failure, tried

from pipeline.errors import UsageError
from pipeline.spec import problems
from pipeline.spec.config import Blend, Config, Route, WatchConfig
from pipeline.spec.documents import parse_document
from pipeline.spec.entries import Manifest, MasksEntry, Pair, StyleEntry
from pipeline.spec.models import listed
from pipeline.spec.recipe import ALIASES, Recipe
from pipeline.spec.yaml12 import dump_yaml


def test_an_unknown_key_says_what_is_accepted_and_what_was_meant() -> None:
    (line,) = failure("name: hall\nlamps:\n- color: red\n")
    assert line.startswith("night.yaml:3: lamps[0].color: unknown key")
    assert "did you mean 'colour'?" in line
    assert "colour, watts" in line


def test_an_unknown_key_below_an_alternative_is_explained_too() -> None:
    (line,) = failure("name: hall\nspare:\n  wats: 3\n")
    assert line.startswith("night.yaml:3: spare.wats")
    assert "'watts'" in line


def test_an_unknown_key_that_resembles_nothing_gets_no_suggestion() -> None:
    (line,) = failure("name: hall\nzzz: 1\n")
    assert "did you mean" not in line
    assert "key Accepted" not in line, "two sentences need a stop between them"
    assert "name, lamps, spare" in line


def test_a_missing_key_is_reported_at_its_parent() -> None:
    (line,) = failure("lamps: []\n")
    assert line.startswith("night.yaml:1: name: ")
    assert "required" in line.lower()


WRONG = ["x", 3, -1, 1e308, True, None, [], {}, [[]], [3], {"x": 3}, {3: 4}, {"x": {}}, "2.5", 10**30]
JARGON = re.compile(
    "Input should|valid (dict|list|str|int|number)|instance of|[Ff]ield required|match pattern|"
    "literal|constrained|function-|should have|unable to|tuple|model|NoneType"
)


@pytest.mark.parametrize("model", [Manifest, Config])
def test_every_problem_is_reported_in_plain_words(model: type[BaseModel]) -> None:
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


def test_a_number_in_place_of_text_gets_a_hint_about_quotes() -> None:
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
    problems._schema.cache_clear()
    pairs = [{"content": "a", "style": "b", "recipe": {}, f"key{number}": 1} for number in range(20)]
    found = parse_document(yaml.safe_dump({"pairs": pairs}), PATH).check(Manifest)
    assert isinstance(found, list)
    assert len(found) == 20
    assert len(made) == 1
