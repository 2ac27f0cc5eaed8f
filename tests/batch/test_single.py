"""One picture from the command line."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from fakes import QUICK, FakeExecutor, Fault, Recorder, Workshop, picture_bytes

from pipeline.batch.single import run_single, single_job, single_style
from pipeline.errors import DeviceError, DiskError, ImageError, JobError, UsageError
from pipeline.spec.jobs import Job


def single(workshop: Workshop, out: Path | None, **fields: Any) -> tuple[Job, Path]:
    folder = workshop.folder
    look = single_style([str(folder / "styles/s.png")], None)
    return single_job(folder / "photos/a.png", look, out, {**QUICK, **fields}, {})


def test_a_single_job_writes_to_the_given_path(workshop: Workshop) -> None:
    job, path = single(workshop, Path("out/me.jpg"), snapshot_every=2)
    assert job.recipe.format == "jpeg"
    finished = run_single(job, path, FakeExecutor(), Recorder(), lambda: False)
    assert finished.status == "done"
    assert path.read_bytes() == picture_bytes(finished.key, "jpeg")
    assert sorted(file.name for file in Path("out").iterdir()) == [
        "me-step00002.jpg",
        "me-step00004.jpg",
        "me.jpg",
    ]


@pytest.mark.parametrize(("fields", "name"), [({}, "a--s.png"), ({"format": "jpeg"}, "a--s.jpg")])
def test_a_single_job_without_a_place_gets_one_here(fields: Any, name: str, workshop: Workshop) -> None:
    assert single(workshop, None, **fields)[1] == Path(name)


def test_a_single_result_whose_format_cannot_do_what_is_asked(workshop: Workshop) -> None:
    assert single(workshop, Path("me.TIFF"), bit_depth=16)[0].recipe.format == "tiff"
    with pytest.raises(UsageError, match="jpeg has 8 bits per channel"):
        single(workshop, Path("me.jpg"), bit_depth=16)


@pytest.mark.parametrize("out", ["me.gif", "me", "me.png.txt"])
def test_a_single_result_has_a_format_that_is_written(out: str, workshop: Workshop) -> None:
    with pytest.raises(UsageError, match="PNG, JPEG, WebP or TIFF"):
        single(workshop, Path(out))


@pytest.mark.parametrize(
    ("fault", "error"), [("fail", JobError), ("machine", DeviceError)], ids=["fail", "machine"]
)
def test_a_single_job_that_fails_is_an_error(
    fault: Fault, error: type[Exception], workshop: Workshop
) -> None:
    job, path = single(workshop, Path("me.png"))
    with pytest.raises(error) as caught:
        run_single(job, path, FakeExecutor({"a": fault}), Recorder(), lambda: False)
    assert not path.exists()
    assert getattr(caught.value, "next_step", "")


def test_a_single_job_that_stops_writes_nothing(workshop: Workshop) -> None:
    job, path = single(workshop, Path("me.png"))
    finished = run_single(job, path, FakeExecutor({"a": "stop"}), Recorder(), lambda: False)
    assert finished.status == "stopped"
    assert not path.exists()


def test_a_result_whose_name_no_disk_takes_is_an_error(workshop: Workshop) -> None:
    job, path = single(workshop, Path(f"{'x' * 300}.png"))
    with pytest.raises(DiskError, match=r"x\.png: cannot be written \(File name too long\)"):
        run_single(job, path, FakeExecutor(), Recorder(), lambda: False)


def test_a_single_job_of_a_missing_picture_is_an_error(workshop: Workshop) -> None:
    job, path = single(workshop, None)
    job.content.unlink()
    with pytest.raises(ImageError, match=r"a\.png: cannot be read"):
        run_single(job, path, FakeExecutor(), Recorder(), lambda: False)


@pytest.mark.parametrize("out", ["file/me.png", "x" * 260 + ".png"], ids=["file", "long"])
def test_a_single_result_that_cannot_be_written_is_not_computed(out: str, workshop: Workshop) -> None:
    Path("file").touch()
    executor = FakeExecutor()
    job, path = single(workshop, None)[0], Path(out)
    with pytest.raises(DiskError, match=r"\.png: cannot be written"):
        run_single(job, path, executor, Recorder(), lambda: False)
    assert executor.ran == []


def test_a_single_result_in_a_folder_that_refuses_files_is_not_computed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    executor = FakeExecutor()
    job, path = single(workshop, Path("out/me.png"))
    monkeypatch.setattr("pipeline.storage.temporary._create_temporary", refuse)
    with pytest.raises(DiskError, match=r"out/me\.png: cannot be written"):
        run_single(job, path, executor, Recorder(), lambda: False)
    assert executor.ran == []
