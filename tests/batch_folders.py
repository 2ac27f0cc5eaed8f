"""A batch's folder in the outbox, as one process after another sees it."""

from __future__ import annotations

from pathlib import Path

from disks import HookedDisk, Points

from pipeline.storage.outbox import BatchFolder

KEY_A, KEY_B, KEY_C = "a" * 64, "b" * 64, "c" * 64
IMAGE, LOG = b"a picture", b"step,total\n1,2\n"


def fresh(tmp_path: Path) -> BatchFolder:
    """The folder as the next process sees it."""
    return BatchFolder(tmp_path / "outbox", "night")


def publish(folder: BatchFolder, name: str, key: str, image: bytes = IMAGE) -> Path:
    return folder.publish_staged(
        folder.stage_result(name, ".png", image, LOG, {"status": "done", "key": key})
    )


def run_job(folder: BatchFolder, wanted: str, key: str, image: bytes = IMAGE, replaces: bool = False) -> str:
    """What the runner does: place the job, and publish it unless it is done, or bring it back."""
    place = folder.places.choose(wanted, ".png", key, replaces=lambda record: replaces)
    if place.older:
        folder.publish_staged(folder.stage_older(place))
        folder.remove_older(place)
    elif not place.done:
        publish(folder, place.name, key, image)
    return place.name


def files(folder: BatchFolder) -> list[str]:
    found = (path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file())
    return sorted(name for name in found if name != ".lock")


class Killed(BaseException):
    """The process ended here."""


def dying(tmp_path: Path, at: int | None) -> tuple[BatchFolder, Points]:
    """The folder in a process that dies at a point between two operations."""

    def die() -> None:
        raise Killed

    points = Points(at, die)
    return BatchFolder(tmp_path / "outbox", "night", HookedDisk(points)), points


def points_of_a_publication(tmp_path: Path) -> list[str]:
    folder, points = dying(tmp_path / "measured", None)
    with folder.locked():
        points.passed.clear()
        publish(folder, "a--s", KEY_A)
    return points.passed


def staged(folder: BatchFolder, name: str, key: str) -> Path:
    return folder.stage_result(name, ".png", IMAGE, LOG, {"status": "done", "key": key})
