"""Where results, older results and snapshots go, and when."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import FakeExecutor, MakeManifest, MakePicture, Recorder, Workshop, picture_bytes

from pipeline.batch import digests
from pipeline.batch.runner import Runner
from pipeline.errors import DiskError
from pipeline.spec.jobs import EncoderInfo
from pipeline.storage import outbox
from pipeline.storage.files import sha256_of
from pipeline.storage.ledger import Ledger

ALL = ["a--s", "b--s", "a--t", "b--t"]


# Results of one name


@pytest.mark.parametrize("changed", ["photos/a.png", "styles/s.png"])
def test_the_newest_result_of_a_changed_picture_takes_the_name(
    changed: str, workshop: Workshop, make_picture: MakePicture
) -> None:
    old = {finished.name: finished.key for finished in workshop.run().observer.finished}
    before = workshop.pictures()
    make_picture(changed, seed=99)
    executor = FakeExecutor()
    ran = workshop.run(executor)
    done = {finished.name: finished.key for finished in ran.observer.finished if finished.status == "done"}
    assert len(executor.ran) == len(done) == 2
    assert set(done) < set(ALL)
    after = workshop.pictures()
    for name in ALL:
        if name not in done:
            assert after[f"{name}.png"] == before[f"{name}.png"]
            continue
        assert after[f"{name}.png"] == picture_bytes(done[name])
        older = f"older/{name}-{old[name][:8]}"
        assert after[f"{older}.png"] == before[f"{name}.png"]
        assert workshop.record(older)["key"] == old[name]
        assert workshop.record(older)["image"] == f"{older}.png"
        assert (workshop.batch_folder / f"logs/{older}.csv").is_file()
        assert workshop.record(name)["replaced"] == {name: older}
    assert len(after) == 6
    assert set(workshop.run().observer.statuses.values()) == {"skipped"}
    assert workshop.pictures() == after


def test_a_picture_changed_back_has_its_result_again_without_being_made(workshop: Workshop) -> None:
    workshop.run()
    before = workshop.pictures()
    workshop.run(flags={"style_weight": 11})
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == []
    assert ran.observer.statuses == dict.fromkeys(ALL, "skipped")
    after = workshop.pictures()
    assert {name: after[name] for name in before} == before
    for finished in ran.observer.finished:
        assert finished.path == workshop.batch_folder / f"{finished.name}.png"
        assert workshop.record(finished.name)["key"] == finished.key
    assert len([name for name in after if name.startswith("older/")]) == 4
    assert len(list((workshop.batch_folder / "logs/older").iterdir())) == 8


@pytest.mark.parametrize("logs_too", [False, True])
def test_a_result_brought_back_for_a_drop_is_published_for_it_once(
    logs_too: bool, workshop: Workshop
) -> None:
    """A manifest is dropped, someone fetches its pictures, and the daemon reads it once more."""
    workshop.keep_one_style()
    executor = FakeExecutor()

    def run(drop: str, **flags: Any) -> Counter[str]:
        batch = workshop.read(flags)
        folder = outbox.BatchFolder(workshop.outbox, batch.name)
        with closing(Ledger(workshop.state)) as ledger, folder.locked():
            runner, jobs = Runner(folder, ledger, executor, Recorder()), batch.jobs
            summary = runner.run(lambda: (replace(job, drop=drop) for job in jobs()), len(batch))
        return Counter(picture["status"] for picture in summary.pictures)

    assert run("1") == run("2", style_weight=11) == {"done": 2}
    assert run("3") == {"skipped": 2}
    assert workshop.record("a--s")["drop"] == "3"
    for name in ("a--s", "b--s"):
        (workshop.batch_folder / f"{name}.png").unlink()
        if logs_too:
            (workshop.batch_folder / f"logs/{name}.json").unlink()
    executor.ran.clear()
    assert run("3") == {"skipped": 2}
    assert executor.ran == []
    assert [name for name in workshop.pictures() if "/" not in name] == []


def test_jobs_that_share_a_name_never_take_each_others_results(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    """The name leaves out what the sweep changes, and the second time another value comes first."""

    def sweep(values: list[int]) -> None:
        make_manifest(
            {
                "recipe": {"name": "{content}"},
                "contents": ["photos/a.png"],
                "styles": ["styles/s.png"],
                "sweep": {"tv_weight": values},
            }
        )

    sweep([1, 2])
    workshop.run()
    before = workshop.pictures()
    sweep([0, 1, 2])
    executor = FakeExecutor()
    workshop.run(executor)
    after = workshop.pictures()
    assert executor.ran == ["a"]
    assert {name: after[name] for name in before} == before
    assert len(after) == 3
    assert not (workshop.batch_folder / "older").exists()


def shown(workshop: Workshop) -> set[str]:
    """The pictures of a batch that are not in `older/`."""
    return {name for name in workshop.pictures() if "/" not in name}


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("contents", [["photos/a.png"], ["photos/a.png", "more/a.png"]], ids=["pair", "name"])
def test_results_of_jobs_that_share_a_name_move_to_older_when_they_change_and_come_back(
    contents: list[str],
    width: int,
    workshop: Workshop,
    make_picture: MakePicture,
    make_manifest: MakeManifest,
) -> None:
    """The recipes of one pair, or pictures of one name, are told apart by their keys."""
    make_picture("more/a.png", 5)
    pair = {"content": contents[-1], "style": "styles/s.png", "recipe": {"tv_weight": 1.5}}
    make_manifest({"contents": contents, "styles": ["styles/s.png"], "pairs": [pair]})
    count = len(contents) + 1

    def run(**flags: Any) -> tuple[Counter[str], set[str]]:
        workers = [FakeExecutor() for _ in range(width)]
        finished = workshop.run(FakeExecutor(), flags=flags, workers=workers).observer.finished
        keys = {workshop.record(each.name)["key"] for each in finished}
        assert len(keys) == len(shown(workshop)) == count
        assert "a--s.png" in shown(workshop)
        return Counter(each.status for each in finished), keys

    before = run()
    assert before[0] == {"done": count}
    for seed in (1, 2):
        assert run(seed=seed)[0] == {"done": count}
        assert len(workshop.pictures()) == (seed + 1) * count
    again = workshop.pictures()
    assert run(seed=2)[0] == {"skipped": count}
    assert workshop.pictures() == again
    assert run() == ({"skipped": count}, before[1])
    assert len(workshop.pictures()) == 3 * count


def test_a_result_that_shares_a_name_stays_until_its_pair_is_made_again(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    def sweep(*values: int) -> set[str]:
        make_manifest(
            {
                "contents": ["photos/a.png"],
                "styles": ["styles/s.png"],
                "recipe": {"name": "{content}"},
                "sweep": {"tv_weight": values},
            }
        )
        workshop.run()
        return {str(workshop.record(name[:-4])["recipe"]["tv_weight"]) for name in shown(workshop)}

    assert sweep(1, 2, 3) == {"1.0", "2.0", "3.0"}
    assert sweep(2) == {"1.0", "2.0", "3.0"}
    assert sweep(2, 4) == {"2.0", "4.0"}
    assert sweep(5) == {"5.0"}


def test_while_an_input_cannot_be_read_no_result_of_a_shared_name_moves(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    """The result of the job whose key is not known is still its result."""
    start = make_picture("start.png", 5)
    pair = {"content": "photos/a.png", "style": "styles/s.png"}
    make_manifest(
        {"pairs": [{**pair, "recipe": {"init": "start.png"}}, {**pair, "recipe": {"tv_weight": 1}}]}
    )
    workshop.run()
    before = shown(workshop)
    make_manifest(
        {"pairs": [{**pair, "recipe": {"init": "start.png"}}, {**pair, "recipe": {"tv_weight": 2}}]}
    )
    batch = workshop.read()
    start.unlink()
    with workshop.planner(batch=batch) as planner:
        outdated = [planner.decide(job) for job in batch.jobs()][1].place
    assert outdated.outdated == ()
    assert f"{outdated.name}.png" not in before


def test_a_result_beside_a_file_of_another_program_moves_as_well(workshop: Workshop) -> None:
    workshop.keep_one_style()
    workshop.batch_folder.mkdir(parents=True)
    (workshop.batch_folder / "a--s.png").write_bytes(b"mine")
    workshop.run()
    before = shown(workshop)
    workshop.run(flags={"seed": 1})
    assert len(shown(workshop)) == 3
    assert len(before & shown(workshop)) == 2
    assert workshop.pictures()["a--s.png"] == b"mine"
    workshop.run()
    assert shown(workshop) == before


def test_a_result_whose_name_only_looks_as_if_it_had_an_id_stays(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    """One style under two names, in two manifests of a batch."""
    named = {"image": "styles/s.png", "name": "s-20240101"}
    make_manifest({"batch": "night", "contents": ["photos/a.png"], "styles": [named]})
    workshop.run()
    make_manifest({"batch": "night", "contents": ["photos/a.png"], "styles": ["styles/s.png"]})
    workshop.run()
    workshop.run(flags={"seed": 1})
    assert shown(workshop) == {"a--s.png", "a--s-20240101.png"}


def test_a_result_of_another_picture_of_that_name_stays_where_it_is(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    """It came from another manifest of the same batch, and nothing says that one replaces the other."""
    workshop.run()
    before = workshop.pictures()
    make_picture("more/a.png", 5)
    make_manifest({"batch": "night", "contents": ["more/a.png"], "styles": ["styles/s.png"]})
    (finished,) = workshop.run().observer.finished
    assert finished.name == f"a--s-{finished.key[:8]}"
    after = workshop.pictures()
    assert {name: after[name] for name in before} == before


def test_a_result_of_another_format_moves_as_well(workshop: Workshop) -> None:
    workshop.run()
    workshop.run(flags={"format": "jpeg"})
    names = [name for name in workshop.pictures() if "/" not in name]
    assert names == [f"{name}.jpg" for name in ("a--s", "a--t", "b--s", "b--t")]
    assert all(name.endswith(".png") for name in workshop.pictures() if "/" in name)


def test_a_changed_picture_that_fails_leaves_its_old_result_alone(
    workshop: Workshop, make_picture: MakePicture
) -> None:
    workshop.run()
    before = workshop.pictures()
    key = workshop.record("a--s")["key"]
    make_picture("photos/a.png", seed=99)
    ran = workshop.run(FakeExecutor({"a": "fail"}))
    assert ran.summary.failed == 2
    assert workshop.pictures() == before
    assert workshop.record("a--s")["key"] == key
    failed = next(finished for finished in ran.observer.finished if finished.status == "failed")
    assert workshop.record(failed.name)["status"] == "failed"
    assert workshop.run().summary.done == 2
    assert len(workshop.pictures()) == 6


def failures(workshop: Workshop) -> int:
    records = (workshop.batch_folder / "logs").glob("*.json")
    return sum(workshop.record(path.stem)["status"] == "failed" for path in records)


def refuse_a(path: Path, tick: Callable[[], None]) -> str:
    """`sha256_of` where one picture cannot be read."""
    if path.name == "a.png":
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return sha256_of(path, tick)


@pytest.mark.parametrize("repaired", [1, 99], ids=["as it was", "anew"])
def test_the_failures_of_a_picture_are_forgotten_when_it_is_repaired(
    repaired: int, workshop: Workshop, make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is broken, the failure of its last version is recorded, beside its result."""
    workshop.keep_one_style()
    make_picture("photos/a.png", seed=1)
    workshop.run()
    for broken in (7, 8):
        make_picture("photos/a.png", seed=broken)
        assert workshop.run(FakeExecutor({"a": "fail"})).summary.failed == 1
        assert failures(workshop) == 1
    with monkeypatch.context() as patched:
        patched.setattr(digests, "sha256_of", refuse_a)
        assert workshop.run().summary.failed == 1
    assert failures(workshop) == 2
    make_picture("photos/a.png", seed=repaired)
    assert workshop.run().summary.failed == 0
    assert failures(workshop) == 0


