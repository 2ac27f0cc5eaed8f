"""One evaluation and one move of the canvases of a batch, which share a tensor and nothing else.

Shapes in names: B pictures, C channels, H rows, W columns, N numbers of a canvas, L losses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..spec.recipe import Recipe
from ..vgg.encoder import Encoder
from .canvas import Parametrisation
from .checkpoints import RunState
from .evaluations import EvaluationFiles
from .explicit import ExplicitObjective
from .graphs import CudaGraph
from .large_lbfgs import LargeLBFGS
from .large_maps import empty_map
from .lbfgs import LBFGS
from .network import frozen_network
from .objective import Objective, ReferenceObjective
from .optimizers import Optimizer, build_optimizer
from .stored import Stored, copy_stored, joined, loaded, row_of
from .sweep import AutogradNetwork
from .targets import StyleTargets
from .tile_planning import LevelPlan
from .tiled import TiledObjective
from .tiles import OnTile, ignore_tile


@dataclass(frozen=True)
class MicroBatch:
    """Pictures that share a tensor at one level: contents with their margins, styles, and states to resume.

    The states are all of one level and step, and have canvases. A large picture's evaluations may be kept in
    `files`.
    """

    content_BCHW: Tensor
    style: StyleTargets
    states: Sequence[RunState]
    files: EvaluationFiles | None = None


class Stepper:
    """The canvases of one pyramid level, the best of each so far, their objective and their optimiser.

    A step reads no number from the device, and works on tensors that are allocated once: on a GPU it is
    captured and replayed. The network computes in `dtype`, and in tiles if there is a plan for them.
    """

    optimizer: Optimizer
    best_BCHW: Stored

    def __init__(
        self,
        encoder: Encoder,
        recipe: Recipe,
        batch: MicroBatch,
        dtype: torch.dtype,
        plan: LevelPlan | None = None,
        on_tile: OnTile = ignore_tile,
    ) -> None:
        content_BCHW = batch.content_BCHW
        self.recipe = recipe
        self.parametrisation = Parametrisation(recipe)
        # Whoever asks for a plan gets a stepper of its own, whose tensors are its states'.
        self.is_private = plan is not None
        self.canvas_BCHW = empty_map(content_BCHW.shape, content_BCHW.dtype, content_BCHW.device)
        self.canvas_BN = self.canvas_BCHW.view(len(content_BCHW), -1)
        self.optimizer = build_optimizer(recipe, self.canvas_BN, plan.storage if plan else None)
        self.best_BCHW, self.best_loss_B = self._best_buffers()
        # After the history, which has to fit the disk: some of the objective's files may not.
        self.objective = choose_objective(encoder, recipe, batch, dtype, plan, on_tile)
        self.names: tuple[str, ...] = ()
        captures = content_BCHW.is_cuda and isinstance(self.objective, ExplicitObjective)
        self._graph = CudaGraph() if captures else None
        self._begin(batch.states)

    def _best_buffers(self) -> tuple[Stored, Tensor]:
        """Return where the best canvases and their losses are kept: L-BFGS has a place for them."""
        if isinstance(self.optimizer, LBFGS | LargeLBFGS):
            return self.optimizer.best_BN.view(self.canvas_BCHW.shape), self.optimizer.best_loss_B
        return torch.empty_like(self.canvas_BCHW), self.canvas_BN.new_empty(len(self.canvas_BN))

    def load(self, batch: MicroBatch) -> None:
        """Replace the pictures with others of the same recipe and size."""
        assert isinstance(self.objective, ExplicitObjective)  # no other is reused
        self.objective.load(batch.content_BCHW, batch.style)
        self.optimizer.load_state_dict(build_optimizer(self.recipe, self.canvas_BN).state_dict())
        self._begin(batch.states)

    def _begin(self, states: Sequence[RunState]) -> None:
        for slot, state in enumerate(states):
            assert state.canvas is not None
            copy_stored(state.canvas, self.canvas_BCHW[slot : slot + 1])
            copy_stored(state.canvas if state.best is None else state.best, row_of(self.best_BCHW, slot))
        self.best_loss_B.copy_(torch.tensor([state.best_loss for state in states]))
        own = self.optimizer.state_dict()
        # The state of an optimiser with another history has other shapes; that optimiser starts fresh.
        found = [
            each.optimizer for each in states if each.optimizer and _shapes(each.optimizer) == _shapes(own)
        ]
        if len(found) == len(states):
            self.optimizer.load_state_dict({name: joined([each[name] for each in found]) for name in own})

    def step(self) -> Tensor:
        """Evaluate the canvases and move them; return their losses (LB), in the order of `names`."""
        # Passed each time: a stored bound method would keep this stepper's memory alive.
        return self._graph(self._step) if self._graph else self._step()

    def _step(self) -> Tensor:
        losses, gradient_BCHW = self.objective.evaluate(self.image)
        if not isinstance(self.optimizer, LBFGS | LargeLBFGS):  # which keep it themselves
            self._keep_best(losses.total)
        gradient_BN = self.parametrisation.canvas_gradient(gradient_BCHW).contiguous()
        self.optimizer.step(self.canvas_BN, losses.total, gradient_BN.view_as(self.canvas_BN))
        named = losses.by_name()
        self.names = tuple(named)
        return torch.stack(list(named.values()))

    @property
    def image(self) -> Tensor:
        """The pictures (BCHW) that the next step evaluates, with their margins."""
        return self.parametrisation.to_image(self.canvas_BCHW)

    def best(self) -> list[dict[str, Any]]:
        """Return every picture's `best` and `best_loss`, as fields of RunState; views, as in `current`."""
        return [
            {"best": None if math.isinf(loss) else row_of(self.best_BCHW, i), "best_loss": loss}
            for i, loss in enumerate(self.best_loss_B.tolist())
        ]

    def best_or_start(self, slot: int) -> Tensor:
        """Return a copy of a picture's best canvas; before its first step that is where it starts."""
        return loaded(row_of(self.best_BCHW, slot)).clone()

    def current(self) -> list[dict[str, Any]]:
        """Return every picture's `canvas`, `optimizer`, `best` and `best_loss`, as fields of RunState.

        They are views, which the next step changes: a copy of the history would need as much memory as
        everything else.
        """
        optimizer = self.optimizer.state_dict()
        return [
            {
                **best,
                "canvas": self.canvas_BCHW[i : i + 1],
                "optimizer": {name: row_of(stored, i) for name, stored in optimizer.items()},
            }
            for i, best in enumerate(self.best())
        ]

    def _keep_best(self, loss_B: Tensor) -> None:
        assert isinstance(self.best_BCHW, Tensor)
        better_B = loss_B < self.best_loss_B
        torch.where(better_B, loss_B, self.best_loss_B, out=self.best_loss_B)
        torch.where(better_B[:, None, None, None], self.canvas_BCHW, self.best_BCHW, out=self.best_BCHW)


