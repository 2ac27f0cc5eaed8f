"""What a plan decides, and that a run then does it."""

from __future__ import annotations

import logging
import shutil
from typing import Any

import pytest
from fakes import FakeExecutor, MakeManifest, MakePicture, Workshop

from pipeline.batch.planner import plan_jobs

ALL = ["a--s", "b--s", "a--t", "b--t"]


def test_a_plan_of_a_fresh_batch_runs_all_and_writes_nothing(workshop: Workshop) -> None:
    assert [(planned.name, planned.run) for planned in workshop.plan()] == [(name, True) for name in ALL]
    assert not workshop.outbox.exists()


def test_a_plan_says_what_a_run_then_does(workshop: Workshop, make_picture: MakePicture) -> None:
    workshop.run(FakeExecutor({"a": "fail"}))
    (workshop.batch_folder / "b--t.png").unlink()
    make_picture("photos/c.png", 5)
    asked = {planned.name: planned.run for planned in workshop.plan(missing=True)}
    plans = {planned.name: planned.run for planned in workshop.plan()}
    statuses = workshop.run().observer.statuses
    assert plans == {name: status == "done" for name, status in statuses.items()}
    assert plans == {"a--s": True, "a--t": True, "b--s": False, "b--t": False, "c--s": True, "c--t": True}
    assert asked == {**plans, "b--t": True}
    assert {planned.run for planned in workshop.plan()} == {False}
    assert {planned.run for planned in workshop.plan(force=True)} == {True}


def test_a_plan_finds_what_is_done_under_another_name(workshop: Workshop) -> None:
    """A foreign file has the wanted name, so the picture gets a short id."""
    workshop.batch_folder.mkdir(parents=True)
    (workshop.batch_folder / "a--s.png").write_bytes(b"mine")
    plans = [(planned.name, planned.run) for planned in workshop.plan()]
    done = [finished.name for finished in workshop.run().observer.finished]
    assert plans == [(name, True) for name in done]
    assert "a--s" not in done
    assert {planned.run for planned in workshop.plan()} == {False}


