"""How long jobs will take."""

from __future__ import annotations

from ..spec.recipe import Recipe
from ..spec.schedule import level_sizes, steps_at
from ..storage.ledger import Ledger

# Megapixels times steps below which a job says nothing about speed: starting takes longer.
ENOUGH_WORK = 1.0
# Seconds per megapixel and step, float32, on two shared cores of a server: docs/encoder.md.
TYPICAL = {"vgg19": 5.5, "vgg19-slim": 1.2}


class Speeds:
    """How fast jobs run with each encoder: as last seen on this machine, or as is typical."""

    def __init__(self, ledger: Ledger) -> None:
        self._seen = {encoder: seen for encoder in TYPICAL if (seen := ledger.speed(encoder))}

    def seconds(self, recipe: Recipe, encoder: str, steps_taken: float = 0.0) -> float:
        """Return how long a job takes from a step on; 0 with an encoder that nothing is known about."""
        _, speed = self._seen.get(encoder, ("", TYPICAL.get(encoder, 0.0)))
        return megapixel_steps(recipe, steps_taken=steps_taken) * speed

    def device(self, encoder: str) -> str:
        """Return the device on which an encoder was last seen; "" if it never was."""
        return self._seen[encoder][0] if encoder in self._seen else ""


class Estimate:
    """How long jobs take together, and with which encoders."""

    def __init__(self, ledger: Ledger) -> None:
        self.jobs = 0
        self.seconds = 0.0
        self._speeds = Speeds(ledger)
        self._encoders: set[str] = set()
        self._work_factor = 1.0

    def add(self, recipe: Recipe, encoder: str, steps_taken: float = 0.0, work_factor: float = 1.0) -> None:
        """Add a job, of which some steps may be taken already; in tiles its steps compute more."""
        self.jobs += 1
        self.seconds += self._speeds.seconds(recipe, encoder, steps_taken) * work_factor
        self._encoders.add(encoder)
        self._work_factor = max(self._work_factor, work_factor)

    @property
    def encoders(self) -> str:
        """The encoders of the jobs, in words."""
        return " and ".join(sorted(self._encoders))

    @property
    def basis(self) -> str:
        """What the seconds are based on, in words."""
        more = round(100 * (self._work_factor - 1))
        tiles = f"; tiles, for which the memory asks, add {more} % to the work" if more else ""
        for encoder in sorted(self._encoders):
            if device := self._speeds.device(encoder):
                return f"from the last picture made with {encoder} on {device}{tiles}"
        return f"a guess: no speed was measured here yet{tiles}"


def megapixel_steps(recipe: Recipe, aspect: float = 1.5, steps_taken: float = 0.0) -> float:
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
