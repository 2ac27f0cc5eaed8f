"""Checkpoints without torch: their headers, and the files that belong to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

CHECKPOINT_FORMAT = "5"

_safe_open: Any = safe_open  # Its stub has no types.


def steps_of_checkpoint(path: Path) -> int:
    """Return how many steps a checkpoint holds; 0 if there is none that can be read."""
    try:
        with _safe_open(path, framework="numpy") as stored:
            header = stored.metadata()
        # A checkpoint of another version or job is not resumed.
        if (header["format"], header["key"]) != (CHECKPOINT_FORMAT, path.stem):
            return 0
        return len(json.loads(header["state"])["rows"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return 0


def evaluation_paths(checkpoint: Path) -> list[Path]:
    """Return the files of what was computed since a checkpoint; see `evaluations`."""
    return list(checkpoint.parent.glob(f"{checkpoint.stem}-*{checkpoint.suffix}"))
