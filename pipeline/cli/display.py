"""What a running batch looks like: a live display, log lines, or JSON lines. Writes to what it is given."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..batch.estimate import unknown_seconds
from ..batch.summary import Finished, Summary
from ..errors import WorkerLost
from ..spec.jobs import EncoderInfo, Job, StepProgress
from ..spec.recipe import Recipe
from ..spec.schedule import total_steps
from ..spec.text import counted, duration, first_few
from ..storage.files import make_private, one_line
from ..watch.heartbeat import Display, Pace, Queue
from .logfile import rotated
from .rows import Row, progress_table

STOPPING = "Stopping after the current step; once more to stop at once."
# Seconds between lines about a long job.
SAY_EVERY_S = 30.0
# Seconds between two drawings of a running job.
DRAW_EVERY_S = 0.1


class LogLines:
    """One plain line per event, for files, pipes and cron.

    `write` writes a line past all buffers. A note that is no news is left out.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        write: Callable[[str], None] = lambda line: None,
        is_news: Callable[[str], bool] = lambda note: True,
    ) -> None:
        self.console = console
        self.total = total
        self.write = write
        self.is_news = is_news
        self.finished = 0
        self._skipped: Counter[str] = Counter()
        self._said_at = time.monotonic()

    def stopping(self) -> None:
        """Say that a signal came. Called in its handler, perhaps in the middle of another line."""
        with suppress(OSError):  # nobody reads it
            self.write(STOPPING)

    def encoder_chosen(self, encoder: EncoderInfo) -> None:
        self._say(f"encoder {encoder.name} ({encoder.digest[:8]})")
        if encoder.note and self.is_news(encoder.note):
            self._say(encoder.note)

    def job_started(self, job: Job, name: str) -> None:
        self._say(f"started {name} ({job.recipe.size} px, {counted(total_steps(job.recipe), 'step')})")

    def job_step(self, name: str, progress: StepProgress) -> None:
        if time.monotonic() - self._said_at >= SAY_EVERY_S or progress.snapshot is not None:
            self._say(f"step {progress.step}/{progress.steps} of {name}  {step_detail(progress)}")

    def worker_lost(self, job: Job, error: WorkerLost) -> None:
        self._say(f"{job.content.name}: {error.message}")

    def job_finished(self, finished: Finished) -> None:
        self.finished += finished.status not in {"stopped", "postponed"}
        if finished.status == "skipped":  # there may be 100,000 of them
            self._skipped["deleted or renamed since" if finished.missing else "done already"] += 1
        else:
            self._say(f"[{self.finished}/{self.total}] {finished_line(finished)}")
            for note in finished.notes:
                self._say(f"note: {note}")

    def _say(self, text: str) -> None:
        skipped, self._skipped = self._skipped, Counter()
        for what, count in skipped.items():
            self._say(f"skipped {count}, {what}")
        self._said_at = time.monotonic()
        # Names may hold [brackets]; they are not markup.
        self.console.print(
            f"{time.strftime('%H:%M:%S')} {one_line(text)}",
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=True,
        )


@dataclass
class _Running:
    """A job that runs, as the live display shows it."""

    name: str
    steps: int
    pace: Pace
    step: int = 0
    left: str = ""
    more: tuple[str, ...] = ()

    def advance(self, progress: StepProgress) -> None:
        self.step, self.steps = progress.step, progress.steps
        self.left = f"{duration(self.pace.left_s(progress.step, progress.steps))} left"

    @property
    def row(self) -> Row:
        return Row(self.name, self.step, self.steps, self.left, self.more)


