"""Session: what stays warm between jobs (encoder, style targets) and turns pictures into pictures."""

from __future__ import annotations

import gc
import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from ..errors import DeviceError, ImageError
from ..images.reading import Decoded, to_decoded
from ..spec.recipe import LARGEST_SIZE, Recipe
from ..vgg.encoder import Encoder, smallest_side
from ..vgg.weights import EncoderWeights, read_weights
from .allocator import keep_freed_memory, release_freed_memory
from .checkpoints import RunState
from .color import (
    blended_pixels,
    grey,
    luma,
    match_colors,
    match_histograms,
    match_luma,
    pixels_where,
    with_luma,
)
from .devices import DevicePlan
from .engine import Hooks, Level, LevelInputs, Outcome, StyleTransfer
from .images import fit_size, resized, scaled, style_size, to_tensor
from .masks import Regions
from .memory import LargeStyle, MemoryModel, OutOfMemory, picture_bytes, style_bytes
from .stepper import Steppers
from .targets import StyleTargets, TargetCache, blend_targets, gram_targets, stack_targets, target_key

SILENT = Hooks()
# Parts of the last level, and the steps that each of them has at least.
LAST_PARTS, PART_STEPS = 3, 20
# How far a result goes to its style's palette in the end: all the way costs content and texture.
LAST_RECOLORING = 0.25


@dataclass(frozen=True)
class Picture:
    """A decoded picture and the sha256 of the file it came from."""

    decoded: Decoded
    sha256: str

    @classmethod
    def from_image(cls, image: Image.Image) -> Picture:
        """Wrap a picture that has no file; its pixels are its identity."""
        decoded = to_decoded(image)
        pixels = decoded.image if decoded.deep_HWC is None else decoded.deep_HWC
        identity = f"{decoded.image.size}".encode() + pixels.tobytes()
        return cls(decoded, hashlib.sha256(identity).hexdigest())

    @property
    def image(self) -> Image.Image:
        """The picture in 8 bits."""
        return self.decoded.image

    def tensor(self, size: tuple[int, int]) -> Tensor:
        """Return `image_BCHW` at `size` (width, height), in all the bits there are."""
        deep_HWC = self.decoded.deep_HWC
        return to_tensor(self.image if deep_HWC is None else deep_HWC, size)

    def visible(self, size: tuple[int, int]) -> Tensor | None:
        """Return where (HW, bool) the picture at `size` shows rather than not; None if nothing is hidden."""
        alpha_HW = self.decoded.alpha_HW
        return None if alpha_HW is None else torch.from_numpy(scaled(alpha_HW, size) > 0.5)


@dataclass(frozen=True)
class Request:
    """One stylisation: `styles` are pictures with their share in the blend; `init` where a file is.

    With `regions` every style has one of them, and there is no blend.
    """

    content: Picture
    styles: Sequence[tuple[Picture, float]]
    recipe: Recipe
    init: Picture | None = None
    regions: Regions | None = None

    def in_its_colors(self, image_BCHW: Tensor) -> Tensor:
        """Return a result, or a snapshot, on the CPU, in the colours that the recipe asks for."""
        if self.recipe.color not in {"content", "luminance"}:
            return image_BCHW
        rows, columns = image_BCHW.shape[2:]
        return with_luma(self.content.tensor((columns, rows)), luma(image_BCHW))

    def shown(self, content_BCHW: Tensor) -> Tensor:
        """Return the content's pixels without those that are hidden under transparency."""
        rows, columns = content_BCHW.shape[2:]
        return pixels_where(content_BCHW, self.content.visible((columns, rows)))

    def matched(self, image_BCHW: Tensor, content_BCHW: Tensor) -> Tensor:
        """Return a picture in the palette that the content shows, in [0, 1]; see `match_histograms`."""
        match = match_histograms if self.recipe.match_by == "histogram" else match_colors
        return match(image_BCHW, self.shown(content_BCHW)).clamp(0, 1)


def plan_levels(recipe: Recipe, content_size: tuple[int, int]) -> list[Level]:
    """Plan the pyramid for a content image of (width, height) pixels, coarsest level first.

    Levels too small for the deepest layer are left out, so a panorama starts at a finer one; every
    level keeps the steps it would have had.

    Raises:
        ImageError: the result itself would be too small.
    """
    smallest = smallest_side([*recipe.content_layers, *recipe.style_layers], recipe.padding)
    # A margin is mirrored from within the picture.
    smallest = max(smallest, recipe.margin + 1)
    sizes = [fit_size(content_size, size, recipe.square) for size in recipe.level_sizes()]
    levels = [Level(*size, recipe.steps_at(index)) for index, size in enumerate(sizes)]
    usable = [level for level in levels if min(level.size) >= smallest]
    if not usable:
        width, height = sizes[-1]
        enough = _smallest_size(content_size, smallest, recipe.square)
        raise ImageError(
            f"The result would be {width} x {height} pixels; this recipe needs {smallest} on the short side.",
            f"Use size {enough} or more."
            if enough <= LARGEST_SIZE
            else f"No size up to {LARGEST_SIZE} is enough; crop the picture, or set square: true.",
        )
    return _last_in_parts(usable) if recipe.recolors else usable


