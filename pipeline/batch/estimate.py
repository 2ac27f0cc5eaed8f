"""How long jobs will take."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ..spec.recipe import Recipe
from ..spec.schedule import level_sizes, steps_at
from ..storage.ledger import Ledger

# Megapixels times steps below which a job says nothing of speed: starting costs more.
ENOUGH_WORK = 1.0


class Estimate:
    """How long jobs will take, from the speed last seen on this machine or a typical one."""

    # Seconds per megapixel and step, float32, on two shared cores of a server.
    TYPICAL: ClassVar = {"vgg19": 7.0, "vgg19-slim": 0.7}

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.jobs = 0
        self.seconds = 0.0
        self.basis = "a guess: no speed was measured here yet"
        self._speeds: dict[str, float] = {}

    def add(self, recipe: Recipe, encoder: str, steps_taken: int = 0) -> None:
        """Add a job, of which some steps may be taken already."""
        if encoder not in self._speeds:
            seen = self.ledger.speed(encoder)
            self._speeds[encoder] = seen[1] if seen else self.TYPICAL[encoder]
            if seen:
                self.basis = f"from the last picture made with {encoder} on {seen[0]}"
        self.jobs += 1
        self.seconds += megapixel_steps(recipe, steps_taken=steps_taken) * self._speeds[encoder]

    @property
    def encoders(self) -> str:
        """The encoders of the jobs added, in words."""
        return " and ".join(sorted(self._speeds))


def expected_seconds(ledger: Ledger) -> Callable[[Recipe, str], float]:
    """Return a function that says how long a job of a recipe takes with an encoder; 0 if nobody knows."""
    speeds = {}
    for encoder, typical in Estimate.TYPICAL.items():
        seen = ledger.speed(encoder)
        speeds[encoder] = seen[1] if seen else typical
    return lambda recipe, encoder: megapixel_steps(recipe) * speeds.get(encoder, 0.0)


def unknown_seconds(recipe: Recipe, encoder: str) -> float:
    """Say that nobody knows how long a job takes."""
    return 0.0


def megapixel_steps(recipe: Recipe, aspect: float = 1.5, steps_taken: int = 0) -> float:
    """Return the work in a recipe: pixels, margin included, times steps over the pyramid, in millions.

    The first `steps_taken` are left out.
    """
    shape = 1.0 if recipe.square else min(aspect, 1 / aspect)
    border = 2 * recipe.margin
    work = 0.0
    for level, size in enumerate(level_sizes(recipe)):
        steps = steps_at(recipe, level)
        behind = min(steps_taken, steps)
        steps_taken -= behind
        work += (size + border) * (size * shape + border) * (steps - behind) / 1e6
    return work
