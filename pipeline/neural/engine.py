"""StyleTransfer: the pyramid and the loop that optimises the pixels.

Shapes in names: B pictures, C channels, H rows, W columns. `image_BCHW` is sRGB in [0, 1]; the
`canvas` is what the optimiser moves, in the recipe's parametrisation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DivergedError
from ..recipe import Recipe
from .checkpoints import LossRow, RunState
from .encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from .explicit import ExplicitObjective
from .objective import Losses, Objective, ReferenceObjective
from .optimizers import Optimizer, build_optimizer
from .targets import StyleTargets


@dataclass(frozen=True)
class Progress:
    """One step of a running job. `image_BCHW` is a snapshot where the recipe asks for one."""

    step: int
    steps: int
    width: int
    height: int
    row: LossRow
    image_BCHW: Tensor | None = None


@dataclass(frozen=True)
class Level:
    """One pyramid level: the picture's size in pixels and how many steps it gets.

    The canvas is larger by the recipe's margin on every side.
    """

    width: int
    height: int
    steps: int


@dataclass(frozen=True)
class LevelInputs:
    """What one pyramid level is optimised against; the content at the level's size, without margin."""

    content_BCHW: Tensor
    style: StyleTargets


class Stopped(Exception):
    """The caller asked to stop; `state` resumes exactly there."""

    def __init__(self, state: RunState) -> None:
        super().__init__("stopped")
        self.state = state


class Diverged(Exception):
    """A loss became NaN or infinite; `state` holds the last good canvas."""

    def __init__(self, error: DivergedError, state: RunState) -> None:
        super().__init__(str(error))
        self.error = error
        self.state = state


