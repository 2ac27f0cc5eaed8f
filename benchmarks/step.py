"""Milliseconds per step at full width: a tutorial's loop, ours, and what the matrix products alone allow.

    python -m benchmarks.step --size 512 --json

All three in one run, in turns, so that a noisy machine is noisy for all; medians. The network has VGG-19's
shape and random weights, which cost the same as trained ones.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.reference import Loop, Network
from pipeline.neural.devices import plan_device
from pipeline.neural.encoder import CONVOLUTIONS, Encoder
from pipeline.neural.explicit import ExplicitObjective
from pipeline.neural.lbfgs import LBFGS
from pipeline.neural.targets import gram_targets
from pipeline.recipe import Recipe

CHANNELS = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}
# The same losses for both sides; ours with the default's bures as well.
GRAM = Recipe(
    style_loss="gram", loss="mean", padding="zeros", margin=0, style_weight=1e6, tv_weight=0, range_weight=0
)
MULTIPLY_ADDS_PER_PIXEL = 361_152  # forward, up to conv5_1; the same again for the input's gradient


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="pixels, both ways")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.size, arguments.repeats)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<24} {value}")


def measure(size: int, repeats: int) -> dict[str, object]:
    weights, content, style = random_weights(), smooth(size, 1), smooth(size, 2)
    loop = Loop(Network(weights), content, style)
    dtype = getattr(torch, plan_device("cpu").dtype)
    programs: dict[str, Callable[[], object]] = {
        "reference": loop.step,
        "ours": ours(weights, GRAM, content, style, dtype),
        "ours_float32": ours(weights, GRAM, content, style, torch.float32),
        "ours_default": ours(weights, Recipe(margin=0), content, style, dtype),
        "matmul_floor": matrix_products(size, dtype),
    }
    times = {name: statistics.median(values) for name, values in timed(programs, repeats).items()}
    return {
        "size": size,
        **{f"{name}_ms": round(ms, 1) for name, ms in times.items()},
        "reference_over_ours": round(times["reference"] / times["ours"], 2),
        "ours_over_floor": round(times["ours"] / times["matmul_floor"], 2),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "processor": platform.processor() or platform.machine(),
    }


def timed(programs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of each program, run in turns after one run to warm up."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            program()
            if turn:
                times[name].append((time.perf_counter() - started) * 1e3)
    return times


def ours(
    weights: dict[str, Tensor], recipe: Recipe, content: Tensor, style: Tensor, dtype: torch.dtype
) -> Callable[[], None]:
    """Return a function that takes one step of our loop."""
    layers = sorted({*recipe.content_layers, *recipe.style_layers})
    encoder = Encoder(weights, layers, recipe.pooling, recipe.padding)
    objective = ExplicitObjective(encoder, recipe, content, gram_targets(encoder, style, layers), dtype)
    canvas = content.clone()
    flat = canvas.view(1, -1)
    optimizer = LBFGS(flat, recipe.learning_rate, recipe.history)

    def step() -> None:
        losses, gradient = objective.evaluate(canvas)
        optimizer.step(flat, losses.total, gradient.contiguous().view(1, -1))

    return step


def matrix_products(size: int, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that does as many multiply-adds as a step, as square matrix products."""
    side = 2048
    products = 2 * MULTIPLY_ADDS_PER_PIXEL * size**2 / side**3
    one, other = (torch.randn(side, side, dtype=dtype) for _ in range(2))
    whole, rest = divmod(products, 1)
    columns = max(1, round(rest * side))

    def run() -> None:
        for _ in range(int(whole)):
            one @ other
        one @ other[:, :columns]

    return run


def random_weights() -> dict[str, Tensor]:
    generator, weights, channels = torch.Generator().manual_seed(0), {}, 3
    for name in CONVOLUTIONS:
        width = CHANNELS[name[4]]
        weights[f"{name}.weight"] = (
            torch.randn(width, channels, 3, 3, generator=generator) * (2 / (9 * channels)) ** 0.5
        )
        weights[f"{name}.bias"] = torch.zeros(width)
        channels = width
    return weights


def smooth(size: int, seed: int) -> Tensor:
    """A picture of soft blobs with some grain, as `image_BCHW`."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return (picture + 0.05 * torch.randn(picture.shape, generator=generator)).clamp(0, 1)


if __name__ == "__main__":
    main()
