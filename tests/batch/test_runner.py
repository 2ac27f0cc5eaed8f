"""A whole run: what is made, what fails, what stops or kills it, and what the next run finds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from disks import HookedDisk, failing
from fakes import FakeExecutor, MakeManifest, MakePicture, Recorder, Workshop, picture_bytes

from pipeline.batch.runner import Runner
from pipeline.batch.summary import Summary
from pipeline.errors import DeviceError, DiskError, WeightsError
from pipeline.spec.jobs import EncoderInfo, Job
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder

ALL = ["a--s", "b--s", "a--t", "b--t"]


# A whole run


def test_a_run_makes_every_picture(workshop: Workshop) -> None:
    ran = workshop.run()
    assert ran.observer.statuses == dict.fromkeys(ALL, "done")
    assert list(workshop.pictures()) == ["a--s.png", "a--t.png", "b--s.png", "b--t.png"]
    assert len(set(workshop.pictures().values())) == 4
    assert (ran.summary.done, ran.summary.failed, ran.summary.skipped) == (4, 0, 0)
    assert ran.summary.remaining == 0
    assert workshop.attempts() == 0
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


def test_the_encoder_is_announced_once(workshop: Workshop) -> None:
    assert workshop.run().observer.encoders == [FakeExecutor().encoder]


# Failures


def test_a_failure_is_recorded_and_the_others_run(workshop: Workshop) -> None:
    ran = workshop.run(FakeExecutor({"a": "fail"}))
    assert ran.observer.statuses == {"a--s": "failed", "b--s": "done", "a--t": "failed", "b--t": "done"}
    assert (ran.summary.done, ran.summary.failed) == (2, 2)
    record = workshop.record("a--s")
    assert record["status"] == "failed"
    assert "told to fail" in record["error"]
    assert record["next_step"] == "Tell it not to."
    assert workshop.attempts() == 0
    # It is tried again the next time, and then takes its own name.
    again = workshop.run()
    assert again.observer.statuses == {"a--s": "done", "b--s": "skipped", "a--t": "done", "b--t": "skipped"}
    assert workshop.record("a--s")["status"] == "done"
    assert workshop.record("a--s")["error"] == ""


@pytest.mark.parametrize(("limit", "failed"), [(0, 4), (1, 1), (3, 3), (9, 4)])
def test_so_many_failures_end_the_batch(limit: int, failed: int, workshop: Workshop) -> None:
    executor = FakeExecutor({"a": "fail", "b": "fail"})
    ran = workshop.run(executor, max_failures=limit)
    assert ran.summary.failed == len(executor.ran) == failed
    assert ran.summary.remaining == 4 - failed
    assert workshop.summary()["failed"] == failed


def test_a_forced_job_that_fails_keeps_the_picture_that_was_there(workshop: Workshop) -> None:
    workshop.run()
    before = workshop.pictures()
    ran = workshop.run(FakeExecutor({"a": "fail"}), force=True)
    assert ran.summary.failed == 2
    assert workshop.pictures() == before
    # The record of the picture that is there still holds.
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
    record = workshop.record("b--s")
    assert record["status"] == "failed"
    assert "b.png: cannot be read" in record["error"]
    assert record["content"]["path"] == str(workshop.folder / "photos/b.png")
    assert workshop.summary()["failures"][0]["name"] == "b--s"


def test_failures_of_one_name_get_records_of_their_own(
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
    assert {Path(workshop.record(name)["content"]["path"]).parent.name for name in failed} == {"x", "y"}


def test_a_failure_does_not_touch_a_picture_of_the_same_name(workshop: Workshop) -> None:
    workshop.run()
    before = workshop.pictures()
    (workshop.folder / "photos/a.png").write_bytes(b"no picture")
    ran = workshop.run(FakeExecutor({"a": "fail"}))
    assert ran.summary.failed == 2
    assert workshop.pictures() == before
    assert workshop.record("a--s")["status"] == "done"


def test_a_file_name_that_is_not_utf_8_stops_nothing(workshop: Workshop) -> None:
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


@pytest.mark.parametrize("part", [1, 1 / 40], ids=["steps", "tiles"])
def test_attempts_end_with_progress(part: float, workshop: Workshop) -> None:
    """A job that comes further at each attempt, be it within a step, will come to an end."""
    executor = FakeExecutor({"a": "lost"})
    keys: list[str] = []

    def begin(ledger: Ledger, key: str, steps: float = 0) -> None:
        keys.append(key)
        real_begin(ledger, key, steps)
        executor.checkpoints[key] = part * min(len(keys), 5)  # five attempts come further, the others do not

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
        assert workshop.attempts() == 0
    assert list(workshop.pictures()) == ["a--s.png"]
    summary = workshop.summary()
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
    assert workshop.attempts() == 0


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(workshop: Workshop) -> None:
    full = failing("rename", matches=lambda path: path.name == "b--s.png")
    with pytest.raises(DiskError, match="No space left"):
        workshop.run(disk=HookedDisk(full))
    assert workshop.attempts() == 0
    ran = workshop.run()
    # What was staged is published without being made again.
    assert ran.observer.statuses == {"a--s": "skipped", "b--s": "skipped", "a--t": "done", "b--t": "done"}
    assert len(workshop.pictures()) == 4


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
    assert workshop.attempts() == 0


def test_a_fault_of_the_ledger_burns_no_attempt(
    workshop: Workshop, broken_ledger: Callable[[str, int], None]
) -> None:
    """In one process, like a daemon that pauses and resumes."""
    batch = workshop.read()
    folder, job = BatchFolder(workshop.outbox, batch.name), next(iter(batch.jobs()))
    with closing(Ledger(workshop.state)) as ledger, folder.locked():
        runner = Runner(folder, ledger, FakeExecutor({"a": "fail"}), Recorder())
        for _ in range(5):
            broken_ledger("DELETE FROM attempts", 1)
            with pytest.raises(DiskError):
                runner.run_job(job, Summary("night", 1))
        assert "told to fail" in runner.run_job(job, Summary("night", 1)).error
    assert workshop.attempts() == 0


def test_an_outbox_that_cannot_be_written_burns_no_attempt(workshop: Workshop) -> None:
    full = HookedDisk(failing("write", errno.ENOSPC, lambda path: "unfinished" in str(path)))
    for _ in range(4):
        with pytest.raises(DiskError, match="No space left"):
            workshop.run(disk=full)
        assert workshop.attempts() == 0
    assert workshop.run().summary.done == 4


# Stops


def test_a_stop_between_jobs_begins_no_other(workshop: Workshop) -> None:
    executor = FakeExecutor()
    ran = workshop.run(executor, should_stop=lambda: len(executor.ran) == 2 and bool(workshop.pictures()))
    assert executor.ran == ["a", "b"]
    assert ran.summary.stopped
    assert ran.summary.remaining >= 2
    assert workshop.summary()["stopped"] is True


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
    assert workshop.attempts() == 0
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == ["b", "a", "b"]
    assert sorted(workshop.pictures()) == sorted(f"{name}.png" for name in ALL)


# Kills


def test_a_killed_batch_resumes_and_repeats_nothing(workshop: Workshop) -> None:
    workshop.run_in_a_process({"b": "kill"})
    assert list(workshop.pictures()) == ["a--s.png"]
    executor = FakeExecutor()
    ran = workshop.run(executor)
    assert executor.ran == ["b", "a", "b"]
    assert ran.observer.statuses["a--s"] == "skipped"
    assert sorted(workshop.pictures()) == sorted(f"{name}.png" for name in ALL)
    assert workshop.attempts() == 0


def test_a_job_that_kills_the_process_three_times_is_quarantined(workshop: Workshop) -> None:
    """It comes second in the first style, and first among those that are left."""
    workshop.keep_one_style()
    for _ in range(3):
        workshop.run_in_a_process({"a": "kill"})
    assert workshop.pictures() == {}
    ran = workshop.run(FakeExecutor({"a": "kill"}))  # would kill this very process
    assert ran.observer.statuses == {"a--s": "failed", "b--s": "done"}
    record = workshop.record("a--s")
    assert record["status"] == "failed"
    assert "3 times" in record["error"]
    assert "--force" in record["next_step"]
    # It stays quarantined, and the plan says so.
    plans = {planned.name: planned for planned in workshop.plan()}
    assert not plans["a--s"].run
    assert "3 times" in plans["a--s"].reason
    assert workshop.run(FakeExecutor({"a": "kill"})).summary.failed == 1
    # Force gives it another chance; when it survives, all is forgotten.
    assert workshop.run(force=True).summary.done == 2
    assert workshop.attempts() == 0


def test_fewer_kills_than_the_limit_are_not_enough(workshop: Workshop) -> None:
    workshop.keep_one_style()
    workshop.kill_three_times()
    assert workshop.run(max_attempts=4).summary.done == 1


def test_a_changed_recipe_gives_a_job_that_was_quarantined_another_chance(workshop: Workshop) -> None:
    workshop.keep_one_style()
    workshop.kill_three_times()
    assert workshop.run().summary.failed == 1
    assert workshop.run(flags={"steps": 3}).summary.done == 2
