"""`keep_times`: results get the modification time of their content."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from batch_folders import IMAGE, KEY_A, LOG, Killed, dying, fresh
from disks import HookedDisk, failing
from fakes import FakeExecutor, MakePicture, Recorder, Workshop

from pipeline.batch.single import run_single, single_job, single_style

# To the nanosecond, before and after 1970.
TIMES = {"a": 1_234_567_890_123_456_789, "b": -86_400_000_000_001}


def date(workshop: Workshop, name: str, time_ns: int) -> None:
    os.utime(workshop.folder / f"photos/{name}.png", ns=(0, time_ns))


@pytest.fixture
def dated(workshop: Workshop) -> Workshop:
    """Two contents with times of their own, and one style."""
    workshop.keep_one_style()
    for name, time_ns in TIMES.items():
        date(workshop, name, time_ns)
    return workshop


def time_of(workshop: Workshop, name: str) -> int:
    return (workshop.batch_folder / name).stat().st_mtime_ns


def test_results_have_the_times_of_their_contents_and_nothing_else_does(dated: Workshop) -> None:
    dated.run(keep_times=True, flags={"snapshot_every": 2})
    assert {name: time_of(dated, f"{name}--s.png") for name in TIMES} == TIMES
    for path in (*dated.batch_folder.rglob("logs/a--s.*"), dated.batch_folder / "a--s-step00002.png"):
        assert path.stat().st_mtime_ns > dated.manifest.stat().st_mtime_ns
    assert dated.record("a--s")["notes"] == []


def test_the_time_is_no_part_of_a_job(dated: Workshop) -> None:
    keys = {each.name: each.key for each in dated.run().observer.finished}
    before = dated.pictures()
    assert dated.run(keep_times=True).summary.skipped == 2
    assert time_of(dated, "a--s.png") > TIMES["a"], "a result that is there is not touched"
    again = dated.run(keep_times=True, force=True)
    assert {each.name: each.key for each in again.observer.finished} == keys
    assert dated.pictures() == before
    assert time_of(dated, "a--s.png") == TIMES["a"]


def test_a_content_of_another_time_is_still_the_same_picture(dated: Workshop) -> None:
    dated.run(keep_times=True)
    date(dated, "a", 10**18)
    assert dated.run(keep_times=True).summary.skipped == 2
    assert time_of(dated, "a--s.png") == TIMES["a"]


def test_a_result_that_comes_back_has_the_time_that_its_content_has_now(dated: Workshop) -> None:
    dated.run(keep_times=True)
    dated.run(keep_times=True, flags={"style_weight": 11})
    date(dated, "a", 10**18)
    executor = FakeExecutor()
    dated.run(executor, keep_times=True)
    assert executor.ran == []
    assert time_of(dated, "a--s.png") == 10**18
    older = [path.stat().st_mtime_ns for path in sorted(dated.batch_folder.glob("older/*.png"))]
    assert older == [TIMES["a"], TIMES["b"]], "what moved to older/ keeps its time"


def test_the_time_is_that_of_the_bytes_that_were_read(dated: Workshop, make_picture: MakePicture) -> None:
    """Someone replaces a content while its job runs."""
    executor = FakeExecutor(after_step=lambda job, step: os.utime(job.content, ns=(0, 10**18)))
    dated.run(executor, keep_times=True)
    assert time_of(dated, "a--s.png") == TIMES["a"]


def test_a_disk_that_sets_no_times_gets_the_picture_all_the_same(dated: Workshop) -> None:
    """Where files belong to another user, as on some shares, only that user may set their times."""
    ran = dated.run(keep_times=True, disk=HookedDisk(failing("set_modified", errno.EPERM)))
    assert ran.summary.done == 2
    (note,) = dated.record("a--s")["notes"]
    assert note == "the modification time of the content could not be set (Operation not permitted)."
    assert dated.run(keep_times=True).summary.skipped == 2


def test_whenever_the_process_ends_the_published_picture_has_its_time(tmp_path: Path) -> None:
    def publish(place: Path, at: int | None) -> list[str]:
        folder, points = dying(place, at)
        record = {"status": "done", "key": KEY_A}
        with suppress(Killed), folder.locked():
            folder.publish_staged(folder.stage_result("a--s", ".png", IMAGE, LOG, record, TIMES["a"]))
        return points.passed

    points = publish(tmp_path / "measured", None)
    assert "after set_modified image.png" in points
    published = 0
    for at in range(len(points)):
        publish(tmp_path / str(at), at)
        again = fresh(tmp_path / str(at))
        with again.locked():
            path = again.paths.image("a--s", ".png")
        assert not path.exists() or path.stat().st_mtime_ns == TIMES["a"], points[at]
        published += path.exists()
    assert published > 10


def test_a_single_picture_has_the_time_of_its_content(
    dated: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = single_style([str(dated.folder / "styles/s.png")], None)
    job, path = single_job(dated.folder / "photos/a.png", style, Path("one.png"), {}, {})
    finished = run_single(job, path, FakeExecutor(), Recorder(), lambda: False, keep_times=True)
    assert (path.stat().st_mtime_ns, finished.notes) == (TIMES["a"], ())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "utime", refuse)
    finished = run_single(job, path, FakeExecutor(), Recorder(), lambda: False, force=True, keep_times=True)
    assert finished.status == "done"
    (note,) = finished.notes
    assert "could not be set" in note
