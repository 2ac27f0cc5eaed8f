from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from batch_records import HEADER, add_record, failed

from pipeline.errors import DiskError
from pipeline.page.records import read_batch, read_curves, thinned


def by_name(folder: Path):
    return {picture.name: picture for picture in read_batch(folder).pictures}


def test_a_record_becomes_a_picture(batch: Path) -> None:
    read = read_batch(batch)
    assert (read.name, read.notes) == ("night", ())
    picture = read.pictures[0]
    assert (picture.name, picture.status, picture.image) == ("a--monet", "done", "a--monet.png")
    assert picture.content is not None
    assert Path(picture.content.path).name == "a.png"
    assert (picture.style, picture.styles[0].share) == ("monet", 1.0)
    assert (picture.width, picture.height, picture.seconds) == (60, 40, 2.5)
    assert picture.facts == {"Device": "cpu", "Network": "vgg19-slim"}
    assert picture.recipe["strength"] == 1.0
    assert picture.curves is not None
    assert picture.curves.steps == (1, 2, 3, 4, 5, 6, 7, 8)
    assert picture.curves.sizes == (64,) * 4 + (128,) * 4


def test_a_failed_job_has_its_error_and_no_picture(batch: Path, tmp_path: Path) -> None:
    add_record(batch, tmp_path / "a.png", tmp_path / "s.png", **failed())
    picture = by_name(batch)["a--s"]
    assert (picture.status, picture.image) == ("failed", "")
    assert (picture.error, picture.next_step) == ("a.png: broken.", "Copy it again.")


def test_a_picture_that_was_deleted_is_missing(batch: Path) -> None:
    (batch / "a--monet.png").unlink()
    picture = by_name(batch)["a--monet"]
    assert (picture.status, picture.image) == ("missing", "")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"status": "done"}',
        b'{"status": 3, "content": {}, "style": []}',
        b"[" * 99_999,
    ],
    ids=["empty", "cut", "binary", "list", "null", "no content", "types", "deep"],
)
def test_a_damaged_record_is_left_out_with_a_note(batch: Path, damage: bytes) -> None:
    (batch / "logs/a--monet.json").write_bytes(damage)
    read = read_batch(batch)
    assert "a--monet" not in {picture.name for picture in read.pictures}
    assert len(read.pictures) == 3
    (note,) = read.notes
    assert note.startswith("logs/a--monet.json is left out: ")


def test_fields_of_other_types_are_as_if_absent(batch: Path, tmp_path: Path) -> None:
    add_record(
        batch, tmp_path / "a.png", tmp_path / "s.png",
        width="wide", height=1e999, seconds=None, notes="note", adjusted=[1, "smaller"], encoder=7, key=8,
        style={"name": ["s"], "images": {"a": 1}}, finished=5,
    )  # fmt: skip
    picture = by_name(batch)["a--s"]
    assert (picture.width, picture.height, picture.seconds, picture.key) == (0, 0, 0.0, "")
    assert (picture.notes, picture.style, picture.styles, picture.finished) == (("smaller",), "", (), "")


@pytest.mark.parametrize("image", ["../secret.png", "/etc/passwd", "..", "", "a\0b.png"])
def test_an_image_outside_of_the_folder_is_not_shown(batch: Path, tmp_path: Path, image: str) -> None:
    (batch.parent / "secret.png").write_bytes(b"")
    record = json.loads((batch / "logs/a--monet.json").read_text())
    (batch / "logs/a--monet.json").write_text(json.dumps({**record, "image": image}))
    assert by_name(batch)["a--monet"].image == ""


def test_replaced_results_are_passed_over_and_folders_are_not(batch: Path, tmp_path: Path) -> None:
    add_record(batch, tmp_path / "a.png", tmp_path / "s.png", name="older/a--s-12345678")
    add_record(batch, tmp_path / "a.png", tmp_path / "s.png", name="large/a--s")
    names = by_name(batch)
    assert "older/a--s-12345678" not in names
    assert names["large/a--s"].image == "large/a--s.png"


def test_jobs_without_a_record_come_from_the_summary(batch: Path) -> None:
    summary = {
        "reason": "stopped",
        "fault": "",
        "failures": [{"name": "d", "error": "d.png: no.", "next_step": "Do."}, 3],
        "pictures": [
            {"name": "a--monet", "status": "failed"},
            {"name": "c", "status": "not_begun"},
            {"name": "d", "status": "failed"},
            {"name": "e", "status": "skipped"},
            "odd",
        ],
    }
    (batch / "summary.json").write_text(json.dumps(summary))
    read = read_batch(batch)
    assert read.reason == "stopped"
    more = {picture.name: picture for picture in read.pictures[4:]}
    assert {name: one.status for name, one in more.items()} == {"c": "not_begun", "d": "failed"}
    assert (more["d"].error, more["d"].next_step) == ("d.png: no.", "Do.")
    assert next(one for one in read.pictures if one.name == "a--monet").status == "done"


def test_a_folder_without_records_has_no_pictures(tmp_path: Path) -> None:
    assert read_batch(tmp_path / "nothing").pictures == ()
    (tmp_path / "logs").mkdir()
    assert read_batch(tmp_path).pictures == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_an_error(batch: Path) -> None:
    (batch / "logs").chmod(0)
    try:
        with pytest.raises(DiskError):
            read_batch(batch)
    finally:
        (batch / "logs").chmod(0o700)


def test_curves_are_thinned_and_keep_both_ends(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(
        "\n".join([HEADER, *(f"{step},64,{1000 - step},2,3,4,5" for step in range(1, 501))]) + "\n"
    )
    curves = read_curves(log)
    assert curves is not None
    assert len(curves.steps) == 64
    assert (curves.steps[0], curves.steps[-1]) == (1, 500)
    assert (curves.losses["total"][0], curves.losses["total"][-1]) == (999, 500)
    assert list(curves.steps) == sorted(set(curves.steps))


@pytest.mark.parametrize(
    "text", ["", HEADER, f"{HEADER}\n1,2", f"{HEADER}\na,b,c,d,e,f,g\n", "step,size\n1,2\n2,2\n",
     f"{HEADER}\n1,2,nan,1,1,1,1\n2,2,1,1,1,1,1\n"]
)  # fmt: skip
def test_a_damaged_log_has_no_curves(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.csv").write_text(text)
    assert read_curves(tmp_path / "log.csv") is None
    assert read_curves(tmp_path / "absent.csv") is None


@pytest.mark.parametrize(("count", "points"), [(0, 64), (1, 64), (64, 64), (65, 64), (1000, 2)])
def test_thinned_indices_are_in_order_and_keep_the_ends(count: int, points: int) -> None:
    kept = thinned(count, points)
    assert len(kept) == min(count, points)
    assert kept == sorted(set(kept))
    assert not kept or (kept[0], kept[-1]) == (0, count - 1)
