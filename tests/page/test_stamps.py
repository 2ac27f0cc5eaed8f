from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_records import add_record, draw, failed

from pipeline.errors import PathError
from pipeline.page.sheet import renew_sheet, write_sheet
from pipeline.storage.paths import SHEET


def put_summary(batch: Path, **fields: object) -> None:
    (batch / "summary.json").write_text(json.dumps({"reason": "finished", "fault": "", **fields}))


def made_again(batch: Path) -> bool:
    """Renew the sheet, and tell whether it was written."""
    before = (batch / SHEET).stat().st_ino
    return renew_sheet(batch).stat().st_ino != before


CHANGES: dict[str, Callable[[Path], object]] = {
    "a picture is new": lambda batch: add_record(batch, batch / "../c.png", batch / "../s.png"),
    "a job failed": lambda batch: add_record(batch, batch / "../a.png", batch / "../s.png", **failed()),
    "a picture was made again": lambda batch: draw(batch / "a--monet.png", "white"),
    "a picture was deleted": lambda batch: (batch / "a--monet.png").unlink(),
    "a log was deleted": lambda batch: (batch / "logs/a--monet.csv").unlink(),
    "a record was deleted": lambda batch: (batch / "logs/a--monet.json").unlink(),
    "the thumbnails were deleted": lambda batch: shutil.rmtree(batch / ".thumbs"),
    "a thumbnail was deleted": lambda batch: next((batch / ".thumbs").iterdir()).unlink(),
    "the run was stopped": lambda batch: put_summary(batch, reason="stopped"),
    "a job was not begun": lambda batch: put_summary(
        batch, pictures=[{"name": "c", "status": "not_begun"}]
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_written_again_when_something_changed(batch: Path, change: str) -> None:
    put_summary(batch)
    write_sheet(batch)
    assert not made_again(batch)
    CHANGES[change](batch)
    assert made_again(batch)
    assert not made_again(batch)


def test_another_run_that_finds_nothing_to_do_is_no_change(batch: Path) -> None:
    put_summary(batch, started="1", pictures=[{"name": "a--monet", "status": "done"}])
    write_sheet(batch)
    put_summary(batch, started="2", pictures=[{"name": "a--monet", "status": "skipped"}])
    (batch / "logs/runs.jsonl").write_text("{}")
    (batch / ".lock").touch()
    assert not made_again(batch)


def test_a_folder_that_was_renamed_is_a_change(batch: Path) -> None:
    write_sheet(batch)
    assert made_again(batch.rename(batch.with_name("moved")))


def test_another_version_of_the_program_is_a_change(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sheet(batch)
    monkeypatch.setattr("pipeline.page.sheet.VERSION", "99")
    assert made_again(batch)


def test_thumbnails_for_which_there_was_no_time_are_made_the_next_time(batch: Path) -> None:
    write_sheet(batch, limit_s=0)
    assert not (batch / ".thumbs").exists()
    assert made_again(batch)
    assert len(os.listdir(batch / ".thumbs")) == 8
    assert not made_again(batch)


def test_where_there_is_no_sheet_one_is_written(batch: Path) -> None:
    assert renew_sheet(batch).is_file()
    (batch / SHEET).write_bytes(b'<meta name="generator" content="style-pipeline 0">')  # of a former version
    assert made_again(batch)


def test_a_file_of_someone_else_is_left_alone(batch: Path) -> None:
    (batch / SHEET).write_text("mine")
    with pytest.raises(PathError):
        renew_sheet(batch)


def test_links_that_lead_nowhere_are_passed_over(batch: Path) -> None:
    (batch / "link.png").symlink_to("nowhere")
    write_sheet(batch)
    assert not made_again(batch)
