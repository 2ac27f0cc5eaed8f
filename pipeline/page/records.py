"""Reads the records, logs and summary of a batch. Whatever is damaged is left out, with a note."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..storage.files import disk_errors, is_inside, parse_json_object, read_json_object, walk
from ..storage.paths import OLDER, SUMMARY, BatchPaths

# A page with more pictures is slow to open.
MOST_PICTURES = 20_000
# A loss curve has at most this many points; three curves are kept of a log.
CURVE_POINTS = 64
CURVES = ("total", "content", "style")


@dataclass(frozen=True)
class Source:
    """A content or style image: where it was, what its bytes were, and its share in a blend.

    A content that was dropped into an inbox has the id of its `drop`.
    """

    path: str
    sha256: str
    share: float = 1.0
    drop: str = ""


@dataclass(frozen=True)
class Curves:
    """A loss log, thinned out: the steps, the long edge at each, and the losses by name."""

    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    losses: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Picture:
    """One job of a batch. `status` is that of its record or, where it has none, of the last run's summary.

    `image` is the result's path below the batch's folder, "" where there is none. `drop` is the id of the
    file in the inbox that asked for it. A job without a record has no `content`.
    """

    name: str
    status: str
    key: str = ""
    image: str = ""
    content: Source | None = None
    style: str = ""
    styles: tuple[Source, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    finished: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""
    next_step: str = ""
    drop: str = ""
    curves: Curves | None = None


@dataclass(frozen=True)
class BatchRecords:
    """A batch. `reason` and `fault` say how its last run ended, and `notes` what is left out."""

    name: str
    pictures: tuple[Picture, ...]
    reason: str = ""
    fault: str = ""
    notes: tuple[str, ...] = ()


def read_batch(folder: Path) -> BatchRecords:
    """Read a batch's folder: its first MOST_PICTURES jobs, so that a huge batch costs no more than these.

    Raises:
        DiskError: it cannot be read.
    """
    paths = BatchPaths(folder)
    pictures, notes = [], []
    with disk_errors(folder, "cannot be read"):
        names = sorted(_record_names(paths.logs))
        for name in names[:MOST_PICTURES]:
            try:
                pictures.append(read_picture(paths, name))
            except FileNotFoundError:
                continue  # moved to older/ just now
            except ValueError as error:
                notes.append(f"logs/{name}.json is left out: {error}.")
        summary = read_json_object(folder / SUMMARY)
    unread = names[MOST_PICTURES:]
    pictures += _without_record(summary, {picture.name for picture in pictures}.union(unread))
    if (count := len(pictures) + len(unread)) > MOST_PICTURES:
        notes.append(f"The first {MOST_PICTURES:,} of {count:,} pictures are shown.")
    reason, fault = _text(summary.get("reason")), _text(summary.get("fault"))
    return BatchRecords(folder.name, tuple(pictures[:MOST_PICTURES]), reason, fault, tuple(notes))


def _record_names(logs: Path) -> Iterable[str]:
    """Yield the names of the jobs that have a record; those of replaced results are passed over."""
    if not logs.is_dir():
        return
    for entry in walk(logs):
        path, suffix = os.path.splitext(os.path.relpath(entry.path, logs).replace(os.sep, "/"))
        hidden = any(part.startswith(".") for part in path.split("/"))
        if suffix == ".json" and not hidden and not path.startswith(f"{OLDER}/") and entry.is_file():
            yield path


def read_picture(paths: BatchPaths, name: str, with_curves: bool = True) -> Picture:
    """Read a job's record and, with `with_curves`, its log.

    Raises:
        ValueError: it is not the record of a job.
        OSError: it cannot be read.
    """
    record = parse_json_object(paths.record(name).read_bytes())
    content, style, recipe = (_mapping(record.get(part)) for part in ("content", "style", "recipe"))
    status = _text(record.get("status"))
    if status not in {"done", "failed"} or not content or not style:
        raise ValueError("it is damaged, or not a record")
    image = _text(record.get("image"))
    if not (image and is_inside(paths.folder / image, paths.folder) and paths.has_image(record)):
        image = ""
    encoder = _mapping(record.get("encoder"))
    facts = {"Device": _text(record.get("device")), "Network": _text(encoder.get("name"))}
    images = style.get("images")
    return Picture(
        name,
        status if image or status == "failed" else "missing",
        key=_text(record.get("key")),
        image=image,
        content=_source(content, _text(record.get("drop"))),
        style=_text(style.get("name")),
        styles=tuple(_source(_mapping(one)) for one in images) if isinstance(images, list) else (),
        recipe=recipe,
        width=int(_number(record.get("width"))),
        height=int(_number(record.get("height"))),
        seconds=_number(record.get("seconds")),
        finished=_text(record.get("finished")),
        facts={label: text for label, text in facts.items() if text},
        notes=(*_texts(record.get("adjusted")), *_texts(record.get("notes"))),
        error=_text(record.get("error")),
        next_step=_text(record.get("next_step")),
        drop=_text(record.get("drop")),
        curves=read_curves(paths.log(name)) if with_curves and status == "done" else None,
    )


def _without_record(summary: Mapping[str, Any], known: set[str]) -> list[Picture]:
    """Return the jobs that only the summary of the last run knows."""
    failures = {_text(_mapping(one).get("name")): _mapping(one) for one in _items(summary.get("failures"))}
    pictures = []
    for one in map(_mapping, _items(summary.get("pictures"))):
        name, status = _text(one.get("name")), _text(one.get("status"))
        # What was done before and has no record now was removed by someone.
        if name in known or status not in {"failed", "postponed", "interrupted", "not_begun"}:
            continue
        failure = failures.get(name, {})
        error, next_step = _text(failure.get("error")), _text(failure.get("next_step"))
        pictures.append(Picture(name, status, error=error, next_step=next_step))
    return pictures


def read_curves(path: Path, points: int = CURVE_POINTS) -> Curves | None:
    """Read a loss log and keep some of its rows: the first, the last, and others evenly between them.

    Only these are parsed. Returns None if there is no log, or it is damaged.
    """
    try:
        header, *lines = path.read_bytes().splitlines()
        names = header.decode().split(",")
        kept = (lines[index].split(b",") for index in thinned(len(lines), points))
        columns = dict(zip(names, zip(*kept, strict=True), strict=True))
        steps, sizes = (tuple(int(float(value)) for value in columns[name]) for name in ("step", "size"))
        losses = {name: tuple(map(float, columns[name])) for name in CURVES}
    except (OSError, ValueError, KeyError, OverflowError):
        return None
    if len(steps) < 2 or not all(math.isfinite(value) for values in losses.values() for value in values):
        return None
    return Curves(steps, sizes, losses)


def thinned(count: int, points: int) -> list[int]:
    """Return at most `points` of `count` indices, the first and the last among them, evenly spread."""
    if count <= points:
        return list(range(count))
    return [round(index * (count - 1) / (points - 1)) for index in range(points)]


def _source(found: Mapping[str, Any], drop: str = "") -> Source:
    share = _number(found.get("share", 1.0))
    return Source(_text(found.get("path")), _text(found.get("sha256")), share, drop)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(text for text in map(_text, _items(value)) if text)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e12 else 0.0
