from __future__ import annotations

import os
import pickle
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import errors
from pipeline.errors import PipelineError, UsageError
from pipeline.spec import jobs
from pipeline.spec.jobs import (
    Color,
    EncoderInfo,
    Job,
    JobResult,
    Masks,
    StepProgress,
    Style,
    check_regions,
    color_value,
    job_key,
    output_name,
    region_color,
    result_summary,
    safe_name,
)
from pipeline.spec.recipe import Recipe

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


def test_recipes_that_are_equal_and_not_the_same_have_one_key() -> None:
    """What is kept of a recipe between two keys belongs to it alone, however many there were."""
    recipes = [Recipe(seed=number % 100) for number in range(200)]
    keys = [key(make_job(recipe=recipe)) for recipe in recipes]
    assert keys[:100] == keys[100:]


@pytest.mark.parametrize("path", [A, S, T], ids=str)
def test_the_key_hears_the_bytes_of_every_input(path: Path) -> None:
    assert key(make_job(), {**DIGESTS, path: "9" * 64}) != KEY


def test_the_key_tells_content_from_style() -> None:
    there = make_job(style=Style("s", ((S, 1.0),)))
    back = make_job(content=S, style=Style("a", ((A, 1.0),)))
    assert key(there) != key(back)


@pytest.mark.parametrize(
    "images",
    [((S, 0.7), (T, 0.25)), ((S, 0.25), (T, 0.75)), ((S, 0.75),), ((S, 0.75), (T, 0.25), (B, 0.1))],
    ids=str,
)
def test_the_key_hears_the_shares_of_a_blend(images: tuple[tuple[Path, float], ...]) -> None:
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


def test_every_field_of_the_recipe_is_looked_at() -> None:
    assert set(OTHER_VALUES) | {"name", "preset", "encoder"} | UNTESTED == set(Recipe.model_fields)


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_the_key_hears_every_field_that_matters(field: str) -> None:
    # Some fields do something in company only.
    plain = Recipe(**NEEDED.get(field, {}))
    changed = Recipe.model_validate({**NEEDED.get(field, {}), field: OTHER_VALUES[field]})
    assert changed != plain
    assert key(make_job(recipe=changed)) != key(make_job(recipe=plain))


def test_the_key_hears_the_encoders_weights_and_the_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
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
        {"recipe": Recipe.model_validate({"style_weight": 40, "size": 512.0})},
        {"recipe": Recipe.model_validate({"style_layers": dict(reversed(Recipe().style_layers.items()))})},
    ],
    ids=str,
)
def test_the_key_is_deaf_to_names(changes: dict[str, Any]) -> None:
    assert key(make_job(**changes)) == KEY


def test_the_key_is_deaf_to_where_files_lie_and_what_they_are_called() -> None:
    moved = {path: Path("/elsewhere") / f"other {path.name}" for path in DIGESTS}
    job = make_job(content=moved[A], style=Style("s", ((moved[S], 0.75), (moved[T], 0.25))))
    assert key(job, {moved[path]: digest for path, digest in DIGESTS.items()}) == KEY


def test_the_key_is_deaf_to_the_encoders_label() -> None:
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


def test_the_key_hears_the_mask_its_colours_and_whose_they_are() -> None:
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


@given(st.floats(0, 1) | st.integers(0, 1) | st.from_regex("#[0-9a-fA-F]{6}", fullmatch=True))
@example("#808080")
@example(0.5)
def test_a_colour_can_be_written_as_it_was_read(value: float | str) -> None:
    color = region_color(value)
    assert all(0 <= channel <= 1 for channel in color)
    assert region_color(color_value(color)) == color


@pytest.mark.parametrize(
    "value", [1.5, -0.1, 255, float("nan"), True, None, "red", "#fff", "#12345g", [0, 0, 0]]
)
def test_what_is_no_colour_is_named(value: Any) -> None:
    with pytest.raises(
        ValueError, match="a grey level from 0 to 1, or a colour such as '#3366cc', found"
    ) as found:
        region_color(value)
    assert ("in quotes" in str(found.value)) == (value is None)


def test_regions_are_two_and_told_apart() -> None:
    check_regions({"a": region_color("#000000"), "b": region_color("#000001")})
    with pytest.raises(ValueError, match="two styles or more"):
        check_regions({"a": region_color(0)})
    with pytest.raises(ValueError, match=r"a\.jpg and b\.jpg have the same colour"):
        check_regions({"a.jpg": region_color(0.5), "c": region_color(0), "b.jpg": region_color("#808080")})


