"""What tests of faults share: the cases of docs/reliability.md, a running daemon, drops and writers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import picture_bytes
from watching import MODES, Daemon, Watched

NAMES = {
    5: "a slow writer",
    6: "full size preallocated",
    7: "a truncated picture",
    8: "zero bytes, filled later",
    9: "renamed, linked and moved in",
    10: "odd times, overwritten",
    11: "present at start and being copied",
    12: "the same name or bytes twice",
    13: "unusual names",
    14: "neither file nor folder",
    15: "bombs, unknown formats, a decoder that hangs",
    19: "events that fail",
    20: "folders in one another",
    22: "deadlines",
    23: "a manifest edited",
    25: "a soak",
}

IN_ALL_MODES = pytest.mark.parametrize(
    "mode", [mode if mode == "native" else pytest.param(mode, marks=pytest.mark.faults) for mode in MODES]
)


# A file that is no whole picture is given up only where a test wants that.
PATIENT = {"settle_max_s": 100}


def case(number: int) -> pytest.MarkDecorator:
    return pytest.mark.case(number, NAMES[number])


@contextmanager
def running(watched: Watched, **setup: Any) -> Iterator[Daemon]:
    """A daemon that is stopped at the end, as it should be: by TERM."""
    daemon = watched.start(**setup)
    try:
        yield daemon
        assert daemon.stop() == 128 + signal.SIGTERM
    finally:
        if daemon.process.poll() is None:
            daemon.kill()


class Passing:
    """Drops healthy pictures: when one is done, files that were there before it have been scanned."""

    def __init__(self, watched: Watched, daemon: Daemon) -> None:
        self.watched = watched
        self.daemon = daemon
        self.names: list[str] = []

    def __call__(self) -> None:
        stem = f"well{len(self.names)}"
        self.watched.drop(f"{stem}.png")
        self.daemon.until("done", name=f"{stem}--s")
        self.names.append(f"{stem}--s.png")


class Writer:
    """Writes a file in the inbox piece by piece and keeps it open. Its bytes count once it is closed."""

    def __init__(self, watched: Watched, name: str) -> None:
        self.watched = watched
        self.path = watched.inbox / name
        self.file = self.path.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        self.file.write(data)

    def close(self) -> None:
        self.file.close()
        self.watched.inputs[self.path.read_bytes()] += 1


def thirds(data: bytes) -> list[bytes]:
    part = len(data) // 3
    return [data[:part], data[part : 2 * part], data[2 * part :]]


def outputs(watched: Watched) -> list[str]:
    return [path.relative_to(watched.outbox).as_posix() for path in watched.images()]


def archived(watched: Watched) -> list[bytes]:
    """The names in the archive."""
    return sorted(os.fsencode(path.name) for path in watched.archive.rglob("*") if path.is_file())


def of_kind(daemon: Daemon, kind: str, key: str = "path") -> list[Any]:
    return [event.get(key) for event in daemon.events if event["event"] == kind]


def held(watched: Watched) -> dict[Path, tuple[int, bytes]]:
    """Every result with its inode and its bytes."""
    return {path: (path.stat().st_ino, path.read_bytes()) for path in watched.images()}


# Which styles, which recipe, where to


def style(watched: Watched, name: str, text: str = "") -> None:
    outside = watched.folder / "outside style"
    outside.write_bytes(picture_bytes(text or name))
    outside.rename(watched.inbox / "styles" / name)


def make_photos(folder: Path, names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / f"{name}.png").write_bytes(picture_bytes(name))


def drop_manifest(watched: Watched, name: str, **manifest: Any) -> None:
    watched.drop(name, yaml.safe_dump(manifest).encode())
