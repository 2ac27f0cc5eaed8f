"""An evaluation in tiles against an untiled one: its multiply-adds by formula, and seconds of the CPU.

    python -m benchmarks.tiles --encoder vgg19-slim --size 2048 --limit-mb 2500

The tiles are those that are planned for a picture that may take so much memory; in each further row a segment
fewer keeps its activations, the first segment's first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from benchmarks.common import Result, markdown_table, part
from benchmarks.ours import build_encoder, style_targets
from benchmarks.step import smooth
from pipeline.spec.recipe import Recipe
from pipeline.transfer.allocator import keep_freed_memory
from pipeline.transfer.devices import plan_device
from pipeline.transfer.explicit import ExplicitObjective
from pipeline.transfer.memory import TILES_USABLE
from pipeline.transfer.network import frozen_network
from pipeline.transfer.tile_planning import PictureMemory, Tiling
from pipeline.transfer.tiled import TiledObjective
from pipeline.transfer.tiles import TilePlan
from pipeline.transfer.usage import own_bytes
from pipeline.vgg.weights import bundled_weights, read_weights


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", choices=("vgg19", "vgg19-slim"), default="vgg19-slim")
    parser.add_argument("--size", type=int, default=2048, help="pixels of a square, without the margin")
    parser.add_argument("--limit-mb", type=int, default=2500, help="what the picture may take")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)


def measure(arguments: argparse.Namespace) -> Result:
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(encoder=arguments.encoder)
    encoder = build_encoder(read_weights(bundled_weights(arguments.encoder)), recipe)
    dtype = plan_device("cpu").network_dtype(recipe.precision)
    network = frozen_network(encoder, dtype)
    memory = PictureMemory(recipe, encoder.channels, arguments.size, arguments.size, dtype.itemsize)
    limit_bytes = arguments.limit_mb * 10**6
    image, content = (smooth(arguments.size + 2 * recipe.margin, seed) for seed in (1, 2))
    targets = style_targets(encoder, recipe, smooth(512, 3))
    # As in a session: what is planned is less than all that the process may have.
    most_bytes = own_bytes() + round(limit_bytes / TILES_USABLE)
    tiling = Tiling(limit_bytes, threads=arguments.threads, most_bytes=most_bytes)
    rows = []
    for name, plan in {"untiled": None, **fewer_kept(tiling.in_tiles(memory).tiles)}.items():
        objective = (
            ExplicitObjective(encoder, recipe, content, targets, dtype)
            if plan is None
            else TiledObjective(network, recipe, content, targets, plan)
        )
        times = []
        for _ in range(1 + arguments.turns):  # the first finds out how to convolve these sizes
            started = time.process_time()
            objective.evaluate(image)
            times.append(time.process_time() - started)
        rows.append({"name": name, "work": memory.factor(plan), "seconds": statistics.median(times[1:])})
    return {"rows": rows}


def fewer_kept(plan: TilePlan) -> dict[str, TilePlan]:
    """Return a plan, and plans that keep the activations of fewer segments."""
    plans = {"as planned": plan}
    for depth in sorted(plan.kept):
        kept = {each: tiles for each, tiles in plan.kept.items() if each > depth}
        plans[f"kept from block {min(kept) + 1} on" if kept else "nothing kept"] = replace(plan, kept=kept)
    return plans


def report(result: Result) -> str:
    untiled = result["rows"][0]["seconds"]
    rows = [[row["name"], row["work"], row["seconds"], row["seconds"] / untiled] for row in result["rows"]]
    return markdown_table(["", "multiply-adds, times", "seconds of the CPU", "times"], rows)


if __name__ == "__main__":
    part(__doc__, add_options, measure, report)