def choose_objective(
    encoder: Encoder,
    recipe: Recipe,
    batch: MicroBatch,
    dtype: torch.dtype,
    plan: LevelPlan | None,
    on_tile: OnTile,
) -> Objective:
    """Return what evaluates the pictures of a batch: by autograd or our own pass, whole or in tiles."""
    arguments = (recipe, batch.content_BCHW, batch.style)
    # Apple's GPUs have no pooling backward of the form that the explicit pass calls.
    by_autograd = recipe.precision == "reference" or batch.content_BCHW.device.type == "mps"
    if plan is None:
        if by_autograd:
            return ReferenceObjective(encoder, *arguments)
        return ExplicitObjective(encoder, *arguments, dtype)
    if by_autograd:
        # What autograd keeps is not packed.
        tiles = replace(plan.tiles, kept={}, filed={})
        return TiledObjective(AutogradNetwork(encoder), *arguments, tiles, on_tile, batch.files, plan.scratch)
    network = frozen_network(encoder, dtype)
    return TiledObjective(network, *arguments, plan.tiles, on_tile, batch.files, plan.scratch)


def _shapes(state: Mapping[str, Stored]) -> dict[str, torch.Size]:
    """Return the shapes of an optimiser's state for one picture."""
    return {name: stored.shape[1:] for name, stored in state.items()}


class StepperCache:
    """Builds steppers. On a GPU it keeps them, with their CUDA graphs, for more pictures of the same size."""

    # Enough for the levels of a few shapes of pictures.
    MAX_SIZES = 16

    def __init__(self) -> None:
        self._kept: dict[object, Stepper] = {}

    def fetch(
        self,
        encoder: Encoder,
        recipe: Recipe,
        batch: MicroBatch,
        dtype: torch.dtype,
        plan: LevelPlan | None = None,
        on_tile: OnTile = ignore_tile,
    ) -> Stepper:
        """Return a stepper for these pictures; it may be one fetched before, which then loses its own."""
        if plan is not None or not batch.content_BCHW.is_cuda or recipe.precision == "reference":
            return Stepper(encoder, recipe, batch, dtype, plan, on_tile)
        key = (encoder, recipe.batch_key(), batch.content_BCHW.shape, batch.style.regions, dtype)
        if kept := self._kept.get(key):
            kept.load(batch)
            return kept
        if len(self._kept) == self.MAX_SIZES:
            self._kept.clear()
        self._kept[key] = Stepper(encoder, recipe, batch, dtype)
        return self._kept[key]

    def clear(self) -> bool:
        """Forget the steppers, which frees their memory; return whether there were any."""
        had_any = bool(self._kept)
        self._kept.clear()
        return had_any
