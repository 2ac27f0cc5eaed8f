"""Events for tests of what shows them, with names of every kind; and the log that they leave."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.batch.summary import Finished, Status, Summary
from pipeline.cli.display import Display
from pipeline.cli.logs import TIME, LineHandler, TextFormatter, logging_to
from pipeline.errors import WorkerLost
from pipeline.spec.config import Config
from pipeline.spec.jobs import EncoderInfo, Job, StepProgress, Style
from pipeline.spec.recipe import Recipe
from pipeline.watch.heartbeat import Queue

# Whatever a file may be called: markup, a link, an emoji's code, other letters, and long.
ODD_NAMES = [
    "photo [bold]--[/red] x",
    "[link=http:x]a[/link]",
    "a:smile:b :warning: c",
    "Übung 字 ☂--naïve",
    "{task.description} %s {0}",
    "x" * 180,
    "back\\slash \\[a]",
]


HOSTILE = [*ODD_NAMES, "caf\udce9", "a\nb", "a\r\nb", "\x1b[31mred", "\x85\u2028", "\0"]


def make_job(content: str = "/in/a.png", style: str = "s") -> Job:
    recipe = Recipe(size=64, pyramid=0, steps=7)
    return Job("night", Path(content), Style(style, ((Path("/in/s.png"), 1.0),)), recipe, "a--s")


def make_finished(status: Status, name: str = "a--s", **changes: Any) -> Finished:
    return Finished(changes.pop("job", make_job()), name, status, "k" * 64, **changes)


def console(width: int = 60, terminal: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=terminal, color_system=None), file


@contextmanager
def logged(formatter: logging.Formatter | None = None, level: int = logging.INFO) -> Iterator[list[str]]:
    """Collect the lines of the log; those for people without their time."""
    lines: list[str] = []
    text = TextFormatter(datefmt=TIME)
    write = lines.append if formatter else lambda line: lines.append(line[len("00:00:00 ") :])
    with logging_to(LineHandler(write, formatter or text), level):
        yield lines


QUEUE = Queue(waiting=3, settling=2, done=5, quarantined=1)


def watch_everything(display: Display, name: str = "a--s") -> None:
    """Let a daemon's whole life be shown."""
    job = make_job(content=f"/in/{name}.png", style=name)
    display.notify("watching", "watching /in; results go to /out", inbox="/in", settle_s=2.0)
    display.encoder_chosen(EncoderInfo("vgg19-slim", "0123456789abcdef", "vgg19 is not here."))
    display.queue(QUEUE)
    display.job_started(job, name)
    display.job_step("a--s", StepProgress(3, 7, 64, 48, 0.5, 0.2, 0.3))
    display.worker_lost(job, WorkerLost("The worker ended."))
    display.job_finished(make_finished("done", name, job=job, path=Path(f"/out/{name}.png"), seconds=12.34))
    failed = make_finished("failed", name, job=job, error=f"/in/{name}.png: bad.", next_step="Look.")
    display.job_finished(failed)
    report = {"error": "bad.", "next_step": "Look.", "where": f"/quarantine/{name}.png"}
    display.notify("quarantined", f"quarantined {name}", path=name, id="ID", **report)
    display.batch_ended(Summary("night", 2, done=1, failed=1), Path("/out/night"))
    display.configured(Config())
