"""StyleTransfer: the pyramid, over which the pixels of one or several pictures are optimised.

Pictures of one recipe and one size share a tensor and nothing else: each has losses, a best canvas, an
optimiser state and an end of its own.

Shapes in names: B pictures, C channels, H rows, W columns. `image_BCHW` is sRGB in [0, 1]; the `canvas` is
what the optimiser moves, in the recipe's parametrisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec.recipe import Recipe
from ..spec.schedule import at_level
from ..vgg.encoder import Encoder
from .allocator import release_freed_memory
from .canvas import Parametrisation
from .checkpoints import RunState
from .large_maps import close_gaps
from .level_run import LevelRun, PictureRun
from .pyramid import Level
from .reports import SILENT, Hooks, Outcome
from .run_work import RunWork
from .stepper import MicroBatch, Stepper, StepperCache
from .stored import joined, loaded
from .targets import StyleTargets, stack_targets
from .tile_planning import LevelPlan, PictureMemory, Tiling
from .tile_progress import TileReports
from .tiles import OnTile, ignore_tile


@dataclass(frozen=True)
class LevelInputs:
    """What a picture is optimised against at one level.

    The content and the masks of the styles have the level's size, without margin.
    """

    content_BCHW: Tensor
    style: StyleTargets


class PictureInputs(Protocol):
    """What one picture is optimised from and against."""

    def at(self, level: Level, on_tile: OnTile = ignore_tile) -> LevelInputs:
        """Return what the picture is optimised against at a level."""

    def first_image(self, level: Level) -> Tensor:
        """Return the image (BCHW) that the coarsest level starts from."""

    def next_image(self, image_BCHW: Tensor) -> Tensor:
        """Return the image that a later level starts from, given the enlarged result of the one before."""


class StyleTransfer:
    """The optimisation of some pictures: coarse to fine, best canvas kept, stoppable after any step.

    `levels` come coarsest first; each picture has its own of `inputs`. The network computes in `dtype`, and
    in tiles where `tiling` says so.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        levels: Sequence[Level],
        inputs: Sequence[PictureInputs],
        hooks: Hooks = SILENT,
        dtype: torch.dtype = torch.float32,
        steppers: StepperCache | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        self.encoder = encoder
        self.recipe = recipe
        self.levels = levels
        self.inputs = inputs
        self.hooks = hooks
        self.dtype = dtype
        self.steppers = steppers or StepperCache()
        self.tiling = tiling
        self.parametrisation = Parametrisation(recipe)
        self.work = RunWork.of(levels, recipe, encoder.channels, dtype.itemsize, tiling)

    def run(self, states: Sequence[RunState]) -> list[Outcome]:
        """Optimise every picture from its state; all of them are at the same level and step."""
        # Copies: pictures that do not fit the memory are tried again from the same states.
        pictures = [
            PictureRun(index, replace(state, rows=list(state.rows))) for index, state in enumerate(states)
        ]
        for index in range(states[0].level, len(self.levels)):
            if running := [picture for picture in pictures if picture.is_running]:
                self._run_level(index, running)
        return [picture.outcome or self._done(picture.state) for picture in pictures]

    def _run_level(self, index: int, pictures: Sequence[PictureRun]) -> None:
        level = self.levels[index]
        plan = self._tile_plan(level)
        for picture in pictures:
            begins, picture.state = picture.state.level < index, self._start(index, picture)
            if begins and plan is not None:  # the first step may take long
                self.hooks.on_checkpoint(picture.index, picture.state)
        steps_before = sum(each.steps for each in self.levels[:index])
        every = self.recipe.snapshot_every
        on_tile = TileReports(level, pictures, self.hooks, steps_before, self.work)
        stepper = self._stepper(level, pictures, plan, on_tile)
        for picture in pictures:  # the stepper has copies
            picture.state = replace(picture.state, canvas=None, best=None, optimizer=None)
        LevelRun(level, pictures, stepper, self.hooks, steps_before, self.work, every).run()
        if plan is not None:  # what comes now has other sizes
            release_freed_memory()

    def _start(self, index: int, picture: PictureRun) -> RunState:
        """Return the state in which a picture starts a level, or resumes it."""
        level, state, inputs = self.levels[index], picture.state, self.inputs[picture.index]
        if index > state.level:
            image_BCHW = _enlarged(self._best_image(state), level)
            canvas = self.parametrisation.to_padded_canvas(inputs.next_image(image_BCHW))
            return RunState(level=index, canvas=canvas, rows=state.rows)
        if state.canvas is None:
            return replace(state, canvas=self.parametrisation.to_padded_canvas(inputs.first_image(level)))
        return state

    def _stepper(
        self, level: Level, pictures: Sequence[PictureRun], plan: LevelPlan | None, on_tile: OnTile
    ) -> Stepper:
        inputs = [self.inputs[picture.index].at(level, on_tile) for picture in pictures]
        content_BCHW = self.parametrisation.pad(loaded(joined([each.content_BCHW for each in inputs])))
        style = stack_targets([each.style for each in inputs])
        del inputs  # contents without a margin
        close_gaps(content_BCHW)
        if style.masks is not None:
            style = replace(style, masks=self.parametrisation.pad(style.masks))
        states = [picture.state for picture in pictures]
        batch = MicroBatch(content_BCHW, style, states, self.hooks.evaluations)
        recipe = at_level(self.recipe, max(level.size), self.encoder.style_factor)
        return self.steppers.fetch(self.encoder, recipe, batch, self.dtype, plan, on_tile)

    def _tile_plan(self, level: Level) -> LevelPlan | None:
        if self.tiling is None:
            return None
        channels, itemsize = self.encoder.channels, self.dtype.itemsize
        return self.tiling.plan(PictureMemory(self.recipe, channels, *level.size, itemsize))

    def _done(self, state: RunState) -> Outcome:
        return Outcome("done", state, self._best_image(state))

    def _best_image(self, state: RunState) -> Tensor:
        assert state.best is not None  # every level has a step
        return self.parametrisation.to_cropped_image(loaded(state.best))


def _enlarged(image_BCHW: Tensor, level: Level) -> Tensor:
    return F.interpolate(image_BCHW, (level.height, level.width), mode="bicubic", align_corners=False)
