"""What a run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from .deadline import Deadline


@dataclass(frozen=True)
class RunOptions:
    """`force` runs finished jobs again, `missing` only those whose pictures are gone.

    `max_failures` 0 is no limit.
    """

    force: bool = False
    max_failures: int = 0
    max_attempts: int = 3
    deadline: Deadline | None = None
    missing: bool = False


DEFAULTS = RunOptions()
