from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from disks import HookedDisk, failing
from fakes import QUICK, FakeExecutor, Fault, MakeManifest, MakePicture, Recorder, Workshop, picture_bytes
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch.deadline import Deadline
from pipeline.batch.digests import Digests
from pipeline.batch.estimate import Estimate, megapixel_steps
from pipeline.batch.options import RunOptions
from pipeline.batch.planner import plan_jobs
from pipeline.batch.runner import Runner, group_jobs
from pipeline.batch.single import run_single, single_job, single_style
from pipeline.batch.summary import Finished, Summary
from pipeline.errors import DeviceError, DiskError, ImageError, JobError, UsageError, WeightsError
from pipeline.spec.jobs import EncoderInfo, Job, Style
from pipeline.spec.recipe import Recipe, merged_recipe
from pipeline.storage import files, outbox
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder

ALL = ["a--s", "b--s", "a--t", "b--t"]
HERE = Path(__file__).parents[1]


def record_of(workshop: Workshop, name: str) -> dict[str, Any]:
    return dict(json.loads((workshop.batch_folder / "logs" / f"{name}.json").read_bytes()))


def summary_of(workshop: Workshop) -> dict[str, Any]:
    return dict(json.loads((workshop.batch_folder / "summary.json").read_bytes()))


def attempts(workshop: Workshop) -> int:
    """Attempts begun and not ended, over all jobs."""
    ledger = Ledger(workshop.state)
    try:
        return sum(count for (count,) in ledger._database.execute("SELECT count FROM attempts_of"))
    finally:
        ledger.close()


