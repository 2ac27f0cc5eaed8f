"""Many jobs: the reference's program once per job, against one run of the command on a manifest.

    python -m benchmarks.jobs --jobs 32 --size 256 --steps 100

Both take the same steps at one size, full width, random weights. Once all jobs have one style, once every
job has its own and every other picture is 3:2. Of the reference `--of` jobs are run, one before and the rest
after ours so that a machine that changes its pace does so for both, and their mean stands for all; `--all`
runs every one. Everything counts: start, loading, targets, writing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.command import SAME_LOSS, Pairs, Workplace
from benchmarks.common import Result, markdown_table, part


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=32)
    parser.add_argument("--size", type=int, default=256, help="long edge in pixels")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--of", type=int, default=2, help="jobs of the reference that are run")
    parser.add_argument("--all", action="store_true", help="run every job of the reference")


def measure(arguments: argparse.Namespace) -> Result:
    jobs, of = arguments.jobs, arguments.jobs if arguments.all else min(arguments.of, arguments.jobs)
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder), arguments.device)
        kinds = {
            "one style": place.pictures("same", arguments.size, jobs, 1),
            "mixed": place.pictures("mixed", arguments.size, jobs, jobs, mixed=True),
        }
        rows = [
            compare(place, kind, pairs, of, arguments.size, arguments.steps) for kind, pairs in kinds.items()
        ]
    return {"jobs": jobs, "size": arguments.size, "steps": arguments.steps, "of": of, "rows": rows}


def compare(place: Workplace, kind: str, pairs: Pairs, of: int, size: int, steps: int) -> Result:
    recipe = {**SAME_LOSS, "size": size, "steps": steps}
    reference = [place.reference(pairs[0], size, steps).seconds]
    ours_s = place.ours(f"run-{kind.replace(' ', '-')}", pairs, recipe).seconds
    reference += [place.reference(pair, size, steps).seconds for pair in pairs[1:of]]
    return summary(kind, len(pairs), statistics.mean(reference), ours_s)


def summary(kind: str, jobs: int, reference_s_per_job: float, ours_s: float) -> Result:
    reference_s = reference_s_per_job * jobs
    return {
        "kind": kind,
        "reference_s": reference_s,
        "ours_s": ours_s,
        "reference_per_hour": 3600 * jobs / reference_s,
        "ours_per_hour": 3600 * jobs / ours_s,
        "reference_over_ours": reference_s / ours_s,
    }


def report(result: Result) -> str:
    rows = [
        [
            f"{result['jobs']} jobs, {row['kind']}",
            row["reference_s"],
            row["ours_s"],
            row["reference_per_hour"],
            row["ours_per_hour"],
            row["reference_over_ours"],
        ]
        for row in result["rows"]
    ]
    header = ["", "reference, s", "ours, s", "reference, pictures per hour", "ours", "reference / ours"]
    scaled = result["of"] < result["jobs"]
    note = f"The reference's time is {result['of']} jobs, scaled." if scaled else "Every job was run."
    title = f"{result['size']} px, {result['steps']} steps on both sides. {note}"
    return f"{title}\n\n{markdown_table(header, rows)}"


if __name__ == "__main__":
    part(__doc__, add_options, measure, report)