class LiveDisplay(LogLines):
    """The batch with its remaining time, and the running jobs' steps, picture sizes and losses.

    `expected` says how many seconds a job of a recipe takes with an encoder, 0 where nobody knows.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        clock: Callable[[], float] = time.monotonic,
        expected: Callable[[Recipe, str], float] = unknown_seconds,
        **options: Any,
    ) -> None:
        super().__init__(console, total, **options)
        self.clock = clock
        self.expected = expected
        self.jobs: dict[str, _Running] = {}
        self._encoder = ""
        self._began: float | None = None
        self._started = 0
        self._expected_s = 0.0
        self._made = 0
        self._stopping = False
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        self.console.show_cursor()  # a second Ctrl-C ends this process before it could be shown again
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stopping(self) -> None:
        self._stopping = True

    def encoder_chosen(self, encoder: EncoderInfo) -> None:
        self._encoder = encoder.name
        super().encoder_chosen(encoder)

    def job_started(self, job: Job, name: str) -> None:
        if self._began is None:
            self._began = self.clock()
        self._started += 1
        self._expected_s += self.expected(job.recipe, self._encoder)
        # A job may start again.
        self.jobs[name] = _Running(one_line(name), total_steps(job.recipe), Pace(self.clock))

    def job_step(self, name: str, progress: StepProgress) -> None:
        job = self.jobs[name]
        job.advance(progress)
        job.more = (f"{progress.width} x {progress.height}", *losses(progress))

    def job_finished(self, finished: Finished) -> None:
        self._made += self.jobs.pop(finished.name, None) is not None
        super().job_finished(finished)

    def remaining_seconds(self) -> float | None:
        """Estimate the rest of the batch, or None where nothing is known of it yet.

        What was expected of a job counts like one job that was made in that time; jobs skipped do not.
        """
        running = sum(job.step / job.steps for job in list(self.jobs.values()))
        expected = self._expected_s / self._started if self._started else 0.0
        made = self._made + running + (expected > 0)
        if self._began is None or not made:
            return None
        per_job = (self.clock() - self._began + expected) / made
        return per_job * (self.total - self.finished - running)

    def _table(self) -> Table:
        seconds = self.remaining_seconds()
        left = "" if seconds is None else f"{duration(seconds)} left"
        rows = [Row("batch", self.finished, self.total, left), *(job.row for job in list(self.jobs.values()))]
        table = progress_table(rows, self.console.width)
        if not self._stopping:
            return table
        lines = Table.grid()
        lines.add_row(Text(STOPPING, no_wrap=True, overflow="ellipsis"))
        lines.add_row(table)
        return lines


class JsonLines(LogLines):
    """One JSON object per finished job on `stream`; everything else as log lines on the console."""

    def __init__(self, console: Console, total: int, stream: IO[str], **options: Any) -> None:
        super().__init__(console, total, **options)
        self.stream = stream

    def job_finished(self, finished: Finished) -> None:
        super().job_finished(finished)
        self.stream.write(json.dumps(finished_object(finished)) + "\n")
        self.stream.flush()


@contextmanager
def batch_display(
    console: Console,
    write: Callable[[str], None],
    total: int,
    json_to: IO[str] | None,
    expected: Callable[[Recipe, str], float],
    is_news: Callable[[str], bool],
) -> Iterator[LogLines]:
    """Choose how a run is shown: JSON lines to `json_to`, live on a terminal, or plain lines."""
    options: dict[str, Any] = {"write": write, "is_news": is_news}
    if json_to is not None:
        yield JsonLines(console, total, json_to, **options)
    elif console.is_terminal:
        with LiveDisplay(console, total, expected=expected, **options) as live:
            yield live
    else:
        yield LogLines(console, total, **options)


def first_time(folder: Path) -> Callable[[str], bool]:
    """Return a function that tells whether a text is said for the first time; a folder remembers."""

    def is_news(text: str) -> bool:
        mark = folder / "said" / hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
        with suppress(OSError):  # then it is said again
            if mark.exists():
                return False
            make_private(mark.parent)
            mark.touch()
        return True

    return is_news


def step_detail(progress: StepProgress) -> str:
    """Return losses and picture size in a few words."""
    total, parts = losses(progress)
    return f"{total} ({parts})  {progress.width} x {progress.height}"


def losses(progress: StepProgress) -> tuple[str, str]:
    """Return the loss, and what it is made of."""
    return f"loss {progress.loss:.4g}", f"content {progress.content:.3g}, style {progress.style:.3g}"


def finished_object(finished: Finished) -> dict[str, object]:
    """Return what `--json` prints of a job."""
    return {
        "status": finished.status,
        "missing": finished.missing,
        "name": finished.name,
        "key": finished.key,
        "content": str(finished.job.origin or finished.job.content),
        "style": finished.job.style.name,
        "path": str(finished.path) if finished.path else None,
        "seconds": round(finished.seconds, 3),
        "error": finished.error,
        "next_step": finished.next_step,
        "notes": list(finished.notes),
    }


def finished_line(finished: Finished) -> str:
    """Return one line a person can read."""
    match finished.status:
        case "done":
            return f"done {finished.name} in {duration(finished.seconds)}: {finished.path}"
        case "skipped" if finished.missing:
            return f"skipped {finished.name}: made before, and not there any more"
        case "skipped":
            return f"skipped {finished.name}: done already"
        case "postponed":
            return f"not begun {finished.name}: takes about {duration(finished.seconds)}, past the deadline"
        case "stopped":
            return f"stopped {finished.name}: goes on from here next time"
        case _:
            return f"failed {finished.name}: {finished.error} {finished.next_step}".rstrip()


def summary_line(summary: Summary, folder: str) -> str:
    """Return the last line of a run."""
    them = "it" if summary.missing == 1 else "them"
    gone = f"{summary.missing} deleted or renamed since (--missing makes {them} again)"
    if summary.skipped == summary.jobs:
        all_of_them = f"all {summary.jobs} pictures are" if summary.jobs > 1 else "the picture is"
        return f"Nothing to do: {all_of_them} there already, in {folder}"
    if summary.skipped + summary.missing == summary.jobs:
        there = f"{summary.skipped} there already, " if summary.skipped else ""
        return f"Nothing to do: {there}{gone}, in {folder}"
    parts = [f"{summary.done} done"]
    if summary.skipped:
        parts.append(f"{summary.skipped} there already")
    if summary.missing:
        parts.append(gone)
    if summary.failed:
        parts.append(f"{summary.failed} failed (see {folder}/summary.json)")
    if summary.remaining:
        limited = summary.reason == "max_failures"
        limit = f" (stopped after {counted(summary.failed, 'failure')}: max_failures)" if limited else ""
        parts.append(f"{summary.remaining} not begun or not finished{limit}")
    return f"{', '.join(parts)} in {duration(summary.seconds)}. Pictures are in {folder}"


def failure_lines(summary: Summary, most: int = 10) -> list[str]:
    """Return what failed in a run, a line for all pictures with the same fault."""
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in summary.failures:
        groups.setdefault((failure["error"], failure["next_step"]), []).append(failure["name"])
    lines = []
    for (error, next_step), names in list(groups.items())[:most]:
        lines.append(f"failed {first_few(names, 3)}: {error} {next_step}".rstrip())
    if len(groups) > most:
        lines.append(f"and {counted(len(groups) - most, 'other fault')}")
    return lines


class WatchLog:
    """A line for everything a daemon does: text for people, or a JSON object for programs.

    A line that `write` refuses with an OSError is counted, and the next that it takes comes after one that
    tells how many there were: no daemon ends because the disk of its log is full.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        as_json: bool,
        is_news: Callable[[str], bool] = lambda note: True,
    ) -> None:
        self.write = write
        self.as_json = as_json
        self.is_news = is_news
        self._lost = 0
        self._said_at = time.monotonic()

    def notify(self, kind: str, text: str, **facts: object) -> None:
        self._said_at = time.monotonic()
        try:
            if self._lost:
                said = f"the log could not be written; lost before this: {counted(self._lost, 'line')}"
                self.write(self._line("lost", said, {"lines": self._lost}))
                self._lost = 0
            self.write(self._line(kind, text, facts))
        except OSError:
            self._lost += 1

    def _line(self, kind: str, text: str, facts: dict[str, object]) -> str:
        line = one_line(text)
        if self.as_json:
            return json.dumps({"time": _now(), "event": kind, "text": line, **facts})
        return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"

    def queue(self, queue: Queue) -> None:
        pass

    def encoder_chosen(self, encoder: EncoderInfo) -> None:
        text = f"encoder {encoder.name} ({encoder.digest[:8]})"
        self.notify("encoder", text, encoder=encoder.name, digest=encoder.digest)
        if encoder.note and self.is_news(encoder.note):
            self.notify("encoder", encoder.note)

    def job_started(self, job: Job, name: str) -> None:
        size, steps = job.recipe.size, total_steps(job.recipe)
        self.notify(
            "started", f"started {name} ({size} px, {counted(steps, 'step')})", name=name, steps=steps
        )

    def job_step(self, name: str, progress: StepProgress) -> None:
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            text = f"step {progress.step}/{progress.steps}  {step_detail(progress)}"
            self.notify("step", text, step=progress.step, steps=progress.steps, loss=progress.loss)

    def worker_lost(self, job: Job, error: WorkerLost) -> None:
        self.notify("worker", f"{job.content.name}: {error.message}")

    def job_finished(self, finished: Finished) -> None:
        if self.as_json or finished.status != "failed" or finished.job.origin is None:
            self.notify(finished.status, finished_line(finished), **finished_object(finished))
            for note in finished.notes:
                self.notify("note", f"note: {note}", name=finished.name)
        # Else the daemon quarantines the picture, and says why in the same words.


