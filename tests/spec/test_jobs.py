from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.spec import jobs
from pipeline.spec.jobs import (
    EncoderInfo,
    Job,
    JobResult,
    Masks,
    StepProgress,
    Style,
    job_key,
    result_summary,
)
from pipeline.spec.recipe import Recipe
from pipeline.spec.regions import Color

A, B, S, T = (Path(f"/in/{name}.png") for name in "abst")
ENCODER = EncoderInfo("vgg19", "1" * 64)
DIGESTS = {path: path.stem * 64 for path in (A, B, S, T)}


def make_job(**changes: Any) -> Job:
    job = Job("night", A, Style("s", ((S, 0.75), (T, 0.25))), Recipe(), "a--s")
    return replace(job, **changes)


def key(job: Job, digests: Mapping[Path, str] = DIGESTS, encoder: EncoderInfo = ENCODER) -> str:
    return job_key(job, digests, encoder)


KEY = key(make_job())


def test_a_key_is_a_sha256_and_stays() -> None:
    assert len(KEY) == 64
    assert set(KEY) <= set("0123456789abcdef")
    assert key(make_job()) == KEY


def test_equal_recipes_have_one_key() -> None:
    """The cache of recipes never mixes them up, however many there are."""
    recipes = [Recipe(seed=number % 100) for number in range(200)]
    keys = [key(make_job(recipe=recipe)) for recipe in recipes]
    assert keys[:100] == keys[100:]


@pytest.mark.parametrize("path", [A, S, T], ids=str)
def test_the_key_depends_on_the_bytes_of_every_input(path: Path) -> None:
    assert key(make_job(), {**DIGESTS, path: "9" * 64}) != KEY


def test_the_key_distinguishes_content_and_style() -> None:
    there = make_job(style=Style("s", ((S, 1.0),)))
    back = make_job(content=S, style=Style("a", ((A, 1.0),)))
    assert key(there) != key(back)


@pytest.mark.parametrize(
    "images",
    [((S, 0.7), (T, 0.25)), ((S, 0.25), (T, 0.75)), ((S, 0.75),), ((S, 0.75), (T, 0.25), (B, 0.1))],
    ids=str,
)
def test_the_key_depends_on_the_shares_of_a_blend(images: tuple[tuple[Path, float], ...]) -> None:
    assert key(make_job(style=Style("s", images))) != KEY


OTHER_VALUES: dict[str, Any] = {
    "content_layers": {"relu4_2": 0.9},
    "style_layers": {"relu1_1": 0.2},
    "pooling": "average",
    "padding": "zeros",
    "loss": "mean",
    "style_loss": "gram",
    "margin": 8,
    "content_weight": 1.0000001,
    "strength": 0.9,
    "style_weight": 11,
    "style_growth": 0.5,
    "tv_weight": 0,
    "tv_chroma": 1,
    "recolor": False,
    "optimizer": "adam",
    "learning_rate": 0.5,
    "history": 21,
    "steps": (120, 80, 60, 41),
    "canvas": "imagenet",
    "color": "match",
    "match_by": "histogram",
    "init": "noise",
    "seed": 1,
    "size": 513,
    "square": True,
    "pyramid": 127,
    "style_scale": 1.1,
    "upscale_to_content": True,
    "format": "jpeg",
    "bit_depth": 16,
    "quality": 94,
    "transparency": "white",
    "exif": "keep",
    "profile": "keep",
    "precision": "reference",
}
NEEDED: dict[str, dict[str, Any]] = {"match_by": {"color": "match"}}
# Snapshots are files beside the result; whether they count is a matter of taste.
UNTESTED = {"snapshot_every", "snapshot_view"}


def test_every_field_of_the_recipe_is_tested() -> None:
    assert set(OTHER_VALUES) | {"name", "preset", "encoder"} | UNTESTED == set(Recipe.model_fields)


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_the_key_depends_on_every_field_that_matters(field: str) -> None:
    # Some fields do something in company only.
    plain = Recipe(**NEEDED.get(field, {}))
    changed = Recipe.model_validate({**NEEDED.get(field, {}), field: OTHER_VALUES[field]})
    assert changed != plain
    assert key(make_job(recipe=changed)) != key(make_job(recipe=plain))


