"""What a summary counts and lists."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from disks import HookedDisk, failing
from fakes import FakeExecutor, MakeManifest, MakePicture, Recorder, Workshop

from pipeline.batch.deadline import Deadline
from pipeline.batch.runner import Runner
from pipeline.batch.summary import Finished, Summary
from pipeline.errors import DeviceError, DiskError
from pipeline.spec.jobs import Job, Style
from pipeline.spec.recipe import Recipe
from pipeline.storage import outbox
from pipeline.storage.ledger import Ledger


def test_the_summary_counts(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 13.5, 20.0, 20.0))
    monkeypatch.setattr("pipeline.batch.runner.time", SimpleNamespace(monotonic=lambda: next(clock)))
    workshop.run(FakeExecutor({"a": "fail"}))
    summary = workshop.summary()
    assert (summary["batch"], summary["jobs"], summary["done"], summary["failed"]) == ("night", 4, 2, 2)
    assert (summary["skipped"], summary["stopped"]) == (0, False)
    assert summary["seconds"] == 3.5
    assert (summary["cache_hits"], summary["cache_misses"]) == (4, 2)
    assert summary["encoders"] == {"fake": "f" * 64}
    assert [failure["name"] for failure in summary["failures"]] == ["a--s", "a--t"]
    assert all("told to fail" in failure["error"] and failure["next_step"] for failure in summary["failures"])
    assert summary["started"] <= summary["finished"]
    workshop.run()
    again = workshop.summary()
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
    summary = workshop.summary()
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
    summary = workshop.summary()
    check_counts(summary)
    assert statuses_of(summary) == {"a--s": "done", "b--s": "skipped", "a--t": "done", "b--t": "missing"}
    assert [picture["name"] for picture in summary["pictures"] if "path" not in picture] == ["b--t"]


def test_the_summary_names_no_path_of_what_was_fetched(tmp_path: Path) -> None:
    """A drop's picture is done, though someone took it away."""
    style = Style("s", ((Path("/s"), 1.0),))
    job = Job("night", Path("/a"), style, Recipe(), "a--s", drop="d1")
    summary = Summary("night", 1)
    summary.count(Finished(job, "a--s", "skipped", "k", tmp_path / "a--s.png"), tmp_path)
    assert summary.pictures == [{"name": "a--s", "status": "skipped", "key": "k"}]


def test_the_summary_adds_up_after_a_stop(workshop: Workshop) -> None:
    workshop.run(FakeExecutor({"b": "stop"}))
    summary = workshop.summary()
    check_counts(summary)
    assert (summary["reason"], summary["stopped"]) == ("stopped", True)
    assert statuses_of(summary) == {
        "a--s": "done", "b--s": "interrupted", "a--t": "not_begun", "b--t": "not_begun",
    }  # fmt: skip


def test_an_interrupt_after_the_last_job_stopped_nothing(workshop: Workshop) -> None:
    """Such as one that comes while the last line is shown."""
    shown: list[str] = []

    class Interrupted(Recorder):
        def job_finished(self, finished: Finished) -> None:
            shown.append(finished.name)
            if len(shown) == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workshop.run(observer=Interrupted())
    summary = workshop.summary()
    check_counts(summary)
    assert (summary["done"], summary["stopped"], summary["reason"]) == (4, False, "finished")


def test_the_summary_says_that_too_many_failed(workshop: Workshop) -> None:
    workshop.run(FakeExecutor({"a": "fail"}), max_failures=1)
    summary = workshop.summary()
    check_counts(summary)
    assert summary["reason"] == "max_failures"
    assert summary["not_begun"] == 3
    # With the last job the limit ends nothing.
    workshop.run(FakeExecutor({"b": "fail"}), max_failures=2)
    assert (workshop.summary()["reason"], workshop.summary()["not_begun"]) == ("finished", 0)


def test_the_summary_says_that_the_time_was_over(workshop: Workshop) -> None:
    now = [0.0]

    def work(job: Job, step: int) -> None:
        now[0] += 1

    workshop.run(FakeExecutor(after_step=work), deadline=Deadline(6, lambda: now[0]))
    summary = workshop.summary()
    check_counts(summary)
    assert summary["reason"] == "deadline"
    assert summary["not_begun"] > 0


@pytest.mark.parametrize("width", [1, 2])
def test_the_summary_says_what_fault_ended_the_run(width: int, workshop: Workshop) -> None:
    workers = [FakeExecutor({"b": "machine"}) for _ in range(width)] if width > 1 else []
    with pytest.raises(DeviceError):
        workshop.run(FakeExecutor({"b": "machine"}), workers=workers)
    summary = workshop.summary()
    check_counts(summary)
    assert summary["reason"] == "fault"
    assert summary["fault"].startswith("The device is gone.")
    assert statuses_of(summary)["b--s"] == "interrupted"


def test_the_summary_names_an_unexpected_error(workshop: Workshop) -> None:
    class Broken(Recorder):
        def job_finished(self, finished: Any) -> None:
            raise ZeroDivisionError("by whom?")

    batch = workshop.read()
    folder = outbox.BatchFolder(workshop.outbox, batch.name)
    with closing(Ledger(workshop.state)) as ledger, pytest.raises(ZeroDivisionError):
        Runner(folder, ledger, FakeExecutor(), Broken()).run(batch.jobs, len(batch))
    summary = workshop.summary()
    check_counts(summary)
    assert (summary["reason"], summary["fault"]) == ("fault", "by whom?")
    assert summary["stopped"] is False


def test_the_error_that_ended_a_run_is_raised_though_the_summary_cannot_be_written(
    workshop: Workshop,
) -> None:
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
    summary = workshop.summary()
    check_counts(summary)
    assert summary["jobs"] == 3
    listed = [(picture["name"], picture["status"]) for picture in summary["pictures"]]
    assert listed == [("a--s", "done"), ("a--s", "not_begun"), ("b--s", "not_begun")]


def test_runs_before_the_last_are_kept(workshop: Workshop, make_picture: MakePicture) -> None:
    workshop.run(FakeExecutor({"b": "stop"}))
    stopped = workshop.summary()
    workshop.run()
    made = workshop.summary()
    workshop.run()  # does nothing, so there is nothing to keep of it
    assert workshop.summary()["skipped"] == 4
    lines = (workshop.batch_folder / "logs/runs.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first == stopped
    assert second == {**made, "pictures": [p for p in made["pictures"] if p["status"] == "done"]}