def test_the_failure_of_a_job_is_forgotten_when_it_succeeds(
    workshop: Workshop, make_picture: MakePicture
) -> None:
    workshop.keep_one_style()
    workshop.run()
    make_picture("photos/a.png", seed=99)
    workshop.run(FakeExecutor({"a": "fail"}))
    workshop.run()
    assert failures(workshop) == 0


def test_the_failures_of_other_jobs_that_share_a_name_are_kept(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    make_picture("more/z.png", 5)
    make_manifest({"contents": ["photos/a.png", "more/z.png"], "styles": ["styles/s.png"]})
    assert workshop.run(FakeExecutor({"z": "fail"}), flags={"name": "x"}).summary.failed == 1
    assert workshop.run(FakeExecutor({"z": "fail"}), flags={"name": "x"}).summary.failed == 1
    assert failures(workshop) == 1
    workshop.run(flags={"name": "x"})
    assert failures(workshop) == 0


def test_a_changed_recipe_or_encoder_runs_again(workshop: Workshop) -> None:
    workshop.run()
    assert workshop.run(flags={"style_weight": 11}).summary.done == 4
    assert workshop.run(flags={"style_weight": 11}).summary.skipped == 4
    other = FakeExecutor(encoder=EncoderInfo("other", "e" * 64))
    assert workshop.run(other).summary.done == 4
    assert workshop.run().summary.skipped == 4
    assert len(workshop.pictures()) == 12


def test_renamed_inputs_are_new_jobs_with_their_own_names(workshop: Workshop) -> None:
    workshop.run()
    (workshop.folder / "photos/a.png").rename(workshop.folder / "photos/z.png")
    assert set(workshop.run().observer.statuses) == {"z--s", "b--s", "z--t", "b--t"}
    assert len(workshop.pictures()) == 6


@pytest.mark.parametrize("renamed", [False, True])
def test_a_picture_that_was_deleted_or_renamed_is_made_again_only_when_asked_for(
    renamed: bool, workshop: Workshop
) -> None:
    workshop.run()
    image = workshop.batch_folder / "a--s.png"
    if renamed:
        image.rename(image.with_name("the best.png"))
    else:
        image.unlink()
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == []
    assert (ran.summary.skipped, ran.summary.missing, ran.summary.remaining) == (3, 1, 0)
    assert [finished.name for finished in ran.observer.finished if finished.missing] == ["a--s"]
    assert not image.exists()
    again = workshop.run(executor, missing=True)
    assert executor.ran == ["a"]
    assert (again.summary.done, again.summary.missing) == (1, 0)
    assert image.exists()


# Snapshots


def snapshots(workshop: Workshop, make_manifest: MakeManifest, **recipe: Any) -> dict[str, bytes]:
    make_manifest({"recipe": recipe, "contents": ["photos/*.png"], "styles": ["styles/s.png"]})
    ran = workshop.run()
    assert ran.summary.done == 2
    for finished in ran.observer.finished:
        assert finished.path is not None
        assert finished.path.read_bytes() == picture_bytes(finished.key, ran_format(recipe))
    return workshop.pictures()


def ran_format(recipe: dict[str, Any]) -> str:
    return str(recipe.get("format", "png"))


def test_without_being_asked_there_are_no_snapshots(workshop: Workshop, make_manifest: MakeManifest) -> None:
    assert len(snapshots(workshop, make_manifest)) == 2


def test_snapshots_lie_beside_the_picture(workshop: Workshop, make_manifest: MakeManifest) -> None:
    found = snapshots(workshop, make_manifest, snapshot_every=2)
    expected = [f"{name}{step}.png" for name in ("a--s", "b--s") for step in ("-step00002", "-step00004", "")]
    assert sorted(found) == sorted(expected)
    assert len(set(found.values())) == 6


def test_snapshots_whose_names_say_their_step(workshop: Workshop, make_manifest: MakeManifest) -> None:
    found = snapshots(
        workshop, make_manifest, snapshot_every=1, name="{content}/{step:02d}", format="jpeg", steps=3
    )
    # The last step's is the result itself.
    assert list(found) == [f"{content}/{step:02d}.jpg" for content in "ab" for step in (1, 2, 3)]
    assert len(set(found.values())) == 6


def test_a_template_with_the_number_of_steps_says_no_step(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    """`{steps}` is a field of the recipe and no `{step}`."""
    found = snapshots(workshop, make_manifest, snapshot_every=2, name="{content}-{steps}", steps=5)
    assert len(found) == len(set(found.values())) == 6


def test_snapshots_of_jobs_that_share_a_name_keep_apart(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    found = snapshots(workshop, make_manifest, snapshot_every=2, name="out_{step}")
    assert len(found) == len(set(found.values())) == 4
    assert {"out_2.png", "out_4.png"} < set(found)


def test_a_snapshot_never_overwrites_another_jobs_picture(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    """The second job passes the step at which the first one ended, under the same template."""
    recipe = {"name": "out_{step}", "snapshot_every": 1}
    sweep = {"steps": [2, 4]}
    make_manifest(
        {"recipe": recipe, "contents": ["photos/a.png"], "styles": ["styles/s.png"], "sweep": sweep}
    )
    ran = workshop.run()
    assert ran.summary.done == 2
    for finished in ran.observer.finished:
        assert finished.path is not None
        assert finished.path.read_bytes() == picture_bytes(finished.key)
    assert workshop.run().summary.skipped == 2


@pytest.mark.parametrize("name", ["out_{step}", "{content}--{style}"])
def test_killed_after_its_last_snapshot_a_job_keeps_its_name(
    name: str, workshop: Workshop, make_manifest: MakeManifest
) -> None:
    make_manifest(
        {
            "recipe": {"snapshot_every": 1, "name": name, "steps": 1},
            "contents": ["photos/a.png"],
            "styles": ["styles/s.png"],
        }
    )
    workshop.run_in_a_process({"a": "kill"})
    left = set(workshop.pictures())
    (finished,) = workshop.run().observer.finished
    assert finished.status == "done"
    assert finished.name == finished.job.name
    assert left <= set(workshop.pictures())


# The order of things


def test_a_checkpoint_is_kept_until_the_picture_is_published(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = FakeExecutor()

    def full(*_: Any) -> None:
        raise DiskError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(outbox.BatchFolder, "stage_result", full)
        with pytest.raises(DiskError):
            workshop.run(executor)
    assert (executor.ran, executor.forgotten) == (["a"], [])
    workshop.run(executor)
    assert len(set(executor.forgotten)) == 4


def test_the_picture_is_there_before_the_observer_is_notified(workshop: Workshop) -> None:
    seen: list[bool] = []

    class Looking(Recorder):
        def job_finished(self, finished: Any) -> None:
            seen.append(finished.path.is_file() and (workshop.batch_folder / "logs" / "a--s.json").is_file())

    batch = workshop.read()
    ledger = Ledger(workshop.state)
    folder = outbox.BatchFolder(workshop.outbox, batch.name)
    Runner(folder, ledger, FakeExecutor(), Looking()).run(batch.jobs, len(batch))
    ledger.close()
    assert seen == [True] * 4


def test_an_attempt_is_on_disk_before_the_job_begins(workshop: Workshop) -> None:
    seen: list[int] = []
    workshop.run(FakeExecutor(after_step=lambda job, step: seen.append(workshop.attempts())))
    assert set(seen) == {1}


# Names that cannot be used


def named(workshop: Workshop, *names: str) -> None:
    """Pairs of one content and style, each with a name and a recipe of its own."""
    pairs = [
        {"content": "photos/a.png", "style": "styles/s.png", "recipe": {"name": name, "seed": number}}
        for number, name in enumerate(names)
    ]
    workshop.manifest.write_text(yaml.safe_dump({"pairs": pairs}))


@pytest.mark.parametrize(
    ("names", "failed"),
    [
        (("x", "x.png/y", "z"), ["x.png/y"]),
        (("x.png/y", "x", "z"), []),
        (("x", "x.csv/y", "x.json/z", "z"), ["x.json/z", "x.csv/y"]),
        (("n/" * 200 + "deep", "z"), []),
        (("k" * 240, "z"), []),
    ],
)
def test_a_name_that_cannot_be_used_fails_its_own_job(
    names: tuple[str, ...], failed: list[str], workshop: Workshop
) -> None:
    named(workshop, *names)
    for _ in range(2):
        executor = FakeExecutor()
        ran = workshop.run(executor)
        found = [name for name, status in ran.observer.statuses.items() if status == "failed"]
        assert sorted(found) == sorted(failed)
        pictures = [path for path in workshop.batch_folder.rglob("*.png") if path.is_file()]
        assert len(pictures) == len(names) - len(failed)
        assert workshop.attempts() == 0
        for failure in ran.summary.failures:
            assert "cannot be written" in failure["error"]
            assert failure["next_step"]
    assert executor.ran == []


def test_a_name_that_cannot_be_used_when_the_picture_is_done_keeps_it(workshop: Workshop) -> None:
    named(workshop, "x/y", "z")
    blocker = workshop.batch_folder / "x"
    executor = FakeExecutor(after_step=lambda job, step: blocker.touch())
    ran = workshop.run(executor)
    assert ran.observer.statuses == {"x/y": "failed", "z": "done"}
    assert "finished picture waits in" in ran.summary.failures[0]["error"]
    again = workshop.run(executor)
    assert again.observer.statuses == {"x/y": "failed", "z": "skipped"}
    blocker.unlink()
    last = workshop.run(executor)
    assert last.observer.statuses == {"x/y": "skipped", "z": "skipped"}
    assert list(workshop.pictures()) == ["x/y.png", "z.png"]
    assert len(executor.ran) == 2


def test_a_snapshot_that_cannot_have_its_name_is_noted_and_the_picture_made(workshop: Workshop) -> None:
    named(workshop, "x")
    (workshop.batch_folder / "x-step00002.png").mkdir(parents=True)
    ran = workshop.run(flags={"snapshot_every": 2})
    assert ran.observer.statuses == {"x": "done"}
    (note,) = ran.observer.finished[0].notes
    assert "a snapshot was not kept" in note
    assert "x-step00002.png" in note
    assert workshop.record("x")["notes"] == [note]
