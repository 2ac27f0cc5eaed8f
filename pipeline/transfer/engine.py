"""StyleTransfer: the pyramid and the loop that optimises the pixels of one or several pictures.

Pictures of one recipe and one size share a tensor and nothing else: each has losses, a best canvas, an
optimiser state and an end of its own.

Shapes in names: B pictures, C channels, H rows, W columns. `image_BCHW` is sRGB in [0, 1]; the `canvas` is
what the optimiser moves, in the recipe's parametrisation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DivergedError
from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from .canvas import Parametrisation
from .checkpoints import LossRow, RunState
from .pyramid import Level
from .stepper import Stepper, StepperCache
from .targets import StyleTargets, stack_targets

# Losses are read in bunches of so many steps on a GPU: reading waits for the device.
READ_EVERY = 16


@dataclass(frozen=True)
class Progress:
    """A step of the batch's picture `index`. `image_BCHW` is a snapshot where the recipe asks for one."""

    index: int
    step: int
    steps: int
    width: int
    height: int
    row: LossRow
    image_BCHW: Tensor | None = None


@dataclass(frozen=True)
class LevelInputs:
    """What a picture is optimised against at one level.

    The content, and the masks of styles, have the level's size, without margin.
    """

    content_BCHW: Tensor
    style: StyleTargets


class PictureInputs(Protocol):
    """What one picture is optimised from and against."""

    def at(self, level: Level) -> LevelInputs:
        """Return what the picture is optimised against at a level."""

    def first_image(self, level: Level) -> Tensor:
        """Return the image (BCHW) that the coarsest level starts from."""

    def next_image(self, image_BCHW: Tensor) -> Tensor:
        """Return the image that a later level starts from, given the enlarged result of the one before."""


@dataclass(frozen=True)
class Outcome:
    """What became of a picture, and how it was made: `image_BCHW` if it is done, else `state` to resume from.

    A picture that diverged has an `error`; its state is the last good canvas. The engine knows the first four
    fields. The session adds how the picture was made, and the executor what it `adjusted` to fit the memory.
    """

    status: Literal["done", "stopped", "diverged"]
    state: RunState
    image_BCHW: Tensor | None = None
    error: DivergedError | None = None
    seconds: float = 0.0
    device: str = ""
    # What the network computed the last level in.
    dtype: str = ""
    # Pictures that shared its tensors, this one included.
    micro_batch: int = 1
    cache_hits: int = 0
    cache_misses: int = 0
    adjusted: tuple[str, ...] = ()

    @property
    def rows(self) -> list[LossRow]:
        return self.state.rows


@dataclass(frozen=True)
class Hooks:
    """How a run talks to its caller.

    `on_progress` is called for every picture after every step, on a GPU after a bunch of them;
    `on_checkpoint` with the index and state of every running picture each `checkpoint_s` seconds or so.
    """

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_checkpoint: Callable[[int, RunState], None] = lambda index, state: None
    should_stop: Callable[[], bool] = lambda: False
    checkpoint_s: float = 30.0
    clock: Callable[[], float] = time.perf_counter


@dataclass
class _Picture:
    """One picture of a run; it runs until it has an outcome."""

    index: int
    state: RunState
    outcome: Outcome | None = None

    @property
    def is_running(self) -> bool:
        return self.outcome is None


