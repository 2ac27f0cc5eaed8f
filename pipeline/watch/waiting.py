"""What lies in the inbox and waits, why, and for how long, whether a daemon runs or not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..batch.estimate import expected_seconds
from ..errors import DiskError
from ..spec.config import Config
from ..spec.recipe import Recipe
from ..storage.files import Disk
from ..storage.ledger import Ledger
from .inbox import Seen, scan_inbox
from .library import style_paths, unused_styles
from .markers import Markers
from .routes import Plan, Router, Waiting
from .watcher import default_settle_s

ITS_TURN = "its turn"


@dataclass(frozen=True)
class Wait:
    """A file of the inbox and why it waits. `seconds` is what its pictures will take; 0 if unknown."""

    path: str
    reason: str
    seconds: float = 0.0


def read_waiting(config: Config, ledger: Ledger, state: Mapping[str, Any]) -> tuple[list[Wait], list[Wait]]:
    """Return what waits, in the order of paths, and styles that are not used.

    `state` is what the last daemon said of itself.
    """
    watch, disk = config.watch, Disk()
    try:
        scan = scan_inbox(watch.inbox, disk, config.ignore)
    except DiskError:
        return [], []  # `paused` or the daemon says so
    library = style_paths(scan.styles, set(scan.styles), watch.inbox)
    waits: list[Wait] = []
    markers = Markers(watch.inbox, disk)
    broken, said_s, router = state.get("broken", {}), state.get("beat", math.inf), Router(config, {})
    settle_s, expected = watch.settle_s or default_settle_s(watch.inbox), expected_seconds(ledger)

    @cache  # many pictures lie in one folder, and it alone decides what they ask for
    def asked(folder: Path) -> Waiting | float:
        plan = router.plan(folder / "picture", library)
        return plan if isinstance(plan, Waiting) else _seconds(plan, expected, state)

    for seen in scan.files:
        if scan.markers and markers.is_done(seen.relative):
            continue
        name = str(seen.relative)
        wait = 0.0 if router.is_manifest(seen.relative) else asked(seen.relative.parent)
        reason = broken.get(name)
        if reason and seen.identity.ctime_ns / 1e9 <= said_s:  # unchanged since
            waits.append(Wait(name, f"to become a whole picture: {reason}"))
        elif isinstance(wait, Waiting):
            waits.append(Wait(name, wait.reason))
        else:
            waits.append(Wait(name, "to settle" if _age_s(seen) < settle_s else ITS_TURN, wait))
    return waits, [Wait(str(path), reason) for path, reason in unused_styles(scan.styles)]


def _seconds(plan: Plan, expected: Callable[[Recipe, str], float], state: Mapping[str, Any]) -> float:
    encoder = plan.recipe.encoder
    encoder = state.get("encoder") or "vgg19-slim" if encoder == "auto" else encoder
    return len(plan.styles) * expected(plan.recipe, encoder)


def _age_s(seen: Seen) -> float:
    return abs(time.time() - seen.identity.ctime_ns / 1e9)
