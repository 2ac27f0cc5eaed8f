from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import sys
import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from fakes import FakeExecutor, MakeManifest, picture_bytes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.batch.digests import Digests
from pipeline.batch.planner import Planner, plan_jobs
from pipeline.errors import UsageError
from pipeline.execution.inputs import check_header
from pipeline.spec.config import Config
from pipeline.spec.jobs import Job, Masks
from pipeline.spec.manifest import Batch, Manifest, Sweep, read_manifest, unwanted
from pipeline.spec.recipe import ALIASES, Recipe
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder


@pytest.fixture
def here(environment: Path) -> Path:
    """A folder with photos/{a,b,c}.jpg, styles/{s,t}.png and things that are no pictures."""
    names = ("photos/c.jpg", "photos/a.jpg", "photos/b.PNG", "photos/.hidden.jpg", "photos/notes.txt")
    for name in (*names, "styles/t.png", "styles/s.png", "start.png"):
        path = environment / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    (environment / "photos/folder.jpg").mkdir()
    return environment


@pytest.fixture
def read(here: Path, make_manifest: MakeManifest) -> Any:
    """Return a function that reads a manifest written in YAML, under the name night.yaml."""

    def read_text(text: str, config: Any = None, flags: Any = None, name: str = "night.yaml") -> Batch:
        return read_manifest(make_manifest(text, name), config or {}, flags or {})

    return read_text


def pairs(batch: Batch) -> list[tuple[str, str]]:
    return [(job.content.name, job.style.name) for job in batch.jobs()]


def failure(read: Any, text: str, **kw: Any) -> list[str]:
    """The lines of the error, without the manifest's own path: `LINE: KEY: TEXT`."""
    with pytest.raises(UsageError) as caught:
        read(text, **kw)
    assert caught.value.exit_code == 2
    lines = caught.value.message.splitlines()
    assert all("night.yaml:" in line for line in lines), lines
    return [line.partition("night.yaml:")[2] for line in lines]


ONE = "contents: [photos/a.jpg]\nstyles: [styles/s.png]\n"


# What becomes of the lists


def test_every_content_times_every_style_style_by_style(read: Any, here: Path) -> None:
    batch = read("contents: [photos/*.jpg]\nstyles: [styles/t.png, styles/s.png]\n")
    assert pairs(batch) == [("a.jpg", "t"), ("c.jpg", "t"), ("a.jpg", "s"), ("c.jpg", "s")]
    jobs = list(batch.jobs())
    assert len(batch) == len(jobs) == 4
    assert {job.batch for job in jobs} == {"night"}
    assert [job.name for job in jobs] == ["a--t", "c--t", "a--s", "c--s"]
    assert jobs[0].content == here / "photos/a.jpg"
    assert jobs[0].style.images == ((here / "styles/t.png", 1.0),)
    assert jobs[0].recipe == Recipe()