class StyleTransfer:
    """The optimisation of some pictures: coarse to fine, best canvas kept, stoppable after any step.

    `levels` come coarsest first; each picture has its own of `inputs`. The network computes in `dtype`.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        levels: Sequence[Level],
        inputs: Sequence[PictureInputs],
        hooks: Hooks = Hooks(),
        dtype: torch.dtype = torch.float32,
        steppers: StepperCache | None = None,
    ) -> None:
        self.steppers = steppers or StepperCache()
        self.encoder = encoder
        self.recipe = recipe
        self.parametrisation = Parametrisation(recipe)
        self.levels = levels
        self.inputs = inputs
        self.hooks = hooks
        self.dtype = dtype
        # Steps taken before each level, and in the end all of them.
        self._steps_before = list(accumulate((level.steps for level in levels), initial=0))

    def run(self, states: Sequence[RunState]) -> list[Outcome]:
        """Optimise every picture from its state; they are all of one level and step."""
        # A copy: who runs out of memory is tried again from the same states.
        pictures = [
            _Picture(index, replace(state, rows=list(state.rows))) for index, state in enumerate(states)
        ]
        for index, level in enumerate(self.levels):
            running = [picture for picture in pictures if picture.outcome is None]
            if running and index >= running[0].state.level:
                self._begin_level(index, level, running)
                self._run_level(index, level, running)
        return [picture.outcome or self._done(picture.state) for picture in pictures]

    def _begin_level(self, index: int, level: Level, pictures: Sequence[_Picture]) -> None:
        for picture in pictures:
            state = picture.state
            if index > state.level:
                assert state.best is not None  # every level has a step
                image_BCHW = self.parametrisation.to_cropped_image(state.best)
                image_BCHW = self.inputs[picture.index].next_image(_enlarged(image_BCHW, level))
                canvas = self.parametrisation.to_padded_canvas(image_BCHW)
                picture.state = RunState(level=index, canvas=canvas, rows=state.rows)
            elif state.canvas is None:
                image_BCHW = self.inputs[picture.index].first_image(level)
                state.canvas = self.parametrisation.to_padded_canvas(image_BCHW)

    def _run_level(self, index: int, level: Level, pictures: Sequence[_Picture]) -> None:
        stepper = self._stepper(level, pictures)
        run = _LevelRun(self, index, level, pictures, stepper)
        checkpoints = _Checkpoints(self.hooks)
        while run.step < level.steps and any(picture.is_running for picture in pictures):
            run.take_step()
            if run.unread:
                continue
            if self.hooks.should_stop():
                for picture, state in run.states(stepper.current()):
                    # A copy: the stepper may be given other pictures before this is on a disk.
                    picture.outcome = Outcome("stopped", state.detached())
                return
            checkpoints.write_if_due(lambda: run.states(stepper.current()))
        for picture, state in run.states(stepper.best()):
            picture.state = state

    def _stepper(self, level: Level, pictures: Sequence[_Picture]) -> Stepper:
        inputs = [self.inputs[picture.index].at(level) for picture in pictures]
        content_BCHW = self.parametrisation.pad(torch.cat([each.content_BCHW for each in inputs]))
        style = stack_targets([each.style for each in inputs])
        if style.masks is not None:
            style = replace(style, masks=self.parametrisation.pad(style.masks))
        states = [picture.state for picture in pictures]
        recipe = self.recipe.at_level(max(level.size))
        return self.steppers.fetch(self.encoder, recipe, content_BCHW, style, states, self.dtype)

    def _done(self, state: RunState) -> Outcome:
        assert state.best is not None  # every level has a step
        return Outcome("done", state, self.parametrisation.to_cropped_image(state.best))

    def steps_before(self, level: int) -> int:
        """Return the steps of all levels before `level`."""
        return self._steps_before[level]


def _enlarged(image_BCHW: Tensor, level: Level) -> Tensor:
    return F.interpolate(image_BCHW, (level.height, level.width), mode="bicubic", align_corners=False)


def read_every(stepper: Stepper) -> int:
    """Return how many steps are taken before their losses are read."""
    return READ_EVERY if stepper.canvas_BN.is_cuda else 1


class _LevelRun:
    """The loop over one level: takes steps, reads their losses and tells of them."""

    def __init__(
        self,
        transfer: StyleTransfer,
        index: int,
        level: Level,
        pictures: Sequence[_Picture],
        stepper: Stepper,
    ) -> None:
        self.recipe, self.hooks = transfer.recipe, transfer.hooks
        self.index, self.level, self.pictures, self.stepper = index, level, pictures, stepper
        self.before, self.total = transfer.steps_before(index), transfer.steps_before(-1)
        self.step = pictures[0].state.step
        self.began = self.step
        self.unread: list[Tensor] = []
        self.read_every = read_every(stepper)
        self.started = self.hooks.clock()
        rows = pictures[0].state.rows
        self.seconds = rows[-1].seconds if rows else 0.0

    def take_step(self) -> None:
        """Take a step; its losses stay in `unread` until it is time to read."""
        every, number = self.recipe.snapshot_every, self.before + self.step + 1
        snapshot = self.stepper.image.clone() if every and number % every == 0 else None
        self.unread.append(self.stepper.step())
        self.step += 1
        full = len(self.unread) >= self.read_every
        if full or snapshot is not None or self.step == self.level.steps:
            self._read(snapshot)

    def _read(self, snapshot_BCHW: Tensor | None) -> None:
        """Ask the device for the losses of the steps since the last time; tell of the last of them."""
        steps = torch.stack(self.unread).tolist()
        self.unread = []
        now = self.hooks.clock()
        elapsed, self.started = now - self.started, now
        for number, losses in enumerate(steps, 1):
            step = self.step - len(steps) + number
            seconds = self.seconds + elapsed * number / len(steps)
            for picture, values in zip(self.pictures, zip(*losses, strict=True), strict=True):
                if picture.is_running:
                    self._note(picture, step, dict(zip(self.stepper.names, values, strict=True)), seconds)
        self.seconds += elapsed
        for slot, picture in enumerate(self.pictures):
            self._tell(slot, picture, snapshot_BCHW)

    def _note(self, picture: _Picture, step: int, losses: dict[str, float], seconds: float) -> None:
        """Take down a row; a loss that is not finite ends its picture."""
        total, content, style, tv = (losses.pop(name) for name in ("total", "content", "style", "tv"))
        # Layers first: they name the culprit, the sums only repeat it.
        for name, value in [*losses.items(), ("tv", tv), ("total", total)]:
            if not math.isfinite(value):
                picture.outcome = self._diverged(picture, step, f"The loss {name} became {value}")
                return
        size = max(self.level.size)
        row = LossRow(self.before + step, size, total, content, style, tv, losses, seconds)
        picture.state.rows.append(row)

    def _diverged(self, picture: _Picture, step: int, what: str) -> Outcome:
        held = self.stepper.best()[self.pictures.index(picture)]
        # At a level's first step nothing is the best yet: the level's start is what the levels before made.
        canvas = picture.state.canvas if held["best"] is None else held["best"]
        good = replace(picture.state, step=step - 1, canvas=canvas, optimizer=None, **held)
        error = DivergedError(
            f"{what} at step {self.before + step}.",
            "Lower learning_rate or style_weight; the last good canvas is kept as the checkpoint.",
        )
        return Outcome("diverged", good, error=error)

    def _tell(self, slot: int, picture: _Picture, snapshot_BCHW: Tensor | None) -> None:
        if not picture.is_running:
            return
        image = None
        if snapshot_BCHW is not None:
            image = self.stepper.parametrisation.crop(snapshot_BCHW[slot : slot + 1])
        row, level = picture.state.rows[-1], self.level
        self.hooks.on_progress(
            Progress(picture.index, row.step, self.total, level.width, level.height, row, image)
        )

    def states(self, held: Sequence[dict[str, Any]]) -> list[tuple[_Picture, RunState]]:
        """Return every picture without an outcome, with its state: what the stepper `held`, and the rest."""
        return [
            (picture, replace(picture.state, step=self.step, rows=list(picture.state.rows), **each))
            for picture, each in zip(self.pictures, held, strict=True)
            if picture.outcome is None
        ]


class _Checkpoints:
    """When states are handed out: by the clock, and never for more than a twentieth of the time."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self.pause = hooks.checkpoint_s
        self.saved = hooks.clock()

    def write_if_due(self, states: Callable[[], list[tuple[_Picture, RunState]]]) -> None:
        if (now := self.hooks.clock()) - self.saved < self.pause:
            return
        for picture, state in states():
            self.hooks.on_checkpoint(picture.index, state)
        self.saved = self.hooks.clock()
        self.pause = max(self.hooks.checkpoint_s, 20 * (self.saved - now))
