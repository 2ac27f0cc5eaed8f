"""The work of a run: how much its steps compute, and how much of that is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..spec.recipe import Recipe
from .pyramid import Level
from .tile_planning import PictureMemory, Tiling


@dataclass(frozen=True)
class RunWork:
    """The work of the steps of some levels, in pixels; steps in tiles count `factors` times, by level."""

    levels: Sequence[Level]
    factors: Sequence[float]

    @classmethod
    def of(
        cls,
        levels: Sequence[Level],
        recipe: Recipe,
        channels: dict[str, int],
        itemsize: int,
        tiling: Tiling | None,
    ) -> RunWork:
        """Return the work of levels in tiles as `tiling` says, what their files take included."""
        if tiling is None:
            return cls(levels, [1.0] * len(levels))
        memories = {level.size: PictureMemory(recipe, channels, *level.size, itemsize) for level in levels}
        plans = {size: tiling.plan(memory) for size, memory in memories.items()}
        found = {
            size: memories[size].factor(plan.tiles) + memories[size].file_factor(plan) if plan else 1.0
            for size, plan in plans.items()
        }
        return cls(levels, [found[level.size] for level in levels])

    @property
    def steps(self) -> int:
        """The steps of all levels."""
        return sum(level.steps for level in self.levels)

    def until(self, step: float) -> float:
        """Return the work of the first steps; the part of a step that is begun counts as that part."""
        work = 0.0
        for level, factor in zip(self.levels, self.factors, strict=True):
            taken = min(step, level.steps)
            work += taken * level.width * level.height * factor
            step -= taken
        return work

    @property
    def factor(self) -> float:
        """How many times the work of untiled steps this is."""
        untiled = RunWork(self.levels, [1.0] * len(self.levels))
        return self.until(self.steps) / untiled.until(self.steps)
