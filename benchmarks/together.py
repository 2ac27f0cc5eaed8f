"""Milliseconds per picture and step of the command itself, for one job and for several of one style.

    python -m benchmarks.together --size 512 --jobs 1 8 --steps 50 550 --device cuda

Each number is the difference of two runs that differ only in their steps, over jobs and steps: start,
loading, targets and writing cancel out, and the program decides by itself how many it takes together.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.command import SAME_LOSS, Pairs, Workplace
from benchmarks.common import Result, markdown_table, part


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=512, help="pixels, both ways")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, nargs=2, default=[50, 550], help="of the short and the long run")


def measure(arguments: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder), arguments.device)
        pairs = place.pictures("pictures", arguments.size, max(arguments.jobs), 1)
        times = {
            jobs: step_ms(place, pairs[:jobs], arguments.size, arguments.steps) for jobs in arguments.jobs
        }
    return {"size": arguments.size, "rows": [{"jobs": jobs, "ms": ms} for jobs, ms in times.items()]}


def step_ms(place: Workplace, pairs: Pairs, size: int, steps: list[int]) -> float | None:
    """Return the milliseconds; None where the runs were too short to tell them apart."""
    short, long = (
        place.ours(f"{len(pairs)}-{count}", pairs, {**SAME_LOSS, "size": size, "steps": count}).seconds
        for count in steps
    )
    more = len(pairs) * (steps[1] - steps[0])
    return (long - short) * 1e3 / more if long > short else None


def report(result: Result) -> str:
    rows = [[f"{row['jobs']} jobs, {result['size']} px", row["ms"]] for row in result["rows"]]
    return markdown_table(["the command", "ms per picture and step"], rows)


if __name__ == "__main__":
    part(__doc__, add_options, measure, report)
