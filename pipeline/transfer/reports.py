"""What a run reports to its caller: progress on the way, checkpoints now and then, an outcome at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..errors import DivergedError
from .checkpoints import LossRow, RunState
from .evaluations import EvaluationFiles
from .run_work import RunWork


@dataclass(frozen=True)
class Progress:
    """How far the batch's picture `index` is: after a step, or within the next one, or before the first.

    `row` has the losses of the last step. After a step, `read_image` returns the picture (BCHW) as the step
    left it, perhaps a view that the next step changes, and `image_BCHW` is a snapshot where the recipe asks
    for one. Within a step, or before the first, `tile` of `tiles` are computed; after a step both are 0.
    `work` is that of all steps.
    """

    index: int
    step: int
    steps: int
    width: int
    height: int
    work: RunWork
    row: LossRow | None = None
    read_image: Callable[[], Tensor] | None = None
    image_BCHW: Tensor | None = None
    tile: int = 0
    tiles: int = 0


@dataclass(frozen=True)
class Hooks:
    """What a run calls on its way.

    `on_progress` gets every picture after every step, on a GPU after several of them, and in long steps after
    tiles. `on_checkpoint` gets the index and the state of every running picture about every `checkpoint_s`
    seconds. Evaluations of a single picture in tiles are kept in the files of `evaluations`.
    """

    on_progress: Callable[[Progress], None] = lambda progress: None
    on_checkpoint: Callable[[int, RunState], None] = lambda index, state: None
    should_stop: Callable[[], bool] = lambda: False
    checkpoint_s: float = 30.0
    evaluations: EvaluationFiles | None = None
    clock: Callable[[], float] = time.perf_counter


SILENT = Hooks()


@dataclass(frozen=True)
class Outcome:
    """What became of a picture, and how it was made: `image_BCHW` if it is done, else `state` to resume from.

    A picture that diverged has an `error`; its state is the last good canvas. The engine knows the first four
    fields. The session adds how the picture was made, and the executor what it `adjusted` to fit the memory.
    """

    status: Literal["done", "stopped", "diverged"]
    state: RunState
    image_BCHW: Tensor | None = None
    error: DivergedError | None = None
    seconds: float = 0.0
    device: str = ""
    # What the network computed in.
    dtype: str = ""
    # Pictures that shared its tensors, this one included.
    micro_batch: int = 1
    cache_hits: int = 0
    cache_misses: int = 0
    adjusted: tuple[str, ...] = ()
    # How many times the work of untiled steps that of its steps was.
    work_factor: float = 1.0

    @property
    def rows(self) -> list[LossRow]:
        return self.state.rows
