"""What is known of a run before it begins."""

from __future__ import annotations

from pathlib import Path

from ..errors import ImageError
from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from ..vgg.weights import EncoderWeights, read_weights
from .devices import DevicePlan
from .memory import MemoryModel
from .pyramid import plan_levels
from .run_work import RunWork
from .tile_planning import PictureMemory, TileChoice, Tiling


def work_factor(
    recipe: Recipe,
    weights: EncoderWeights,
    device: DevicePlan,
    memory: MemoryModel,
    tiles: TileChoice,
    scratch: Path | None = None,
) -> float:
    """Return how many times the work of untiled steps those of a picture of 3 to 2 are.

    It is 1 if the picture fits the memory. `scratch` is the folder for files, as in `Session`.
    """
    # On another device a single picture is always tried untiled first, unless there is a limit.
    is_tried = device.device != "cpu" and memory.limit_bytes is None
    if tiles.off or (is_tried and not tiles.edge):
        return 1.0
    try:
        levels = plan_levels(recipe, (3000, 2000))
    except ImageError:
        return 1.0
    layers = sorted({*recipe.content_layers, *recipe.style_layers})
    channels = Encoder(read_weights(weights, layers), layers).channels
    itemsize = device.network_dtype(recipe.precision).itemsize
    last = PictureMemory(recipe, channels, *levels[-1].size, itemsize)
    if not tiles.edge and not memory.needs_tiles(last.untiled, 1):
        return 1.0
    tiling = Tiling(memory.bytes_for_tiles(), tiles.edge, scratch, threads=device.threads)
    return RunWork.of(levels, recipe, channels, itemsize, tiling).factor
