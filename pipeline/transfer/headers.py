"""Checkpoints without torch: their headers, and the files that belong to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

CHECKPOINT_FORMAT = "5"
# What is raised by a file that is not there, damaged, or no such file.
UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError)

_safe_open: Any = safe_open  # Its stub has no types.


def steps_of_checkpoint(path: Path) -> int:
    """Return how many steps a checkpoint holds; 0 if there is none that can be read."""
    try:
        header = _header(path)
        # A checkpoint of another version or job is not resumed.
        if (header["format"], header["key"]) != (CHECKPOINT_FORMAT, path.stem):
            return 0
        return len(json.loads(header["state"])["rows"])
    except UNREADABLE:
        return 0


def steps_since_checkpoint(path: Path) -> float:
    """Return how many steps since a checkpoint are kept as evaluations, the last perhaps in part.

    It is no sum over the files, as the same step may be in several: after other tiles, its canvas may differ.
    """
    return max(map(_steps_of_evaluation, evaluation_paths(path)), default=0.0)


def _steps_of_evaluation(path: Path) -> float:
    try:
        return float(_header(path)["steps"])
    except UNREADABLE:
        return 0.0


def _header(path: Path) -> Any:
    with _safe_open(path, framework="numpy") as stored:
        return stored.metadata()


def evaluation_paths(checkpoint: Path) -> list[Path]:
    """Return the files of what was computed since a checkpoint; see `evaluations`."""
    return list(checkpoint.parent.glob(f"{checkpoint.stem}-*{checkpoint.suffix}"))
