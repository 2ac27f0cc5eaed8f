"""Runs of the engine on small pictures, with an encoder of a few channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tiny import random_image, tiny_encoder

from pipeline.spec.recipe import Recipe
from pipeline.transfer.checkpoints import LossRow, RunState
from pipeline.transfer.engine import LevelInputs, StyleTransfer
from pipeline.transfer.pyramid import Level
from pipeline.transfer.reports import Hooks, Outcome, Progress
from pipeline.transfer.targets import gram_targets
from pipeline.transfer.tiles import OnTile, ignore_tile
from pipeline.vgg.encoder import Encoder

LEVELS = [Level(32, 32, 6), Level(46, 40, 5)]


def recipe_for(**fields) -> Recipe:
    return Recipe(**{"size": 46, "pyramid": 32, "history": 5, "margin": 0, **fields})


def leaping(recipe: Recipe) -> Recipe:
    """A recipe, which is refused to users, whose second step finds numbers that are not finite."""
    return recipe.model_copy(update={"learning_rate": 1e30})


def as_it_is(image: torch.Tensor, index: int) -> torch.Tensor:
    return image


def mirrored(image: torch.Tensor, index: int) -> torch.Tensor:
    return image.flip(3)


def rolled(image: torch.Tensor, index: int) -> torch.Tensor:
    """Another start of the next level for every picture."""
    return (1 - 0.1 * index) * image.roll(7 * (index + 1), 3)


@dataclass
class Inputs:
    """Number `index` of pictures with different contents, styles and starts."""

    encoder: Encoder
    recipe: Recipe
    index: int
    carried: Callable[[torch.Tensor, int], torch.Tensor] = as_it_is
    dtype: torch.dtype = torch.float32
    factor: float = 1.0

    def at(self, level: Level, on_tile: OnTile = ignore_tile) -> LevelInputs:
        seeds = (10 + self.index, 20 + self.index)
        content = random_image(level.height, level.width, seed=seeds[0]).to(self.dtype)
        image = random_image(seed=seeds[1]).to(self.dtype)
        return LevelInputs(content, gram_targets(self.encoder, image, list(self.recipe.style_layers)))

    def first_image(self, level: Level) -> torch.Tensor:
        return self.factor * random_image(level.height, level.width, seed=30 + self.index).to(self.dtype)

    def next_image(self, image: torch.Tensor) -> torch.Tensor:
        return self.carried(image, self.index)


def transfer_for(
    recipe: Recipe, levels=LEVELS, carried=as_it_is, dtype=torch.float32, indices=(0, 1, 2), **hooks
) -> StyleTransfer:
    """Pictures of different contents, styles and starts: number `index` is alike whoever is with it."""
    encoder = tiny_encoder(recipe).to(dtype)
    inputs = [Inputs(encoder, recipe, index, carried, dtype) for index in indices]
    return StyleTransfer(encoder, recipe, levels, inputs, Hooks(**hooks), dtype)


def run_one(transfer: StyleTransfer, state: RunState | None = None) -> tuple[torch.Tensor, list[LossRow]]:
    (result,) = transfer.run([state or RunState()])
    assert result.status == "done"
    return result.image_BCHW, result.state.rows


def stop_after(recipe: Recipe, steps: int, levels=LEVELS, carried=as_it_is) -> RunState:
    seen: list[Progress] = []
    stopping = {"on_progress": seen.append, "should_stop": lambda: len(seen) == steps}
    transfer = transfer_for(recipe, levels, carried, **stopping)
    (result,) = transfer.run([RunState()])
    assert result.status == "stopped"
    return result.state


RECIPES = {
    "lbfgs": recipe_for(),
    "adam": recipe_for(optimizer="adam", learning_rate=0.004),
    "margin": recipe_for(margin=7),
    "gram": recipe_for(style_loss="gram", loss="mean", style_weight=1e3),
    "imagenet": recipe_for(optimizer="adam", learning_rate=0.01, canvas="imagenet"),
}


def alone_as(recipe: Recipe, index: int, **hooks) -> Outcome:
    """Run number `index` of a batch by itself."""
    return transfer_for(recipe, indices=[index], **hooks).run([RunState()])[0]