def test_a_plan_finds_what_is_done_under_an_id_when_its_name_is_free_again(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    """Someone deleted the picture and the record that had the plain name."""
    make_picture("more/a.png", 5)
    make_manifest({"contents": ["photos/a.png", "more/a.png"], "styles": ["styles/s.png"]})
    workshop.run()
    (workshop.batch_folder / "a--s.png").unlink()
    (workshop.batch_folder / "logs/a--s.json").unlink()
    make_manifest({"contents": ["more/a.png"], "styles": ["styles/s.png"]})
    (planned,) = workshop.plan()
    assert (planned.run, planned.reason) == (False, "done already")
    assert workshop.run().observer.statuses == {planned.name: "skipped"}


def test_a_plan_names_jobs_of_one_name_apart(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    make_picture("more/a.png", 5)
    make_manifest({"contents": ["photos/a.png", "more/a.png"], "styles": ["styles/s.png"]})
    planned = [planned.name for planned in workshop.plan()]
    assert planned == [finished.name for finished in workshop.run().observer.finished]
    assert len(set(planned)) == 2


def test_a_plan_names_jobs_in_the_order_of_the_run(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    """The run begins with those that share a recipe, and the first of them gets the plain name."""
    make_picture("more/a.png", 5)
    pairs = [
        {"content": "photos/a.png", "style": "styles/s.png", "recipe": {"size": 20}},
        {"content": "more/a.png", "style": "styles/s.png"},
    ]
    make_manifest({"contents": ["photos/b.png"], "styles": ["styles/s.png"], "pairs": pairs})
    planned = {planned.name: planned.job for planned in workshop.plan()}
    finished = {finished.name: finished.job for finished in workshop.run().observer.finished}
    assert planned == finished
    assert list(planned) == list(finished)
    assert planned["a--s"].content.parent.name == "more"


def test_a_plan_knows_what_is_quarantined(workshop: Workshop) -> None:
    """Also before any run has recorded it; and --force gives it another chance."""
    workshop.keep_one_style()
    for _ in range(3):
        workshop.run_in_a_process({"a": "kill"})
    plans = {planned.name: planned for planned in workshop.plan()}
    assert (plans["a--s"].run, plans["b--s"].run) == (False, True)
    assert "3 times" in plans["a--s"].reason
    forced = {planned.name: planned for planned in workshop.plan(force=True)}
    assert (forced["a--s"].run, forced["b--s"].run) == (True, True)


def test_a_forced_plan_runs_what_was_quarantined(workshop: Workshop) -> None:
    workshop.keep_one_style()
    workshop.kill_three_times()
    workshop.run()
    assert {planned.name: planned.run for planned in workshop.plan()} == {"a--s": False, "b--s": False}
    assert {planned.name: planned.run for planned in workshop.plan(force=True)} == {
        "a--s": True,
        "b--s": True,
    }


def test_a_plan_of_a_picture_that_is_gone_says_so(workshop: Workshop) -> None:
    workshop.run()
    batch = workshop.read()
    (workshop.folder / "photos/a.png").unlink()
    with workshop.planner(batch=batch) as planner:
        reasons = {decision.job.name: decision.reason for decision in plan_jobs(planner, batch.jobs)}
    assert "a.png: cannot be read" in reasons["a--s"]
    assert reasons["b--s"] == "done already"


def test_a_plan_counts_a_pair_that_is_repeated_once(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    """Also under another path, with the same bytes; as the run does."""
    shutil.copytree(workshop.folder / "photos", workshop.folder / "copies")
    pairs = [
        {"content": f"{folder}/{name}.png", "style": "styles/s.png"}
        for folder in ("photos", "photos", "copies")
        for name in "ab"
    ]
    make_manifest({"pairs": pairs})
    planned = workshop.plan()
    assert [(each.name, each.run) for each in planned if each.run] == [("a--s", True), ("b--s", True)]
    assert {each.reason for each in planned if not each.run} == {"the same as another one of this batch"}
    assert workshop.run().summary.done == 2


def test_a_plan_opens_every_picture(workshop: Workshop, make_picture: MakePicture) -> None:
    (workshop.folder / "photos/b.png").write_bytes(b"no picture")
    planned = {each.name: each for each in workshop.plan()}
    assert [planned[name].run for name in ("a--s", "a--t", "b--s", "b--t")] == [True, True, False, False]
    assert planned["b--s"].fails
    assert planned["b--s"].reason.startswith(f"will fail: {workshop.folder}/photos/b.png: ")
    (workshop.folder / "styles/t.png").write_bytes(b"")
    assert [each.name for each in workshop.plan() if each.run] == ["a--s"]


def test_a_plan_foresees_a_result_that_is_too_small(workshop: Workshop, make_picture: MakePicture) -> None:
    workshop.keep_one_style()
    strip = make_picture("photos/b.png", 7, (3000, 2))
    narrow = {each.name: each for each in workshop.plan(flags={"style_layers": ["relu4_1"]})}["b--s"]
    assert narrow.fails
    assert narrow.reason == (
        f"will fail: {strip}: The result would be 16 x 1 pixels; this recipe needs 16 on the short side."
    )


def test_a_plan_says_why(workshop: Workshop, make_picture: MakePicture) -> None:
    workshop.keep_one_style()

    def reasons(**options: Any) -> dict[str, str]:
        return {planned.job.name: planned.reason for planned in workshop.plan(**options)}

    workshop.run(FakeExecutor({"b": "fail"}))
    assert reasons() == {"a--s": "done already", "b--s": "failed before"}
    workshop.run()
    assert reasons(force=True) == {"a--s": "forced", "b--s": "forced"}
    (workshop.batch_folder / "a--s.png").unlink()
    make_picture("photos/b.png", 99)
    gone = "made before, and its picture is not there any more; --missing makes it again"
    changed = "the content changed; the older result goes to older/"
    assert reasons() == {"a--s": gone, "b--s": changed}
    assert reasons(missing=True)["a--s"] == "its picture is not there any more"
    workshop.run(flags={"tv_weight": 9})
    assert reasons()["a--s"] == "the recipe changed; the older result goes to older/"


def test_a_plan_says_what_changed_of_jobs_that_share_a_pair_and_a_name(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    pair = {"content": "photos/a.png", "style": "styles/s.png"}
    make_manifest({"pairs": [pair, {**pair, "recipe": {"tv_weight": 1.5}}]})
    workshop.run()
    make_picture("photos/a.png", 99)
    planned = workshop.plan()
    assert [each.reason for each in planned] == ["the content changed; the older result goes to older/"] * 2
    assert [each.name for each in planned] == [each.name for each in workshop.run().observer.finished]


def test_a_plan_says_that_an_older_result_comes_back(workshop: Workshop) -> None:
    workshop.run()
    workshop.run(flags={"tv_weight": 9})
    assert {(p.run, p.reason) for p in workshop.plan()} == {(False, "made before; comes back from older/")}
    for record in (workshop.batch_folder / "logs").glob("*.json"):
        record.unlink()
        (workshop.batch_folder / f"{record.stem}.png").unlink()
    assert {planned.run for planned in workshop.plan()} == {False}


def test_a_plan_tells_what_is_to_be_resumed_from_what_is_new(workshop: Workshop) -> None:
    """Before anything is done there is no record; the checkpoint is known by the key."""
    keys = {
        finished.name: finished.key
        for finished in workshop.run(FakeExecutor({"b": "stop"})).observer.finished
    }
    for steps, reason in [(3, "resumes from step 3 of 4"), (3.5, "resumes within step 4 of 4")]:
        planned = {each.name: each for each in workshop.plan(FakeExecutor(checkpoints={keys["b--s"]: steps}))}
        assert [(planned[name].reason, planned[name].steps_taken) for name in ("b--s", "a--t", "b--t")] == [
            (reason, steps), ("new", 0), ("new", 0),
        ]  # fmt: skip


def test_the_log_says_why_a_job_runs_or_not(workshop: Workshop, caplog: pytest.LogCaptureFixture) -> None:
    workshop.keep_one_style()
    workshop.run(FakeExecutor({"b": "fail"}))
    with caplog.at_level(logging.DEBUG, "pipeline.batch"):
        workshop.run()
    assert caplog.messages == ["a--s: skip, done already", "b--s: run, failed before"]


def test_a_plan_knows_a_name_that_cannot_be_used_and_a_result_that_waits_for_its_name(
    workshop: Workshop,
) -> None:
    """As the run does: it makes neither."""
    workshop.keep_one_style()
    blocker = workshop.batch_folder / "x"
    pair = "pairs: [{content: photos/a.png, style: styles/s.png, recipe: {name: x/y}}]"
    workshop.manifest.write_text(pair)
    assert workshop.run(FakeExecutor(after_step=lambda job, step: blocker.touch())).summary.failed == 1
    (staged,) = workshop.plan()
    assert (staged.run, staged.fails, staged.reason) == (
        False, False, "made before, when its name could not be used",
    )  # fmt: skip
    (other,) = workshop.plan(flags={"seed": 5})
    assert (other.run, other.fails) == (False, True)
    assert "cannot be written" in other.reason
