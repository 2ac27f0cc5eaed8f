"""Every measurement in one run, as one markdown report with a verdict on each bar.

    python -m benchmarks                     # make bench: about a quarter of an hour on two cores
    python -m benchmarks --device cuda       # make bench-gpu

Each part also runs alone, with sizes of its own: python -m benchmarks.PART --help. Parts run one after the
other, each in a process of its own, and this one stays small: a child's peak memory counts its parent's.
A part that fails is named in the report, and the others go on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Result, command, machine, markdown_table, run_module


@dataclass(frozen=True)
class Bar:
    """A promise: the measured `value` has to be at most (or at least) `bound`; None was not measured."""

    promise: str
    value: float | None
    bound: float
    at_most: bool = False

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        kept = self.value <= self.bound if self.at_most else self.value >= self.bound
        return "pass" if kept else "miss"


def parts(device: str, folder: Path) -> dict[str, list[object]]:
    """Name the parts with their options, of a size that this device does in reasonable time."""
    curves: list[object] = ["--csv", folder / "loss.csv", "--plot", folder / "loss.png"]
    if device == "cpu":
        return {
            "step": ["--size", 512, "--repeats", 3],
            "growth": ["--repeats", 3],
            "memory": ["--sizes", 256, 512, 768],
            "to_loss": ["--size", 256, "--steps", 500, *curves],
            "jobs": ["--jobs", 12, "--size", 256, "--steps", 40],
            "default": ["--size", 512, "--repeats", 1],
        }
    return {
        "together": ["--size", 512, "--jobs", 1, 8],
        "growth": ["--batch-size", 512, "--repeats", 20],
        "to_loss": ["--size", 512, "--steps", 500, *curves],
        "jobs": ["--jobs", 32, "--size", 512, "--steps", 500],
        "default": ["--size", 512],
    }


def bars(device: str, results: Mapping[str, Result]) -> list[Bar]:
    """Return what was promised, with what was measured."""
    rows = {
        (row["size"], row["batch"]): row["reference_over_ours"] for row in found(results, "growth", "rows")
    }
    same: Result = next((row for row in found(results, "jobs", "rows") if row["kind"] == "one style"), {})
    to_loss = Bar(
        "times sooner at the reference's loss of step 500",
        results.get("to_loss", {}).get("reference_over_ours"),
        4,
    )
    if device == "cpu":
        sizes = results.get("memory", {"sizes": [], "sides": {}})
        memory = importlib.import_module("benchmarks.memory").ratio(sizes, 512)
        return [
            Bar("times fewer ms per step than the reference, 512 px", rows.get((512, 1)), 2.4),
            to_loss,
            Bar(
                "times the reference's speed, 12 jobs of one style, 256 px",
                same.get("reference_over_ours"),
                4,
            ),
            Bar("times less peak memory than the reference, 512 px", memory, 2),
        ]
    together = {row["jobs"]: row["ms"] for row in found(results, "together", "rows")}
    return [
        Bar("ms per picture and step at most, 512 px, 8 together", together.get(8), 0.95, at_most=True),
        Bar("ms per step at most, 512 px, alone", together.get(1), 1.6, at_most=True),
        to_loss,
        Bar("times the reference's pictures per hour, 32 of one style", same.get("reference_over_ours"), 10),
    ]


def found(results: Mapping[str, Result], part: str, key: str) -> Iterable[Any]:
    rows: Iterable[Any] = results.get(part, {}).get(key, [])
    return rows


def report(device: str, results: Mapping[str, Result], failures: Mapping[str, str]) -> str:
    verdicts = [[bar.promise, bar.bound, bar.value, bar.verdict] for bar in bars(device, results)]
    sections = [
        f"{machine(device)}\n\n    {command()}",
        markdown_table(["promise", "bar", "measured", ""], verdicts),
    ]
    for part, result in results.items():
        module = importlib.import_module(f"benchmarks.{part}") if part != "step" else None
        text = module.report(result) if module else table_of(result)
        sections.append(f"## {part}\n\n    {result['command']}\n\n{text}")
    sections += [f"## {part} failed\n\n    {message}" for part, message in failures.items()]
    return "\n\n".join(sections) + "\n"


def table_of(result: Result) -> str:
    return markdown_table(["", ""], [pair for pair in result.items() if pair[0] != "command"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="report, JSON and plot")
    parser.add_argument("--only", nargs="+", help="parts to run; all if left out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = parts(arguments.device, arguments.out)
    if unknown := set(arguments.only or []) - set(chosen):
        parser.error(f"no part here: {', '.join(sorted(unknown))}; parts: {', '.join(chosen)}")
    results, failures = run_parts(
        {name: options for name, options in chosen.items() if name in (arguments.only or chosen)},
        arguments.device,
    )
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = report(arguments.device, results, failures)
    (arguments.out / "report.md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(1 if failures else 0)


def run_parts(chosen: Mapping[str, list[object]], device: str) -> tuple[dict[str, Result], dict[str, str]]:
    results, failures = {}, {}
    for name, options in chosen.items():
        started = time.perf_counter()
        extra = [] if name == "step" else ["--device", device]  # that one is for CPUs
        try:
            ran = run_module(f"benchmarks.{name}", *options, "--json", *extra)
            line = " ".join(["python -m", f"benchmarks.{name}", *map(str, [*options, *extra])])
            results[name] = {"command": line, **json.loads(ran.stdout)}
        except SystemExit as error:
            failures[name] = str(error).replace("\n", "\n    ")
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return results, failures


if __name__ == "__main__":
    main()
