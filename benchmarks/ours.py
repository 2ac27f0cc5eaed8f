"""Our loop, as the engine runs it, for measurements of its parts; and one large picture, from start to end:

    python -m benchmarks.ours --encoder vgg19 --width 8000 --height 8000 --limit-mb 10000

Shapes in names: B pictures, C channels, H rows, W columns, N numbers of a canvas.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.spec.recipe import Recipe
from pipeline.transfer.allocator import keep_freed_memory
from pipeline.transfer.devices import plan_device
from pipeline.transfer.explicit import ExplicitObjective
from pipeline.transfer.lbfgs import LBFGS
from pipeline.transfer.losses import Moments
from pipeline.transfer.objective import Losses
from pipeline.transfer.reports import Hooks, Progress
from pipeline.transfer.request import Picture, Request
from pipeline.transfer.session import Session
from pipeline.transfer.target_cache import TargetCache
from pipeline.transfer.targets import StyleTargets, gram_targets
from pipeline.transfer.tile_planning import PictureMemory, TileChoice, Tiling
from pipeline.vgg.encoder import Encoder
from pipeline.vgg.weights import bundled_weights


class Ours:
    """B pictures of one size in one tensor: `step()` moves them all."""

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        content_BCHW: Tensor,
        targets: StyleTargets,
        start_BCHW: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self._parts = (encoder, recipe, content_BCHW, targets)
        self.compute_in(dtype)
        self.canvas_BCHW = start_BCHW.clone(memory_format=torch.contiguous_format)
        self.flat_BN = self.canvas_BCHW.view(len(start_BCHW), -1)
        self.optimizer = LBFGS(self.flat_BN, recipe.learning_rate, recipe.history)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Continue with the network in `dtype`; L-BFGS keeps its history."""
        self.objective = ExplicitObjective(*self._parts, dtype)

    def step(self) -> Losses:
        """Take one step; return the losses of the canvas before it."""
        losses, gradient_BCHW = self.objective.evaluate(self.canvas_BCHW)
        gradient_BN = gradient_BCHW.contiguous().view(len(gradient_BCHW), -1)
        self.optimizer.step(self.flat_BN, losses.total, gradient_BN)
        return losses


def build_encoder(weights: dict[str, Tensor], recipe: Recipe, device: str = "cpu") -> Encoder:
    layers = sorted({*recipe.content_layers, *recipe.style_layers})
    return Encoder(weights, layers, recipe.pooling, recipe.padding).to(torch.device(device))


def style_targets(encoder: Encoder, recipe: Recipe, style_1CHW: Tensor, pictures: int = 1) -> StyleTargets:
    """Return the targets of one style, repeated for each picture."""
    one = gram_targets(encoder, style_1CHW, sorted(recipe.style_layers)).to(style_1CHW.device)
    return StyleTargets(
        {
            layer: Moments(m.mean.repeat(pictures, 1), m.second.repeat(pictures, 1, 1))
            for layer, m in one.layers.items()
        }
    )


def quickest_dtype(device: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, plan_device(device).dtype)
    return dtype


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Return soft blobs with some grain, made without copies of its size."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
    pixels_HWC = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    for rows_HWC in np.array_split(pixels_HWC, -(-height // 256)):
        rows_HWC += random.integers(0, 12, rows_HWC.shape, np.uint8)
    return Image.fromarray(pixels_HWC)


def peak_bytes() -> int:
    """Return the most memory that this process has had so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def large_picture(arguments: argparse.Namespace) -> dict[str, object]:
    """Make a picture at one level; return what was done to fit the memory, and seconds of the CPU a step."""
    size, times = (arguments.width, arguments.height), []
    peaks: dict[str, int] = {}
    recipe = Recipe(
        encoder=arguments.encoder,
        size=max(size),
        steps=arguments.steps,
        pyramid=0,
        style_scale=min(1.0, max(0.1, 1024 / max(size))),
    )

    def on_progress(progress: Progress) -> None:
        peaks[str(progress.step)] = peak_bytes()
        if not progress.tile:
            times.append(time.process_time())

    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    weights, limit_bytes = bundled_weights(arguments.encoder), arguments.limit_mb * 10**6 or None
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        plan = plan_device("cpu")
        session = Session(plan, TargetCache(None), 0, False, None, limit_bytes, Path(folder))
        encoder = session.encoder_for(recipe, weights)
        itemsize = plan.network_dtype(recipe.precision).itemsize
        memory = PictureMemory(recipe, encoder.channels, *size, itemsize)
        tiling = Tiling(session.memory.bytes_for_tiles(), 0, Path(folder), arguments.threads)
        request = Request(
            Picture.from_image(picture(*size, 1)), [(Picture.from_image(picture(512, 512, 2)), 1.0)], recipe
        )
        peaks["pictures"] = peak_bytes()
        choice = TileChoice(off=not arguments.limit_mb)
        (outcome,) = session.stylize([request], weights, Hooks(on_progress), tiles=choice)
    steps, peaks["end"] = np.diff(times), peak_bytes()
    return {
        "seconds": float(np.median(steps)) if len(steps) else None,
        "adjusted": outcome.adjusted,
        "peaks_by_step": peaks,
        "estimate_bytes": memory.tiled(tiling.in_tiles(memory)) if outcome.adjusted else memory.untiled,
        "dtype": outcome.dtype,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", choices=("vgg19", "vgg19-slim"), default="vgg19-slim")
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--limit-mb", type=int, default=0, help="as memory_mb in config.yaml; 0: untiled")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scratch", type=Path, default=Path.cwd(), help="folder for temporary files")
    print(json.dumps(large_picture(parser.parse_args())))


if __name__ == "__main__":
    main()