def _smallest_size(content_size: tuple[int, int], short_side: int, square: bool) -> int:
    """Return the least long edge at which a content has so many pixels on its short side."""
    # One that is too small by a pixel at most: half a pixel is rounded up.
    size = short_side if square else int((short_side - 0.5) * max(content_size) / min(content_size)) - 1
    size = max(size, 1)
    while min(fit_size(content_size, size, square)) < short_side:
        size += 1
    return size


def _last_in_parts(levels: Sequence[Level]) -> list[Level]:
    """Divide the last level's steps among levels of its size, each of which starts in the palette anew."""
    *coarse, last = levels
    parts = max(1, min(LAST_PARTS, last.steps // PART_STEPS))
    steps = [last.steps // parts + (part < last.steps % parts) for part in range(parts)]
    return [*coarse, *(replace(last, steps=each) for each in steps)]


class Session:
    """Runs requests on one device. Threads may share it; their requests run one after another.

    `threads` is how many the CPU's part gets, 0 torch's choice; it holds for the process. Only where the
    process is ours (`owns_process`) is its allocator changed. `share_bytes` is its part of the device's
    memory while other processes of ours work beside it, None where none do.
    """

    def __init__(
        self,
        device: DevicePlan,
        cache: TargetCache,
        threads: int = 0,
        owns_process: bool = False,
        share_bytes: int | None = None,
    ) -> None:
        self.device = device
        self.cache = cache
        self.memory = MemoryModel(device, share_bytes)
        self._keeps_memory = owns_process and device.device == "cpu"
        if self._keeps_memory:
            keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        self._torch_device = torch.device(device.device)
        self._steppers = Steppers()
        self._encoder: tuple[object, Encoder] | None = None
        self._turn = threading.RLock()
        self._running = False

    def stylize(
        self,
        requests: Sequence[Request],
        weights: EncoderWeights,
        hooks: Hooks = SILENT,
        states: Sequence[RunState] | None = None,
        alone: bool = True,
    ) -> list[Outcome]:
        """Run requests of one recipe and one size together, from `states` if they were stopped before.

        `alone`: no other process of ours works meanwhile, so all memory that is free may be taken.

        Raises:
            ImageError: the pictures are too small for the recipe.
            OutOfMemory: they do not fit together.
            DeviceError: the device was lost.
        """
        with self._turn:
            # A hook may ask for a run of its own; it must not work on what the run around it is using.
            steppers = Steppers() if self._running else self._steppers
            around, self._running = self._running, True
            try:
                return self._stylize(requests, weights, hooks, states, alone, steppers)
            finally:
                self._running = around

    def _stylize(
        self,
        requests: Sequence[Request],
        weights: EncoderWeights,
        hooks: Hooks,
        states: Sequence[RunState] | None,
        alone: bool,
        steppers: Steppers,
    ) -> list[Outcome]:
        started = time.perf_counter()
        recipe = requests[0].recipe
        levels = plan_levels(recipe, requests[0].content.image.size)
        encoder = self.encoder_for(recipe, weights)
        dtype = self._dtype(recipe)
        estimate = picture_bytes(
            recipe, encoder.channels, levels[-1].width, levels[-1].height, dtype.itemsize
        )
        self.memory.check(estimate, len(requests), alone)
        self._check_styles(requests, encoder, levels[-1], alone)
        runs = [_Run(self, request, weights, encoder) for request in requests]
        transfer = StyleTransfer(
            encoder, recipe, levels,
            lambda level, index: runs[index].level_inputs(level),
            lambda level, index: runs[index].first_image(level),
            lambda image_BCHW, level, index: runs[index].recolored(image_BCHW, level),
            hooks, dtype, steppers,
        )  # fmt: skip
        try:
            with self.memory.learning(estimate * len(requests)):
                outcomes = transfer.run(states or [RunState() for _ in requests])
        except (RuntimeError, MemoryError) as error:
            raise self._device_fault(error) from error
        finally:
            if self._keeps_memory:
                release_freed_memory()
        seconds = time.perf_counter() - started
        return [
            replace(
                outcome,
                image_BCHW=self._finished(run, outcome.image_BCHW, levels[-1]),
                seconds=seconds,
                device=self.device.device,
                dtype=str(dtype).removeprefix("torch."),
                micro_batch=len(requests),
                cache_hits=run.hits,
                cache_misses=run.misses,
            )
            for run, outcome in zip(runs, outcomes, strict=True)
        ]

    def _check_styles(self, requests: Sequence[Request], encoder: Encoder, level: Level, alone: bool) -> None:
        """Check that each style, which is looked at by itself, fits where it is largest.

        Raises:
            OutOfMemory: one does not.
        """
        for request in requests:
            for index, (style, _) in enumerate(request.styles):
                size = style_size_at(request.recipe, style.image.size, level)
                needed = style_bytes(encoder.channels, request.recipe.style_layers, size)
                if not self.memory.fits(needed, 1, alone):
                    raise OutOfMemory(LargeStyle(index, size))

    def _finished(self, run: _Run, image_BCHW: Tensor | None, level: Level) -> Tensor | None:
        """Return the engine's picture as it is asked for: on the CPU, in its final colours and size."""
        if image_BCHW is None:
            return None
        image_BCHW = image_BCHW.detach().float().cpu().clamp(0, 1)
        if run.request.recipe.recolors:
            image_BCHW = torch.lerp(image_BCHW, run.recolored(image_BCHW, level), LAST_RECOLORING)
        if run.request.recipe.upscale_to_content:
            image_BCHW = resized(image_BCHW, run.request.content.image.size)
        # Last, so that the colours are as sharp as the result.
        return run.request.in_its_colors(image_BCHW)

    def _dtype(self, recipe: Recipe) -> torch.dtype:
        """Return the type that the network computes in."""
        name = {"auto": self.device.dtype, "reference": "float32"}.get(recipe.precision, recipe.precision)
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def _device_fault(self, error: RuntimeError | MemoryError) -> Exception:
        """Tell pictures that do not fit from a device that is gone; anything else stays what it is."""
        # torch has no class of its own for a failed allocation but on CUDA.
        said = (
            "can't allocate memory",
            "DefaultCPUAllocator: not enough memory",
            "MPS backend out of memory",
        )
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
            each in str(error) for each in said
        ):
            return OutOfMemory()
        if isinstance(error, torch.AcceleratorError):
            return DeviceError(
                f"The device {self.device.device} failed: {error}", "Check the device, or use --device cpu."
            )
        return error

    def free_memory(self) -> bool:
        """Give back what is kept for later; tell whether there was any."""
        with self._turn:
            kept = self._steppers.clear()
        gc.collect()
        if self._torch_device.type == "cuda":
            torch.cuda.empty_cache()
        if self._torch_device.type == "mps":
            torch.mps.empty_cache()
        return kept

    def encoder_for(self, recipe: Recipe, weights: EncoderWeights) -> Encoder:
        """Return the encoder of a recipe, built to its deepest layer; the last one stays warm."""
        layers = sorted({*recipe.content_layers, *recipe.style_layers})
        key = (weights.digest, layers, recipe.pooling, recipe.padding)
        if self._encoder is None or self._encoder[0] != key:
            self._steppers.clear()
            encoder = Encoder(read_weights(weights, layers), layers, recipe.pooling, recipe.padding)
            self._encoder = (key, encoder.to(self._torch_device))
        return self._encoder[1]


class _Run:
    """The inputs of one request, made when a level asks for them."""

    def __init__(self, session: Session, request: Request, weights: EncoderWeights, encoder: Encoder) -> None:
        self.session = session
        self.request = request
        self.weights = weights
        self.encoder = encoder
        self.device = torch.device(session.device.device)
        self.hits = self.misses = 0
        self._inputs: tuple[Level, LevelInputs] | None = None

    def level_inputs(self, level: Level) -> LevelInputs:
        """Return what a level is optimised against; the parts of the last one have the same."""
        if self._inputs is None or self._inputs[0].size != level.size:
            self._inputs = level, self._inputs_at(level)
        return self._inputs[1]

    def _inputs_at(self, level: Level) -> LevelInputs:
        content = self._seen(self.request.content, level).to(self.device)
        parts = [
            (self._targets(index, style, level), share)
            for index, (style, share) in enumerate(self.request.styles)
        ]
        if self.request.regions is None:
            # Several decomposed styles make a blend that is not.
            targets = blend_targets(parts)
        else:
            targets = stack_targets([each for each, _ in parts])
            targets = replace(targets, masks=self.request.regions.masks(*level.size))
        return LevelInputs(content, targets.to(self.device))

    def first_image(self, level: Level) -> Tensor:
        recipe, request = self.request.recipe, self.request
        shape = (1, 3, level.height, level.width)
        if recipe.init == "noise":
            generator = torch.Generator().manual_seed(recipe.seed)
            return torch.rand(shape, generator=generator)
        if recipe.init == "blank":
            return torch.full(shape, 0.5)
        if recipe.init == "style":
            return self._style_image(request.styles[0][0], level.size, level)
        return self.recolored(self._seen(request.init or request.content, level), level)

    def recolored(self, image_BCHW: Tensor, level: Level) -> Tensor:
        """Give a picture of a level's size its style's palette, or each of its regions that of its style."""
        request = self.request
        if not request.recipe.recolors:
            return image_BCHW
        images = [
            self._style_image(style, self._style_size(style.image.size, level), level)
            for style, _ in request.styles
        ]
        visible_HW = request.content.visible(level.size)
        if request.regions is None:
            palette_BCHW = blended_pixels(images, [share for _, share in request.styles])
            return match_histograms(image_BCHW, palette_BCHW, visible_HW).clamp(0, 1)
        masks_BKHW = request.regions.masks(*level.size).to(image_BCHW)
        parts = [
            mask_BHW[:, None] * match_histograms(image_BCHW, style_BCHW, _within(mask_BHW[0], visible_HW))
            for mask_BHW, style_BCHW in zip(masks_BKHW.unbind(1), images, strict=True)
        ]
        return torch.stack(parts).sum(0).clamp(0, 1)

    def _seen(self, picture: Picture, level: Level) -> Tensor:
        """Return a picture at a level's size as the transfer sees it: without colours for `luminance`."""
        image_BCHW = picture.tensor(level.size)
        return grey(image_BCHW) if self.request.recipe.color == "luminance" else image_BCHW

    def _style_image(self, style: Picture, size: tuple[int, int], level: Level) -> Tensor:
        """Return a style at (width, height), matched to the content where the recipe asks for it."""
        recipe, image_BCHW = self.request.recipe, style.tensor(size)
        if not recipe.matches_style:
            return image_BCHW
        content_BCHW = self._seen(self.request.content, level)
        if recipe.color == "match":
            return self.request.matched(image_BCHW, content_BCHW)
        luma_B1HW = match_luma(luma(image_BCHW), luma(self.request.shown(content_BCHW)))
        return luma_B1HW.expand_as(image_BCHW).clamp(0, 1)

    def _targets(self, index: int, style: Picture, level: Level) -> StyleTargets:
        recipe = self.request.recipe
        size = self._style_size(style.image.size, level)
        parts: dict[str, object] = {
            "style": style.sha256,
            "size": size,
            "weights": self.weights.digest,
            "layers": sorted(recipe.style_layers),
            "pooling": recipe.pooling,
            "padding": recipe.padding,
        }
        if recipe.matches_style:
            parts |= {"color": recipe.color, "content": self.request.content.sha256}
            parts |= {"match_by": recipe.match_by} if recipe.color == "match" else {}
            parts["content_size"] = level.size
            # Targets of before were of the white beneath as well.
            parts |= {"shown": True} if self.request.content.decoded.alpha_HW is not None else {}
        key = target_key(parts)

        def compute() -> StyleTargets:
            try:
                image_BCHW = self._style_image(style, size, level).to(self.device)
                return gram_targets(self.encoder, image_BCHW, sorted(recipe.style_layers))
            except (RuntimeError, MemoryError) as error:
                if isinstance(self.session._device_fault(error), OutOfMemory):
                    raise OutOfMemory(LargeStyle(index, size)) from error
                raise

        channels = {layer: self.encoder.channels["conv" + layer[4:]] for layer in recipe.style_layers}
        bures = recipe.style_loss == "bures"
        targets, hit = self.session.cache.fetch(key, channels, compute, bures)
        self.hits, self.misses = self.hits + hit, self.misses + (not hit)
        return targets

    def _style_size(self, size: tuple[int, int], level: Level) -> tuple[int, int]:
        return style_size_at(self.request.recipe, size, level)


def style_size_at(recipe: Recipe, size: tuple[int, int], level: Level) -> tuple[int, int]:
    """Scale a style to the canvas's long edge times `style_scale`, its short side kept usable."""
    edge = round(max(level.size) * recipe.style_scale)
    return style_size(size, edge, smallest_side(recipe.style_layers, recipe.padding), recipe.square)


def _within(mask_HW: Tensor, visible_HW: Tensor | None) -> Tensor:
    """Return where (HW, bool) a region is, without what is hidden there, unless all of it is."""
    inside_HW = mask_HW > 0.5
    if visible_HW is None or not (inside_HW & visible_HW).any():
        return inside_HW
    return inside_HW & visible_HW