class StyleTransfer:
    """One job's optimisation: coarse to fine, best canvas kept, stoppable after any step.

    `levels` come coarsest first; `level_inputs(level)` gives what one is optimised against and
    `first_image(level)` the picture to start the coarsest from. `on_progress` is called after every step,
    `on_checkpoint` with the state every `checkpoint_s` seconds or so. The network computes in `dtype`.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        levels: Sequence[Level],
        level_inputs: Callable[[Level], LevelInputs],
        first_image: Callable[[Level], Tensor],
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_checkpoint: Callable[[RunState], None] = lambda state: None,
        should_stop: Callable[[], bool] = lambda: False,
        checkpoint_s: float = 30.0,
        dtype: torch.dtype = torch.float32,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.encoder = encoder
        self.recipe = recipe
        self.levels = levels
        self.level_inputs = level_inputs
        self.first_image = first_image
        self.on_progress = on_progress
        self.on_checkpoint = on_checkpoint
        self.should_stop = should_stop
        self.checkpoint_s = checkpoint_s
        self.dtype = dtype
        self.clock = clock
        # Steps taken before each level, and in the end all of them.
        self._steps_before = list(accumulate((level.steps for level in levels), initial=0))

    def run(self, state: RunState | None = None) -> tuple[Tensor, list[LossRow]]:
        """Optimise from the start or from `state`; return the best `image_BCHW` and the loss log.

        Raises:
            Stopped: `should_stop` said so.
            Diverged: a loss became NaN or infinite.
        """
        state = state or RunState()
        for index, level in enumerate(self.levels):
            if index < state.level:
                continue
            if index > state.level:
                state = RunState(level=index, canvas=self._enlarge(state.best, level), rows=state.rows)
            self._run_level(level, state)
        return self._to_image(self._without_margin(state.best)), state.rows

    def _run_level(self, level: Level, state: RunState) -> None:
        inputs = self.level_inputs(level)
        objective = self._objective(self._with_margin(inputs.content_BCHW), inputs.style)
        if state.canvas is None:
            state.canvas = self._with_margin(self._from_image(self.first_image(level)))
        canvas = state.canvas.to(inputs.content_BCHW.device, copy=True).contiguous()
        optimizer = build_optimizer(self.recipe, canvas.view(len(canvas), -1))
        if state.optimizer is not None:
            optimizer.load_state_dict(state.optimizer)
        started = saved = self.clock()
        pause, before = self.checkpoint_s, state.rows[-1].seconds if state.rows else 0.0

        while state.step < level.steps:
            losses = self._step(objective, optimizer, canvas, state)
            state.step += 1
            row = self._log_row(level, state, losses, before + self.clock() - started)
            self._keep_best(state, row)
            self._report(level, state, row)
            if self.should_stop():
                raise Stopped(self._with_optimizer(state, canvas, optimizer))
            if (now := self.clock()) - saved >= pause:
                self.on_checkpoint(self._with_optimizer(state, canvas, optimizer))
                saved = self.clock()
                # A large state on a slow disk must not take more than a twentieth of the time.
                pause = max(self.checkpoint_s, 20 * (saved - now))

    def _objective(self, content_BCHW: Tensor, style: StyleTargets) -> Objective:
        # The pooling of Apple's GPUs has no backward of the form that ours needs.
        if self.recipe.precision == "reference" or content_BCHW.device.type == "mps":
            return ReferenceObjective(self.encoder, self.recipe, content_BCHW, style)
        return ExplicitObjective(self.encoder, self.recipe, content_BCHW, style, self.dtype)

    def _step(self, objective: Objective, optimizer: Optimizer, canvas: Tensor, state: RunState) -> Losses:
        """Evaluate once and move the canvas; `state.canvas` becomes the pixels evaluated."""
        state.canvas = canvas.clone()
        losses, gradient_BCHW = objective.evaluate(self._to_image(canvas))
        gradient_BN = self._by_canvas(gradient_BCHW).contiguous().view(len(canvas), -1)
        optimizer.step(canvas.view(len(canvas), -1), losses.total, gradient_BN)
        return losses

    def _log_row(self, level: Level, state: RunState, losses: Losses, seconds: float) -> LossRow:
        names = ["total", "content", "style", "tv", *losses.layers]
        tensors = [losses.total, losses.content, losses.style, losses.tv, *losses.layers.values()]
        values = dict(zip(names, torch.cat(tensors).tolist(), strict=True))
        step = self._steps_before[state.level] + state.step
        # Layers first: they name the culprit, the sums only repeat it.
        for name in [*losses.layers, "tv", "total"]:
            if not math.isfinite(values[name]):
                error = DivergedError(
                    f"The loss {name} became {values[name]} at step {step}.",
                    "Lower learning_rate or style_weight; the last good canvas is kept as the checkpoint.",
                )
                raise Diverged(error, self._last_good(state))
        layers = {name: values[name] for name in losses.layers}
        size = max(level.width, level.height)
        row = LossRow(
            step, size, values["total"], values["content"], values["style"], values["tv"], layers, seconds
        )
        state.rows.append(row)
        return row

    def _last_good(self, state: RunState) -> RunState:
        return RunState(
            state.level, state.step - 1, state.best, state.best, state.best_loss, None, state.rows
        )

    def _keep_best(self, state: RunState, row: LossRow) -> None:
        if row.total < state.best_loss:
            state.best, state.best_loss = state.canvas, row.total

    def _report(self, level: Level, state: RunState, row: LossRow) -> None:
        every, image = self.recipe.snapshot_every, None
        if every and row.step % every == 0 and state.canvas is not None:
            image = self._to_image(self._without_margin(state.canvas))
        self.on_progress(Progress(row.step, self._steps_before[-1], level.width, level.height, row, image))

    @staticmethod
    def _with_optimizer(state: RunState, canvas: Tensor, optimizer: Optimizer) -> RunState:
        return RunState(
            state.level,
            state.step,
            canvas.detach().clone(),
            state.best,
            state.best_loss,
            optimizer.state_dict(),
            list(state.rows),
        )

    def _enlarge(self, canvas: Tensor | None, level: Level) -> Tensor:
        """Carry a canvas up to the next level's size, with a fresh margin."""
        inner = self._without_margin(canvas)
        size = (level.height, level.width)
        return self._with_margin(F.interpolate(inner, size, mode="bicubic", align_corners=False))

    def _with_margin(self, image_BCHW: Tensor) -> Tensor:
        """Mirror pixels around a picture: what the optimiser does wrong at a border happens there."""
        return F.pad(image_BCHW, [self.recipe.margin] * 4, mode="reflect")

    def _without_margin(self, canvas: Tensor | None) -> Tensor:
        assert canvas is not None  # set by the first step
        margin = self.recipe.margin
        return canvas[:, :, margin : canvas.shape[2] - margin, margin : canvas.shape[3] - margin]

    def _to_image(self, canvas: Tensor) -> Tensor:
        if self.recipe.canvas == "rgb":
            return canvas
        mean, std = canvas.new_tensor(IMAGENET_MEAN), canvas.new_tensor(IMAGENET_STD)
        return canvas * std[:, None, None] + mean[:, None, None]

    def _by_canvas(self, gradient_BCHW: Tensor) -> Tensor:
        """Turn a gradient by the picture into one by the canvas."""
        if self.recipe.canvas == "rgb":
            return gradient_BCHW
        return gradient_BCHW * gradient_BCHW.new_tensor(IMAGENET_STD)[:, None, None]

    def _from_image(self, image_BCHW: Tensor) -> Tensor:
        if self.recipe.canvas == "rgb":
            return image_BCHW
        mean, std = image_BCHW.new_tensor(IMAGENET_MEAN), image_BCHW.new_tensor(IMAGENET_STD)
        return (image_BCHW - mean[:, None, None]) / std[:, None, None]
