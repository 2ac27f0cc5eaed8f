"""Milliseconds per picture and step against size and against pictures together.

    python -m benchmarks.growth --sizes 256 512 1024 2048 --batches 1 2 4 8

Full width, random weights, the same loss on both sides. Each side has a process of its own, with the
allocator that its program has, and both take their steps in turns; the ratio is the median of the turns'.
The reference does one picture at a time, and sizes up to `--reference-up-to`.

Ours is the loop alone, in the device's quickest type. The command adds what a GPU needs on top of it (steps
captured once and replayed): for that see benchmarks.together.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

from benchmarks.common import Result, markdown_table, part

Side = Literal["ours", "reference"]
SIDES: tuple[Side, ...] = ("reference", "ours")

# What a side's process keeps between calls.
_step: Callable[[], object] | None = None
_device = "cpu"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048], help="of one picture")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], help="pictures together")
    parser.add_argument("--batch-size", type=int, default=256, help="pixels of those; 512 on a GPU")
    parser.add_argument("--reference-up-to", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7, help="turns at 512 px; fewer above, more below")


def measure(arguments: argparse.Namespace) -> Result:
    singles = [(size, 1) for size in arguments.sizes]
    together = [(arguments.batch_size, batch) for batch in arguments.batches]
    rows = []
    with processes(arguments.device) as sides:
        for size, batch in dict.fromkeys([*singles, *together]):
            compared = SIDES if size <= arguments.reference_up_to else ("ours",)
            turns = repeats_at(size, batch, arguments.repeats)
            times = in_turns({side: sides[side] for side in compared}, size, batch, turns)
            rows.append(summary(size, batch, times))
    return {"rows": rows, "batch_size": arguments.batch_size}


def repeats_at(size: int, batch: int, repeats: int) -> int:
    """Return how often to measure: a step of many pixels is long, and steadier for it."""
    scale: float = 512 / (size * batch**0.5)
    return max(2, min(3 * repeats, round(repeats * scale)))


@contextmanager
def processes(device: str) -> Iterator[dict[Side, ProcessPoolExecutor]]:
    context = multiprocessing.get_context("spawn")
    pools = {side: ProcessPoolExecutor(1, context, _start, (side, device)) for side in SIDES}
    try:
        yield pools
    finally:
        for pool in pools.values():
            pool.shutdown()


def in_turns(
    sides: dict[Side, ProcessPoolExecutor], size: int, batch: int, turns: int
) -> dict[Side, list[float]]:
    """Return each side's milliseconds per picture and step, after two steps to warm up."""
    times: dict[Side, list[float]] = {side: [] for side in sides}
    for side, pool in sides.items():
        pool.submit(_prepare, side, size, batch if side == "ours" else 1).result()
    for _ in range(turns):
        for side, pool in sides.items():
            times[side].append(pool.submit(_timed).result() / (batch if side == "ours" else 1))
    for pool in sides.values():
        pool.submit(_forget).result()
    return times


def summary(size: int, batch: int, times: dict[Side, list[float]]) -> Result:
    ours = times["ours"]
    reference = times.get("reference")
    return {
        "size": size,
        "batch": batch,
        "ours_ms": statistics.median(ours),
        "reference_ms": statistics.median(reference) if reference else None,
        "reference_over_ours": (
            statistics.median(r / o for r, o in zip(reference, ours, strict=True)) if reference else None
        ),
    }


def _start(side: Side, device: str) -> None:
    global _device
    _device = device
    if side == "ours":
        from pipeline.transfer.allocator import keep_freed_memory

        keep_freed_memory()


def _prepare(side: Side, size: int, batch: int) -> None:
    global _step
    import torch

    from benchmarks.step import random_weights, smooth

    weights = {name: tensor.to(_device) for name, tensor in random_weights().items()}
    contents = torch.cat([smooth(size, seed) for seed in range(batch)]).to(_device)
    _step = make_step(side, weights, contents, smooth(size, batch).to(_device), _device)
    for _ in range(2):
        _timed()


def make_step(side: Side, weights: dict[str, Any], contents: Any, style: Any, device: str) -> Any:
    """Return a function that takes one step of a side: of all `contents` (BCHW) together, or of one."""
    from benchmarks.command import SAME_LOSS
    from benchmarks.ours import Ours, build_encoder, quickest_dtype, style_targets
    from benchmarks.reference import Loop, Network
    from pipeline.spec.recipe import Recipe

    if side == "reference":
        return Loop(Network(weights).to(device), contents, style).step
    recipe = Recipe.model_validate(SAME_LOSS)
    encoder = build_encoder(weights, recipe, device)
    targets = style_targets(encoder, recipe, style, len(contents))
    return Ours(encoder, recipe, contents, targets, contents, quickest_dtype(device)).step


def _timed() -> float:
    """Take a step; return its milliseconds."""
    assert _step is not None
    _wait()
    started = time.perf_counter()
    _step()
    _wait()
    return (time.perf_counter() - started) * 1e3


def _wait() -> None:
    if _device != "cpu":
        import torch

        torch.cuda.synchronize(_device)


def _forget() -> None:
    global _step
    _step = None


def report(result: Result) -> str:
    header = ["", "reference, ms", "ours, ms per picture", "reference / ours"]
    rows = [
        [
            f"{row['size']} x {row['size']}" + (f", {row['batch']} together" if row["batch"] > 1 else ""),
            row["reference_ms"],
            row["ours_ms"],
            row["reference_over_ours"],
        ]
        for row in result["rows"]
    ]
    return markdown_table(header, rows)


if __name__ == "__main__":
    part(__doc__, add_options, measure, report)
