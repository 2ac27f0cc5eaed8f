"""What the measurements share: children with their peak memory, tables, and what machine this is.

Nothing here loads torch. A child's peak memory, as the system tells it, is at least what its parent held
when it was started, so whoever measures memory has to stay small.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """A program that ran: what it wrote to stdout, how long it took, its largest process's peak memory."""

    stdout: str
    seconds: float
    peak_bytes: int


def run_module(module: str, *arguments: object) -> Ran:
    """Run `python -m module` to its end.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{stderr.read()[-2000:]}")
        unit = 1 if sys.platform == "darwin" else 1024
        return Ran(stdout.read(), seconds, usage.ru_maxrss * unit)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; floats are rounded to three figures, None is a dash."""
    lines = [list(header), ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def machine(device: str = "cpu") -> str:
    """Name processor, cores, memory and versions in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB", platform.system()]
    parts += [f"Python {platform.python_version()}", f"torch {version('torch')}", f"device {device}"]
    return ", ".join(parts)


def processor() -> str:
    """Return the processor's name, and whether it has instructions for bfloat16."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    features = [name for name in ("amx_bf16", "avx512_bf16") if name in text]
    return " ".join([names[0] if names else platform.machine(), *(f"({name})" for name in features[:1])])


def fitted_line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Return (intercept, slope) of the least-squares line."""
    slope, intercept = statistics.linear_regression(xs, ys)
    return intercept, slope


def part(
    description: str | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], Result],
    report: Callable[[Result], str],
) -> None:
    """Be the command line of one measurement: print its report, or its result as JSON."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = {"machine": machine(arguments.device), "command": command(), **measure(arguments)}
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{result['machine']}\n\n    {result['command']}\n\n{report(result)}")


def command() -> str:
    """Return this process's command as it would be typed in the repository."""
    # Under -m sys.argv[0] is a path of this machine.
    name = Path(sys.argv[0]).stem
    module = "benchmarks" if name == "__main__" else f"benchmarks.{name}"
    return " ".join(["python -m", module, *sys.argv[1:]])