def run_in_a_process(workshop: Workshop, faults: dict[str, Fault], expected: int = -9) -> None:
    """One whole run in a process of its own; it is killed where `faults` says `kill`."""
    code = (
        "import sys; from pathlib import Path; from fakes import FakeExecutor, Workshop\n"
        f"Workshop(Path(sys.argv[1])).run(FakeExecutor({faults!r}))"
    )
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, str(workshop.folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == expected, done.stderr


# A whole run


def test_a_run_makes_every_picture(workshop: Workshop) -> None:
    ran = workshop.run()
    assert ran.observer.statuses == dict.fromkeys(ALL, "done")
    assert list(workshop.pictures()) == ["a--s.png", "a--t.png", "b--s.png", "b--t.png"]
    assert len(set(workshop.pictures().values())) == 4
    assert (ran.summary.done, ran.summary.failed, ran.summary.skipped) == (4, 0, 0)
    assert ran.summary.remaining == 0
    assert attempts(workshop) == 0
    for finished in ran.observer.finished:
        assert finished.path is not None
        assert finished.path.read_bytes() == picture_bytes(finished.key)
        log = (workshop.batch_folder / "logs" / f"{finished.name}.csv").read_text()
        assert log == "step,total\n1,1\n2,0.5\n3,0.333333\n4,0.25\n"


def test_a_second_run_does_nothing(workshop: Workshop) -> None:
    workshop.run()
    before = {path: path.stat().st_mtime_ns for path in workshop.batch_folder.rglob("*--*")}
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == []
    assert ran.observer.statuses == dict.fromkeys(ALL, "skipped")
    assert (ran.summary.done, ran.summary.skipped, ran.summary.remaining) == (0, 4, 0)
    assert {path: path.stat().st_mtime_ns for path in workshop.batch_folder.rglob("*--*")} == before


def test_new_pictures_only_are_made(workshop: Workshop, make_picture: MakePicture) -> None:
    workshop.run()
    make_picture("photos/c.png", 7)
    executor = FakeExecutor()
    workshop.run(executor)
    assert executor.ran == ["c", "c"]
    assert len(workshop.pictures()) == 6


def test_force_makes_them_again_in_their_places(workshop: Workshop) -> None:
    workshop.run()
    before = workshop.pictures()
    executor = FakeExecutor()
    ran = workshop.run(executor, force=True)
    assert sorted(executor.ran) == ["a", "a", "b", "b"]
    assert ran.summary.done == 4
    assert workshop.pictures() == before


@pytest.mark.parametrize("changed", ["photos/a.png", "styles/s.png"])
def test_of_a_changed_picture_the_newest_result_has_the_name(
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
        assert record_of(workshop, older)["key"] == old[name]
        assert record_of(workshop, older)["image"] == f"{older}.png"
        assert (workshop.batch_folder / f"logs/{older}.csv").is_file()
        assert record_of(workshop, name)["replaced"] == older
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
        assert record_of(workshop, finished.name)["key"] == finished.key
    assert len([name for name in after if name.startswith("older/")]) == 4
    assert len(list((workshop.batch_folder / "logs/older").iterdir())) == 8


@pytest.mark.parametrize("logs_too", [False, True])
def test_a_result_brought_back_for_a_drop_is_published_for_it_once(
    logs_too: bool, workshop: Workshop
) -> None:
    """A manifest that is dropped; someone fetches its pictures, and the daemon comes to it once more."""
    make_one_style(workshop)
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
    assert record_of(workshop, "a--s")["drop"] == "3"
    for name in ("a--s", "b--s"):
        (workshop.batch_folder / f"{name}.png").unlink()
        if logs_too:
            (workshop.batch_folder / f"logs/{name}.json").unlink()
    executor.ran.clear()
    assert run("3") == {"skipped": 2}
    assert executor.ran == []
    assert [name for name in workshop.pictures() if "/" not in name] == []


def test_of_jobs_that_share_a_name_none_takes_anothers(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    """A name that leaves out what the sweep changes; another value comes first the second time."""

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


def test_a_result_of_another_picture_of_that_name_stays_where_it_is(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    """Another manifest of the same batch: nobody said that the one is to replace the other."""
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
    key = record_of(workshop, "a--s")["key"]
    make_picture("photos/a.png", seed=99)
    ran = workshop.run(FakeExecutor({"a": "fail"}))
    assert ran.summary.failed == 2
    assert workshop.pictures() == before
    assert record_of(workshop, "a--s")["key"] == key
    failed = next(finished for finished in ran.observer.finished if finished.status == "failed")
    assert record_of(workshop, failed.name)["status"] == "failed"
    assert workshop.run().summary.done == 2
    assert len(workshop.pictures()) == 6


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


def test_two_contents_of_one_name_are_both_made(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    make_picture("more/a.png", 5)
    make_manifest({"contents": ["photos/a.png", "more/a.png"], "styles": ["styles/s.png"]})
    ran = workshop.run()
    assert ran.summary.done == 2
    assert len(workshop.pictures()) == len(set(workshop.pictures().values())) == 2
    make_manifest({"contents": ["more/a.png", "photos/a.png"], "styles": ["styles/s.png"]})
    assert workshop.run().summary.skipped == 2


def test_one_picture_named_twice_is_made_once(workshop: Workshop, make_manifest: MakeManifest) -> None:
    make_manifest({"contents": ["photos/a.png", "photos/*.png"], "styles": ["styles/s.png"]})
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert sorted(executor.ran) == ["a", "b"]
    assert (ran.summary.done, ran.summary.skipped) == (2, 1)


def test_the_encoder_is_told_once(workshop: Workshop) -> None:
    assert workshop.run().observer.encoders == [FakeExecutor().encoder]


# Failures


def test_a_failure_is_recorded_and_the_others_go_on(workshop: Workshop) -> None:
    ran = workshop.run(FakeExecutor({"a": "fail"}))
    assert ran.observer.statuses == {"a--s": "failed", "b--s": "done", "a--t": "failed", "b--t": "done"}
    assert (ran.summary.done, ran.summary.failed) == (2, 2)
    record = record_of(workshop, "a--s")
    assert record["status"] == "failed"
    assert "told to fail" in record["error"]
    assert record["next_step"] == "Tell it not to."
    assert attempts(workshop) == 0
    # It is tried again the next time, and then takes its own name.
    again = workshop.run()
    assert again.observer.statuses == {"a--s": "done", "b--s": "skipped", "a--t": "done", "b--t": "skipped"}
    assert record_of(workshop, "a--s")["status"] == "done"
    assert record_of(workshop, "a--s")["error"] == ""


@pytest.mark.parametrize(("limit", "failed"), [(0, 4), (1, 1), (3, 3), (9, 4)])
def test_so_many_failures_end_the_batch(limit: int, failed: int, workshop: Workshop) -> None:
    executor = FakeExecutor({"a": "fail", "b": "fail"})
    ran = workshop.run(executor, max_failures=limit)
    assert ran.summary.failed == len(executor.ran) == failed
    assert ran.summary.remaining == 4 - failed
    assert summary_of(workshop)["failed"] == failed


def test_a_forced_job_that_fails_keeps_the_picture_that_was_there(workshop: Workshop) -> None:
    workshop.run()
    before = workshop.pictures()
    ran = workshop.run(FakeExecutor({"a": "fail"}), force=True)
    assert ran.summary.failed == 2
    assert workshop.pictures() == before
    # Done is done: what the record says of the picture that is there still holds.
    assert workshop.run().summary.skipped == 4


def vanish_while(workshop: Workshop, stem: str, *paths: str) -> Callable[[Job, int], None]:
    """Delete files while the picture of `stem` is being made."""

    def delete(job: Job, _step: int) -> None:
        if job.content.stem == stem:
            for path in paths:
                (workshop.folder / path).unlink(missing_ok=True)

    return delete


def test_a_content_that_cannot_be_read_fails_alone(workshop: Workshop) -> None:
    executor = FakeExecutor(after_step=vanish_while(workshop, "a", "photos/b.png"))
    ran = workshop.run(executor)
    assert ran.observer.statuses == {"a--s": "done", "b--s": "failed", "a--t": "done", "b--t": "failed"}
    record = record_of(workshop, "b--s")
    assert record["status"] == "failed"
    assert "b.png: cannot be read" in record["error"]
    assert record["content"]["path"] == str(workshop.folder / "photos/b.png")
    assert summary_of(workshop)["failures"][0]["name"] == "b--s"


def test_failures_of_one_name_are_told_apart(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    """Two jobs never share a name, not even when neither can be read."""
    make_picture("x/c.png", 5)
    make_picture("y/c.png", 6)
    make_manifest({"contents": ["photos/a.png", "x/c.png", "y/c.png"], "styles": ["styles/s.png"]})
    gone = vanish_while(workshop, "a", "x/c.png", "y/c.png")
    ran = workshop.run(FakeExecutor(after_step=gone))
    assert ran.summary.failed == 2
    assert len(ran.observer.statuses) == 3
    failed = {name for name, status in ran.observer.statuses.items() if status == "failed"}
    assert {Path(record_of(workshop, name)["content"]["path"]).parent.name for name in failed} == {"x", "y"}


def test_a_failure_does_not_touch_a_picture_of_the_same_name(workshop: Workshop) -> None:
    workshop.run()
    before = workshop.pictures()
    (workshop.folder / "photos/a.png").write_bytes(b"no picture")
    ran = workshop.run(FakeExecutor({"a": "fail"}))
    assert ran.summary.failed == 2
    assert workshop.pictures() == before
    assert record_of(workshop, "a--s")["status"] == "done"


def test_a_file_name_that_is_no_text_stops_no_night(workshop: Workshop) -> None:
    """Old archives hold names in Latin-1; Linux takes them as they are."""
    name = os.fsencode(workshop.folder / "photos") + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(name)).write_bytes(b"coffee")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    ran = workshop.run()
    assert ran.summary.done == 6
    assert workshop.run().summary.skipped == 6
    failing = workshop.run(FakeExecutor({"caf\udce9": "fail"}), flags={"seed": 1})
    assert (failing.summary.done, failing.summary.failed) == (4, 2)


def test_attempts_end_with_progress(workshop: Workshop) -> None:
    """A job that comes further at each attempt is not the one that ends its process."""
    executor = FakeExecutor({"a": "lost"})
    keys: list[str] = []

    def begin(ledger: Ledger, key: str, steps: int = 0) -> None:
        keys.append(key)
        real_begin(ledger, key, steps)
        executor.checkpoints[key] = min(len(keys), 5)  # five attempts come further, the others do not

    real_begin = Ledger.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "begin", begin)
        workshop.manifest.write_text("pairs: [{content: photos/a.png, style: styles/s.png}]")
        ran = workshop.run(executor)
    assert ran.summary.failed == 1
    assert len(keys) == 5 + 3


# Faults of the machine


def test_a_fault_of_the_machine_ends_the_run_and_burns_no_attempt(workshop: Workshop) -> None:
    for _ in range(4):
        with pytest.raises(DeviceError):
            workshop.run(FakeExecutor({"b": "machine"}))
        assert attempts(workshop) == 0
    assert list(workshop.pictures()) == ["a--s.png"]
    summary = summary_of(workshop)
    assert (summary["done"] + summary["skipped"], summary["failed"]) == (1, 0)
    executor = FakeExecutor()
    workshop.run(executor)
    assert executor.ran == ["b", "a", "b"]


def test_missing_weights_end_the_run_before_its_first_job(workshop: Workshop) -> None:
    class NoWeights(FakeExecutor):
        def encoder_info(self, name: str) -> EncoderInfo:
            raise WeightsError("There are no weights.")

    with pytest.raises(WeightsError):
        workshop.run(NoWeights())
    assert workshop.pictures() == {}
    assert attempts(workshop) == 0


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(workshop: Workshop) -> None:
    full = failing("rename", matches=lambda path: path.name == "b--s.png")
    with pytest.raises(DiskError, match="No space left"):
        workshop.run(disk=HookedDisk(full))
    assert attempts(workshop) == 0
    ran = workshop.run()
    # What was staged is published without being made again.
    assert ran.observer.statuses == {"a--s": "skipped", "b--s": "skipped", "a--t": "done", "b--t": "done"}
    assert len(workshop.pictures()) == 4


# Stops


def test_a_stop_between_jobs_begins_no_other(workshop: Workshop) -> None:
    executor = FakeExecutor()
    ran = workshop.run(executor, should_stop=lambda: len(executor.ran) == 2 and bool(workshop.pictures()))
    assert executor.ran == ["a", "b"]
    assert ran.summary.stopped
    assert ran.summary.remaining >= 2
    assert summary_of(workshop)["stopped"] is True


def test_a_stop_before_the_first_job_does_nothing(workshop: Workshop) -> None:
    executor = FakeExecutor()
    ran = workshop.run(executor, should_stop=lambda: True)
    assert executor.ran == []
    assert (ran.summary.stopped, ran.summary.remaining) == (True, 4)


def test_a_stop_inside_a_job_publishes_nothing_of_it(workshop: Workshop) -> None:
    ran = workshop.run(FakeExecutor({"b": "stop"}))
    assert ran.observer.statuses == {"a--s": "done", "b--s": "stopped"}
    assert ran.summary.stopped
    assert (ran.summary.done, ran.summary.failed, ran.summary.remaining) == (1, 0, 3)
    assert list(workshop.pictures()) == ["a--s.png"]
    assert not (workshop.batch_folder / "logs/b--s.json").exists()
    assert attempts(workshop) == 0
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == ["b", "a", "b"]
    assert sorted(workshop.pictures()) == sorted(f"{name}.png" for name in ALL)


# Kills


def test_a_killed_batch_goes_on_and_repeats_nothing(workshop: Workshop) -> None:
    run_in_a_process(workshop, {"b": "kill"})
    assert list(workshop.pictures()) == ["a--s.png"]
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == ["b", "a", "b"]
    assert ran.observer.statuses["a--s"] == "skipped"
    assert sorted(workshop.pictures()) == sorted(f"{name}.png" for name in ALL)
    assert attempts(workshop) == 0


def test_a_job_that_kills_the_process_three_times_is_quarantine(workshop: Workshop) -> None:
    """It stands second in the first style, and first among what is left later."""
    make_one_style(workshop)
    for _ in range(3):
        run_in_a_process(workshop, {"a": "kill"})
    assert workshop.pictures() == {}
    ran = workshop.run(FakeExecutor({"a": "kill"}))  # would kill this very process
    assert ran.observer.statuses == {"a--s": "failed", "b--s": "done"}
    record = record_of(workshop, "a--s")
    assert record["status"] == "failed"
    assert "3 times" in record["error"]
    assert "--force" in record["next_step"]
    # It stays aside, and is said to be.
    plans = {planned.name: planned for planned in workshop.plan()}
    assert not plans["a--s"].run
    assert "3 times" in plans["a--s"].reason
    assert workshop.run(FakeExecutor({"a": "kill"})).summary.failed == 1
    # Force gives it another chance; when it survives, all is forgotten.
    assert workshop.run(force=True).summary.done == 2
    assert attempts(workshop) == 0


def make_one_style(workshop: Workshop) -> None:
    (workshop.folder / "styles/t.png").unlink()


def kill_three_times(workshop: Workshop) -> None:
    """The same, in the ledger only."""
    keys = [finished.key for finished in workshop.run(FakeExecutor({"a": "fail"})).observer.finished]
    ledger = Ledger(workshop.state)
    for _ in range(3):
        ledger.begin(keys[0])
    ledger.close()


def test_fewer_kills_than_the_limit_are_not_enough(workshop: Workshop) -> None:
    make_one_style(workshop)
    kill_three_times(workshop)
    assert workshop.run(max_attempts=4).summary.done == 1


def test_a_changed_recipe_gives_a_job_that_was_quarantined_another_chance(workshop: Workshop) -> None:
    make_one_style(workshop)
    kill_three_times(workshop)
    assert workshop.run().summary.failed == 1
    assert workshop.run(flags={"steps": 3}).summary.done == 2


# Grouping

STYLES = [Style(name, ((Path(f"/{name}"), 1.0),)) for name in "stuv"]
RECIPES = [Recipe(size=size) for size in (32, 64)]
JOBS = st.lists(
    st.builds(
        Job,
        st.just("night"),
        st.sampled_from([Path("/a"), Path("/b")]),
        st.sampled_from(STYLES),
        st.sampled_from(RECIPES),
        st.just("name"),
    ),
    max_size=40,
)


def group(job: Job) -> tuple[str, int]:
    return job.style.name, job.recipe.size


def runs(jobs: Sequence[Job]) -> int:
    """How often the style or the size changes, and once for the first."""
    return sum(index == 0 or group(job) != group(jobs[index - 1]) for index, job in enumerate(jobs))


@given(JOBS, st.integers(1, 50))
def test_grouping_loses_nothing_and_puts_one_style_in_a_row(jobs: list[Job], window: int) -> None:
    grouped = list(group_jobs(iter(jobs), window))
    assert Counter(map(id, grouped)) == Counter(map(id, jobs))
    assert runs(grouped) <= runs(jobs)
    for start in range(0, len(jobs), window):
        chunk = jobs[start : start + window]
        part = grouped[start : start + window]
        assert runs(part) == len({group(job) for job in chunk})
        for key in {group(job) for job in chunk}:
            assert [id(job) for job in part if group(job) == key] == [
                id(job) for job in chunk if group(job) == key
            ]


def test_grouping_looks_ahead_no_further_than_its_window() -> None:
    taken: list[int] = []

    def jobs() -> Any:
        for number in range(100):
            taken.append(number)
            yield Job("night", Path("/a"), STYLES[number % 2], RECIPES[0], "name")

    grouped = group_jobs(jobs(), window=10)
    next(grouped)
    assert len(taken) <= 11


def test_a_run_makes_all_pictures_of_a_style_before_the_next(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    pairs = [{"content": f"photos/{c}.png", "style": f"styles/{s}.png"} for c in "ab" for s in "st"]
    make_manifest({"pairs": pairs})
    ran = workshop.run()
    assert ran.observer.started == ["a--s", "b--s", "a--t", "b--t"]


# Together and side by side


def test_jobs_of_one_recipe_run_together(workshop: Workshop, make_picture: MakePicture) -> None:
    make_picture("photos/c.png", 7)
    executor = FakeExecutor(width=4)
    ran = workshop.run(executor)
    assert executor.groups == [["a", "b", "c", "a"], ["b", "c"]]
    assert ran.summary.done == 6
    again = FakeExecutor(width=4)
    assert workshop.run(again).summary.skipped == 6
    assert again.groups == []


def test_another_recipe_runs_apart(workshop: Workshop, make_manifest: MakeManifest) -> None:
    make_manifest({"contents": ["photos/*.png"], "styles": ["styles/s.png"], "sweep": {"tv_weight": [1, 2]}})
    executor = FakeExecutor(width=8)
    workshop.run(executor)
    assert executor.groups == [["a", "b"], ["a", "b"]]


def test_one_that_fails_does_not_fail_its_company(workshop: Workshop) -> None:
    ran = workshop.run(FakeExecutor({"a": "fail"}, width=4))
    assert ran.observer.statuses == {"a--s": "failed", "a--t": "failed", "b--s": "done", "b--t": "done"}


def test_several_workers_make_what_one_makes(workshop: Workshop) -> None:
    workshop.run()
    alone = workshop.pictures()
    shutil.rmtree(workshop.outbox)
    workers = [FakeExecutor() for _ in range(3)]
    ran = workshop.run(workers=workers)
    assert workshop.pictures() == alone
    assert sum(len(worker.ran) for worker in workers) == 4
    assert ran.summary.done == 4
    assert Counter(name for name, _ in ran.observer.named_steps) == dict.fromkeys(ALL, 4)
    assert attempts(workshop) == 0


def test_workers_work_at_the_same_time(workshop: Workshop) -> None:
    """Each waits in its first step for the other to come to its own."""
    both = threading.Barrier(2, timeout=30)
    workers = [FakeExecutor(after_step=lambda job, step: both.wait() and None) for _ in range(2)]
    assert workshop.run(workers=workers).summary.done == 4


@pytest.mark.parametrize("attempts_allowed", [1, 3])
def test_a_worker_that_dies_costs_only_its_killer(workshop: Workshop, attempts_allowed: int) -> None:
    workers = [FakeExecutor({"a": "lost"}, width=2) for _ in range(2)]
    ran = workshop.run(FakeExecutor(width=2), workers=workers, max_attempts=attempts_allowed)
    assert ran.observer.statuses == {"a--s": "failed", "a--t": "failed", "b--s": "done", "b--t": "done"}
    # Each of two groups of two is lost once; then, by itself, each job of `a` as often as it may.
    assert len(ran.observer.lost) == 2 * 2 + 2 * attempts_allowed
    assert attempts(workshop) == 2 * attempts_allowed


def test_what_had_no_memory_beside_others_runs_again_when_they_are_done(
    workshop: Workshop, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_manifest({"contents": ["photos/*.png"], "styles": ["styles/s.png"]})
    taken_back = threading.Event()
    take_back = Ledger.take_back
    monkeypatch.setattr(Ledger, "take_back", lambda *key: take_back(*key) or taken_back.set())

    def wait_for_a(job: Job, step: int) -> None:
        if job.content.stem == "b":
            assert taken_back.wait(30)

    crowded = FakeExecutor({"a": "crowded"}, after_step=wait_for_a)
    ran = workshop.run(workers=[crowded, FakeExecutor(after_step=wait_for_a)])
    assert ran.observer.statuses == {"a--s": "done", "b--s": "done"}
    assert ran.observer.started == ["a--s", "b--s", "a--s"]
    assert attempts(workshop) == 0


def test_what_has_no_memory_alone_fails(workshop: Workshop) -> None:
    ran = workshop.run(FakeExecutor({"a": "crowded"}))
    assert ran.observer.statuses == {"a--s": "failed", "a--t": "done", "b--s": "done", "b--t": "done"}


def test_the_machines_fault_stops_the_others_and_costs_no_attempt(workshop: Workshop) -> None:
    begun = threading.Event()
    waiting = FakeExecutor({"a": "wait", "b": "wait"}, after_step=lambda job, step: begun.set())
    broken = FakeExecutor({"a": "machine", "b": "machine"})
    with pytest.raises(DeviceError):
        workshop.run(workers=[waiting, broken])
    assert attempts(workshop) == 0
    assert workshop.run().summary.done == 4


def test_a_stop_stops_every_worker(workshop: Workshop) -> None:
    stopped: list[str] = []
    workers = [
        FakeExecutor({"a": "wait", "b": "wait"}, after_step=lambda *_: stopped.append("")) for _ in "12"
    ]
    ran = workshop.run(workers=workers, should_stop=lambda: len(stopped) >= 2)
    assert sorted(ran.observer.statuses.values()) == ["stopped", "stopped"]
    assert ran.summary.stopped
    assert ran.summary.remaining == 4
    assert attempts(workshop) == 0


def test_the_speed_of_several_workers_is_the_machines(workshop: Workshop) -> None:
    """A job takes longer beside another, and the batch does not."""
    fields = {"size": 1024, "steps": 8}
    workshop.run(flags=fields)
    with closing(Ledger(workshop.state)) as ledger:
        alone = ledger.speed("fake")
    workshop.run(flags=fields, force=True, workers=[FakeExecutor(), FakeExecutor()])
    with closing(Ledger(workshop.state)) as ledger:
        beside = ledger.speed("fake")
    assert alone is not None
    assert beside == (alone[0], alone[1] / 2)


def test_a_job_listed_twice_is_made_once(workshop: Workshop, make_manifest: MakeManifest) -> None:
    make_manifest({"contents": ["photos/a.png", "photos/*.png"], "styles": ["styles/s.png"]})
    executor = FakeExecutor(width=4)
    ran = workshop.run(executor)
    assert executor.groups == [["a", "b"]]
    assert sorted(finished.status for finished in ran.observer.finished) == ["done", "done", "skipped"]


def test_a_job_by_itself_ignores_how_many_failures_are_too_many(workshop: Workshop) -> None:
    """The daemon's: every style of a picture is tried."""
    batch, executor = workshop.read(), FakeExecutor({"a": "fail"})
    folder, ledger = outbox.BatchFolder(workshop.outbox, batch.name), Ledger(workshop.state)
    runner = Runner(folder, ledger, executor, Recorder(), RunOptions(max_failures=1))
    summary = Summary("night", 4)
    try:
        statuses = [runner.run_job(job, summary).status for job in batch.jobs()]
    finally:
        ledger.close()
    assert Counter(statuses) == {"failed": 2, "done": 2}


def test_a_stop_that_comes_after_the_last_job_stopped_nothing(workshop: Workshop) -> None:
    ran = workshop.run(should_stop=lambda: len(workshop.pictures()) == 4)
    assert (ran.summary.done, ran.summary.remaining, ran.summary.stopped) == (4, 0, False)


def test_one_picture_under_two_names_is_not_made_twice_at_once(
    workshop: Workshop, make_manifest: MakeManifest
) -> None:
    pair = {"content": "photos/a.png", "style": "styles/s.png"}
    make_manifest({"pairs": [pair, {**pair, "recipe": {"name": "other"}}]})
    executor = FakeExecutor(width=4)
    assert workshop.run(executor).summary.done == 2
    assert executor.groups == [["a"], ["a"]]
    assert len(set(workshop.pictures().values())) == 1


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
    run_in_a_process(workshop, {"a": "kill"})
    left = set(workshop.pictures())
    (finished,) = workshop.run().observer.finished
    assert finished.status == "done"
    assert finished.name == finished.job.name
    assert left <= set(workshop.pictures())


# What is written down


def test_a_record_holds_all_that_made_the_picture(workshop: Workshop) -> None:
    ran = workshop.run()
    finished = ran.observer.finished[0]
    record = record_of(workshop, "a--s")
    content, style = workshop.folder / "photos/a.png", workshop.folder / "styles/s.png"
    sha256 = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (content, style)}
    assert record["status"] == "done"
    assert record["key"] == finished.key
    assert record["image"] == "a--s.png"
    assert record["content"] == {"path": str(content), "sha256": sha256[content]}
    assert record["style"]["name"] == "s"
    assert record["style"]["images"] == [{"path": str(style), "sha256": sha256[style], "share": 1.0}]
    assert Recipe.model_validate(record["recipe"]) == finished.job.recipe == merged_recipe(QUICK)
    assert record["encoder"] == {"name": "fake", "digest": "f" * 64}
    assert (record["cache_hits"], record["cache_misses"]) == (2, 1)
    assert (record["width"], record["height"], record["seconds"]) == (6, 4, 0.5)
    assert (record["device"], record["dtype"]) == ("fake0", "float8")
    assert record["versions"] == {"fake": "1"}
    assert record["resumed_from_step"] == 0
    assert "finished" in record
    assert "image_bytes" not in record


def test_a_record_holds_the_picture_it_started_from(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    start = make_picture("start.png", 9)
    manifest = {"contents": ["photos/a.png"], "styles": ["styles/s.png"], "recipe": {"init": "start.png"}}
    make_manifest(manifest)
    workshop.run()
    record = (workshop.batch_folder / "logs/a--s.json").read_text()
    assert hashlib.sha256(start.read_bytes()).hexdigest() in record
    make_picture("start.png", 10)
    assert workshop.run().summary.done == 1


def test_a_record_holds_the_masks(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    mask, folder = make_picture("m.png", 9), workshop.folder
    masks = {"content": "m.png", "styles": {"styles/s.png": 0, "styles/t.png": "#ff8000"}}
    make_manifest({"pairs": [{"content": "photos/a.png", "masks": masks}]})
    workshop.run()
    assert record_of(workshop, "a--s+t")["masks"] == {
        "content": {"path": str(mask), "sha256": hashlib.sha256(mask.read_bytes()).hexdigest()},
        "styles": {str(folder / "styles/s.png"): 0, str(folder / "styles/t.png"): "#ff8000"},
    }
    assert workshop.run().summary.skipped == 1
    make_picture("m.png", 10)
    assert workshop.run().summary.done == 1


def test_the_summary_counts(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 13.5, 20.0, 20.0))
    monkeypatch.setattr("pipeline.batch.runner.time.monotonic", lambda: next(clock))
    workshop.run(FakeExecutor({"a": "fail"}))
    summary = summary_of(workshop)
    assert (summary["batch"], summary["jobs"], summary["done"], summary["failed"]) == ("night", 4, 2, 2)
    assert (summary["skipped"], summary["stopped"]) == (0, False)
    assert summary["seconds"] == 3.5
    assert (summary["cache_hits"], summary["cache_misses"]) == (4, 2)
    assert summary["encoders"] == {"fake": "f" * 64}
    assert [failure["name"] for failure in summary["failures"]] == ["a--s", "a--t"]
    assert all("told to fail" in failure["error"] and failure["next_step"] for failure in summary["failures"])
    assert summary["started"] <= summary["finished"]
    workshop.run()
    again = summary_of(workshop)
    assert (again["done"], again["skipped"], again["failures"]) == (2, 2, [])


COUNTS = ("done", "failed", "skipped", "missing", "postponed", "interrupted", "not_begun")


def check_counts(summary: dict[str, Any]) -> None:
    """Every job is in one count, and listed under it."""
    counts = {status: summary[status] for status in COUNTS}
    assert sum(counts.values()) == summary["jobs"] == len(summary["pictures"])
    listed = Counter(picture["status"] for picture in summary["pictures"])
    assert {status: count for status, count in counts.items() if count} == listed


def statuses_of(summary: dict[str, Any]) -> dict[str, str]:
    return {picture["name"]: picture["status"] for picture in summary["pictures"]}


def test_the_summary_lists_every_picture(workshop: Workshop) -> None:
    ran = workshop.run(FakeExecutor({"a": "fail"}))
    summary = summary_of(workshop)
    check_counts(summary)
    assert (summary["reason"], summary["fault"]) == ("finished", "")
    keys = {finished.name: finished.key for finished in ran.observer.finished}
    assert summary["pictures"] == [
        {"name": "a--s", "status": "failed", "key": keys["a--s"]},
        {"name": "b--s", "status": "done", "key": keys["b--s"], "path": "b--s.png"},
        {"name": "a--t", "status": "failed", "key": keys["a--t"]},
        {"name": "b--t", "status": "done", "key": keys["b--t"], "path": "b--t.png"},
    ]
    (workshop.batch_folder / "b--t.png").unlink()
    workshop.run()
    summary = summary_of(workshop)
    check_counts(summary)
    assert statuses_of(summary) == {"a--s": "done", "b--s": "skipped", "a--t": "done", "b--t": "missing"}
    assert [picture["name"] for picture in summary["pictures"] if "path" not in picture] == ["b--t"]


def test_the_summary_names_no_path_of_what_was_fetched(tmp_path: Path) -> None:
    """A drop's picture is done, though someone took it away."""
    job = Job("night", Path("/a"), STYLES[0], RECIPES[0], "a--s", drop="d1")
    summary = Summary("night", 1)
    summary.count(Finished(job, "a--s", "skipped", "k", tmp_path / "a--s.png"), tmp_path)
    assert summary.pictures == [{"name": "a--s", "status": "skipped", "key": "k"}]


def test_the_summary_adds_up_after_a_stop(workshop: Workshop) -> None:
    workshop.run(FakeExecutor({"b": "stop"}))
    summary = summary_of(workshop)
    check_counts(summary)
    assert (summary["reason"], summary["stopped"]) == ("stopped", True)
    assert statuses_of(summary) == {
        "a--s": "done", "b--s": "interrupted", "a--t": "not_begun", "b--t": "not_begun",
    }  # fmt: skip


def test_the_summary_says_that_too_many_failed(workshop: Workshop) -> None:
    workshop.run(FakeExecutor({"a": "fail"}), max_failures=1)
    summary = summary_of(workshop)
    check_counts(summary)
    assert summary["reason"] == "max_failures"
    assert summary["not_begun"] == 3
    # With the last job the limit ends nothing.
    workshop.run(FakeExecutor({"b": "fail"}), max_failures=2)
    assert (summary_of(workshop)["reason"], summary_of(workshop)["not_begun"]) == ("finished", 0)


def test_the_summary_says_that_the_time_was_over(workshop: Workshop) -> None:
    now = [0.0]

    def work(job: Job, step: int) -> None:
        now[0] += 1

    workshop.run(FakeExecutor(after_step=work), deadline=Deadline(6, lambda: now[0]))
    summary = summary_of(workshop)
    check_counts(summary)
    assert summary["reason"] == "deadline"
    assert summary["not_begun"] > 0


@pytest.mark.parametrize("width", [1, 2])
def test_the_summary_says_what_fault_ended_the_run(width: int, workshop: Workshop) -> None:
    workers = [FakeExecutor({"b": "machine"}) for _ in range(width)] if width > 1 else []
    with pytest.raises(DeviceError):
        workshop.run(FakeExecutor({"b": "machine"}), workers=workers)
    summary = summary_of(workshop)
    check_counts(summary)
    assert summary["reason"] == "fault"
    assert summary["fault"].startswith("The device is gone.")
    assert statuses_of(summary)["b--s"] == "interrupted"


def test_the_summary_says_what_nobody_foresaw(workshop: Workshop) -> None:
    class Broken(Recorder):
        def job_finished(self, finished: Any) -> None:
            raise ZeroDivisionError("by whom?")

    batch = workshop.read()
    folder = outbox.BatchFolder(workshop.outbox, batch.name)
    with closing(Ledger(workshop.state)) as ledger, pytest.raises(ZeroDivisionError):
        Runner(folder, ledger, FakeExecutor(), Broken()).run(batch.jobs, len(batch))
    summary = summary_of(workshop)
    check_counts(summary)
    assert (summary["reason"], summary["fault"]) == ("fault", "by whom?")
    assert summary["stopped"] is False


def test_what_ended_a_run_is_told_though_the_summary_cannot_be_written(workshop: Workshop) -> None:
    full = failing("write", matches=lambda path: path.parent == workshop.batch_folder)
    with pytest.raises(DeviceError):
        workshop.run(FakeExecutor({"a": "machine"}), disk=HookedDisk(full))
    in_its_place = workshop.batch_folder / "summary.json"
    in_its_place.mkdir()
    with pytest.raises(DeviceError):
        workshop.run(FakeExecutor({"a": "machine"}))
    in_its_place.rmdir()
    with pytest.raises(DiskError, match=r"summary\.json"):
        workshop.run(disk=HookedDisk(full))


def test_the_summary_counts_a_pair_that_is_repeated(workshop: Workshop, make_manifest: MakeManifest) -> None:
    pair = {"content": "photos/a.png", "style": "styles/s.png"}
    make_manifest({"pairs": [pair, pair, {"content": "photos/b.png", "style": "styles/s.png"}]})
    executor = FakeExecutor()
    workshop.run(executor, should_stop=lambda: len(executor.ran) == 1 and bool(workshop.pictures()))
    summary = summary_of(workshop)
    check_counts(summary)
    assert summary["jobs"] == 3
    listed = [(picture["name"], picture["status"]) for picture in summary["pictures"]]
    assert listed == [("a--s", "done"), ("a--s", "not_begun"), ("b--s", "not_begun")]


def test_runs_before_the_last_are_kept(workshop: Workshop, make_picture: MakePicture) -> None:
    workshop.run(FakeExecutor({"b": "stop"}))
    stopped = summary_of(workshop)
    workshop.run()
    made = summary_of(workshop)
    workshop.run()  # does nothing, so there is nothing to keep of it
    assert summary_of(workshop)["skipped"] == 4
    lines = (workshop.batch_folder / "logs/runs.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first == stopped
    assert second == {**made, "pictures": [p for p in made["pictures"] if p["status"] == "done"]}


def test_a_checkpoint_is_kept_until_the_picture_is_published(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = FakeExecutor()

    def full(*_: Any) -> None:
        raise DiskError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(outbox.BatchFolder, "stage", full)
        with pytest.raises(DiskError):
            workshop.run(executor)
    assert (executor.ran, executor.forgotten) == (["a"], [])
    workshop.run(executor)
    assert len(set(executor.forgotten)) == 4


def test_the_picture_is_there_before_it_is_told(workshop: Workshop) -> None:
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
    workshop.run(FakeExecutor(after_step=lambda job, step: seen.append(attempts(workshop))))
    assert set(seen) == {1}


# Plans


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
    """A file of someone else had the wanted name, so the picture got a short id."""
    workshop.batch_folder.mkdir(parents=True)
    (workshop.batch_folder / "a--s.png").write_bytes(b"mine")
    plans = [(planned.name, planned.run) for planned in workshop.plan()]
    done = [finished.name for finished in workshop.run().observer.finished]
    assert plans == [(name, True) for name in done]
    assert "a--s" not in done
    assert {planned.run for planned in workshop.plan()} == {False}


def test_a_plan_names_jobs_of_one_name_apart(
    workshop: Workshop, make_picture: MakePicture, make_manifest: MakeManifest
) -> None:
    make_picture("more/a.png", 5)
    make_manifest({"contents": ["photos/a.png", "more/a.png"], "styles": ["styles/s.png"]})
    planned = [planned.name for planned in workshop.plan()]
    assert planned == [finished.name for finished in workshop.run().observer.finished]
    assert len(set(planned)) == 2


def test_a_plan_knows_what_is_quarantine(workshop: Workshop) -> None:
    """Also before any run has said so in a record; and that force gives it another chance."""
    make_one_style(workshop)
    for _ in range(3):
        run_in_a_process(workshop, {"a": "kill"})
    plans = {planned.name: planned for planned in workshop.plan()}
    assert (plans["a--s"].run, plans["b--s"].run) == (False, True)
    assert "3 times" in plans["a--s"].reason
    forced = {planned.name: planned for planned in workshop.plan(force=True)}
    assert (forced["a--s"].run, forced["b--s"].run) == (True, True)


def test_a_forced_plan_runs_what_was_quarantine(workshop: Workshop) -> None:
    make_one_style(workshop)
    kill_three_times(workshop)
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


def test_a_plan_says_why(workshop: Workshop, make_picture: MakePicture) -> None:
    make_one_style(workshop)

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
    planned = {each.name: each for each in workshop.plan(FakeExecutor(checkpoints={keys["b--s"]: 3}))}
    assert [(name, planned[name].reason, planned[name].steps_taken) for name in ("b--s", "a--t", "b--t")] == [
        ("b--s", "resumes from step 3 of 4", 3), ("a--t", "new", 0), ("b--t", "new", 0),
    ]  # fmt: skip


def test_a_batch_is_finished_when_a_run_would_make_nothing(
    workshop: Workshop, make_picture: MakePicture
) -> None:
    finished = workshop.is_finished
    assert not finished()
    workshop.run(FakeExecutor({"b": "fail"}))
    assert not finished()
    workshop.run()
    assert finished()
    assert not finished(force=True)
    (workshop.batch_folder / "a--s.png").unlink()
    assert (finished(), finished(missing=True)) == (True, False)
    make_picture("photos/c.png", 5)
    assert not finished()


# Estimates and single jobs


def test_steps_that_are_taken_are_no_work() -> None:
    recipe = Recipe(size=512, pyramid=256, steps=(3, 2, 1), square=True, margin=0)
    assert megapixel_steps(recipe, steps_taken=4) == pytest.approx((362**2 + 512**2) / 1e6)
    assert megapixel_steps(recipe, steps_taken=6) == 0


def test_the_work_of_a_recipe_is_its_pixels_times_its_steps() -> None:
    plain = {"pyramid": 0, "margin": 0, "steps": 7}
    assert megapixel_steps(Recipe(size=1000, square=True, **plain)) == pytest.approx(7)
    assert megapixel_steps(Recipe(size=1000, **plain), aspect=2) == pytest.approx(3.5)
    assert megapixel_steps(Recipe(size=1000, **plain), aspect=0.5) == pytest.approx(3.5)
    with_margin = Recipe(size=1000, **{**plain, "margin": 100})
    assert megapixel_steps(with_margin, aspect=2) == pytest.approx(1.2 * 0.7 * 7)
    recipe = Recipe(size=512, pyramid=256, steps=(3, 2, 1), square=True, margin=0)
    expected = (256**2 * 3 + 362**2 * 2 + 512**2) / 1e6
    assert megapixel_steps(recipe) == pytest.approx(expected)


def test_an_estimate_learns_from_the_last_picture(workshop: Workshop) -> None:
    recipe = Recipe(size=1000, square=True, pyramid=0, steps=10, margin=0)
    ledger = Ledger(workshop.state)
    guess = Estimate(ledger)
    guess.add(recipe, "vgg19")
    assert guess.seconds == pytest.approx(10 * Estimate.TYPICAL["vgg19"])
    assert "guess" in guess.basis
    ledger.note_speed("vgg19", "cuda:0", 0.01)
    seen = Estimate(ledger)
    for _ in range(3):
        seen.add(recipe, "vgg19")
    assert (seen.jobs, seen.seconds) == (3, pytest.approx(0.3))
    assert "cuda:0" in seen.basis
    ledger.close()


def test_a_job_too_small_says_nothing_of_speed(workshop: Workshop) -> None:
    workshop.run()
    ledger = Ledger(workshop.state)
    assert ledger.speed("fake") is None
    ledger.close()


def test_a_run_notes_its_speed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.batch.runner.ENOUGH_WORK", 0.0)
    workshop.run()
    ledger = Ledger(workshop.state)
    speed = ledger.speed("fake")
    ledger.close()
    assert speed is not None
    assert speed[0] == "fake0"
    assert speed[1] == pytest.approx(0.4 / megapixel_steps(merged_recipe(QUICK)))


def single(workshop: Workshop, out: Path | None, **fields: Any) -> tuple[Job, Path]:
    folder = workshop.folder
    look = single_style([str(folder / "styles/s.png")], None)
    return single_job(folder / "photos/a.png", look, out, {**QUICK, **fields}, {})


def test_a_single_job_writes_where_it_is_told(workshop: Workshop) -> None:
    job, path = single(workshop, Path("out/me.jpg"), snapshot_every=2)
    assert job.recipe.format == "jpeg"
    finished = run_single(job, path, FakeExecutor(), Recorder(), lambda: False)
    assert finished.status == "done"
    assert path.read_bytes() == picture_bytes(finished.key, "jpeg")
    assert sorted(file.name for file in Path("out").iterdir()) == [
        "me-step00002.jpg",
        "me-step00004.jpg",
        "me.jpg",
    ]


@pytest.mark.parametrize(("fields", "name"), [({}, "a--s.png"), ({"format": "jpeg"}, "a--s.jpg")])
def test_a_single_job_without_a_place_gets_one_here(fields: Any, name: str, workshop: Workshop) -> None:
    assert single(workshop, None, **fields)[1] == Path(name)


def test_a_single_result_whose_format_cannot_do_what_is_asked(workshop: Workshop) -> None:
    assert single(workshop, Path("me.TIFF"), bit_depth=16)[0].recipe.format == "tiff"
    with pytest.raises(UsageError, match="jpeg has 8 bits per channel"):
        single(workshop, Path("me.jpg"), bit_depth=16)


@pytest.mark.parametrize("out", ["me.gif", "me", "me.png.txt"])
def test_a_single_result_has_a_format_that_is_written(out: str, workshop: Workshop) -> None:
    with pytest.raises(UsageError, match="PNG, JPEG, WebP or TIFF"):
        single(workshop, Path(out))


@pytest.mark.parametrize(
    ("fault", "error"), [("fail", JobError), ("machine", DeviceError)], ids=["fail", "machine"]
)
def test_a_single_job_that_fails_is_an_error(
    fault: Fault, error: type[Exception], workshop: Workshop
) -> None:
    job, path = single(workshop, Path("me.png"))
    with pytest.raises(error) as caught:
        run_single(job, path, FakeExecutor({"a": fault}), Recorder(), lambda: False)
    assert not path.exists()
    assert getattr(caught.value, "next_step", "")


def test_a_single_job_that_stops_writes_nothing(workshop: Workshop) -> None:
    job, path = single(workshop, Path("me.png"))
    finished = run_single(job, path, FakeExecutor({"a": "stop"}), Recorder(), lambda: False)
    assert finished.status == "stopped"
    assert not path.exists()


def test_a_single_job_of_a_missing_picture_is_an_error(workshop: Workshop) -> None:
    job, path = single(workshop, None)
    job.content.unlink()
    with pytest.raises(ImageError, match=r"a\.png: cannot be read"):
        run_single(job, path, FakeExecutor(), Recorder(), lambda: False)


# Reading inputs


def test_a_stop_is_heeded_while_an_input_is_read(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HASH_BYTES", 16)
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) > 20

    executor = FakeExecutor()
    ran = workshop.run(executor, should_stop=should_stop)
    assert len(asked) < 30
    assert (executor.ran, ran.observer.finished) == ([], [])
    assert (ran.summary.stopped, ran.summary.reason, ran.summary.not_begun) == (True, "stopped", 4)
    assert workshop.run().summary.done == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_came_to_be_an_input_is_not_waited_for(environment: Path) -> None:
    os.mkfifo("a.png")
    with pytest.raises(ImageError, match=r"a\.png: cannot be read \(not a regular file\)"):
        Digests(lambda: False)[Path("a.png")]


# Names that cannot be used, and a ledger that cannot be written


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
        assert attempts(workshop) == 0
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
    assert record_of(workshop, "x")["notes"] == [note]


@pytest.fixture
def broken_ledger(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Return a function that lets so many queries that begin with a text fail."""
    left: dict[str, int] = {}
    real = Ledger._execute

    def execute(ledger: Ledger, query: str, values: tuple[object, ...] = ()) -> Any:
        for text, times in left.items():
            if times and query.startswith(text):
                left[text] -= 1
                raise DiskError("The ledger: no space left.")
        return real(ledger, query, values)

    monkeypatch.setattr(Ledger, "_execute", execute)
    return left.__setitem__


@pytest.mark.parametrize("query", ["DELETE FROM attempts", "INSERT OR REPLACE INTO speeds"])
def test_a_ledger_that_cannot_be_written_throws_no_picture_away(
    query: str, workshop: Workshop, broken_ledger: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.batch.runner.ENOUGH_WORK", 0)
    executor = FakeExecutor()
    for number in range(1, 5):
        broken_ledger(query, 1)
        with pytest.raises(DiskError, match="no space left"):
            workshop.run(executor)
        assert len(workshop.pictures()) == number
    assert workshop.run(executor).summary.skipped == 4
    assert sorted(executor.ran) == ["a", "a", "b", "b"]
    assert attempts(workshop) == 0


def test_a_fault_of_the_ledger_burns_no_attempt(
    workshop: Workshop, broken_ledger: Callable[[str, int], None]
) -> None:
    """In one process, as a daemon that pauses and goes on."""
    batch = workshop.read()
    folder, job = BatchFolder(workshop.outbox, batch.name), next(iter(batch.jobs()))
    with closing(Ledger(workshop.state)) as ledger, folder.locked():
        runner = Runner(folder, ledger, FakeExecutor({"a": "fail"}), Recorder())
        for _ in range(5):
            broken_ledger("DELETE FROM attempts", 1)
            with pytest.raises(DiskError):
                runner.run_job(job, Summary("night", 1))
        assert "told to fail" in runner.run_job(job, Summary("night", 1)).error
    assert attempts(workshop) == 0


def test_an_outbox_that_cannot_be_written_burns_no_attempt(workshop: Workshop) -> None:
    full = HookedDisk(failing("write", errno.ENOSPC, lambda path: "unfinished" in str(path)))
    for _ in range(4):
        with pytest.raises(DiskError, match="No space left"):
            workshop.run(disk=full)
        assert attempts(workshop) == 0
    assert workshop.run().summary.done == 4
