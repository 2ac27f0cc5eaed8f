from __future__ import annotations

import os
import shutil
from pathlib import Path

from batch_records import add_record, draw, failed
from PIL import Image

from pipeline.page.records import read_batch
from pipeline.page.thumbnails import THUMBS, Thumbnails
from pipeline.storage.paths import claimed_folder


def make(folder: Path, *originals: tuple[Path, Path], limit_s: float = 60) -> frozenset[str]:
    thumbnails = Thumbnails(folder, originals)
    return thumbnails.make(thumbnails.plan(read_batch(folder).pictures), limit_s).names


def made(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder / THUMBS).iterdir()}


def count(names: frozenset[str], kind: str) -> int:
    return sum(name.startswith(kind) for name in names)


def test_results_contents_and_styles_get_one_each(batch: Path) -> None:
    names = make(batch)
    assert {kind: count(names, kind) for kind in ("result", "content", "style", "large")} == {
        "result": 4, "content": 2, "style": 2, "large": 0,
    }  # fmt: skip
    assert made(batch).keys() == names
    for name in names:
        with Image.open(batch / THUMBS / name) as image:
            assert (image.format, image.size) == ("JPEG", (60, 40))


def test_they_are_made_once(batch: Path) -> None:
    make(batch)
    before = made(batch)
    make(batch)
    assert made(batch) == before


def test_a_newer_result_gets_a_new_one_and_the_others_stay(batch: Path) -> None:
    make(batch)
    before = made(batch)
    later = (batch / THUMBS).stat().st_mtime + 9
    os.utime(draw(batch / "a--monet.png", "white"), (later, later))
    make(batch)
    after = made(batch)
    assert sum(after[name] != before[name] for name in before) == 1


def test_large_pictures_become_small_and_tiffs_get_a_large_copy(batch: Path, tmp_path: Path) -> None:
    add_record(batch, tmp_path / "a.png", tmp_path / "s.png", image="a--s.tif")
    draw(batch / "a--s.tif", size=(3000, 1500))
    names = make(batch)
    (large,) = (name for name in names if name.startswith("large"))
    with Image.open(batch / THUMBS / large) as image:
        assert image.size == (2048, 1024)


def test_a_content_that_has_changed_since_is_not_shown(batch: Path, tmp_path: Path) -> None:
    draw(tmp_path / "photos/a.png", "white")
    assert count(make(batch), "content") == 1


def test_a_copy_of_a_content_outlives_the_original(batch: Path, tmp_path: Path) -> None:
    names = make(batch)
    shutil.rmtree(tmp_path / "photos")
    assert make(batch) == names


def test_a_content_that_was_moved_to_the_archive_is_found(batch: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").rename(tmp_path / "archive")
    assert count(make(batch), "content") == 0
    assert count(make(batch, (tmp_path / "photos", tmp_path / "archive")), "content") == 2


def test_a_content_whose_name_was_taken_in_the_archive_is_found(batch: Path, tmp_path: Path) -> None:
    photos, archive = tmp_path / "photos", tmp_path / "archive"
    add_record(batch, draw(photos / "c.png"), tmp_path / "s.png", drop="2030-77")
    draw(archive / "c.png", "white")
    (photos / "c.png").rename(archive / "c-2030-77.png")
    assert count(make(batch, (photos, archive)), "content") == 3


def test_a_content_of_which_more_is_made_is_found(batch: Path, tmp_path: Path) -> None:
    photos, archive = tmp_path / "photos", tmp_path / "archive"
    add_record(batch, draw(photos / "c.png"), tmp_path / "s.png", drop="2030-77")
    claimed = claimed_folder(photos) / "2030-77/c.png"
    claimed.parent.mkdir(parents=True)
    (photos / "c.png").rename(claimed)
    assert count(make(batch, (photos, archive)), "content") == 3


def test_a_damaged_picture_has_none(batch: Path, tmp_path: Path) -> None:
    (batch / "a--monet.png").write_bytes(b"broken")
    add_record(batch, tmp_path / "no.png", tmp_path / "no.png", **failed())
    assert count(make(batch), "result") == 3


def test_what_nothing_needs_is_removed_and_nothing_else(batch: Path) -> None:
    make(batch)
    (batch / "logs/a--monet.json").unlink()
    (batch / THUMBS / "mine.txt").write_text("mine")
    names = make(batch)
    assert made(batch).keys() == {*names, "mine.txt"}


def test_when_the_time_is_over_the_rest_is_left_for_later(batch: Path) -> None:
    assert make(batch, limit_s=0) == frozenset()
    assert len(make(batch)) == 8


def test_what_a_dead_process_left_is_removed(batch: Path) -> None:
    make(batch)
    (batch / THUMBS / ".unfinished-1").write_bytes(b"half")
    make(batch)
    assert not (batch / THUMBS / ".unfinished-1").exists()
