"""The claims of a daemon that are not finished."""

from __future__ import annotations

from dataclasses import dataclass, field

from .claims import Claim


@dataclass
class Backlog:
    """Claims that are not finished: those that get a turn again, and those left for the next run."""

    pending: list[Claim] = field(default_factory=list)
    left: list[Claim] = field(default_factory=list)
    not_before: dict[str, float] = field(default_factory=dict)  # when the next turn is, by id

    def __len__(self) -> int:
        return len(self.pending) + len(self.left)

    def add(self, claim: Claim, not_before: float = 0.0) -> None:
        self.pending.append(claim)
        self.not_before[claim.id] = not_before

    def remove(self, claim: Claim) -> None:
        self.pending.remove(claim)
        self.not_before.pop(claim.id, None)