class WatchLive(WatchLog):
    """The same lines above a row with the running job and the queue.

    The row is drawn by whoever tells of something, with no thread of its own; the daemon tells of its queue
    every second.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic, **options: Any) -> None:
        super().__init__(self._print, as_json=False, **options)
        self.console = console
        self.clock = clock
        self._queue = ""
        self._running: _Running | None = None
        self._drawn_at = clock()
        self._live = Live(console=console, get_renderable=self._row, auto_refresh=False, transient=True)

    def __enter__(self) -> WatchLive:
        with suppress(OSError):  # a terminal that went away ends no daemon
            self._live.start()
            self.console.show_cursor()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._live.stop()

    def queue(self, queue: Queue) -> None:
        self._queue = queue.short
        self._draw()

    def job_started(self, job: Job, name: str) -> None:
        self._running = _Running(one_line(name), total_steps(job.recipe), Pace(self.clock))
        super().job_started(job, name)

    def job_step(self, name: str, progress: StepProgress) -> None:
        if self._running is not None:
            self._running.advance(progress)
        if self.clock() - self._drawn_at >= DRAW_EVERY_S:
            self._draw()

    def job_finished(self, finished: Finished) -> None:
        self._running = None
        super().job_finished(finished)
        self._draw()

    def _draw(self) -> None:
        self._drawn_at = self.clock()
        with suppress(OSError):  # it is drawn again within a second
            self._live.refresh()

    def _row(self) -> RenderableType:
        """Return the row, which fits a terminal of 80 columns: name and bar give way to the rest."""
        if self._running is None:
            return Text(f"waiting {self._queue}", no_wrap=True, overflow="ellipsis")
        row = self._running.row
        rest = "  ".join(filter(None, (row.left, self._queue)))
        return progress_table([replace(row, left=rest)], self.console.width)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


@contextmanager
def watch_display(
    console: Console,
    write: Callable[[str], None],
    as_json: bool,
    file: Path | None,
    is_news: Callable[[str], bool] = lambda note: True,
) -> Iterator[Display]:
    """Choose how a daemon is shown: live on a terminal, else as lines, to `write` or a rotated file."""
    if console.is_terminal and not as_json and file is None:
        with WatchLive(console, is_news=is_news) as live:
            yield live
    elif file is None:
        yield WatchLog(write, as_json, is_news)
    else:
        with rotated(file) as append:
            yield WatchLog(append, as_json, is_news)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
