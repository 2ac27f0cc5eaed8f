"""Jobs and batches as sentences for people and as objects for programs."""

from __future__ import annotations

import math
from dataclasses import replace

from ..batch.estimate import Estimate
from ..batch.planner import Decision
from ..batch.summary import Finished, Summary
from ..spec.batches import Batch
from ..spec.jobs import StepProgress
from ..spec.text import counted, duration, first_few
from ..storage.paths import SUMMARY

# How many different faults are listed.
MOST_FAULTS = 10


def losses(progress: StepProgress) -> tuple[str, ...]:
    """Return the total loss, and the losses of content and style; nothing before the first step."""
    if math.isnan(progress.loss):
        return ()
    return f"loss {progress.loss:.4g}", f"content {progress.content:.3g}, style {progress.style:.3g}"


def finished_object(finished: Finished) -> dict[str, object]:
    """Return the outcome of a job, for programs."""
    return {
        "status": finished.status,
        "missing": finished.missing,
        "name": finished.name,
        "key": finished.key,
        "content": str(finished.job.origin or finished.job.content),
        "style": finished.job.style.name,
        "path": str(finished.path) if finished.path else None,
        "seconds": round(finished.seconds, 3),
        "error": finished.error,
        "next_step": finished.next_step,
        "notes": list(finished.notes),
    }


def finished_line(finished: Finished) -> str:
    """Return the outcome of a job, for people."""
    match finished.status:
        case "done":
            return f"done {finished.name} in {duration(finished.seconds)}: {finished.path}"
        case "skipped" if finished.missing:
            return f"skipped {finished.name}: made before, and not there any more"
        case "skipped":
            return f"skipped {finished.name}: done already"
        case "postponed":
            return f"not begun {finished.name}: takes about {duration(finished.seconds)}, past the deadline"
        case "stopped":
            return f"stopped {finished.name}: resumes from here next time"
        case _:
            return f"failed {finished.name}: {finished.error} {finished.next_step}".rstrip()


def decision_object(decision: Decision) -> dict[str, object]:
    """Return the decision about a job, for programs."""
    return {
        "name": decision.name,
        "run": decision.run,
        "reason": decision.reason,
        "fails": decision.fails,
        "steps_taken": int(decision.steps_taken),
    }


def decision_line(decision: Decision) -> str:
    """Return the decision about a job, for people."""
    what = "run " if decision.run else "fail" if decision.fails else "skip"
    return f"{what}  {decision.name}  ({decision.reason})"


def estimate_line(estimate: Estimate, total: int, failing: int) -> str:
    """Return the last line of the plan of `total` jobs, of which some would fail."""
    parts = ["No pictures to make"]
    if estimate.jobs:
        seconds = duration(max(estimate.seconds, 0.1))
        made = f"{counted(estimate.jobs, 'picture')} to make with {estimate.encoders}"
        parts = [f"{made}, roughly {seconds} ({estimate.basis})"]
    if skipped := total - estimate.jobs - failing:
        parts.append(f"{skipped} skipped")
    if failing:
        parts.append(f"{failing} cannot be made")
    return f"{'; '.join(parts)}."


def shard_line(batch: Batch) -> str:
    """Return what a shard has to do, and what said which it is."""
    assert batch.shard is not None
    origin = f", by {batch.shard.origin}" if batch.shard.origin else ""
    all_of_them = counted(replace(batch, shard=None).count, "picture")
    return f"{batch.shard}{origin}: {batch.count} of {all_of_them}"


def summary_line(summary: Summary, folder: str) -> str:
    """Return the last line of a run."""
    if not summary.jobs:
        return f"Nothing to do: this shard of {folder} has no picture"
    them = "it" if summary.missing == 1 else "them"
    gone = f"{summary.missing} deleted or renamed since (--missing makes {them} again)"
    if summary.skipped == summary.jobs and not summary.restored:
        all_of_them = f"all {summary.jobs} pictures are" if summary.jobs > 1 else "the picture is"
        return f"Nothing to do: {all_of_them} there already, in {folder}"
    if summary.skipped + summary.missing == summary.jobs and not summary.restored:
        there = f"{summary.skipped} there already, " if summary.skipped else ""
        return f"Nothing to do: {there}{gone}, in {folder}"
    parts = [f"{summary.done} done"] if summary.done or not summary.restored else []
    if summary.restored:
        parts.append(f"{summary.restored} came back from older/")
    if kept := summary.skipped - summary.restored:
        parts.append(f"{kept} there already")
    if summary.missing:
        parts.append(gone)
    if summary.failed:
        parts.append(f"{summary.failed} failed (see {folder}/{SUMMARY})")
    if summary.remaining:
        limited = summary.reason == "max_failures"
        limit = f" (stopped after {counted(summary.failed, 'failure')}: max_failures)" if limited else ""
        parts.append(f"{summary.remaining} not begun or not finished{limit}")
    return f"{', '.join(parts)} in {duration(summary.seconds)}. Pictures are in {folder}"


def failure_lines(summary: Summary) -> list[str]:
    """Return the failures of a run: one line for all pictures with the same error."""
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in summary.failures:
        groups.setdefault((failure["error"], failure["next_step"]), []).append(failure["name"])
    lines = []
    for (error, next_step), names in list(groups.items())[:MOST_FAULTS]:
        lines.append(f"failed {first_few(names, 3)}: {error} {next_step}".rstrip())
    if len(groups) > MOST_FAULTS:
        lines.append(f"and {counted(len(groups) - MOST_FAULTS, 'other fault')}")
    return lines