def test_the_key_depends_on_the_weights_and_the_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key(make_job(), encoder=replace(ENCODER, digest="2" * 64)) != KEY
    monkeypatch.setattr(jobs, "ALGORITHM_VERSION", jobs.ALGORITHM_VERSION + 1)
    assert key(make_job()) != KEY


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": "another"},
        {"name": "x/y"},
        {"sweep": {"size": 512}},
        {"style": Style("another name", ((S, 0.75), (T, 0.25)))},
        {"recipe": Recipe(name="{content}")},
        {"recipe": Recipe(encoder="vgg19")},
        {"recipe": Recipe.model_validate({**Recipe().model_dump(), "preset": "draft"})},
        {"recipe": Recipe.model_validate({"style_weight": 50, "size": 512.0})},
        {"recipe": Recipe.model_validate({"style_layers": dict(reversed(Recipe().style_layers.items()))})},
    ],
    ids=str,
)
def test_the_key_ignores_names(changes: dict[str, Any]) -> None:
    assert key(make_job(**changes)) == KEY


def test_the_key_ignores_paths() -> None:
    moved = {path: Path("/elsewhere") / f"other {path.name}" for path in DIGESTS}
    job = make_job(content=moved[A], style=Style("s", ((moved[S], 0.75), (moved[T], 0.25))))
    assert key(job, {moved[path]: digest for path, digest in DIGESTS.items()}) == KEY


def test_the_key_ignores_the_name_of_the_encoder() -> None:
    """`auto` that resolved to vgg19 and `vgg19` are one thing: the weights count."""
    assert key(make_job(), encoder=EncoderInfo("other", ENCODER.digest, "a note")) == KEY


def test_the_picture_to_start_from_counts_by_its_bytes() -> None:
    init, moved = Path("/in/start.png"), Path("/elsewhere/begin.png")
    job = make_job(recipe=Recipe(init=str(init)))
    assert job.init_path == init
    assert init in job.input_paths
    started = key(job, {**DIGESTS, init: "3" * 64})
    assert started != KEY
    assert key(job, {**DIGESTS, init: "4" * 64}) != started
    again = make_job(recipe=Recipe(init=str(moved)))
    assert key(again, {**DIGESTS, moved: "3" * 64}) == started


def test_init_modes_are_no_inputs() -> None:
    for mode in ("content", "noise", "blank", "style"):
        job = make_job(recipe=Recipe(init=mode))
        assert job.init_path is None
        assert job.input_paths == (A, S, T)


M = Path("/in/m.png")
COLORS = ((0.0, 0.0, 0.0), (1.0, 0.5, 0.0))


def masked_key(
    colors: tuple[Color, ...] = COLORS, mask: str = "5" * 64, images: tuple[Path, ...] = (S, T)
) -> str:
    job = make_job(style=Style("s", tuple((path, 1.0) for path in images)), masks=Masks(M, colors))
    return key(job, {**DIGESTS, M: mask})


def test_the_key_depends_on_the_mask_its_colours_and_their_styles() -> None:
    others = [
        key(make_job(style=Style("s", ((S, 1.0), (T, 1.0))))),
        masked_key(mask="6" * 64),
        masked_key(colors=(COLORS[0], (1.0, 0.5, 1 / 255))),
        masked_key(colors=COLORS[::-1]),
        masked_key(images=(T, S)),
        masked_key(images=(S, B)),
    ]
    assert len({masked_key(), *others}) == len(others) + 1


def test_a_mask_is_an_input() -> None:
    job = make_job(masks=Masks(M, COLORS))
    assert M in job.input_paths
    assert job.regions == {S: COLORS[0], T: COLORS[1]}
    assert make_job().regions == {}
    assert pickle.loads(pickle.dumps(job)) == job


RESULT = JobResult("done", b"image", ("step",), ((1.0,),), 6, 4, 0.5, 0.4, "cpu", "float32", 2, 1)


@pytest.mark.parametrize(
    "value",
    [make_job(sweep={"size": 3}), RESULT, StepProgress(1, 2, 3, 4, 0.5, 0.2, 0.3, b"x"), ENCODER],
    ids=lambda value: type(value).__name__,
)
def test_values_survive_a_pickle(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


def test_a_summary_of_a_result_has_everything_but_the_bytes() -> None:
    summary = result_summary(RESULT)
    assert {"image", "log_header", "log_rows"}.isdisjoint(summary)
    assert (summary["status"], summary["seconds"], summary["cache_hits"]) == ("done", 0.5, 2)
