"""The jobs that run, as the page shows them: those of the daemon and of every run on this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..storage.live import Live
from .watched import Status, file_id

# What the page calls the columns of `Live.losses`.
LOSSES = {"step": "steps", "size": "size", "total": "total", "content": "content", "style": "style"}


def running_cards(
    jobs: Sequence[Live], status: Status | None, shown: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return what a page shows of running jobs.

    `status` knows the job of the daemon before its first live picture is there, and for a moment after it
    ended; so it counts only for a name that is not among those `shown` last.
    """
    cards = [_card(job) for job in jobs]
    running = status["running"] if status else None
    if running and running["name"] not in shown:
        cards.append(_card_of_daemon(running))
    return cards


def names_of_daemon(jobs: Sequence[Live]) -> frozenset[str]:
    """Return the names of the jobs that belong to a drop."""
    return frozenset(job.name for job in jobs if job.drop)


def find_running(jobs: Sequence[Live], id: str) -> Live | None:
    return next((job for job in jobs if running_id(job) == id), None)


def running_id(job: Live) -> str:
    """Return the id of a running job, by which `status` knows it too if it is the daemon's."""
    return _id(job.drop, job.key)


def daemon_job_id(running: Mapping[str, Any]) -> str:
    """Return the id of the job that a daemon's status names."""
    return _id(str(running.get("id", "")), str(running["name"]))


def _id(drop: str, name: str) -> str:
    return file_id(drop or name)  # the daemon works on one drop at a time


def _card(job: Live) -> dict[str, Any]:
    id = running_id(job)
    return {
        "id": id,
        "batch": job.batch,
        "name": job.name,
        "contentName": job.content.name,
        "styleName": job.style,
        "content": f"/api/running/{id}/content?v={file_id(job.content)}",
        "style": f"/api/running/{id}/style?v={file_id(job.styles[0][0])}" if job.styles else "",
        "picture": f"/api/running/{id}/picture?v={job.version}" if job.picture else "",
        "pictureVersion": job.version,
        "width": job.width,
        "height": job.height,
        "size": max(job.width, job.height),
        "level": job.level,
        "levels": job.levels,
        "step": job.step,
        "steps": job.steps,
        "tile": job.tile,
        "tiles": job.tiles,
        "seconds": round(job.seconds, 1),
        "secondsLeft": None if job.left_s is None else round(job.left_s, 1),
        "losses": _series(job.losses),
        "canCancel": bool(job.drop),
    }


def _series(losses: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the losses with as many digits as a curve can show."""
    return {LOSSES[name]: [float(f"{value:.4g}") for value in series] for name, series in losses.items()}


def _card_of_daemon(running: Mapping[str, Any]) -> dict[str, Any]:
    name = str(running["name"])
    return {
        "id": daemon_job_id(running),
        "batch": "",
        "name": name,
        "contentName": Path(running.get("path", "")).name or name,
        "styleName": "",
        "content": "",
        "style": "",
        "picture": "",
        "pictureVersion": 0,
        "width": 0,
        "height": 0,
        "size": 0,
        "level": 0,
        "levels": 0,
        "step": running["step"],
        "steps": running["steps"],
        "tile": running.get("tile", 0),
        "tiles": running.get("tiles", 0),
        "seconds": running["seconds"],
        "secondsLeft": running.get("left_s"),
        "losses": {name: [] for name in LOSSES.values()},
        "canCancel": bool(running.get("id")),
    }
