"""Session: what stays loaded between jobs (encoder, style targets), and what runs requests on one device."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DeviceError
from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from ..vgg.weights import EncoderWeights, read_weights
from .allocator import keep_few_addresses, keep_freed_memory, release_freed_memory
from .checkpoints import RunState
from .color_policy import final_colors, recolor_result
from .devices import DevicePlan
from .engine import StyleTransfer
from .level_inputs import RequestInputs
from .memory import STYLE_TILE, LargeStyle, MemoryModel, OutOfMemory, is_out_of_memory, style_bytes
from .pyramid import Level, plan_levels, style_size
from .reports import SILENT, Hooks, Outcome
from .request import Request
from .stepper import StepperCache
from .target_cache import TargetCache
from .tensors import resized
from .tile_planning import AUTO, PictureMemory, TileChoice, Tiling, tile_notes
from .usage import address_limit


class Session:
    """Runs requests on one device. Threads may share it; their requests run one after another.

    `threads` is the number of CPU threads in the whole process; 0 leaves it to torch. The allocator is
    changed only if the process is ours (`owns_process`). `share_bytes` is this process's part of the device's
    memory while other processes of ours run beside it, None if there are none; `limit_bytes` is what all of
    them may take together, None is all that is free. `scratch` is the folder for files of pictures that do
    not fit the memory; without it there are none.
    """

    def __init__(
        self,
        device: DevicePlan,
        cache: TargetCache,
        threads: int = 0,
        owns_process: bool = False,
        share_bytes: int | None = None,
        limit_bytes: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.device = device
        self.scratch = scratch
        self.cache = cache
        self.memory = MemoryModel(device, share_bytes, limit_bytes)
        self._keeps_memory = owns_process and device.device == "cpu"
        if self._keeps_memory:
            if address_limit() is None:
                keep_freed_memory()
            else:
                keep_few_addresses()
        if threads:
            torch.set_num_threads(threads)
        self._torch_device = torch.device(device.device)
        self._steppers = StepperCache()
        self._encoder: tuple[object, Encoder] | None = None
        self._lock = threading.RLock()
        self._running = False

    def stylize(
        self,
        requests: Sequence[Request],
        weights: EncoderWeights,
        hooks: Hooks = SILENT,
        states: Sequence[RunState] | None = None,
        alone: bool = True,
        tiles: TileChoice = AUTO,
    ) -> list[Outcome]:
        """Run requests of one recipe and one size together, from `states` if they were stopped before.

        `alone`: no other process of ours runs meanwhile, so all free memory may be used. A picture that does
        not fit it is computed in `tiles`, if these are not off.

        Raises:
            ImageError: the pictures are too small for the recipe.
            OutOfMemory: they do not fit together.
            DeviceError: the device was lost.
        """
        recipe = requests[0].recipe
        with self._turn() as steppers, self._device_errors():
            started = time.perf_counter()
            levels = plan_levels(recipe, requests[0].content.image.size)
            encoder, dtype = self.encoder_for(recipe, weights), self.device.network_dtype(recipe.precision)
            self._check_styles(requests, encoder, levels[-1], alone)
            last = PictureMemory(recipe, encoder.channels, *levels[-1].size, dtype.itemsize)
            tiling, estimate = self._fit(last, len(requests), alone, tiles)
            style_tile = STYLE_TILE >> tiles.halved
            inputs = [
                RequestInputs(request, encoder, weights.digest, self.cache, self._torch_device, style_tile)
                for request in requests
            ]
            transfer = StyleTransfer(encoder, recipe, levels, inputs, hooks, dtype, steppers, tiling)
            with self.memory.learning(estimate):
                outcomes = transfer.run(states or [RunState() for _ in requests])
            seconds = time.perf_counter() - started
            return [
                replace(
                    outcome,
                    image_BCHW=_finished(each.request, outcome.image_BCHW),
                    seconds=seconds,
                    device=self.device.device,
                    dtype=str(dtype).removeprefix("torch."),
                    micro_batch=len(requests),
                    cache_hits=each.cache_hits,
                    cache_misses=each.cache_misses,
                    adjusted=tile_notes(tiling, last),
                    work_factor=transfer.work.factor,
                )
                for each, outcome in zip(inputs, outcomes, strict=True)
            ]

    @contextmanager
    def _turn(self) -> Iterator[StepperCache]:
        """Wait for other threads' runs, and give this one its steppers.

        A hook may ask for a run of its own, which must not use those of the run around it.
        """
        with self._lock:
            nested, self._running = self._running, True
            try:
                yield StepperCache() if nested else self._steppers
            finally:
                self._running = nested

    def _check_styles(self, requests: Sequence[Request], encoder: Encoder, last: Level, alone: bool) -> None:
        """Check that each style fits at the last level; it is analysed alone.

        Raises:
            OutOfMemory: one does not.
        """
        for request in requests:
            recipe = request.recipe
            for index, (style, _) in enumerate(request.styles):
                size = style_size(recipe, style.image.size, last.size)
                if not self.memory.fits(style_bytes(encoder.channels, recipe.style_layers, size), 1, alone):
                    raise OutOfMemory(LargeStyle(index, size), foreseen=True)

    def _fit(
        self, last: PictureMemory, pictures: int, alone: bool, tiles: TileChoice
    ) -> tuple[Tiling | None, int]:
        """Return how pictures are computed in tiles (None: untiled), and an estimate for them all in bytes.

        Both are for their last level.

        Raises:
            OutOfMemory: they do not fit, or the attempt before needed no more.
        """
        if tiles.off:
            fits_untiled = self.memory.fits(last.untiled, pictures, alone)
        else:
            fits_untiled = not self.memory.needs_tiles(last.untiled, pictures, alone)
        begins_untiled = fits_untiled and not tiles.edge
        if begins_untiled and not tiles.halved:
            return None, last.untiled * pictures
        # Fewer pictures, or without other processes beside them, may fit as they are, which is faster.
        if tiles.off or not (tiles.edge or (pictures == 1 and alone)):
            raise OutOfMemory(foreseen=True)
        tiling = Tiling(
            self.memory.bytes_for_tiles(alone),
            tiles.edge,
            self.scratch,
            threads=self.device.threads,
            most_bytes=self.memory.most_bytes(alone),
        )
        plan = None if begins_untiled else tiling.in_tiles(last)
        estimate, before = last.needed(plan), math.inf
        for _ in range(tiles.halved):
            before, tiling = estimate, tiling.smaller(estimate)
            plan = tiling.in_tiles(last)
            estimate = last.needed(plan)
        assert plan is not None  # untiled is the first attempt only
        too_many = pictures > 1 and plan.storage is not None  # which is for one picture
        if estimate >= before or too_many or not self.memory.fits(estimate, pictures, alone):
            raise OutOfMemory(foreseen=True)
        return tiling, estimate * pictures

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        """Raise OutOfMemory or DeviceError for errors that mean so; other errors stay as they are."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory from error
            if isinstance(error, torch.AcceleratorError):
                raise DeviceError(
                    f"The device {self.device.device} failed: {error}",
                    "Check the device, or use --device cpu.",
                ) from error
            raise
        finally:
            if self._keeps_memory:
                release_freed_memory()

    def free_memory(self) -> bool:
        """Free what is kept for later runs; return whether there was any."""
        with self._lock:
            kept = self._steppers.clear()
        gc.collect()
        if self._torch_device.type == "cuda":
            torch.cuda.empty_cache()
        if self._torch_device.type == "mps":
            torch.mps.empty_cache()
        return kept

    def encoder_for(self, recipe: Recipe, weights: EncoderWeights) -> Encoder:
        """Return the encoder of a recipe, built to its deepest layer; the last one is kept."""
        layers = sorted({*recipe.content_layers, *recipe.style_layers})
        key = (weights.digest, layers, recipe.pooling, recipe.padding)
        if self._encoder is None or self._encoder[0] != key:
            self._steppers.clear()
            encoder = Encoder(read_weights(weights, layers), layers, recipe.pooling, recipe.padding)
            self._encoder = (key, encoder.to(self._torch_device))
        return self._encoder[1]


def _finished(request: Request, image_BCHW: Tensor | None) -> Tensor | None:
    """Return the engine's picture on the CPU, in its final colours and size."""
    if image_BCHW is None:
        return None
    image_BCHW = recolor_result(request, image_BCHW.detach().float().cpu().clamp(0, 1))
    if request.recipe.upscale_to_content:
        image_BCHW = resized(image_BCHW, request.content.image.size)
    # Last, so that the colours are as sharp as the result.
    return final_colors(request, image_BCHW)
