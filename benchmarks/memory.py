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
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.command import SAME_LOSS, Workplace
from benchmarks.common import Result, fitted_line, markdown_table, part, run_module

LIMIT_BYTES = 24 * 10**9
SIDES = ("reference", "ours")
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 768, 1024], help="pixels")
    parser.add_argument("--steps", type=int, default=12, help="of ours; the reference takes 2")
    parser.add_argument("--only", choices=SIDES, help="one side alone, for sizes that the other cannot do")
    parser.add_argument("--megapixels", type=float, nargs="*", help="large squares instead")
    parser.add_argument("--encoder", choices=("vgg19", "vgg19-slim"), default="vgg19-slim")
    parser.add_argument("--limit-mb", type=int, default=6000, help="memory_mb of large squares")
    parser.add_argument("--untiled-up-to", type=float, default=4, help="megapixels")
    parser.add_argument("--large-steps", type=int, default=3, help="of large squares")
    parser.add_argument("--plot", type=Path, help="draw large squares here (SVG)")
    parser.add_argument("--add", type=Path, nargs="+", default=[], help="results that --json printed before")


def measure(arguments: argparse.Namespace) -> Result:
    if arguments.device != "cpu":
        raise SystemExit("this measures the memory of processes; a GPU's is in benchmarks.growth")
    if arguments.megapixels is not None:
        rows = [row for megapixels in arguments.megapixels for row in measure_large(arguments, megapixels)]
        for path in arguments.add:
            rows += json.loads(path.read_text(encoding="utf-8"))["large"]
        if arguments.plot:
            arguments.plot.write_text(draw_large(rows), encoding="utf-8")
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


def draw_large(rows: Sequence[Result]) -> str:
    """Return an SVG of memory and time against size, both on logarithmic axes."""
    charts = [
        chart(rows, "peak_bytes", 1e-9, "peak memory, GB", left=60),
        chart(rows, "seconds", 1.0, "a step, seconds of one core", left=470),
    ]
    style = "font-family='sans-serif' font-size='12'"
    size = "width='820' height='340' viewBox='0 0 820 340'"
    names = dict.fromkeys(series_name(row) for row in rows)
    legend = [
        f"<text x='{60 + 195 * index}' y='330' fill='{COLORS[index % len(COLORS)]}'>{name}</text>"
        for index, name in enumerate(names)
    ]
    body = "".join([*charts, *legend])
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} {style}><rect {size} fill='white'/>{body}</svg>\n"


def series_name(row: Result) -> str:
    held = f"held to {row['limit_mb'] / 1000:g} GB" if row["limit_mb"] else "untiled"
    return f"{row['encoder']}, {held}"


def chart(rows: Sequence[Result], key: str, factor: float, title: str, left: int) -> str:
    """Return one chart of 330 x 230 pixels, with a line for each network and limit."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row[key] is not None:
            points = series.setdefault(series_name(row), [])
            points.append((row["megapixels"], factor * row[key]))
    values = [value for points in series.values() for _, value in points]
    ticks = [base * 10.0**power for power in range(-2, 5) for base in (1, 2, 5)]
    low = max(tick for tick in ticks if tick <= min(values))
    high = min(tick for tick in ticks if tick >= max(values))

    def x(megapixels: float) -> float:
        return left + 330 * math.log(megapixels) / math.log(64)

    def y(value: float) -> float:
        return 270 - 230 * math.log(value / low) / math.log(high / low)

    parts = [f"<text x='{left}' y='22' font-weight='bold'>{title}</text>"]
    for tick in (tick for tick in ticks if low <= tick <= high):
        parts.append(f"<path d='M{left} {y(tick):.1f}h330' stroke='#ddd'/>")
        parts.append(f"<text x='{left - 6}' y='{y(tick) + 4:.1f}' text-anchor='end'>{tick:g}</text>")
    for megapixels in (1, 4, 16, 64):
        parts.append(f"<text x='{x(megapixels):.1f}' y='288' text-anchor='middle'>{megapixels}</text>")
    parts.append(f"<text x='{left + 165}' y='308' text-anchor='middle'>megapixels</text>")
    for index, points in enumerate(series.values()):
        color = COLORS[index % len(COLORS)]
        places = [(f"{x(megapixels):.1f}", f"{y(value):.1f}") for megapixels, value in points]
        line = " ".join(",".join(place) for place in places)
        parts.append(f"<polyline points='{line}' fill='none' stroke='{color}' stroke-width='2'/>")
        parts += [f"<circle cx='{across}' cy='{down}' r='3' fill='{color}'/>" for across, down in places]
    return "".join(parts)


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
