"""Session: what stays warm between jobs (encoders, style targets) and turns pictures into pictures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ..errors import DeviceError, ImageError
from ..recipe import Recipe
from .checkpoints import LossRow, RunState
from .devices import DevicePlan
from .encoder import Encoder, smallest_side
from .engine import Level, LevelInputs, Progress, StyleTransfer
from .images import fit_size, to_image, to_tensor, upright_srgb
from .targets import StyleTargets, TargetCache, blend_targets, gram_targets, target_key
from .weights import EncoderWeights, read_weights


@dataclass(frozen=True)
class Picture:
    """A decoded picture and the sha256 of the file it came from."""

    image: Image.Image
    sha256: str

    @classmethod
    def from_image(cls, image: Image.Image) -> Picture:
        """Wrap a picture that has no file; its pixels are its identity."""
        rgb = upright_srgb(image)
        return cls(rgb, hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest())


@dataclass(frozen=True)
class Request:
    """One stylisation: `styles` are pictures with their share in the blend; `init` where a file is."""

    content: Picture
    styles: Sequence[tuple[Picture, float]]
    recipe: Recipe
    init: Picture | None = None


@dataclass(frozen=True)
class Outcome:
    """The result, its loss log and what it took."""

    image: Image.Image
    rows: list[LossRow]
    width: int
    height: int
    seconds: float
    dtype: str
    cache_hits: int
    cache_misses: int


@dataclass(frozen=True)
class Hooks:
    """How a running job talks to its caller; see `StyleTransfer`."""

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_checkpoint: Callable[[RunState], None] = lambda state: None
    should_stop: Callable[[], bool] = lambda: False
    checkpoint_s: float = 30.0


def plan_levels(recipe: Recipe, content_size: tuple[int, int]) -> list[Level]:
    """Plan the pyramid for a content image of (width, height) pixels, coarsest level first.

    Levels too small for the deepest layer are left out, so a panorama starts at a finer one; every
    level keeps the steps it would have had.

    Raises:
        ImageError: the result itself would be too small.
    """
    smallest = smallest_side([*recipe.content_layers, *recipe.style_layers], recipe.padding)
    # A margin is mirrored from within the picture.
    smallest = max(smallest - 2 * recipe.margin, recipe.margin + 1)
    sizes = [fit_size(content_size, size, recipe.square) for size in recipe.level_sizes()]
    levels = [Level(*size, recipe.steps_at(index)) for index, size in enumerate(sizes)]
    usable = [level for level in levels if min(level.width, level.height) >= smallest]
    if not usable:
        width, height = sizes[-1]
        raise ImageError(
            f"The result would be {width} x {height} pixels; this recipe needs {smallest} on the short side.",
            f"Use size {-(-smallest * max(width, height) // min(width, height))} or more.",
        )
    return usable


class Session:
    """Runs requests one after another on one device. Not for use by several threads at once."""

    def __init__(self, device: DevicePlan, cache: TargetCache) -> None:
        self.device = device
        self.cache = cache
        self._torch_device = torch.device(device.device)
        self._encoder: tuple[object, Encoder] | None = None

    def stylize(
        self,
        request: Request,
        weights: EncoderWeights,
        hooks: Hooks = Hooks(),
        state: RunState | None = None,
    ) -> Outcome:
        """Run one request, from `state` if it was stopped before.

        Raises:
            Stopped, Diverged: as `StyleTransfer.run`.
            ImageError: the picture is too small for the recipe, or too large for the device's memory.
            DeviceError: the device was lost.
        """
        started = time.perf_counter()
        recipe = request.recipe
        levels = plan_levels(recipe, request.content.image.size)
        run = _Run(self, request, weights)
        transfer = StyleTransfer(
            run.encoder, recipe, levels, run.level_inputs, run.first_image,
            hooks.on_progress, hooks.on_checkpoint, hooks.should_stop, hooks.checkpoint_s,
            getattr(torch, self.dtype_for(recipe)),
        )  # fmt: skip
        try:
            result, rows = transfer.run(state)
        except (RuntimeError, MemoryError) as error:
            raise self._device_fault(error, levels[-1]) from error
        image = to_image(result)
        if recipe.upscale_to_content:
            image = image.resize(request.content.image.size, Image.Resampling.LANCZOS)
        seconds, dtype = time.perf_counter() - started, self.dtype_for(recipe)
        return Outcome(image, rows, image.width, image.height, seconds, dtype, run.hits, run.misses)

    def dtype_for(self, recipe: Recipe) -> str:
        """Name the type in which the network computes a recipe here."""
        if recipe.precision == "auto":
            return self.device.dtype
        return "bfloat16" if recipe.precision == "bfloat16" else "float32"

    def _device_fault(self, error: RuntimeError | MemoryError, level: Level) -> Exception:
        """Tell a picture that does not fit from a device that is gone; anything else stays what it is."""
        # On the CPU torch has no class of its own for a failed allocation.
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            return ImageError(
                f"{level.width} x {level.height} pixels do not fit the memory of {self.device.device}.",
                "Lower size, or use --device cpu.",
            )
        if isinstance(error, torch.AcceleratorError):
            return DeviceError(
                f"The device {self.device.device} failed: {error}", "Check the device, or use --device cpu."
            )
        return error

    def encoder_for(self, recipe: Recipe, weights: EncoderWeights) -> Encoder:
        """Return the encoder of a recipe, built to its deepest layer; the last one stays warm."""
        layers = sorted({*recipe.content_layers, *recipe.style_layers})
        key = (weights.digest, layers, recipe.pooling, recipe.padding)
        if self._encoder is None or self._encoder[0] != key:
            encoder = Encoder(read_weights(weights, layers), layers, recipe.pooling, recipe.padding)
            self._encoder = (key, encoder.to(self._torch_device))
        return self._encoder[1]


class _Run:
    """The inputs of one request, made when a level asks for them."""

    def __init__(self, session: Session, request: Request, weights: EncoderWeights) -> None:
        self.session = session
        self.request = request
        self.weights = weights
        self.device = torch.device(session.device.device)
        self.encoder = session.encoder_for(request.recipe, weights)
        self.hits = self.misses = 0

    def level_inputs(self, level: Level) -> LevelInputs:
        content = to_tensor(self.request.content.image, (level.width, level.height)).to(self.device)
        parts = [(self._targets(style, level), share) for style, share in self.request.styles]
        return LevelInputs(content, blend_targets(parts).to(self.device))

    def first_image(self, level: Level) -> Tensor:
        recipe, size = self.request.recipe, (level.width, level.height)
        shape = (1, 3, level.height, level.width)
        if recipe.init == "noise":
            generator = torch.Generator().manual_seed(recipe.seed)
            return torch.rand(shape, generator=generator)
        if recipe.init == "blank":
            return torch.full(shape, 0.5)
        if recipe.init == "style":
            return to_tensor(self.request.styles[0][0].image, size)
        return to_tensor((self.request.init or self.request.content).image, size)

    def _targets(self, style: Picture, level: Level) -> StyleTargets:
        recipe = self.request.recipe
        size = self._style_size(style.image.size, level)
        key = target_key(
            {
                "style": style.sha256,
                "size": size,
                "weights": self.weights.digest,
                "layers": sorted(recipe.style_layers),
                "pooling": recipe.pooling,
                "padding": recipe.padding,
            }
        )

        def compute() -> StyleTargets:
            image_BCHW = to_tensor(style.image, size).to(self.device)
            return gram_targets(self.encoder, image_BCHW, sorted(recipe.style_layers))

        targets, hit = self.session.cache.fetch(key, compute)
        self.hits, self.misses = self.hits + hit, self.misses + (not hit)
        return targets

    def _style_size(self, size: tuple[int, int], level: Level) -> tuple[int, int]:
        """Scale a style to the canvas's long edge times `style_scale`, its short side kept usable."""
        recipe = self.request.recipe
        edge = round(max(level.width, level.height) * recipe.style_scale)
        smallest = smallest_side(recipe.style_layers, recipe.padding)
        edge = max(edge, smallest if recipe.square else -(-smallest * max(size) // min(size)))
        return fit_size(size, edge, recipe.square)