# Names

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
def test_the_shortcut_for_plain_names_changes_none(text: str) -> None:
    assert safe_name(text) == jobs._made_safe(text)


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
    name = output_name("{content}--{style}{sweep}", content, style, RECIPE, {}, 1)
    assert_safe(name)
    assert "/" not in name


@given(
    st.sampled_from(["init", "size", "style_layers", "x"]), ANY_TEXT | st.floats() | st.lists(st.integers())
)
def test_no_swept_value_leaves_the_folder(field: str, value: Any) -> None:
    name = output_name("{content}{sweep}", "a", "s", RECIPE, {field: value}, 1)
    assert_safe(name)
    assert "/" not in name


def test_swept_values_are_in_the_name() -> None:
    sweep = {"style_weight": 1e3, "size": 64}
    assert output_name("{content}--{style}{sweep}", "a", "s", RECIPE, sweep, 1) == (
        "a--s--style_weight-1000--size-64"
    )


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{content}/{style}", "a/s"),
        ("{content}_{step:04d}", "a_0012"),
        ("{content_weight:g}_{style_weight:g}_{learning_rate:g}/generated_{step}", "1_40_1/generated_12"),
        ("{preset}-{size}", "default-512"),
        ("/{content}", "a"),
        ("../{content}", "a"),
        ("{content}/../../{style}", "a/s"),
        ("{{{content}}}", "{a}"),
        ("...", "unnamed"),
    ],
)
def test_a_template_is_filled(template: str, name: str) -> None:
    assert output_name(template, "a", "s", RECIPE, {}, 12) == name


@pytest.mark.parametrize(
    "template", ["{content:d}", "{size:q}", "{content!x}", "{content:{0}}", "{step:{zzz}}"]
)
def test_a_template_that_cannot_be_filled_is_an_error(template: str) -> None:
    with pytest.raises(UsageError, match="cannot be filled"):
        output_name(template, "a", "s", RECIPE, {}, 1)


# Values travel

RESULT = JobResult("done", b"image", ("step",), ((1.0,),), 6, 4, 0.5, 0.4, "cpu", "float32", 2, 1)


@pytest.mark.parametrize(
    "value",
    [make_job(sweep={"size": 3}), RESULT, StepProgress(1, 2, 3, 4, 0.5, 0.2, 0.3, b"x"), ENCODER],
    ids=lambda value: type(value).__name__,
)
def test_values_survive_a_pickle(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


def test_a_summary_of_a_result_has_all_but_the_bytes() -> None:
    summary = result_summary(RESULT)
    assert {"image", "log_header", "log_rows"}.isdisjoint(summary)
    assert (summary["status"], summary["seconds"], summary["cache_hits"]) == ("done", 0.5, 2)


def all_errors() -> list[type[PipelineError]]:
    found = [error for error in vars(errors).values() if isinstance(error, type)]
    return [error for error in found if issubclass(error, PipelineError) and error is not errors.Interrupted]


@pytest.mark.parametrize("error", [error for error in all_errors() if error is not errors.Unexpected])
def test_errors_survive_a_pickle_with_their_next_step(error: type[PipelineError]) -> None:
    copy = pickle.loads(pickle.dumps(error("It broke.", "Mend it.")))
    assert (type(copy), copy.message, copy.next_step) == (error, "It broke.", "Mend it.")
    assert str(copy) == "It broke. Mend it."


def test_a_fault_of_ours_survives_a_pickle_with_its_traceback() -> None:
    copy = pickle.loads(pickle.dumps(errors.Unexpected("It broke.", "Traceback ...")))
    assert (type(copy), copy.message, copy.details) == (errors.Unexpected, "It broke.", "Traceback ...")


def test_exit_codes_are_those_of_the_design() -> None:
    codes = {error.__name__: error.exit_code for error in all_errors()}
    assert codes == {
        "PipelineError": 1,
        "JobError": 1,
        "ImageError": 1,
        "DivergedError": 1,
        "PathError": 1,
        "Unexpected": 70,
        "UsageError": 2,
        "MachineError": 3,
        "WeightsError": 3,
        "DeviceError": 3,
        "DiskError": 3,
        "LockedError": 5,
        "WorkerLost": 1,
        "DeadlineError": 4,
    }
    interrupted = pickle.loads(pickle.dumps(errors.Interrupted(2)))
    assert interrupted.exit_code == 130
    assert interrupted.next_step
