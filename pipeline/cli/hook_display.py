"""Tells hooks what happens: events as the objects that docs/hooks.md describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..batch.records import now
from ..batch.summary import Finished, Summary
from ..hooks.queues import Event, HookQueues
from ..spec.config import Config
from ..spec.events import EventKind
from ..spec.jobs import Job, Style
from ..spec.recipe import Recipe
from ..spec.text import shortened
from ..storage.paths import SHEET, SUMMARY, BatchPaths
from .display import Display
from .sentences import finished_line, summary_line

# The length of an error, and how many of a batch's failures are named; its summary.json has them all.
MAX_TEXT, MAX_FAILURES = 2000, 20


class HookDisplay(Display):
    """Shows nothing, and tells the hooks of a configuration.

    Of a run's end they are told when this is closed, as the sheet is written last of all; of a batch of the
    daemon only if nothing is left to resume. A dropped picture has failed when it is quarantined: its hooks
    are told once, not for every style.
    """

    def __init__(self, config: Config, is_run: bool) -> None:
        super().__init__()
        self._queues = HookQueues(config.hooks)
        self._config = config
        self._is_run = is_run
        self._is_stopping = False
        self._ended: tuple[Summary, Path] | None = None

    def close(self) -> None:
        """Wait for the hooks; only for a moment if a signal came, or comes now. See `HookQueues.close`."""
        if self._ended is not None:
            self._queues.tell(_batch_event(*self._ended))
        self._queues.close(lambda: self._is_stopping)

    def configured(self, config: Config) -> None:
        self._config = config
        self._queues.use(config.hooks)

    def job_finished(self, finished: Finished) -> None:
        if finished.status == "done":
            self._queues.tell(_picture_event("done", finished, self._config))
        elif finished.status == "failed" and finished.job.origin is None:
            self._queues.tell(_picture_event("failed", finished, self._config))

    def batch_ended(self, summary: Summary, folder: Path) -> None:
        if not summary.done + summary.failed + summary.interrupted and summary.reason != "fault":
            return  # there was nothing to do
        if self._is_run:
            self._ended = summary, folder
        elif summary.reason in {"finished", "max_failures"}:
            self._queues.tell(_batch_event(summary, folder))

    def notify(self, kind: str, text: str, **facts: object) -> None:
        self._is_stopping |= kind == "stopping"
        if kind == "paused":
            self._queues.tell(_daemon_event("paused", text, facts, self._config))
        elif kind == "resumed":
            self._queues.tell(_daemon_event("resumed", text, facts, self._config))
        elif kind == "quarantined":
            self._queues.tell(_quarantine_event(text, facts, self._config))


def _picture_event(kind: EventKind, finished: Finished, config: Config) -> Event:
    job, name = finished.job, finished.name
    paths = BatchPaths(config.outbox / job.batch)
    return _event(
        kind,
        name,
        finished_line(finished),
        status=finished.status,
        batch=job.batch,
        folder=paths.folder,
        path=finished.path,
        content=job.origin or job.content,
        style=job.style.name,
        record=paths.record(name),
        log=paths.log(name) if finished.status == "done" else None,
        quarantine=None,
        seconds=round(finished.seconds, 3),
        error=finished.error,
        next_step=finished.next_step,
        notes=[*finished.notes],
    )


def _quarantine_event(text: str, facts: Mapping[str, object], config: Config) -> Event:
    name = str(facts["path"])
    return _event(
        "failed",
        name,
        text,
        status="failed",
        content=config.watch.inbox / name,
        style=None,
        record=None,
        log=None,
        quarantine=facts["where"],
        error=facts["error"],
        next_step=facts["next_step"],
        notes=[],
    )


def _daemon_event(kind: EventKind, text: str, facts: Mapping[str, object], config: Config) -> Event:
    inbox = config.watch.inbox
    fault = {"error": facts.get("error", ""), "next_step": facts.get("next_step", "")}
    return _event(kind, inbox.name, text, status=kind, inbox=inbox, outbox=config.outbox, **fault)


def example_event(kind: EventKind, config: Config) -> Event:
    """Return an event as a hook is told of it, for a trial. Its files do not exist."""
    style = Style("monet", ((config.watch.inbox / "styles/monet.jpg", 1.0),))
    job = Job("example", config.watch.inbox / "photo.jpg", style, Recipe(), "photo--monet")
    folder, error, next_step = config.outbox / job.batch, "This is only a trial.", "There is nothing to do."
    match kind:
        case "done":
            path = folder / f"{job.name}.png"
            return _picture_event(kind, Finished(job, job.name, kind, path=path, seconds=12.3), config)
        case "failed":
            failed = Finished(job, job.name, kind, error=error, next_step=next_step)
            return _picture_event(kind, failed, config)
        case "batch_ended":
            failure = {"name": job.name, "error": error, "next_step": next_step}
            ended = Summary(job.batch, 2, done=1, failed=1, seconds=24.6, failures=[failure])
            return _batch_event(ended, folder)
    fault = {"error": error, "next_step": next_step} if kind == "paused" else {}
    return _daemon_event(kind, f"{kind}: {error} {next_step}" if fault else kind, fault, config)


def _batch_event(summary: Summary, folder: Path) -> Event:
    failures = [
        {key: shortened(failure[key], MAX_TEXT) for key in ("name", "error", "next_step")}
        for failure in summary.failures[:MAX_FAILURES]
    ]
    return _event(
        "batch_ended",
        summary.batch,
        summary.fault or summary_line(summary, str(folder)),
        status=summary.reason,
        batch=summary.batch,
        folder=folder,
        seconds=summary.seconds,
        error=summary.fault,
        jobs=summary.jobs,
        done=summary.done,
        failed=summary.failed,
        skipped=summary.skipped,
        missing=summary.missing,
        left=summary.remaining,
        failures=failures,
        summary=folder / SUMMARY,
        sheet=folder / SHEET,
    )


# The fields of every event; where one says nothing it has this value.
FIELDS: dict[str, object] = {
    "time": "",
    "text": "",
    "batch": None,
    "name": "",
    "status": "",
    "folder": None,
    "path": None,
    "seconds": 0.0,
    "error": "",
    "next_step": "",
}


def _event(kind: EventKind, name: str, text: str, **facts: object) -> Event:
    """Return an event; paths become text, and long texts are cut off."""
    whole = {**FIELDS, "time": now(), "text": text, "name": name, **facts}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in whole.items()}
    short = {key: shortened(v, MAX_TEXT) if isinstance(v, str) else v for key, v in plain.items()}
    return Event(kind, name, short)
