"""Paints a picture in tiles in processes that kill themselves, one after another at each tile of a step.

The processes are forked, as loading the libraries takes most of the time of a small picture. It writes how
they ended, and whether the last one made the picture of one that was left alone; then the same of processes
that keep every tile on the disk, and of which each kills itself after the first tile that it computes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_jobs import small_task

from pipeline.execution.executors import InProcessExecutor
from pipeline.spec.config import read_config
from pipeline.spec.jobs import Task
from pipeline.transfer import evaluations
from pipeline.transfer.tiled import TiledObjective

# Steps of the picture, and the one in which processes die.
STEPS, FATAL = 3, 2


def die_at(fatal_evaluation: int, fatal_tile: int) -> None:
    """Let this process die after a tile that it computes in an evaluation; both count from 1."""
    evaluate, count_tile = TiledObjective.evaluate, TiledObjective._count_tile
    evaluation = tile = 0

    def counted(self: TiledObjective[Any], image_BCHW: torch.Tensor) -> Any:
        nonlocal evaluation, tile
        evaluation, tile = evaluation + 1, 0
        return evaluate(self, image_BCHW)

    def counted_tile(self: TiledObjective[Any], run: Any) -> None:
        nonlocal tile
        count_tile(self, run)
        tile += 1
        if (evaluation, tile) == (fatal_evaluation, fatal_tile):
            os.kill(os.getpid(), signal.SIGKILL)

    TiledObjective.evaluate, TiledObjective._count_tile = counted, counted_tile  # type: ignore[method-assign]


def executor_in(folder: Path) -> InProcessExecutor:
    paths = {"cache_dir": folder / "cache", "state_dir": folder / "state"}
    settings = {"device": "cpu", "tiles": 64, "checkpoint_s": 0.0, **paths}
    return InProcessExecutor(read_config(None).model_copy(update=settings))


def paint(folder: Path, task: Task, path: Path) -> None:
    torch.set_num_threads(1)
    executor = executor_in(folder)
    (result,) = executor.run([task], lambda progress: None, lambda: False)
    assert result.status == "done", result.error
    path.write_bytes(result.image)
    path.with_suffix(".json").write_text(json.dumps(result.resumed_from_step))
    executor.forget(task.key)


def forked(work: Callable[[], None]) -> int:
    """Do some work in a process of its own; return what ended it: 0, an exit code, or minus a signal."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    deep = {"style_layers": {"relu1_1": 1.0, "relu3_1": 1.0}, "content_layers": {"relu3_1": 1.0}}
    task = small_task(folder / "content.png", folder / "style.png", 1, size=80, steps=STEPS, **deep)
    whole = folder / "whole.png"
    paint(folder, task, whole)  # here, so that every fork has what it loads and packs
    reports = [kill_until_made(folder, task, whole.read_bytes(), keeps) for keeps in (False, True)]
    sys.stdout.write(json.dumps(reports))


def kill_until_made(folder: Path, task: Task, whole: bytes, keeps: bool) -> dict[str, Any]:
    """Let one process after another resume the picture and die, until one makes it."""
    made = folder / f"keeps {keeps}.png"

    def doomed(evaluation: int, tile: int) -> None:
        if keeps:
            evaluations.PART_S = evaluations.WHOLE_S = evaluations.SHARE = 0
        die_at(evaluation, tile)
        paint(folder, task, made)

    ends, progress, tile = [], [], 0
    while not made.exists():
        tile = 1 if keeps else tile + 1
        # Whoever resumes begins with the step in which the one before died.
        evaluation = 1 if ends else FATAL
        ends.append(forked(lambda evaluation=evaluation, tile=tile: doomed(evaluation, tile)))  # type: ignore[misc]
        progress.append(executor_in(folder).progress(task.key))
    return {
        "ends": ends,
        "progress": progress,
        "same": made.read_bytes() == whole,
        "resumed_from_step": json.loads(made.with_suffix(".json").read_text()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
