"""Stepper: one evaluation and one move of the canvases of a batch, which share a tensor and nothing else.

Shapes in names: B pictures, C channels, H rows, W columns, L losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from .canvas import Parametrisation
from .checkpoints import RunState
from .explicit import ExplicitObjective
from .graphs import Recorded
from .objective import Objective, ReferenceObjective
from .optimizers import build_optimizer
from .targets import StyleTargets


class Stepper:
    """The canvases of one pyramid level, the best of each so far, and what moves them.

    `content_BCHW` is what they are held to, margin included; the states are of one level and step and have
    canvases. Nothing in a step asks the device for a number, and all of it works on tensors allocated once:
    on a GPU it is recorded and replayed. The network computes in `dtype`.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        content_BCHW: Tensor,
        style: StyleTargets,
        states: Sequence[RunState],
        dtype: torch.dtype,
    ) -> None:
        self.recipe = recipe
        self.parametrisation = Parametrisation(recipe)
        self.objective = _objective(encoder, recipe, content_BCHW, style, dtype)
        self.canvas_BCHW = torch.empty_like(content_BCHW, memory_format=torch.contiguous_format)
        self.canvas_BN = self.canvas_BCHW.view(len(content_BCHW), -1)
        self.best_BCHW = torch.empty_like(self.canvas_BCHW)
        self.best_loss_B = self.canvas_BN.new_empty(len(content_BCHW))
        self.moving_B = torch.empty_like(self.best_loss_B, dtype=torch.bool)
        self.optimizer = build_optimizer(recipe, self.canvas_BN)
        self.names: tuple[str, ...] = ()
        records = content_BCHW.is_cuda and isinstance(self.objective, ExplicitObjective)
        self._recorded = Recorded() if records else None
        self._begin(states)

    def load(self, content_BCHW: Tensor, style: StyleTargets, states: Sequence[RunState]) -> None:
        """Put other pictures of the same recipe and size in the place of those there are."""
        assert isinstance(self.objective, ExplicitObjective)  # the only one that is kept
        self.objective.load(content_BCHW, style)
        self.optimizer.load_state_dict(build_optimizer(self.recipe, self.canvas_BN).state_dict())
        self._begin(states)

    def _begin(self, states: Sequence[RunState]) -> None:
        canvases = [state.canvas for state in states if state.canvas is not None]
        self.canvas_BCHW.copy_(torch.cat(canvases))
        bests = [canvases[i] if state.best is None else state.best for i, state in enumerate(states)]
        self.best_BCHW.copy_(torch.cat(bests))
        self.best_loss_B.copy_(torch.tensor([state.best_loss for state in states]))
        self.moving_B.fill_(True)
        optimizers = [state.optimizer for state in states]
        if all(self._continues(optimizer) for optimizer in optimizers):
            names = self.optimizer.state_dict()
            joined = {name: torch.cat([each[name] for each in optimizers if each]) for name in names}
            self.optimizer.load_state_dict(joined)

    def _continues(self, optimizer: dict[str, Tensor] | None) -> bool:
        """Tell whether a picture's optimiser can be gone on with; one of another history cannot."""
        own = self.optimizer.state_dict()
        return optimizer is not None and {name: t.shape[1:] for name, t in optimizer.items()} == {
            name: t.shape[1:] for name, t in own.items()
        }

    def step(self) -> Tensor:
        """Evaluate the canvases and move them; return their losses (LB), by the order of `names`."""
        # Given anew each time: what held the method would keep this stepper's memory for longer.
        return self._recorded(self._step) if self._recorded else self._step()

    def _step(self) -> Tensor:
        losses, gradient_BCHW = self.objective.evaluate(self.image)
        self._keep_best(losses.total)
        gradient_BN = self.parametrisation.canvas_gradient(gradient_BCHW).contiguous().view_as(self.canvas_BN)
        self.optimizer.step(self.canvas_BN, losses.total, gradient_BN)
        self.names = ("total", "content", "style", "tv", *losses.layers)
        return torch.stack([losses.total, losses.content, losses.style, losses.tv, *losses.layers.values()])

    @property
    def image(self) -> Tensor:
        """The pictures (BCHW) that the next step evaluates, margin included."""
        return self.parametrisation.to_image(self.canvas_BCHW)

    def hold(self, picture: int) -> None:
        """Keep a picture's best as it is from now on; its canvas goes on for nothing."""
        self.moving_B[picture] = False

    def best(self) -> list[dict[str, Any]]:
        """Return a RunState's best and best_loss of every picture; copies."""
        bests = self.best_BCHW.clone()
        return [
            {"best": None if math.isinf(loss) else bests[i : i + 1], "best_loss": loss}
            for i, loss in enumerate(self.best_loss_B.tolist())
        ]

    def standing(self) -> list[dict[str, Any]]:
        """Return a RunState's canvas, best, best_loss and optimizer of every picture.

        Views: copies of a history would be as large as everything else. The next step changes them.
        """
        optimizer = self.optimizer.state_dict()
        return [
            {
                **best,
                "canvas": self.canvas_BCHW[i : i + 1],
                "optimizer": {name: tensor[i : i + 1] for name, tensor in optimizer.items()},
            }
            for i, best in enumerate(self.best())
        ]

    def _keep_best(self, loss_B: Tensor) -> None:
        better_B = (loss_B < self.best_loss_B) & self.moving_B
        self.best_loss_B.copy_(torch.where(better_B, loss_B, self.best_loss_B))
        self.best_BCHW.copy_(torch.where(better_B[:, None, None, None], self.canvas_BCHW, self.best_BCHW))


def _objective(
    encoder: Encoder, recipe: Recipe, content_BCHW: Tensor, style: StyleTargets, dtype: torch.dtype
) -> Objective:
    # The pooling of Apple's GPUs has no backward of the form that ours needs.
    if recipe.precision == "reference" or content_BCHW.device.type == "mps":
        return ReferenceObjective(encoder, recipe, content_BCHW, style)
    return ExplicitObjective(encoder, recipe, content_BCHW, style, dtype)


class Steppers:
    """Gives steppers. On a GPU it keeps them, with what they recorded, for the next pictures of one size."""

    # Sizes kept: the levels of a few shapes of pictures.
    MOST = 16

    def __init__(self) -> None:
        self._kept: dict[object, Stepper] = {}

    def fetch(
        self,
        encoder: Encoder,
        recipe: Recipe,
        content_BCHW: Tensor,
        style: StyleTargets,
        states: Sequence[RunState],
        dtype: torch.dtype,
    ) -> Stepper:
        """Return a stepper for these pictures; the one before for the same size is used up by that."""
        arguments = (encoder, recipe, content_BCHW, style, states, dtype)
        if not content_BCHW.is_cuda or recipe.precision == "reference":
            return Stepper(*arguments)
        key = (encoder, recipe.batch_key(), content_BCHW.shape, style.regions, dtype)
        if kept := self._kept.get(key):
            kept.load(content_BCHW, style, states)
            return kept
        if len(self._kept) == self.MOST:
            self._kept.clear()
        self._kept[key] = Stepper(*arguments)
        return self._kept[key]

    def clear(self) -> bool:
        """Free their memory; tell whether there was any."""
        any_kept = bool(self._kept)
        self._kept.clear()
        return any_kept
