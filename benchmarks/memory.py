"""Peak resident memory of each side, in a process of its own per size, and the largest square that fits.

    python -m benchmarks.memory --sizes 256 512 1024

Full width, random weights, one picture, one level. A reference late in its run holds 100 pairs of history;
they are filled by steps on the pixels alone, so that two steps of the network do. Ours runs the real command
for more steps than its history has pairs. The largest square is where the line through bytes against pixels
meets the limit: beyond the largest size measured it is an estimate.

    python -m benchmarks.memory --megapixels 1 4 16 64 --limit-mb 6000 --encoder vgg19-slim --plot memory.svg

measures steps of `default` on large squares instead, untiled up to `--untiled-up-to`, and held to a limit.
Peaks are those of the process, from the start of a run to its end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.command import SAME_LOSS, Workplace
from benchmarks.common import Result, fitted_line, markdown_table, part, run_module

LIMIT_BYTES = 24 * 10**9
SIDES = ("reference", "ours")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 768, 1024], help="pixels")
    parser.add_argument("--steps", type=int, default=12, help="of ours; the reference takes 2")
    parser.add_argument("--only", choices=SIDES, help="one side alone, for sizes that the other cannot do")
    parser.add_argument("--megapixels", type=float, nargs="+", help="large squares instead")
    parser.add_argument("--encoder", choices=("vgg19", "vgg19-slim"), default="vgg19-slim")
    parser.add_argument("--limit-mb", type=int, default=6000, help="memory_mb of large squares")
    parser.add_argument("--untiled-up-to", type=float, default=4, help="megapixels")
    parser.add_argument("--large-steps", type=int, default=3, help="of large squares")
    parser.add_argument("--plot", type=Path, help="draw large squares here (SVG or PNG)")


def measure(arguments: argparse.Namespace) -> Result:
    if arguments.device != "cpu":
        raise SystemExit("this measures the memory of processes; a GPU's is in benchmarks.growth")
    if arguments.megapixels:
        rows = [row for megapixels in arguments.megapixels for row in measure_large(arguments, megapixels)]
        if arguments.plot:
            plot_large(arguments.plot, rows)
        return {"large": rows}
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


def measure_large(arguments: argparse.Namespace, megapixels: float) -> Iterator[Result]:
    """Measure a large square, untiled and held to the limit."""
    side = round((megapixels * 1e6) ** 0.5)
    for limit_mb in (
        (0, arguments.limit_mb) if megapixels <= arguments.untiled_up_to else (arguments.limit_mb,)
    ):
        ran = run_module(
            "benchmarks.ours", "--width", side, "--height", side, "--encoder", arguments.encoder,
            "--limit-mb", limit_mb, "--steps", arguments.large_steps,
        )  # fmt: skip
        child = json.loads(ran.stdout)
        row = {"megapixels": megapixels, "encoder": arguments.encoder, "limit_mb": limit_mb, **child}
        yield {**row, "peak_bytes": ran.peak_bytes}


def plot_large(path: Path, rows: Sequence[Result]) -> None:
    """Draw memory and time against size; without matplotlib (the extra `bench`) say so and go on."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install '.[bench]' brings matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "style-pipeline"  # the same file every time
    figure, both = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    series = dict.fromkeys((row["encoder"], row["limit_mb"]) for row in rows)
    scales = (("peak_bytes", 1e-9, "peak memory, GB"), ("seconds", 1, "a step, seconds of one core"))
    for axes, (key, factor, label) in zip(both, scales, strict=True):
        for encoder, limit_mb in series:
            points = [
                (row["megapixels"], factor * row[key])
                for row in rows
                if (row["encoder"], row["limit_mb"]) == (encoder, limit_mb)
            ]
            name = f"{encoder}, {f'held to {limit_mb / 1000:g} GB' if limit_mb else 'untiled'}"
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axes.set(xscale="log", yscale="log", xlabel="megapixels", ylabel=label)
    both[0].legend(fontsize=7)
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


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


def report_large(rows: Sequence[Result]) -> str:
    header = ["", "step, s of CPU", "peak memory, GB", "estimate beside the process, GB", "adjusted"]
    return markdown_table(
        header,
        [
            [
                f"{row['megapixels']:g} megapixels, {row['encoder']}"
                + (f", {row['limit_mb'] / 1000:g} GB" if row["limit_mb"] else ""),
                row["seconds"],
                row["peak_bytes"] / 1e9,
                row["estimate_bytes"] / 1e9,
                "; ".join(note.partition(":")[0] for note in row["adjusted"]),
            ]
            for row in rows
        ],
    )


def report(result: Result) -> str:
    if "large" in result:
        return report_large(result["large"])
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
