"""Milliseconds per picture and step at full width: a tutorial's loop, ours, and what matrix products allow.

    python -m benchmarks.step --size 512 --json

Every program is a process of its own, as its user would run it (ours makes malloc keep freed memory, for the
whole process). They take their steps in turns, so that a noisy machine is noisy for all, and medians are
compared. With `--batch N` ours moves N pictures together; the tutorial's loop moves one. The network has
VGG-19's shape and random weights, which cost the same as trained ones.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from benchmarks.command import SAME_LOSS
from benchmarks.ours import Ours, build_encoder, quickest_dtype, style_targets
from benchmarks.reference import Loop, Network
from pipeline.spec.recipe import Recipe
from pipeline.transfer.allocator import keep_freed_memory
from pipeline.vgg.encoder import CONVOLUTIONS

CHANNELS = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}
WARM_UP = 3
MULTIPLY_ADDS_PER_PIXEL = 361_152  # forward, up to conv5_1; backward takes as many again
PROGRAMS = ("reference", "ours", "ours_float32", "ours_default", "matmul_floor")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="pixels, both ways")
    parser.add_argument("--batch", type=int, default=1, help="pictures moved together by ours")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=PROGRAMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.serve:
        serve(arguments.serve, arguments.size, arguments.batch)
        return
    result = measure(arguments.size, arguments.batch, arguments.repeats, arguments.threads)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<24} {value}")


def measure(size: int, batch: int, repeats: int, threads: int) -> dict[str, object]:
    commands = {
        name: [
            *(sys.executable, "-m", "benchmarks.step", "--serve", name),
            *("--size", str(size), "--batch", str(batch), "--threads", str(threads)),
        ]
        for name in PROGRAMS
    }
    times = {name: statistics.median(values) for name, values in timed(commands, repeats).items()}
    return {
        "size": size,
        "batch": batch,
        **{f"{name}_ms": round(ms, 1) for name, ms in times.items()},
        "reference_over_ours": round(times["reference"] / times["ours"], 2),
        "ours_over_floor": round(times["ours"] / times["matmul_floor"], 2),
        "dtype": str(quickest_dtype("cpu")).removeprefix("torch."),
        "threads": threads,
        "torch": str(torch.__version__),
        "processor": platform.processor() or platform.machine(),
    }


def timed(commands: dict[str, list[str]], repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds per picture of each program, run in turns after `WARM_UP` steps each."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for name, command in commands.items()
        }
        for turn in range(WARM_UP + repeats):
            for name, server in servers.items():
                ms = ask(server)
                if turn >= WARM_UP:
                    times[name].append(ms)
    return times


def ask(server: subprocess.Popen[str]) -> float:
    """Have a program take one step; return the milliseconds."""
    assert server.stdin is not None
    assert server.stdout is not None
    print(file=server.stdin, flush=True)
    return float(server.stdout.readline())


def serve(name: str, size: int, batch: int) -> None:
    """Take a step for every line of standard input, and answer with the milliseconds per picture."""
    program, pictures = build(name, size, batch)
    for _ in sys.stdin:
        started = time.perf_counter()
        program()
        print((time.perf_counter() - started) * 1e3 / pictures, flush=True)


def build(name: str, size: int, batch: int) -> tuple[Callable[[], object], int]:
    """Return a function that takes one step of a program, and how many pictures it moves."""
    if name == "matmul_floor":
        return matrix_products(size, quickest_dtype("cpu")), 1
    weights, style = random_weights(), smooth(size, 0)
    if name == "reference":
        return Loop(Network(weights), smooth(size, 1), style).step, 1
    keep_freed_memory()
    content = torch.cat([smooth(size, seed) for seed in range(1, batch + 1)])
    recipe = Recipe(margin=0) if name == "ours_default" else Recipe(**SAME_LOSS)
    dtype = torch.float32 if name == "ours_float32" else quickest_dtype("cpu")
    encoder = build_encoder(weights, recipe)
    targets = style_targets(encoder, recipe, style, batch)
    return Ours(encoder, recipe, content, targets, content, dtype).step, batch


def matrix_products(size: int, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that does the multiply-adds of a step as square matrix products."""
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