def test_globs_are_sorted_and_find_pictures_only(read: Any) -> None:
    batch = read("contents: ['photos/*']\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == ["a.jpg", "b.PNG", "c.jpg"]


def test_a_glob_finds_folders_below(read: Any) -> None:
    batch = read("contents: ['**/*.jpg']\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == ["a.jpg", "c.jpg"]


def test_a_glob_finds_whatever_is_read_whatever_its_case(read: Any, here: Path) -> None:
    for name in ("d.JPG", "e.jfif", "f.Heic", "g.jpeg", "h.cr3"):
        (here / "photos" / name).write_bytes(b"")
    batch = read("contents: [photos/*.jpg, 'photos/[e-h].*']\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == [
        "a.jpg", "c.jpg", "d.JPG", "e.jfif", "f.Heic", "g.jpeg",
    ]  # fmt: skip
    assert batch.passed_over == (
        "photos/*.jpg: passed over: 1 with ignored names (.hidden.jpg)",
        "photos/[e-h].*: passed over: 1 with other suffixes (.cr3)",
    )


def test_a_folder_with_brackets_is_found_by_its_name(read: Any, here: Path) -> None:
    (here / "Album [2024]").mkdir()
    (here / "Album [2024]/x.jpg").write_bytes(b"")
    batch = read("contents: ['Album [2024]/*.jpg']\nstyles: [styles/s.png]\n")
    assert pairs(batch) == [("x.jpg", "s")]
    (line,) = failure(read, "contents: ['Album [2023]/*.jpg']\nstyles: [styles/s.png]\n")
    assert line.endswith("no picture matches; where a name has brackets of its own, write [[] for [")


def test_an_empty_glob_says_what_it_passed_over(read: Any) -> None:
    (line,) = failure(read, "contents: ['photos/n*']\nstyles: [styles/s.png]\n")
    assert line.endswith("photos/n*: no picture matches; passed over: 1 with other suffixes (.txt)")


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system has one spelling")
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_may_be_spelt_in_two_ways(form: Literal["NFC", "NFD"], read: Any, here: Path) -> None:
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "Müller")
    path = here / "photos" / f"{unicodedata.normalize(form, 'Müller')}.png"
    path.write_bytes(b"")
    text = (
        f"contents: [photos/{other}.png]\nstyles: [{{blend: {{photos/{other}.png: 1, styles/s.png: 1}}}}]\n"
    )
    (job,) = read(text + f"recipe: {{init: photos/{other}.png}}\n").jobs()
    assert (job.content, job.style.images[0][0], job.init_path) == (path, path, path)
    (job,) = read(f"contents: ['photos/{other[:3]}*']\nstyles: [styles/s.png]\n").jobs()
    assert job.name == f"{unicodedata.normalize('NFC', 'Müller')}--s"


def test_a_glob_does_not_take_results_for_contents(here: Path, make_manifest: MakeManifest) -> None:
    """`**/*.png` beside the outbox found a--s.png in the second run, and a--s--s.png in the third."""
    config = Config(ignore=("*_small.*",)).resolved(here)
    for name in (
        "outbox/night/a--s.png", "archive/b.png", "quarantine/ID/c.png", "inbox/d.png", "photos/e_SMALL.png",
        "inbox/.style-pipeline/claimed/ID/f.png",
    ):  # fmt: skip
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(b"")
    manifest = make_manifest("contents: ['**/*.png']\nstyles: [styles/s.png]\n")
    batch = read_manifest(manifest, {}, {}, unwanted=unwanted(config))
    assert [content for content, _ in pairs(batch)] == ["d.png", "b.PNG", "start.png", "s.png", "t.png"]
    assert batch.passed_over == (
        "**/*.png: passed over: 2 with ignored names (.style-pipeline, e_SMALL.png), "
        "3 for results, originals, state or cache (archive, outbox, quarantine)",
    )
    chained = make_manifest("contents: [outbox/night/*.png]\nstyles: [styles/s.png]\n", "again.yaml")
    assert pairs(read_manifest(chained, {}, {}, unwanted=unwanted(config))) == [("a--s.png", "s")]


def test_why_a_file_cannot_be_taken(read: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(here / "photos/pipe.jpg")
    real = Path.stat

    def stat(path: Path, **how: Any) -> os.stat_result:
        if path.name == "locked.jpg":
            raise PermissionError(13, "Permission denied")
        return real(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    for entry, words in (
        ("photos/A.JPG", "no such file; there is 'a.jpg'"),
        ("photos/no.jpg", "no such file"),
        ("photos", "is a folder; name its pictures, as in photos/*.jpg"),
        ("photos/pipe.jpg", "is no file, but a pipe or a device"),
        ("photos/locked.jpg", "cannot be read (Permission denied)"),
        ("photos/a.jpg/x", "no such file"),
    ):
        (line,) = failure(read, f"contents: [{entry}]\nstyles: [styles/s.png]\n")
        assert line == f"1: contents[0]: {entry}: {words}"


def test_entries_keep_their_order(read: Any) -> None:
    batch = read("contents: [photos/c.jpg, 'photos/[ab].*']\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == ["c.jpg", "a.jpg", "b.PNG"]


def test_a_file_may_have_any_name_when_it_is_named(read: Any, here: Path) -> None:
    (here / "photos/[x]*?.jpg").write_bytes(b"")
    (here / "photos/scan").write_bytes(b"")
    batch = read("contents: ['photos/[x]*?.jpg', photos/scan]\nstyles: [styles/s.png]\n")
    assert [content for content, _ in pairs(batch)] == ["[x]*?.jpg", "scan"]


def test_paths_start_at_the_manifest(read: Any, here: Path) -> None:
    batch = read(
        "contents: [../photos/a.jpg, '../photos/b*']\nstyles: [../styles/s.png]\n", name="sub/night.yaml"
    )
    assert [job.content for job in batch.jobs()] == [here / "photos/a.jpg", here / "photos/b.PNG"]


def test_a_manifest_named_from_its_own_folder(read: Any, here: Path) -> None:
    (here / "night.yaml").write_text("contents: [photos/a.jpg, 'photos/c*']\nstyles: [styles/s.png]\n")
    batch = read_manifest(Path("night.yaml"), {}, {})
    assert [job.content for job in batch.jobs()] == [here / "photos/a.jpg", here / "photos/c.jpg"]


def test_a_folder_with_glob_characters_is_only_a_folder(read: Any, here: Path) -> None:
    """The pattern is the entry; where the manifest lies is no pattern."""
    folder = here / "set [2024]*"
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"")
    batch = read("contents: ['*.jpg']\nstyles: [../styles/s.png]\n", name="set [2024]*/night.yaml")
    assert [job.content for job in batch.jobs()] == [folder / "x.jpg"]


def test_absolute_paths_and_globs(read: Any, here: Path) -> None:
    batch = read(f"contents: ['{here}/photos/a*']\nstyles: ['{here}/styles/s.png']\n", name="sub/night.yaml")
    assert [job.content for job in batch.jobs()] == [here / "photos/a.jpg"]


def test_a_tilde_is_the_home(read: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    batch = read(
        "contents: [~/photos/a.jpg, '~/photos/c*']\nstyles: [~/styles/s.png]\n", name="sub/night.yaml"
    )
    assert [content for content, _ in pairs(batch)] == ["a.jpg", "c.jpg"]


def test_file_names_in_other_letters(read: Any, here: Path) -> None:
    (here / "photos/Übung 字.jpg").write_bytes(b"")
    (job,) = read("contents: ['photos/Ü*']\nstyles: [styles/s.png]\n").jobs()
    assert job.name == "Übung 字--s"


# Styles


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


def test_pairs_come_last_with_a_recipe_of_their_own(read: Any) -> None:
    batch = read(
        "recipe: {style_weight: 3, content_weight: 4}\n" + ONE + "pairs:\n"
        "  - {content: photos/b.PNG, style: styles/t.png, recipe: {beta: 5e3}}\n"
        "  - {content: 'photos/*.jpg', style: {blend: {styles/t.png: 1}, name: x}}\n"
    )
    jobs = list(batch.jobs())
    assert [job.name for job in jobs] == ["a--s", "b--t", "a--x", "c--x"]
    assert [job.recipe.style_weight for job in jobs] == [3, 5000, 3, 3]
    assert {job.recipe.content_weight for job in jobs} == {4}
    assert len(batch) == 4


def test_pairs_are_enough(read: Any) -> None:
    assert pairs(read("pairs: [{content: photos/a.jpg, style: styles/s.png}]\n")) == [("a.jpg", "s")]


def test_flags_lie_above_pairs_and_config_below_all(read: Any) -> None:
    text = "recipe: {size: 200, seed: 2, history: 2}\npairs:\n"
    text += "  - {content: photos/a.jpg, style: styles/s.png, recipe: {size: 300, seed: 3}}\n"
    config = {"preset": "draft", "size": 100, "seed": 1, "history": 1, "quality": 1}
    (job,) = read(text, config, {"size": 400}).jobs()
    recipe = job.recipe
    assert (recipe.size, recipe.seed, recipe.history, recipe.quality) == (400, 3, 2, 1)
    assert recipe.steps == Recipe(preset="draft").steps


def test_a_sweep_is_every_job_once_per_value(read: Any) -> None:
    batch = read(ONE + "sweep: {style_weight: [1e2, 1e3]}\n")
    jobs = list(batch.jobs())
    assert [job.recipe.style_weight for job in jobs] == [100, 1000]
    assert [job.name for job in jobs] == ["a--s--style_weight-100", "a--s--style_weight-1000"]
    assert [job.sweep for job in jobs] == [{"style_weight": 100}, {"style_weight": 1000}]


def test_several_swept_fields_are_a_product(read: Any) -> None:
    text = "contents: [photos/*.jpg]\nstyles: [styles/*]\n"
    text += "pairs: [{content: photos/b.PNG, style: styles/s.png, recipe: {seed: 7}}]\n"
    batch = read(text + "sweep: {beta: [1, 2], size: [32, 64, 128], steps: [[5, 6]]}\n")
    jobs = list(batch.jobs())
    assert len(batch) == len(jobs) == (2 * 2 + 1) * 6
    assert len({job.name for job in jobs}) == len(jobs)
    seen = {(job.recipe.style_weight, job.recipe.size) for job in jobs}
    assert seen == {(weight, size) for weight in (1, 2) for size in (32, 64, 128)}
    assert {job.recipe.steps for job in jobs} == {(5, 6)}
    assert [job.recipe.seed for job in jobs if job.content.name == "b.PNG"] == [7] * 6
    assert "a--s--style_weight-1--size-32--steps-5_6" in {job.name for job in jobs}


def test_a_pairs_own_field_is_not_swept(read: Any) -> None:
    """As in the README: the pair has the weight that was written for it, once."""
    pair = "pairs: [{content: photos/b.PNG, style: styles/t.png, recipe: {beta: 50, seed: 7}}]\n"
    batch = read(ONE + pair + "sweep: {style_weight: [5, 20, 80]}\n")
    assert [(job.name, job.recipe.style_weight, job.recipe.seed) for job in batch.jobs()] == [
        ("a--s--style_weight-5", 5, 0),
        ("a--s--style_weight-20", 20, 0),
        ("a--s--style_weight-80", 80, 0),
        ("b--t", 50, 7),
    ]
    assert len(batch) == 4
    batch = read(pair + "sweep: {alpha: [1, 2], style_weight: [5, 20, 80], size: [64, 128]}\n")
    jobs = list(batch.jobs())
    assert len(batch) == len(jobs) == len({job.name for job in jobs}) == 4
    assert {job.recipe.style_weight for job in jobs} == {50}
    assert {(job.recipe.content_weight, job.recipe.size) for job in jobs} == {
        (a, s) for a in (1, 2) for s in (64, 128)
    }


def test_a_pairs_own_preset_is_not_swept_but_its_fields_are(read: Any) -> None:
    pair = "pairs: [{content: photos/b.PNG, style: styles/t.png, recipe: {preset: draft}}]\n"
    jobs = list(read(pair + "sweep: {preset: [thumbnail, print], size: [64, 128]}\n").jobs())
    assert [(job.recipe.preset, job.recipe.size) for job in jobs] == [("draft", 64), ("draft", 128)]


def test_a_flag_wins_over_a_pair_and_a_sweep(read: Any) -> None:
    pair = "pairs: [{content: photos/b.PNG, style: styles/t.png, recipe: {beta: 50}}]\n"
    (job,) = read(pair + "sweep: {style_weight: [5, 20]}\n", flags={"style_weight": 7}).jobs()
    assert job.recipe.style_weight == 7


def test_a_large_sweep_costs_nothing_before_it_is_run() -> None:
    sweep = Sweep({f"field{number}": range(100) for number in range(8)})
    assert len(sweep) == 10**16
    assert next(iter(sweep)) == {f"field{number}": 0 for number in range(8)}
    assert len(sweep.without(["field0", "zzz"])) == 10**14


def test_single_values_need_no_list(read: Any, here: Path) -> None:
    batch = read("contents: photos/*.jpg\nstyles: styles/s.png\nsweep: {style_weight: 5, steps: [[4, 2]]}\n")
    assert [(job.name, job.recipe.style_weight) for job in batch.jobs()] == [
        (f"{content}--s--style_weight-5--steps-4_2", 5) for content in "ac"
    ]
    assert pairs(read("pairs: {content: photos/a.jpg, style: styles/s.png}\n")) == [("a.jpg", "s")]
    blend = read("contents: photos/a.jpg\nstyles: {blend: {styles/s.png: 1, styles/t.png: 1}}\n")
    assert pairs(blend) == [("a.jpg", "s+t")]
    assert failure(read, "contents: no.jpg\nstyles: {nam: x}\n")[0] == "1: contents: no.jpg: no such file"


def test_a_swept_preset(read: Any) -> None:
    jobs = list(read("recipe: {size: 40}\n" + ONE + "sweep: {preset: [draft, thumbnail]}\n").jobs())
    assert [job.recipe.optimizer for job in jobs] == ["lbfgs", "adam"]
    assert {job.recipe.size for job in jobs} == {40}
    assert [job.name for job in jobs] == ["a--s--preset-draft", "a--s--preset-thumbnail"]


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


def test_a_moved_manifest_is_read_as_if_it_were_where_it_was(here: Path, make_manifest: MakeManifest) -> None:
    """One that was dropped into the inbox is read after it was claimed."""
    (here / "sub").mkdir()
    text = "contents: [../photos/*.jpg]\nstyles: [../styles/s.png]\nrecipe: {init: ../start.png}\n"
    batch = read_manifest(make_manifest(text, "claimed/ID/x.yaml"), {}, {}, here / "sub/night.yaml")
    assert batch.name == "night"
    jobs = list(batch.jobs())
    assert [job.content for job in jobs] == [here / "photos/a.jpg", here / "photos/c.jpg"]
    assert jobs[0].style.images == ((here / "styles/s.png", 1.0),)
    assert jobs[0].recipe.init == str(here / "start.png")


def test_what_is_wrong_in_a_moved_manifest_is_told_of_where_it_was(
    here: Path, make_manifest: MakeManifest
) -> None:
    path, place = make_manifest(ONE, "claimed/ID/night.yaml"), here / "sub/night.yaml"
    with pytest.raises(UsageError) as caught:
        read_manifest(path, {}, {}, place)
    assert [line.split(": ")[0] for line in caught.value.message.splitlines()] == [f"{place}:1", f"{place}:2"]
    assert "claimed" not in caught.value.message


# Masks

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
            "not beside masks",
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


def test_missing_files_of_masks_are_told_with_other_faults(read: Any) -> None:
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


def test_every_missing_file_and_empty_glob_at_once(read: Any) -> None:
    lines = failure(
        read,
        "contents:\n  - photos/a.jpg\n  - photos/missing.jpg\n  - nothing/*.jpg\n  - photos\n"
        "styles:\n  - 'styles/*.gif'\n  - {name: x, image: styles/x.png}\n"
        "pairs:\n  - content: photos/no.jpg\n    style:\n      blend: {styles/s.png: 1, styles/u.png: 1}\n",
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["3", "contents[1]"],
        ["4", "contents[2]"],
        ["5", "contents[3]"],
        ["7", "styles[0]"],
        ["8", "styles[1].image"],
        ["10", "pairs[0].content"],
        ["12", "pairs[0].style.blend.styles/u.png"],
    ]
    for line, text in zip(lines, ["missing.jpg", "nothing/*.jpg", "photos/*.jpg", "*.gif"], strict=False):
        assert text in line


def test_a_problem_is_told_once_however_many_pictures_it_concerns(read: Any) -> None:
    lines = failure(read, "pairs:\n- content: 'photos/*'\n  style: missing.png\n")
    assert [line.split(": ")[:2] for line in lines] == [["3", "pairs[0].style"]]


def test_files_and_recipes_are_judged_together(read: Any) -> None:
    lines = failure(read, "contents: [photos/missing.jpg]\nstyles: [styles/s.png]\nsweep: {size: [3]}\n")
    assert [line.split(": ")[0] for line in lines] == ["1", "3"]


def test_keys_and_files_are_judged_together(read: Any) -> None:
    """A night is not started three times to find three mistakes."""
    lines = failure(read, "contents: [photos/missing.jpg]\nstyles: [styles/s.png]\nrecipe: {size: 3}\n")
    assert [line.split(": ")[0] for line in lines] == ["1", "3"]


def test_swept_fields_are_judged_with_the_rest(read: Any) -> None:
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
def test_what_is_wrong_is_named_with_its_line(text: str, number: str, words: str, read: Any) -> None:
    lines = failure(read, text)
    assert [line.partition(":")[0] for line in lines] == [number]
    assert words in lines[0]


@pytest.mark.parametrize(
    "entry",
    [
        "~nobody-by-this-name/a.jpg",
        "~nobody-by-this-name/*.jpg",
        "x" * 300 + ".jpg",
        "[" + "x" * 5000,
        "photos/a.jpg/b.jpg",
        "photos/[.jpg",
        "a\\0b.jpg",
        "a\\0*.jpg",
        "*.gif",
        ".",
        "..",
        "/",
    ],
)
def test_an_odd_path_is_a_problem_with_its_line(entry: str, read: Any) -> None:
    (line,) = failure(read, f'contents:\n  - photos/a.jpg\n  - "{entry}"\nstyles: [styles/s.png]\n')
    assert line.startswith("3: contents[1]: ")
    (line,) = failure(read, f'{ONE}recipe:\n  init: "{entry}"\n')
    assert re.match(r"[34]: recipe", line)


def test_a_pairs_recipe_is_named_by_its_place_in_the_file(read: Any) -> None:
    """Globs make several jobs of one entry; the error still is about the entry."""
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


def test_a_hundred_thousand_jobs_are_planned_lazily(here: Path, make_manifest: MakeManifest) -> None:
    (here / "photos/a.jpg").write_bytes(picture_bytes("a", "jpeg"))
    for folder, count in (("many", 400), ("looks", 250)):
        (here / folder).mkdir()
        for number in range(count):
            os.link(here / "photos/a.jpg", here / folder / f"{number:03d}.jpg")
    manifest = make_manifest({"contents": ["many/*.jpg"], "styles": ["looks/*.jpg"]})
    batch = read_manifest(manifest, {}, {})
    assert len(batch) == 100_000
    jobs = batch.jobs()
    assert inspect.isgenerator(jobs)
    assert next(jobs).name == "000--000"
    jobs.close()

    executor = FakeExecutor()
    ledger = Ledger(here / "state")
    folder, digests = BatchFolder(here / "outbox", batch.name), Digests(lambda: False)
    planner = Planner(folder, ledger, executor, digests, jobs=lambda: itertools.islice(batch.jobs(), 10_000))
    # What reads the head of a picture is loaded first: its modules take megabytes, whatever the jobs.
    check_header(here / "photos/a.jpg")
    # A tenth of them is enough to see what each one keeps.
    tracemalloc.start()
    runs = sum(planned.run for planned in plan_jobs(planner, lambda: itertools.islice(batch.jobs(), 10_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ledger.close()
    assert runs == 10_000
    assert executor.ran == []
    assert not (here / "outbox").exists()
    # A name in a dictionary is about 200 bytes, a Job with its recipe would be thousands.
    assert peak < 10_000 * 600


def test_jobs_of_one_recipe_share_it(read: Any) -> None:
    jobs: list[Job] = list(read("contents: [photos/*]\nstyles: [styles/*]\nrecipe: {size: 40}\n").jobs())
    assert len(jobs) == 6
    assert all(job.recipe is jobs[0].recipe for job in jobs)


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


def test_a_field_set_by_a_flag_is_not_swept(read: Any) -> None:
    text = "contents: [photos/a.jpg]\nstyles: [styles/s.png]\nsweep: {beta: [1, 2], size: [64, 128]}\n"
    batch = read(text, flags={"style_weight": 7})
    assert len(batch) == 2
    assert [(job.name, job.recipe.style_weight) for job in batch.jobs()] == [
        ("a--s--size-64", 7),
        ("a--s--size-128", 7),
    ]


def test_a_file_named_twice_is_missed_at_both_places(read: Any) -> None:
    """It is looked for once where it is there, and told of wherever it is not."""
    text = "pairs:\n" + 2 * "  - {content: photos/no.jpg, style: styles/s.png}\n"
    assert failure(read, text) == [
        f"{line}: pairs[{line - 2}].content: photos/no.jpg: no such file" for line in (2, 3)
    ]
    twice = "pairs:\n" + 2 * "  - {content: photos/a.jpg, style: styles/s.png}\n"
    assert pairs(read(twice)) == [("a.jpg", "s")] * 2


def test_a_sweep_beyond_all_measure_is_refused_at_once(read: Any) -> None:
    values = list(range(1, 401))
    sweep = dict.fromkeys(
        ("style_weight", "content_weight", "tv_weight", "seed", "steps", "size", "history"), values
    )
    (line,) = failure(read, ONE + f"sweep: {json.dumps(sweep)}\n")
    assert f"asks for {400**7:,} pictures; at most 1,000,000" in line


@pytest.mark.parametrize("name", ["{size:1000000000}", "{style_weight:.999999999f}", "{size:{seed}}"])
def test_a_name_cannot_be_filled_up_without_end(name: str, read: Any) -> None:
    (line,) = failure(read, ONE + f"recipe: {{name: '{name}'}}\n")
    assert "at most 200 characters wide" in line


def test_a_batch_names_its_inputs_without_making_jobs(make_picture: Any, read: Any) -> None:
    for name in ("start.png", "other.png", "m.png", "styles/t.png"):
        make_picture(name)
    batch = read(
        ONE
        + "pairs:\n- {content: photos/a.jpg, masks: {content: m.png, "
        + "styles: {styles/s.png: 0, styles/t.png: 1}}}\n"
        + "sweep: {init: [start.png, content]}\n"
    )
    assert batch.input_paths() == {path for job in batch.jobs() for path in job.input_paths}


def test_styles_of_one_name_are_said(make_picture: Any, read: Any) -> None:
    make_picture("styles/s.jpg")
    batch = read("contents: [photos/a.jpg]\nstyles: [styles/s.png, styles/s.jpg]\n")
    assert batch.passed_over == (
        "s: several styles have this name; give each a name of its own, or results get a short id",
    )
    assert read("contents: [photos/a.jpg]\nstyles: [styles/s.png, styles/s.png]\n").passed_over == ()
