from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import FakeExecutor, Recorder, Workshop

from pipeline.batch.merge import Merge, merge_parts
from pipeline.batch.runner import Runner
from pipeline.spec.shards import Shard
from pipeline.storage.ledger import Ledger
from pipeline.storage.outbox import BatchFolder


def part(**changes: Any) -> dict[str, Any]:
    return {
        "batch": "night", "jobs": 2, "done": 1, "failed": 1, "skipped": 0, "missing": 0, "postponed": 0,
        "interrupted": 0, "not_begun": 0, "stopped": False, "reason": "finished", "fault": "", "seconds": 9.5,
        "cache_hits": 1, "cache_misses": 2, "started": "2030-01-01T10:00:00+00:00",
        "finished": "2030-01-01T10:00:09+00:00", "encoders": {"vgg19": "a"},
        "failures": [{"name": "x"}], "pictures": [{"name": "x"}, {"name": "y"}], **changes,
    }  # fmt: skip


def test_numbers_are_added_and_lists_joined() -> None:
    later = part(
        started="2030-01-01T11:00:00+00:00", finished="2030-01-01T12:30:00+00:00", encoders={"v": "b"}
    )
    whole = merge_parts({2: later, 1: part()}, 3, {"jobs": 1, "not_begun": 1, "pictures": [{"name": "z"}]})
    assert (whole["jobs"], whole["done"], whole["failed"], whole["not_begun"]) == (5, 2, 2, 1)
    assert (whole["cache_hits"], whole["cache_misses"]) == (2, 4)
    assert [each["name"] for each in whole["pictures"]] == ["x", "y", "x", "y", "z"]
    assert len(whole["failures"]) == 2
    assert whole["seconds"] == 2.5 * 3600
    assert (whole["started"], whole["finished"]) == (part()["started"], later["finished"])
    assert whole["encoders"] == {"vgg19": "a", "v": "b"}
    assert whole["shards"] == {"count": 3, "not_ended": [3]}


@pytest.mark.parametrize(
    ("reasons", "reason"),
    [
        (["finished", "deadline"], "deadline"),
        (["stopped", "deadline"], "stopped"),
        (["max_failures", "finished"], "max_failures"),
        (["stopped", "fault"], "fault"),
        (["finished", "finished"], "finished"),
    ],
)
def test_the_reason_is_the_one_that_matters_most(reasons: list[str], reason: str) -> None:
    parts = {
        number: part(reason=each, stopped=each == "stopped", fault="no disk" if each == "fault" else "")
        for number, each in enumerate(reasons, 1)
    }
    whole = merge_parts(parts, 2, {})
    assert whole["reason"] == reason
    assert whole["stopped"] == ("stopped" in reasons)
    assert whole["fault"] == ("no disk" if "fault" in reasons else "")


def test_times_that_are_damaged_do_no_harm() -> None:
    assert merge_parts({1: part(started="", finished="x")}, 1, {})["seconds"] == 9.5


def run_shard(workshop: Workshop, number: int, count: int) -> None:
    batch = replace(workshop.read(), shard=Shard(number, count))
    assert batch.shard is not None
    folder = BatchFolder(workshop.outbox, batch.name, shard=batch.shard.label)
    ledger = Ledger(workshop.state)
    merge = Merge(folder, batch)
    try:
        with folder.locked():
            Runner(folder, ledger, FakeExecutor(), Recorder(), merge=merge).run(batch.jobs, len(batch))
    finally:
        ledger.close()


def division(workshop: Workshop, some: bool) -> tuple[int, int]:
    """Return a number of shards of which the first has some of the four jobs, or none; and how many."""
    names = [job.name for job in workshop.read().jobs()]
    for count in range(2, 99):
        if (0 < (taken := sum(map(Shard(1, count).takes, names))) < len(names)) == some:
            return count, taken
    raise AssertionError


def test_the_summary_is_of_all_shards_whichever_ends_last(workshop: Workshop) -> None:
    count, first = division(workshop, some=True)
    for number in range(2, count + 1):
        run_shard(workshop, number, count=count)
    found = workshop.summary()
    assert (found["jobs"], found["done"], found["not_begun"]) == (4, 4 - first, first)
    assert found["shards"] == {"count": count, "not_ended": [1]}
    run_shard(workshop, 1, count=count)
    found = workshop.summary()
    assert (found["jobs"], found["done"], found["not_begun"]) == (4, 4, 0)
    assert sorted(each["name"] for each in found["pictures"]) == ["a--s", "a--t", "b--s", "b--t"]
    run_shard(workshop, 1, count=count)
    assert (workshop.summary()["done"], workshop.summary()["skipped"]) == (4 - first, first)
    assert workshop.run().summary.skipped == 4
    assert "shards" not in workshop.summary()


def test_what_other_shards_did_so_far_is_read_from_records(workshop: Workshop) -> None:
    workshop.run(FakeExecutor({"b": "fail"}))
    (workshop.batch_folder / "a--s.png").unlink()
    (workshop.batch_folder / "logs/a--t.json").unlink()
    count, taken = division(workshop, some=False)
    assert taken == 0
    run_shard(workshop, 1, count=count)
    found = workshop.summary()
    assert {each["name"]: each["status"] for each in found["pictures"]} == {
        "a--s": "missing", "a--t": "not_begun", "b--s": "failed", "b--t": "failed",
    }  # fmt: skip
    assert (found["jobs"], found["missing"], found["not_begun"], found["failed"]) == (4, 1, 1, 2)
    assert {each["name"] for each in found["failures"]} == {"b--s", "b--t"}
    assert all("told to fail" in each["error"] and each["next_step"] for each in found["failures"])
