"""The live display of a terminal: rows that move, and lines of the log above them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..batch.summary import Finished
from ..spec.jobs import EncoderInfo, Job, StepProgress
from ..spec.recipe import Recipe
from ..spec.schedule import total_steps
from ..spec.text import duration, one_line
from ..watch.heartbeat import Queue
from .display import PAUSED, STOPPING, Display
from .rows import Row, progress_table
from .sentences import losses


class Forecast:
    """Estimates how long the rest of a batch of `total` jobs takes.

    `expected` returns how many seconds a job of a recipe takes with an encoder, or 0 if unknown. This counts
    as if one more job had been made in that time. Skipped jobs do not count.
    """

    def __init__(
        self,
        total: int,
        expected: Callable[[Recipe, str], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.finished = 0
        self.expected = expected
        self.clock = clock
        self._began: float | None = None
        self._started = 0
        self._expected_s = 0.0
        self._made = 0

    def job_started(self, recipe: Recipe, encoder: str) -> None:
        if self._began is None:
            self._began = self.clock()
        self._started += 1
        self._expected_s += self.expected(recipe, encoder) if self.expected else 0.0

    def job_finished(self, finished: Finished, was_running: bool) -> None:
        self.finished += finished.status not in {"stopped", "postponed"}
        self._made += was_running

    def remaining_seconds(self, running: float = 0.0) -> float | None:
        """Return the estimate, or None as long as nothing is known; `running` is 0.5 for a job half made."""
        expected_s = self._expected_s / self._started if self._started else 0.0
        made = self._made + running + (expected_s > 0)
        if self._began is None or not made:
            return None
        per_job = (self.clock() - self._began + expected_s) / made
        return per_job * (self.total - self.finished - running)


class LiveRows(Display):
    """A row for every running job, with its steps, time left, picture size and losses.

    Above them is a row for the batch, if there is a `forecast`. Beside them is the queue of a watched folder.
    """

    def __init__(self, console: Console, forecast: Forecast | None = None) -> None:
        super().__init__()
        self.console = console
        self.forecast = forecast
        self._running: dict[str, Row] = {}  # by the names of their jobs
        self._encoder = ""
        self._queue = ""
        self._stopping = self._paused = False
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveRows:
        self._live.start()
        self.console.show_cursor()  # a second Ctrl-C ends this process before it could be shown again
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def print(self, line: str) -> None:
        """Print a line above the rows. It may hold [brackets], which are not markup."""
        self.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def encoder_chosen(self, encoder: EncoderInfo) -> None:
        self._encoder = encoder.name

    def job_started(self, job: Job, name: str) -> None:
        if self.forecast is not None:
            self.forecast.job_started(job.recipe, self._encoder)
        # A job may start again.
        self._running[name] = Row(one_line(name), 0, total_steps(job.recipe))

    def job_step(self, name: str, progress: StepProgress) -> None:
        if name in self._running:
            left = "" if progress.left_s is None else f"{duration(progress.left_s)} left"
            details = progress.tile_text, f"{progress.width} x {progress.height}", *losses(progress)
            more, begun = tuple(filter(None, details)), progress.tile / (progress.tiles or 1)
            self._running[name] = Row(one_line(name), progress.step, progress.steps, left, more, begun)

    def job_finished(self, finished: Finished) -> None:
        was_running = self._running.pop(finished.name, None) is not None
        if self.forecast is not None:
            self.forecast.job_finished(finished, was_running)

    def notify(self, kind: str, text: str, **facts: object) -> None:
        self._stopping |= kind == "stopping"
        if kind in {"paused_by_user", "resumed_by_user"}:
            self._paused = kind == "paused_by_user"
        if kind == "paused":  # a fault of the machine, which ended the jobs that ran
            self._running.clear()

    def queue(self, queue: Queue) -> None:
        self._queue = queue.short

    def render(self) -> RenderableType:
        """Return what is shown now."""
        rows = self._rows()
        shown: RenderableType = progress_table(rows, self.console.width)
        if not rows:
            shown = Text(self._queue or "starting", no_wrap=True, overflow="ellipsis")
        notice = STOPPING if self._stopping else PAUSED if self._paused else ""
        return Group(Text(notice, no_wrap=True, overflow="ellipsis"), shown) if notice else shown

    def _rows(self) -> list[Row]:
        rows = list(self._running.values())  # they may change while they are drawn
        if self.forecast is not None:
            seconds = self.forecast.remaining_seconds(sum((row.done + row.begun) / row.total for row in rows))
            left = "" if seconds is None else f"{duration(seconds)} left"
            return [Row("batch", self.forecast.finished, self.forecast.total, left), *rows]
        if rows and self._queue:
            rows[0] = replace(rows[0], left="  ".join(filter(None, (rows[0].left, self._queue))))
        return rows
