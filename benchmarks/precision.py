"""What a type of the network costs: the loss that it ends at, relative to autograd in float32.

    python -m benchmarks.precision --size 128 --pyramid 0 --steps 300
    python -m benchmarks.precision --size 192 --contents a.jpg b.jpg --styles c.jpg d.jpg

The recipe is `default` without palette and margin. Every final canvas is judged by the same loss, by autograd
in float32. L-BFGS amplifies rounding, so float32 in another order of operations ends elsewhere, too: the cost
of bfloat16 is seen beside that.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Result, markdown_table, part
from benchmarks.ours import Ours, build_encoder, style_targets
from benchmarks.pictures import write_pictures
from benchmarks.reference import load
from benchmarks.to_loss import best_of
from pipeline.spec.recipe import Recipe
from pipeline.spec.schedule import at_level, level_sizes, steps_at
from pipeline.transfer.allocator import keep_freed_memory
from pipeline.transfer.objective import ReferenceObjective
from pipeline.vgg.encoder import Encoder
from pipeline.vgg.weights import bundled_weights, read_weights

COMPARED = ("float32", "bfloat16")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", choices=("vgg19", "vgg19-slim"), default="vgg19-slim")
    parser.add_argument("--size", type=int, default=192, help="long edge in pixels")
    parser.add_argument("--pyramid", type=int, default=128, help="the coarsest level's pixels; 0: one level")
    parser.add_argument("--steps", type=int, nargs="+", default=list(Recipe().steps), help="coarsest first")
    parser.add_argument("--contents", type=Path, nargs="+", help="photographs; painted ones if left out")
    parser.add_argument("--styles", type=Path, nargs="+", help="as many paintings, in the same order")
    parser.add_argument("--threads", type=int, default=1)


def measure(arguments: argparse.Namespace) -> Result:
    if bool(arguments.contents) != bool(arguments.styles):
        raise SystemExit("--contents and --styles go together: a pair is one of each.")
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(size=arguments.size, pyramid=arguments.pyramid, steps=arguments.steps, margin=0)
    weights = read_weights(bundled_weights(arguments.encoder))
    encoder = build_encoder(weights, recipe, arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        contents, styles = arguments.contents, arguments.styles
        if not contents:
            contents, styles = write_pictures(Path(folder), arguments.size, 4, 4)
        rows = [compare(encoder, recipe, pair) for pair in zip(contents, styles, strict=True)]
    return {"rows": rows}


def compare(encoder: Encoder, recipe: Recipe, pair: tuple[Path, Path]) -> Result:
    expected = final_loss(encoder, recipe, pair, "reference")
    found = {name: final_loss(encoder, recipe, pair, name) / expected - 1 for name in COMPARED}
    return {"content": pair[0].stem, "style": pair[1].stem, "loss": expected, **found}


def final_loss(encoder: Encoder, recipe: Recipe, pair: tuple[Path, Path], precision: str) -> float:
    """Climb the pyramid; return the loss of the last level's best canvas."""
    device = next(encoder.parameters()).device
    canvas: Tensor | None = None
    for index, size in enumerate(level_sizes(recipe)):
        content, style = (load(path, size).to(device) for path in pair)
        level = at_level(recipe, size, encoder.style_factor)
        targets = style_targets(encoder, level, style)
        judge = ReferenceObjective(encoder, level, content, targets)
        if canvas is not None:
            canvas = F.interpolate(canvas, content.shape[2:], mode="bicubic", align_corners=False)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        ours = Ours(encoder, level, content, targets, content if canvas is None else canvas, dtype)
        if precision == "reference":
            ours.objective = judge
        canvas = best_of(ours, steps_at(recipe, index))
    with torch.no_grad():
        return float(judge.losses(canvas).total)


def report(result: Result) -> str:
    header = ["pair", "loss, autograd", *COMPARED]
    rows = [
        [f"{row['content']}, {row['style']}", row["loss"], *(f"{row[name]:+.2%}" for name in COMPARED)]
        for row in result["rows"]
    ]
    columns = {name: [row[name] for row in result["rows"]] for name in COMPARED}
    rows += [
        [name, None, *(f"{of(columns[each]):+.2%}" for each in COMPARED)]
        for name, of in {"median": statistics.median, "least": min, "most": max}.items()
    ]
    return markdown_table(header, rows)


if __name__ == "__main__":
    part(__doc__, add_options, measure, report)
