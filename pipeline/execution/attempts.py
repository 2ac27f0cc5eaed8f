"""Jobs that share a tensor, and what is tried when they do not fit: less and less, never the same twice."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..errors import ImageError, PipelineError, ScratchFull
from ..spec.jobs import JobResult
from ..spec.recipe import Recipe
from ..spec.text import counted
from .inputs import Prepared
from .results import unexpected_failure

if TYPE_CHECKING:
    from ..transfer.memory import LargeStyle
    from ..transfer.reports import Outcome
    from ..transfer.session import Session

    # A job that failed before its first step has its result already.
    Made: TypeAlias = "Outcome | JobResult"

logger = logging.getLogger(__name__)

# Updates that L-BFGS remembers where there is no memory for more.
SHORT_HISTORY = 3
# How often the memory for tiles is halved; an estimate that is further off has another fault.
MOST_HALVED = 4


@dataclass(frozen=True)
class Refusal:
    """Why an attempt failed on a device: no memory, perhaps for a `style`, or an `unexpected` error.

    `foreseen`: too little memory by the estimate, even for the smallest tiles; `by_limit`: the memory is
    limited by memory_mb. `no_space`: the disk had too little for the history of L-BFGS. A refusal does not
    hold the exception, which would hold what the attempt had allocated.
    """

    device: str
    style: LargeStyle | None = None
    unexpected: JobResult | None = None
    foreseen: bool = False
    by_limit: bool = False
    no_space: JobResult | None = None

    def result(self, prepared: Prepared) -> JobResult:
        """Return the result of a job for which nothing is left to try."""
        if ready := self.unexpected or self.no_space:
            return ready
        job, level = prepared.task.job, prepared.levels[-1]
        memory = memory_name(self.device, self.by_limit and self.foreseen)
        if self.style is not None:
            error = style_too_large(job.style.images[self.style.index][0], self.style, memory)
        else:
            size = f"{level.width} x {level.height} pixels"
            error = ImageError(f"{job.content}: {size} do not fit {memory}.", "Lower size.")
        return replace(JobResult.failure(error), out_of_memory=True)


@dataclass(frozen=True)
class Attempt:
    """Jobs that run together, and what was changed to make them fit: tiles, L-BFGS's history, or the device.

    `halved` is how often the memory for tiles was halved; 0 is no tiles if the estimate says that it fits.
    `freed`: it was tried before, and then memory was freed that was kept for later jobs.
    """

    group: Sequence[Prepared]
    history: int | None = None
    device: str = ""
    halved: int = 0
    freed: bool = False

    def recipe(self, recipe: Recipe) -> Recipe:
        return recipe if self.history is None else recipe.model_copy(update={"history": self.history})

    @property
    def adjusted(self) -> tuple[str, ...]:
        """What was changed, in words."""
        history = f"history {self.history}: the memory was too small for more"
        device = f"device {self.device}: the memory of the other was too small"
        return (*([history] if self.history else []), *([device] if self.device else []))

    def smaller(self, refusal: Refusal) -> list[Attempt]:
        """Return what to try instead: in order halves, tiles, a shorter history, the CPU; or nothing."""
        if self.freed:
            return replace(self, freed=False).smaller(refusal)
        count = len(self.group)
        if count > 1:
            # Any of them may have caused an unexpected error, so each runs alone.
            size = 1 if refusal.unexpected else (count + 1) // 2
            return [replace(self, group=self.group[i : i + size]) for i in range(0, count, size)]
        task = self.group[0].task
        # Beside other processes the job keeps its settings: the batch runs it again without them.
        if refusal.unexpected or not task.alone:
            return []
        tiles_matter = not refusal.foreseen and refusal.style is None and refusal.no_space is None
        if tiles_matter and self.halved < MOST_HALVED:
            return [replace(self, halved=self.halved + 1)]
        recipe = task.job.recipe
        has_history = recipe.optimizer == "lbfgs" and recipe.history > SHORT_HISTORY
        # A style that does not fit gains nothing by a shorter history.
        if self.history is None and has_history and refusal.style is None:
            return [replace(self, history=SHORT_HISTORY, halved=0)]
        return [Attempt(self.group, device="cpu")] if refusal.device != "cpu" else []

    def resumed(self, resume: Callable[[Prepared], Prepared]) -> list[Attempt]:
        """Return the same attempt from the last checkpoints of its jobs, which may not be of one step."""
        jobs = [resume(each) for each in self.group]
        return [replace(self, group=list(alike)) for _, alike in itertools.groupby(jobs, likeness)]


def likeness(prepared: Prepared) -> object:
    """Return what jobs that share a tensor agree in: recipe, size, number of regions, steps, history."""
    state, request = prepared.state, prepared.request
    regions = len(request.styles) if request.regions else 0
    # Beside another history, or none, a job would lose its own.
    history = [(name, tuple(tensor.shape)) for name, tensor in (state.optimizer or {}).items()]
    key = prepared.task.job.recipe.batch_key()
    return key, regions, *prepared.levels, state.level, state.step, *history


def run_attempts(
    group: Sequence[Prepared],
    run: Callable[[Attempt], list[Outcome]],
    session: Callable[[str], Session],
    resume: Callable[[Prepared], Prepared],
) -> list[Made]:
    """Run jobs together; while they do not fit, or fail together, run them with less.

    `session` returns the session of a device, the configured one for "". `resume` returns a job with the
    state of its last checkpoint, from which it continues where an attempt fails in the middle.

    Raises:
        MachineError: the machine's fault, not a job's.
    """
    made: list[Made] = []
    attempts = [Attempt(group)]
    while attempts:
        attempt = attempts.pop(0)
        tried = _run(attempt, run, session(attempt.device))
        if not isinstance(tried, Refusal):
            made += tried
            continue
        could_free = session(attempt.device).free_memory()
        if could_free and not tried.unexpected and not attempt.freed:
            following = [replace(attempt, freed=True)]
        elif not (following := attempt.smaller(tried)):
            made.append(tried.result(attempt.group[0]))
        if not tried.foreseen:
            following = [each for one in following for each in one.resumed(resume)]
        attempts = [*following, *attempts]
    return made


def _run(
    attempt: Attempt, run: Callable[[Attempt], list[Outcome]], session: Session
) -> list[Outcome] | Refusal:
    from ..transfer.memory import OutOfMemory

    device = session.device.device
    try:
        return run(attempt)
    except OutOfMemory as error:
        pictures = counted(len(attempt.group), "picture")
        logger.debug("no memory on %s for %s, adjusted: %s", device, pictures, attempt.adjusted or "nothing")
        by_limit = session.memory.limit_bytes is not None
        return Refusal(device, error.style, foreseen=error.foreseen, by_limit=by_limit)
    except ScratchFull as full:
        logger.debug("no space for a history on %s, adjusted: %s", device, attempt.adjusted or "nothing")
        failure = ImageError(f"{attempt.group[0].task.job.content}: {full.message}", full.next_step)
        return Refusal(device, no_space=replace(JobResult.failure(failure), out_of_memory=True))
    except PipelineError:
        raise
    except Exception as error:
        logger.debug("unexpected %s on %s: each picture runs alone", type(error).__name__, device)
        return Refusal(device, unexpected=unexpected_failure(attempt.group[0].task.job, error))


def memory_name(device: str, by_limit: bool) -> str:
    """Return what messages call the memory that is too small."""
    from ..transfer.usage import address_limit, used_addresses

    limit = address_limit() if device == "cpu" and not by_limit else None
    if limit is not None:
        figures = f"{limit / 1e6:,.0f} MB, of which libraries take {used_addresses() / 1e6:,.0f}"
        return f"the memory that `ulimit -v` allows this process ({figures}; raise it if you can)"
    limited = " that a process may take (see memory_mb and workers in config.yaml)" if by_limit else ""
    return f"the memory of {device}{limited}"


def style_too_large(name: Path | str, style: LargeStyle, memory: str) -> ImageError:
    """Return the error of a style that does not fit a memory; see `memory_name`."""
    width, height = style.size
    return ImageError(
        f"{name}: this style is used at {width:,} x {height:,} pixels, which do not fit {memory}.",
        "Lower style_scale or size.",
    )
