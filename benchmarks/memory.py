"""Peak resident memory of each side, in a process of its own per size, and the largest square that fits.

    python -m benchmarks.memory --sizes 256 512 1024

Full width, random weights, one picture, one level. A reference late in its run holds 100 pairs of history;
they are filled by steps on the pixels alone, so that two steps of the network do. Ours runs the real command
for more steps than its history has pairs. The largest square is where the line through bytes against pixels
meets the limit: beyond the largest size measured it is an estimate.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.command import SAME_LOSS, Workplace
from benchmarks.common import Result, fitted_line, markdown_table, part

LIMIT_BYTES = 24 * 10**9
SIDES = ("reference", "ours")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 768, 1024], help="pixels")
    parser.add_argument("--steps", type=int, default=12, help="of ours; the reference takes 2")
    parser.add_argument("--only", choices=SIDES, help="one side alone, for sizes that the other cannot do")


def measure(arguments: argparse.Namespace) -> Result:
    if arguments.device != "cpu":
        raise SystemExit("this measures the memory of processes; a GPU's is in benchmarks.growth")
    peaks: dict[str, dict[int, int]] = {side: {} for side in SIDES if arguments.only in (None, side)}
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder), arguments.device)
        # What a picture shows does not matter; the programs scale it.
        pair = place.pictures("pictures", 256, 1, 1)[0]
        for size in arguments.sizes:
            recipe = {**SAME_LOSS, "size": size, "steps": arguments.steps}
            if "reference" in peaks:
                ran = place.reference(pair, size, 2, "--full-history")
                peaks["reference"][size] = ran.peak_bytes
            if "ours" in peaks:
                peaks["ours"][size] = place.ours(f"ours{size}", [pair], recipe).peak_bytes
    return {"sizes": arguments.sizes, "sides": {side: fit(values) for side, values in peaks.items()}}


def fit(peaks: Mapping[int, int]) -> Result:
    """Return a side's peaks, the line through them and the largest square within the limit."""
    result: Result = {"peak_bytes": list(peaks.values()), "bytes_per_pixel": None, "largest_square": None}
    if len(peaks) > 1:
        fixed, per_pixel = fitted_line([size**2 for size in peaks], list(peaks.values()))
        result |= {"bytes_per_pixel": per_pixel, "largest_square": largest_square(fixed, per_pixel)}
    return result


def largest_square(fixed_bytes: float, bytes_per_pixel: float, limit_bytes: float = LIMIT_BYTES) -> int:
    """Return the side in pixels, a multiple of 16."""
    pixels = max(0.0, (limit_bytes - fixed_bytes) / bytes_per_pixel)
    return int(pixels**0.5) // 16 * 16


def ratio(result: Result, size: int) -> float | None:
    """Return the reference's peak over ours at a size; None where one is missing."""
    if size not in result["sizes"] or set(result["sides"]) != set(SIDES):
        return None
    index = result["sizes"].index(size)
    reference, ours = (result["sides"][side]["peak_bytes"][index] for side in SIDES)
    return float(reference / ours)


def report(result: Result) -> str:
    sides = list(result["sides"])
    rows: list[Sequence[object]] = []
    for index, size in enumerate(result["sizes"]):
        peaks = [result["sides"][side]["peak_bytes"][index] / 1e9 for side in sides]
        rows.append([f"{size} x {size}, GB", *peaks, ratio(result, size)])
    for key, label in (
        ("bytes_per_pixel", "bytes per pixel"),
        ("largest_square", "largest square in 24 GB, px"),
    ):
        rows.append([label, *(result["sides"][side][key] for side in sides), None])
    return markdown_table(["peak resident memory", *sides, "reference / ours"], rows)


if __name__ == "__main__":
    part(__doc__, add_options, measure, report)
