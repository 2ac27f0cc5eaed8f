from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sample_events import make_finished

from pipeline.batch.estimate import Estimate
from pipeline.batch.summary import Finished, Summary
from pipeline.cli.sentences import (
    estimate_line,
    failure_lines,
    finished_line,
    finished_object,
    summary_line,
)
from pipeline.spec.recipe import Recipe
from pipeline.storage.ledger import Ledger


def failures(*errors: str) -> list[dict[str, str]]:
    names = (f"{number}--s" for number in range(99))
    return [
        {"name": name, "key": "", "error": error, "next_step": "Look."}
        for name, error in zip(names, errors, strict=False)
    ]


def test_failures_with_one_cause_are_grouped() -> None:
    summary = make_summary(9, failed=6, failures=failures("s bad.", "x bad.", *["s bad."] * 4))
    assert failure_lines(summary) == [
        "failed 0--s, 2--s, 3--s and 2 more: s bad. Look.",
        "failed 1--s: x bad. Look.",
    ]
    many = make_summary(20, failed=12, failures=failures(*(f"{number} bad." for number in range(12))))
    assert len(failure_lines(many)) == 11
    assert failure_lines(many)[-1] == "and 2 other faults"


@pytest.mark.parametrize(
    ("finished", "line"),
    [
        (
            make_finished("done", path=Path("/out/a.png"), seconds=75),
            "done a--s in 1 min: /out/a.png",
        ),
        (make_finished("skipped", path=Path("/out/a.png")), "skipped a--s: done already"),
        (make_finished("stopped"), "stopped a--s: resumes from here next time"),
        (make_finished("failed", error="It broke."), "failed a--s: It broke."),
        (make_finished("failed", error="It broke.", next_step="Fix it."), "failed a--s: It broke. Fix it."),
    ],
    ids=["done", "skipped", "stopped", "failed", "failed with a next step"],
)
def test_a_finished_job_is_one_sentence(finished: Finished, line: str) -> None:
    assert finished_line(finished) == line


def make_summary(jobs: int, **counts: Any) -> Summary:
    return Summary("night", jobs, seconds=counts.pop("seconds", 90.0), **counts)


@pytest.mark.parametrize(
    ("summary", "parts", "absent"),
    [
        (make_summary(3, done=3, seconds=9), ["3 done", "9.0 s"], ["failed", "already", "not begun"]),
        (make_summary(3, done=1, skipped=2), ["1 done", "2 there already"], ["failed", "not begun"]),
        (
            make_summary(3, skipped=2, missing=1),
            ["Nothing to do: 2 there", "1 deleted", "--missing"],
            ["all"],
        ),
        (
            make_summary(3, failed=1, reason="max_failures"),
            ["2 not begun or not finished (stopped after 1 failure: max_failures)"],
            ["deleted"],
        ),
        (make_summary(1, missing=1), ["Nothing to do: 1 deleted", "makes it again"], ["there already"]),
        (make_summary(3, done=2, missing=1), ["2 done, 1 deleted or renamed"], ["not begun"]),
        (make_summary(3, done=2, failed=1), ["2 done", "1 failed", "/out/night/summary.json"], ["not begun"]),
        (make_summary(5, done=2, stopped=True), ["2 done", "3 not begun or not finished"], ["failed"]),
        (make_summary(4, skipped=4), ["Nothing to do: all 4 pictures are there"], ["failed", "not begun"]),
        (make_summary(1, skipped=1), ["Nothing to do: the picture is there"], ["all"]),
        (
            make_summary(4, skipped=4, restored=4, seconds=1),
            ["4 came back from older/ in 1.0 s. Pictures are in"],
            ["Nothing", "done", "there already"],
        ),
        (
            make_summary(4, skipped=2, restored=1, missing=2),
            ["1 came back from older/, 1 there already, 2 deleted or renamed"],
            ["Nothing", "done"],
        ),
        (make_summary(3, done=1, skipped=2, restored=2), ["1 done, 2 came back from older/ in"], ["there"]),
    ],
    ids=[
        "done",
        "skipped",
        "nothing but missing",
        "too many failures",
        "nothing but one missing",
        "missing",
        "failed",
        "stopped",
        "nothing",
        "nothing, and only one",
        "restored",
        "restored, there and missing",
        "done and restored",
    ],
)
def test_the_last_line_says_how_it_went(summary: Summary, parts: list[str], absent: list[str]) -> None:
    line = summary_line(summary, "/out/night")
    assert "\n" not in line
    assert "/out/night" in line
    assert [part for part in parts if part not in line] == []
    assert [part for part in absent if part in line] == []


def test_a_finished_object_is_plain_data() -> None:
    plain = finished_object(make_finished("done", path=Path("/out/a.png")))
    assert json.loads(json.dumps(plain)) == plain


def make_estimate(jobs: int) -> Estimate:
    with closing(Ledger(Path("state"))) as ledger:
        estimate = Estimate(ledger)
        for _ in range(jobs):
            estimate.add(Recipe(size=64, pyramid=0, steps=1), "vgg19")
        return estimate


@pytest.mark.parametrize(
    ("jobs", "total", "failing", "start", "end"),
    [
        (0, 1, 0, "No pictures to make; 1 skipped.", ""),
        (1, 1, 0, "1 picture to make with vgg19, roughly 0.1 s (", ")."),
        (1, 3, 1, "1 picture to make with vgg19, ", "); 1 skipped; 1 cannot be made."),
        (2, 2, 0, "2 pictures to make with vgg19, ", ")."),
        (0, 2, 2, "No pictures to make; 2 cannot be made.", ""),
    ],
)
def test_the_last_line_of_a_plan_says_what_there_is_to_do(
    jobs: int, total: int, failing: int, start: str, end: str
) -> None:
    line = estimate_line(make_estimate(jobs), total, failing)
    assert line.startswith(start)
    assert line.endswith(end)
