"""Tells whether a batch has changed since its sheet was written: by names, sizes and times of its files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..storage.files import read_json_object, walk
from ..storage.outbox import RUNS
from ..storage.paths import LOCK, SHEET, SUMMARY
from .thumbnails import THUMBS

# What changes with every run, and says nothing about a picture.
PASSED_OVER = frozenset({SHEET, SUMMARY, LOCK, ".staged", THUMBS, os.path.join("logs", RUNS)})
# Jobs of these statuses have a record.
RECORDED = frozenset({"done", "skipped", "missing"})


def batch_stamp(folder: Path) -> str:
    """Return a digest of everything that a sheet shows of a batch, but the thumbnails.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(_files(folder))
    shown = [folder.name, files, _shown_of(read_json_object(folder / SUMMARY))]
    return _digest(shown)


def thumbs_stamp(folder: Path) -> str:
    """Return a digest of the names of a batch's thumbnails."""
    place = folder / THUMBS
    return _digest(sorted(os.listdir(place)) if place.is_dir() else [])


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    start = len(os.fspath(folder)) + 1
    for entry in walk(folder):
        name = entry.path[start:]
        if name in PASSED_OVER or name.split(os.sep, 1)[0] in PASSED_OVER or entry.is_dir():
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:  # moved just now, or a link to nowhere
            continue
        yield name, status.st_size, status.st_mtime_ns


def _shown_of(summary: Mapping[str, Any]) -> list[object]:
    """Return what a sheet shows of a summary: how the run ended, and the jobs without a record."""
    pictures = summary.get("pictures")
    found = pictures if isinstance(pictures, list) else []
    jobs = [one for one in found if isinstance(one, dict) and one.get("status") not in RECORDED]
    return [*(summary.get(key) for key in ("reason", "fault", "failures")), jobs]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
