"""Checkpoints of jobs: files below `state_dir`, named by the keys of their jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..spec.config import Config
from ..spec.jobs import Job
from ..storage.files import disk_errors
from ..storage.temporary import sweep_unfinished

if TYPE_CHECKING:
    from ..transfer.checkpoints import RunState
    from ..transfer.pyramid import Level

KEPT_DAYS = 30


def checkpoint_folder(config: Config) -> Path:
    return config.state_dir / "checkpoints"


def checkpoint_path(config: Config, key: str) -> Path:
    return checkpoint_folder(config) / f"{key}.safetensors"


def remove_state(path: Path) -> None:
    """Remove a checkpoint, and what was computed since.

    Raises:
        OSError: a file cannot be removed.
    """
    from ..transfer.headers import evaluation_paths

    for each in [*evaluation_paths(path), path]:
        each.unlink(missing_ok=True)


def read_state(job: Job, levels: Sequence[Level], path: Path) -> tuple[RunState, tuple[str, ...]]:
    """Return the state to resume from, and a note if the checkpoint is unusable and the job starts over."""
    from ..transfer.checkpoints import RunState, read_checkpoint
    from ..transfer.tensor_files import DamagedError

    margin = job.recipe.margin
    shapes = [(level.height + 2 * margin, level.width + 2 * margin) for level in levels]
    try:
        state = read_checkpoint(path)
        if state is not None and not state.fits(shapes, [level.steps for level in levels]):
            raise DamagedError("does not fit the job")
    except DamagedError as damage:
        return RunState(), (f"{job.content.name}: its checkpoint {damage}; the job starts over.",)
    return state or RunState(), ()


def write_state(path: Path, state: RunState) -> None:
    """Write a checkpoint.

    Raises:
        DiskError: it cannot be written.
    """
    from ..transfer.checkpoints import write_checkpoint

    advice = "Free some space, or set state_dir in config.yaml to another disk."
    with disk_errors(path, "the checkpoint cannot be written", advice):
        write_checkpoint(path, state)


def sweep_checkpoints(config: Config) -> None:
    """Remove what nobody will resume.

    That is what killed processes had not finished writing, and checkpoints of jobs that were given up or have
    changed since.
    """
    sweep_unfinished(checkpoint_folder(config))
    with suppress(OSError):  # the folder cannot be read; writing the next one says why
        for path in checkpoint_folder(config).glob("*.safetensors"):
            _remove_if_old(path)


def _remove_if_old(path: Path) -> None:
    with suppress(OSError):  # another process was quicker; or it stays, which only costs space
        if path.stat().st_mtime < time.time() - KEPT_DAYS * 86_400:
            path.unlink()
