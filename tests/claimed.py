"""Claims of an inbox for tests: files that are dropped and taken, and disks that fail."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from disks import HookedDisk, When

from pipeline.storage.files import Disk
from pipeline.watch.claims import Claim, Claims
from pipeline.watch.quarantine import Quarantine

ID, OTHER = "20240229-120000-0000000a", "20240229-120000-0000000b"

REPORT = {"error": "It broke.", "next_step": "Correct it.", "keys": ["k1", "k2"]}

LONG = "x" * 251 + ".png"

ODD_NAMES = [
    "a.png",
    os.fsdecode(b"caf\xe9.png"),
    "a\nb.png",
    "-rf",
    " ",
    "ü" * 127,
    LONG,
    "error.json",
    "{0}",
]


def make_claims(folder: Path, disk: Disk | None = None) -> Claims:
    claims = Claims(folder / "inbox", folder / "archive", disk or Disk())
    claims.make_folders()
    quarantine_of(claims).make_folder()
    return claims


def quarantine_of(claims: Claims) -> Quarantine:
    return Quarantine(claims.inbox, claims.inbox.with_name("quarantine"), claims.disk)


def with_disk(claims: Claims, hook: Callable[..., None]) -> Claims:
    return Claims(claims.inbox, claims.archive_folder, HookedDisk(hook))


def drop(claims: Claims, name: str, data: bytes = b"picture") -> Path:
    path = claims.inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Path(name)


def taken(claims: Claims, name: str, data: bytes = b"picture", id: str = ID) -> Claim:
    claim = claims.take(drop(claims, name, data), id)
    assert claim is not None
    return claim


def below(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their bytes, folders with None."""
    return {
        os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace"): (
            None if path.is_dir() else path.read_bytes()
        )
        for path in folder.rglob("*")
    }


def files(*folders: Path) -> Counter[bytes]:
    found = (path for folder in folders for path in folder.rglob("*"))
    return Counter(path.read_bytes() for path in found if path.is_file())


def across_file_systems(*roots: Path) -> Callable[[When, str, tuple[Path, ...]], None]:
    """A hook that lets nothing be renamed from below one of these folders to outside, or the reverse."""

    def root(path: Path) -> Path | None:
        return next((root for root in roots if root in path.parents), None)

    def hook(when: When, operation: str, paths: tuple[Path, ...]) -> None:
        if when == "before" and operation == "rename" and root(paths[0]) != root(paths[1]):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(paths[0]))

    return hook


class Killed(BaseException):
    """Stands for SIGKILL: no handler for exceptions runs, here none for Exception."""
