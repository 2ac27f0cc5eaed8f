"""Time to the loss that the reference reaches at step K, and both curves of loss against time.

    python -m benchmarks.to_loss --size 256 --steps 500 --csv curves.csv --plot curves.png

The same loss is the same function: our canvases are judged by the reference's loss, in float32, at full
size. Ours climbs its pyramid and then takes steps at full size until its canvas is at least as good; judging
is not timed, everything else is: targets, content features and every level. The reference's time holds its
targets, too; neither holds the loading of the network. The reference's loss at step K is the best of its
canvases until then, since an L-BFGS without line search may end above it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command import SAME_LOSS, Workplace
from benchmarks.common import Result, markdown_table, part

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmarks.ours import Ours
    from pipeline.spec.recipe import Recipe

Curve = Sequence[tuple[float, float]]  # seconds and loss after every step


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=256, help="pixels, both ways")
    parser.add_argument("--steps", type=int, default=500, help="the reference's step K")
    parser.add_argument("--style-weight", type=float, default=SAME_LOSS["style_weight"])
    parser.add_argument("--pyramid", type=int, default=64, help="the coarsest level's pixels; 0: one level")
    parser.add_argument("--level-steps", type=int, nargs="+", default=[120, 80, 60], help="coarsest first")
    parser.add_argument("--history", type=int, default=100, help="of ours; the reference's is 100")
    parser.add_argument("--quick", type=int, default=0, help="steps at full size before float32")
    parser.add_argument("--cap", type=int, default=1000, help="give up after this many steps at full size")
    parser.add_argument("--csv", type=Path, help="write both curves here")
    parser.add_argument("--plot", type=Path, help="draw both curves here (PNG)")


def measure(arguments: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(Path(folder), arguments.device)
        pair = place.pictures("pictures", arguments.size, 1, 1)[0]
        # In a process of its own: what ours does to the allocator must not reach it.
        ran = json.loads(
            place.reference(
                pair, arguments.size, arguments.steps, "--style-weight", str(arguments.style_weight)
            ).stdout
        )
        reference = list(zip(ran["times"], ran["losses"][1:], strict=True))
        target = min(loss for _, loss in reference)
        if target > ran["losses"][0] / 2:
            raise SystemExit("the reference diverged, so there is no comparison. Try another --style-weight.")
        ours = climb(arguments, place, pair, target)
    if arguments.csv:
        write_curves(arguments.csv, reference, ours)
    if arguments.plot:
        plot_curves(arguments.plot, reference, ours, target)
    return summary(arguments, reference, ours, target)


def climb(
    arguments: argparse.Namespace, place: Workplace, pair: tuple[Path, Path], target: float
) -> list[tuple[float, float]]:
    """Run ours until its canvas is as good as `target`, and a fifth longer for the plot.

    Returns seconds and the reference's loss after every step at full size.
    """
    import torch
    from safetensors.torch import load_file

    from benchmarks.reference import Loop, Network, load
    from pipeline.transfer.allocator import keep_freed_memory

    keep_freed_memory()
    device = torch.device(arguments.device)
    weights = {name: tensor.to(device) for name, tensor in load_file(place.weights).items()}
    content, style = (load(path, arguments.size).to(device) for path in pair)
    judge = Loop(Network(weights).to(device), content, style, arguments.style_weight)
    curve: list[tuple[float, float]] = []
    reached, spent, started = 0, 0.0, time.perf_counter()
    for canvas in canvases(plan(arguments), weights, pair, arguments.quick, device):
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent += time.perf_counter() - started
        with torch.no_grad():
            curve.append((spent, judge.loss(canvas).item()))
        if not reached and curve[-1][1] <= target:
            reached = len(curve)
        if len(curve) >= (1.2 * reached if reached else arguments.cap):
            break
        started = time.perf_counter()
    return curve


def plan(arguments: argparse.Namespace) -> Recipe:
    from pipeline.spec.recipe import Recipe

    fields = {
        "size": arguments.size,
        "pyramid": arguments.pyramid,
        "steps": arguments.level_steps,
        "history": arguments.history,
        "style_weight": arguments.style_weight,
    }
    return Recipe.model_validate({**SAME_LOSS, **fields})


def canvases(
    recipe: Recipe, weights: dict[str, Tensor], pair: tuple[Path, Path], quick: int, device: torch.device
) -> Iterator[Tensor]:
    """Climb the pyramid; yield the canvas after every step at full size, without end.

    All but the steps at full size after the first `quick` run in the device's quickest type: the Gram loss in
    bfloat16 stops short of where float32 gets.
    """
    import torch
    import torch.nn.functional as F

    from benchmarks.ours import Ours, build_encoder, quickest_dtype, style_targets
    from benchmarks.reference import load
    from pipeline.spec.schedule import level_sizes, steps_at

    encoder = build_encoder(weights, recipe, str(device))
    dtype = quickest_dtype(str(device))
    start: Tensor | None = None
    *coarse, full = level_sizes(recipe)
    for index, size in enumerate([*coarse, full]):
        content, style = (load(path, size).to(device) for path in pair)
        if start is not None:
            start = F.interpolate(start, content.shape[2:], mode="bicubic", align_corners=False)
        targets = style_targets(encoder, recipe, style)
        ours = Ours(encoder, recipe, content, targets, content if start is None else start, dtype)
        if size < full:
            start = best_of(ours, steps_at(recipe, index))
    steps = 0
    while True:
        if steps == quick:
            ours.compute_in(torch.float32)
        ours.step()
        steps += 1
        yield ours.canvas_BCHW


def best_of(ours: Ours, steps: int) -> Tensor:
    """Take `steps` steps; return the best canvas seen, as the engine hands it to the next level."""
    best, best_loss = ours.canvas_BCHW.clone(), float("inf")
    for _ in range(steps):
        before = ours.canvas_BCHW.clone()
        loss = ours.step().total.item()
        if loss < best_loss:
            best, best_loss = before, loss
    return best


def seconds_to(curve: Curve, target: float) -> float | None:
    """Return when a curve is first at or below a loss."""
    return next((seconds for seconds, loss in curve if loss <= target), None)


def summary(arguments: argparse.Namespace, reference: Curve, ours: Curve, target: float) -> Result:
    reference_s, ours_s = reference[-1][0], seconds_to(ours, target)
    halfway = reference[len(reference) // 2 - 1][1]
    halfway_s, ours_halfway_s = seconds_to(reference, halfway), seconds_to(ours, halfway)
    steps = next((number for number, (_, loss) in enumerate(ours, 1) if loss <= target), None)
    return {
        "size": arguments.size,
        "steps": arguments.steps,
        "loss": target,
        "reference_s": reference_s,
        "ours_s": ours_s,
        "ours_steps_at_full_size": steps,
        "ours_best_loss": min(loss for _, loss in ours),
        "reference_over_ours": reference_s / ours_s if ours_s else None,
        "halfway": {
            "steps": len(reference) // 2,
            "loss": halfway,
            "reference_s": halfway_s,
            "ours_s": ours_halfway_s,
            "reference_over_ours": halfway_s / ours_halfway_s if halfway_s and ours_halfway_s else None,
        },
    }


def write_curves(path: Path, reference: Curve, ours: Curve) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["program", "seconds", "loss"])
        for name, curve in (("reference", reference), ("ours", ours)):
            writer.writerows([name, f"{seconds:.3f}", f"{loss:.6g}"] for seconds, loss in curve)


def plot_curves(path: Path, reference: Curve, ours: Curve, target: float) -> None:
    """Draw log loss against seconds; without matplotlib (the extra `bench`) say so and go on."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install '.[bench]' brings matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, curve in (("reference", reference), ("ours, at full size", ours)):
        axes.plot(*zip(*curve, strict=True), label=name)
    axes.axhline(target, color="grey", linewidth=0.8, linestyle="dotted")
    axes.set(yscale="log", xlabel="seconds", ylabel="the reference's loss")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def report(result: Result) -> str:
    rows = [
        [
            f"loss of the reference at step {row['steps']}",
            row["loss"],
            row["reference_s"],
            row["ours_s"] if row["ours_s"] is not None else "not reached",
            row["reference_over_ours"],
        ]
        for row in (result["halfway"], result)
    ]
    header = [f"{result['size']} x {result['size']}", "loss", "reference, s", "ours, s", "reference / ours"]
    return markdown_table(header, rows)


if __name__ == "__main__":
    part(__doc__, add_options, measure, report)
