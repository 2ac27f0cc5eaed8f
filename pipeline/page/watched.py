"""The watched folder as the page shows it: its daemon, what waits and failed, and the style library."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..spec.names import composed, is_picture, reason_to_ignore
from ..storage.control import Control
from .results import Result

# How many waiting and failed pictures a page lists.
MOST_LISTED = 200
# What `status` says of a file that waits for nothing else.
ITS_TURN = "its turn"
# What to do about a cancelled picture: its card has a button for that.
CANCELLED_NEXT = "Retry brings it back."
# The folder of the inbox that holds the style library.
LIBRARY = "styles"

Status = Mapping[str, Any]


@dataclass(frozen=True)
class Watched:
    """An inbox, and what the page needs to know and do about it.

    `read_status` returns what `status --json` prints, and `retry` puts a quarantined file back, by its id.
    `ignore` are patterns of names that the inbox leaves alone; `min_free` is in bytes.
    """

    inbox: Path
    read_status: Callable[[], Status]
    retry: Callable[[str], object]
    ignore: tuple[str, ...] = ()
    min_free: int = 0

    @property
    def library(self) -> Path:
        return self.inbox / LIBRARY

    @property
    def control(self) -> Control:
        return Control(self.inbox)

    @property
    def is_there(self) -> bool:
        return self.inbox.is_dir()


@dataclass(frozen=True)
class StyleFile:
    """A picture of the style library. `reason` says why nothing can be dropped on it; "" if it can."""

    path: Path
    reason: str

    @property
    def id(self) -> str:
        return file_id(Path(LIBRARY, self.path.name))

    @property
    def name(self) -> str:
        return self.path.stem


def file_id(path: Path | str) -> str:
    """Return the id of a file, from its path below a folder."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:24]


def file_version(path: Path) -> int:
    """Return a number that changes when a file does; 0 if there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_mtime_ns ^ status.st_size ^ status.st_ino


def read_styles(watched: Watched) -> list[StyleFile]:
    """Return the style library, in the order of its names; of two with one name, the first counts."""
    try:
        with os.scandir(watched.library) as found:
            names = sorted(entry.name for entry in found if entry.is_file(follow_symlinks=False))
    except OSError:  # not made yet; status reports an inbox that cannot be read
        return []
    styles: dict[str, StyleFile] = {}
    for name in names:
        if is_picture(name) and not reason_to_ignore(name, watched.ignore):
            path = watched.library / name
            styles.setdefault(composed(path.stem), StyleFile(path, _why_no_drops(path.stem, watched)))
    return list(styles.values())


def _why_no_drops(name: str, watched: Watched) -> str:
    """Say why no folder of the inbox can have the name of a style; "" if one can."""
    if name == LIBRARY:
        return f"'{name}' is the name of the style library; rename the file"
    reason = reason_to_ignore(name, watched.ignore)
    return f"a folder '{name}' would be left alone ({reason}); rename the file" if reason else ""


def daemon_state(status: Status) -> dict[str, Any]:
    """Return what a daemon does: `none`, `idle`, `working`, `paused` by a person, or stopped by a `fault`."""
    since, text = status["since"], ""
    if status.get("paused_by_user"):
        state, since = "paused", status["paused_by_user"]
    elif not status["alive"]:
        state = "none"
    elif status["paused"]:
        state, text = "fault", status["paused"]
    else:
        state = "working" if status["running"] else "idle"
    return {
        "state": state,
        "alive": status["alive"],
        "text": text,
        "since": since,
        "encoder": status["encoder"],
        "device": status["device"],
    }


def waiting_files(status: Status, styles: Sequence[StyleFile] = ()) -> list[dict[str, Any]]:
    """Return what waits: what was begun before, what is to come first, then in the order of paths.

    `with_size_and_age` adds what only the disk knows.
    """
    names = {composed(style.name): style.name for style in styles}
    begun = [
        {**_waiting(Path(one["path"]), names), "drop": one["id"], "reason": "begun, to be resumed"}
        for one in status.get("begun", ())
    ]
    waits = [
        {
            **_waiting(Path(one["path"]), names),
            "drop": "",
            "reason": "" if one["reason"] == ITS_TURN else one["reason"],
            "first": bool(one.get("first")),
        }
        for one in status["waits"]
    ]
    waits.sort(key=lambda one: not one["first"])
    return begun + waits


def _waiting(path: Path, styles: Mapping[str, str]) -> dict[str, Any]:
    folder = path.parts[0] if len(path.parts) > 1 else ""
    style = styles.get(composed(folder))
    return {
        "id": file_id(path),
        "path": str(path),
        "name": path.name,
        "folder": str(path.parent) if folder else "",
        "styles": [style] if style else [],
        "since": None,
        "bytes": None,
        "first": False,
    }


def with_size_and_age(waiting: Mapping[str, Any], inbox: Path) -> dict[str, Any]:
    """Return what waits with the size of its file and the time at which it came, if it is in the inbox."""
    try:
        status = (inbox / waiting["path"]).lstat()
    except OSError:  # taken just now, or begun before
        return dict(waiting)
    return {**waiting, "bytes": status.st_size, "since": status.st_ctime}


def failed_files(
    inbox: Path, quarantined: Sequence[Status], failed: Sequence[Result]
) -> Iterator[dict[str, Any]]:
    """Yield what is quarantined, newest first, then the pictures that failed in a run.

    `quarantined` is that part of the status of an inbox, and `failed` the failures that the outbox knows.
    Those of a dropped file belong to its entry; once it is no longer quarantined, it waits again, or is gone.
    """
    by_drop: dict[str, list[Result]] = {}
    for result in failed:
        by_drop.setdefault(result.drop, []).append(result)
    for one in reversed(quarantined):
        path, is_cancelled = Path(one["path"]), bool(one.get("cancelled"))
        failures = by_drop.get(one["id"], ())
        yield {
            "id": one["id"],
            "name": path.name,
            "batch": "",
            "folder": str(path.parent) if len(path.parts) > 1 else "",
            "error": _without_path(one["error"], inbox / path),
            "nextStep": CANCELLED_NEXT if is_cancelled else one.get("next_step", ""),
            "when": None,
            "failures": [_failure(result) for result in failures] if len(failures) > 1 else [],
            "cancelled": is_cancelled,
            "canRetry": True,
        }
    for result in by_drop.get("", ()):
        yield {
            **_failure(result),
            "id": result.id,
            "batch": result.batch,
            "folder": "",
            "when": result.version / 1e9,
            "failures": [],
            "cancelled": False,
            "canRetry": False,
        }


def _without_path(error: str, path: Path) -> str:
    """Return an error without the path that it begins with: the card of a failure names the file itself."""
    text = error.removeprefix(f"{path}: ")
    return text[:1].upper() + text[1:]


def _failure(result: Result) -> dict[str, Any]:
    return {"name": result.name, "error": result.error, "nextStep": result.next_step}
