from __future__ import annotations

import inspect
import itertools
import os
import tracemalloc
from pathlib import Path
from typing import Any

from fakes import FakeExecutor, MakeManifest, picture_bytes
from small_manifests import ONE, pairs

from pipeline.batch.digests import Digests
from pipeline.batch.planner import Planner, plan_jobs
from pipeline.execution.inputs import read_size
from pipeline.spec.batches import Sweep
from pipeline.spec.jobs import Job
from pipeline.spec.manifest import read_manifest
from pipeline.spec.recipe import Recipe
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder


def test_every_content_with_every_style_style_by_style(read: Any, here: Path) -> None:
    batch = read("contents: [photos/*.jpg]\nstyles: [styles/t.png, styles/s.png]\n")
    assert pairs(batch) == [("a.jpg", "t"), ("c.jpg", "t"), ("a.jpg", "s"), ("c.jpg", "s")]
    jobs = list(batch.jobs())
    assert len(batch) == len(jobs) == 4
    assert {job.batch for job in jobs} == {"night"}
    assert [job.name for job in jobs] == ["a--t", "c--t", "a--s", "c--s"]
    assert jobs[0].content == here / "photos/a.jpg"
    assert jobs[0].style.images == ((here / "styles/t.png", 1.0),)
    assert jobs[0].recipe == Recipe()


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


def test_zip_makes_each_content_with_the_style_in_its_place(read: Any) -> None:
    batch = read("pair: zip\ncontents: [photos/c.jpg, photos/a.jpg]\nstyles: [styles/t.png, styles/s.png]\n")
    assert pairs(batch) == [("c.jpg", "t"), ("a.jpg", "s")]
    assert len(batch) == 2
    assert pairs(read("pair: zip\ncontents: photos/*\nstyles: [styles/*, styles/t.png]\n")) == [
        ("a.jpg", "s"),
        ("b.PNG", "t"),
        ("c.jpg", "t"),
    ]


def test_zip_goes_with_blends_sweeps_and_pairs_with_a_recipe_of_their_own(read: Any, here: Path) -> None:
    batch = read(
        "pair: zip\ncontents: photos/*.jpg\nsweep: {seed: [1, 2]}\nrecipe: {size: 100}\n"
        "styles: [{name: mix, blend: {styles/s.png: 1, styles/t.png: 2}}, styles/t.png]\n"
        "pairs: [{content: 'photos/*.jpg', style: styles/s.png, recipe: {seed: 9}}]\n"
    )
    jobs = list(batch.jobs())
    assert [(job.content.name, job.style.name, job.recipe.seed) for job in jobs] == [
        ("a.jpg", "mix", 1), ("c.jpg", "t", 1), ("a.jpg", "mix", 2), ("c.jpg", "t", 2),
        ("a.jpg", "s", 9), ("c.jpg", "s", 9),
    ]  # fmt: skip
    assert {job.recipe.size for job in jobs} == {100}
    assert len(batch) == 6
    assert {path.name for path in batch.input_paths()} == {"a.jpg", "c.jpg", "s.png", "t.png"}


def test_product_is_what_holds_without_the_key(read: Any) -> None:
    text = "contents: [photos/*.jpg]\nstyles: [styles/*.png]\n"
    assert pairs(read("pair: product\n" + text)) == pairs(read(text))


def test_flags_override_pairs_and_everything_overrides_config(read: Any) -> None:
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
    assert sweep.count == 10**16
    assert next(iter(sweep)) == {f"field{number}": 0 for number in range(8)}
    assert sweep.without(["field0", "zzz"]).count == 10**14


def test_a_swept_preset(read: Any) -> None:
    jobs = list(read("recipe: {size: 40}\n" + ONE + "sweep: {preset: [draft, thumbnail]}\n").jobs())
    assert [job.recipe.optimizer for job in jobs] == ["lbfgs", "adam"]
    assert {job.recipe.size for job in jobs} == {40}
    assert [job.name for job in jobs] == ["a--s--preset-draft", "a--s--preset-thumbnail"]


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
    read_size(here / "photos/a.jpg")
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


def test_a_field_set_by_a_flag_is_not_swept(read: Any) -> None:
    text = "contents: [photos/a.jpg]\nstyles: [styles/s.png]\nsweep: {beta: [1, 2], size: [64, 128]}\n"
    batch = read(text, flags={"style_weight": 7})
    assert len(batch) == 2
    assert [(job.name, job.recipe.style_weight) for job in batch.jobs()] == [
        ("a--s--size-64", 7),
        ("a--s--size-128", 7),
    ]


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
