"""LevelRun: the loop over one level of the pyramid, for pictures that share a tensor.

Shapes in names: B pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import DivergedError
from .checkpoints import LossRow, RunState
from .evaluations import Stopped
from .pyramid import Level
from .reports import Hooks, Outcome, Progress
from .run_work import RunWork
from .stepper import Stepper
from .tiled import TiledObjective

# On a GPU, losses are read once in this many steps: reading waits for the device. Steps in tiles take so long
# that it does not matter.
READ_EVERY = 16
# Checkpoints take at most this fraction of the time, as its reciprocal; where that would be less than one a
# minute, they take up to the larger fraction.
CHECKPOINT_SHARE, LARGER_SHARE, MINUTE_S = 20, 10, 60.0


@dataclass
class PictureRun:
    """One picture of a run; it runs until it has an outcome."""

    index: int
    state: RunState
    outcome: Outcome | None = None

    @property
    def is_running(self) -> bool:
        return self.outcome is None


class LevelRun:
    """Takes a level's steps, reads their losses and reports them.

    `steps_before` counts the steps of the coarser levels, `work` is that of all levels. A snapshot is
    taken every `snapshot_every` steps, or never if it is 0.
    """

    def __init__(
        self,
        level: Level,
        pictures: Sequence[PictureRun],
        stepper: Stepper,
        hooks: Hooks,
        steps_before: int,
        work: RunWork,
        snapshot_every: int,
    ) -> None:
        self.level = level
        self.pictures = pictures
        self.stepper = stepper
        self.hooks = hooks
        self.steps_before, self.work = steps_before, work
        self.snapshot_every = snapshot_every
        self.step = pictures[0].state.step
        rows = pictures[0].state.rows
        self._seconds = rows[-1].seconds if rows else 0.0
        self._unread: list[Tensor] = []
        self._read_every = read_every(stepper)
        self._last_read = self._last_checkpoint = hooks.clock()
        self._checkpoint_s = hooks.checkpoint_s

    def run(self) -> None:
        """Take steps until the level or every picture ends. A picture that is stopped gets its outcome."""
        while self.step < self.level.steps and any(picture.is_running for picture in self.pictures):
            try:
                self._take_step()
            except Stopped:
                return self._stop()
            if self._unread:
                continue
            if self.hooks.should_stop():
                return self._stop()
            self._checkpoint_if_due()
        for picture, state in self._states(self.stepper.best()):
            picture.state = self._kept(state)

    def _stop(self) -> None:
        for picture, state in self._states(self.stepper.current()):
            picture.outcome = Outcome("stopped", self._kept(state))

    def _kept(self, state: RunState) -> RunState:
        """Return a state that the stepper does not change later, when it may have other pictures."""
        return state if self.stepper.is_private else state.detached()

    def _take_step(self) -> None:
        number = self.steps_before + self.step + 1
        takes_snapshot = self.snapshot_every and number % self.snapshot_every == 0
        snapshot = self.stepper.image.clone() if takes_snapshot else None
        self._unread.append(self.stepper.step())
        self.step += 1
        full = len(self._unread) >= self._read_every
        if full or snapshot is not None or self.step == self.level.steps:
            self._read_losses(snapshot)

    def _read_losses(self, snapshot_BCHW: Tensor | None) -> None:
        """Read the losses of the steps since the last time from the device, and report the last step."""
        steps = torch.stack(self._unread).tolist()
        self._unread = []
        now = self.hooks.clock()
        elapsed, self._last_read = now - self._last_read, now
        elapsed += self.hooks.evaluations.earlier_s if self.hooks.evaluations else 0.0
        for number, losses in enumerate(steps, 1):
            step = self.step - len(steps) + number
            seconds = self._seconds + elapsed * number / len(steps)
            for picture, values in zip(self.pictures, zip(*losses, strict=True), strict=True):
                if picture.is_running:
                    self._record(picture, step, dict(zip(self.stepper.names, values, strict=True)), seconds)
        self._seconds += elapsed
        for slot, picture in enumerate(self.pictures):
            if picture.is_running:
                self._report(slot, picture, snapshot_BCHW)

    def _record(self, picture: PictureRun, step: int, losses: dict[str, float], seconds: float) -> None:
        """Add a row to a picture's log; a loss that is not finite ends the picture."""
        total, content, style, tv = (losses.pop(name) for name in ("total", "content", "style", "tv"))
        # Layers first: they name the cause, and the sums only repeat it.
        for name, value in [*losses.items(), ("tv", tv), ("total", total)]:
            if not math.isfinite(value):
                picture.outcome = self._diverged(picture, step, f"The loss {name} became {value}")
                return
        size = max(self.level.size)
        row = LossRow(self.steps_before + step, size, total, content, style, tv, losses, seconds)
        picture.state.rows.append(row)

    def _diverged(self, picture: PictureRun, step: int, what: str) -> Outcome:
        slot = self.pictures.index(picture)
        # There is no best at a level's first step; the level's start is what the coarser levels made.
        canvas, best = self.stepper.best_or_start(slot), self.stepper.best()[slot]
        state = replace(picture.state, step=step - 1, canvas=canvas, **best).detached()
        error = DivergedError(
            f"{what} at step {self.steps_before + step}.",
            "Lower learning_rate or style_weight; the last good canvas is kept as the checkpoint.",
        )
        return Outcome("diverged", state, error=error)

    def _report(self, slot: int, picture: PictureRun, snapshot_BCHW: Tensor | None) -> None:
        image_BCHW = None
        if snapshot_BCHW is not None:
            image_BCHW = self.stepper.parametrisation.crop(snapshot_BCHW[slot : slot + 1])
        row, size, read_image = picture.state.rows[-1], self.level.size, partial(self._image, slot)
        self.hooks.on_progress(
            Progress(picture.index, row.step, self.work.steps, *size, self.work, row, read_image, image_BCHW)
        )

    def _image(self, slot: int) -> Tensor:
        return self.stepper.parametrisation.crop(self.stepper.image[slot : slot + 1])

    def _checkpoint_if_due(self) -> None:
        if (started := self.hooks.clock()) - self._last_checkpoint < self._checkpoint_s:
            return
        for picture, state in self._states(self.stepper.current()):
            self.hooks.on_checkpoint(picture.index, state)
        self._last_checkpoint = self.hooks.clock()
        took_s = self._last_checkpoint - started
        apart_s = min(CHECKPOINT_SHARE * took_s, max(MINUTE_S, LARGER_SHARE * took_s))
        self._checkpoint_s = max(self.hooks.checkpoint_s, apart_s)

    def _states(self, fields: Sequence[Mapping[str, Any]]) -> list[tuple[PictureRun, RunState]]:
        """Return every running picture with its state, of which the stepper gives some `fields`."""
        return [
            (picture, replace(picture.state, step=self.step, rows=list(picture.state.rows), **each))
            for picture, each in zip(self.pictures, fields, strict=True)
            if picture.is_running
        ]


def read_every(stepper: Stepper) -> int:
    """Return how many steps are taken before their losses are read."""
    is_quick = stepper.canvas_BN.is_cuda and not isinstance(stepper.objective, TiledObjective)
    return READ_EVERY if is_quick else 1
