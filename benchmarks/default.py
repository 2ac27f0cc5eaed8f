"""The whole `default` recipe with the bundled network: from the command to the picture.

python -m benchmarks.default --size 512
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.command import Workplace
from benchmarks.common import Result, markdown_table, part


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=512, help="long edge in pixels")
    parser.add_argument("--repeats", type=int, default=3)


def measure(arguments: argparse.Namespace) -> Result:
    recipe = {"preset": "default", "encoder": "vgg19-slim", "size": arguments.size}
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder), arguments.device)
        pairs = place.pictures("pictures", arguments.size, 1, 1)
        runs = [place.ours(f"run{number}", pairs, recipe) for number in range(arguments.repeats)]
    return {
        "size": arguments.size,
        "seconds": statistics.median(ran.seconds for ran in runs),
        "peak_bytes": max(ran.peak_bytes for ran in runs),
    }


def report(result: Result) -> str:
    row = [f"{result['size']} x {result['size']}", result["seconds"], result["peak_bytes"] / 1e9]
    return markdown_table(["vgg19-slim, `default`", "seconds, start to picture", "peak memory, GB"], [row])


if __name__ == "__main__":
    part(__doc__, add_options, measure, report)
