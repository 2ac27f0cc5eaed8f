from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from batch_records import add_record, draw, failed

from pipeline.errors import DiskError
from pipeline.page import results as results_module
from pipeline.page.results import Results


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    (tmp_path / "outbox").mkdir()
    return tmp_path / "outbox"


def add(outbox: Path, name: str, at: int, batch: str = "night", **changes: object) -> None:
    """Add a result, with a record that was written at a time."""
    photo, style = draw(outbox.parent / "photo.png"), draw(outbox.parent / "style.png")
    add_record(outbox / batch, photo, style, name, **changes)
    touch(outbox, name, at, batch)


def touch(outbox: Path, name: str, at: int, batch: str = "night") -> None:
    os.utime(outbox / batch / "logs" / f"{name}.json", (at, at))


def names(results: Results, most: int = 100) -> list[str]:
    results.refresh()
    return [result.name for result in results.done(most)[0]]


def test_the_newest_come_first_in_pages(outbox: Path) -> None:
    for number in range(7):
        add(outbox, f"p{number}", 100 + number, batch=f"batch{number % 2}")
    results = Results(outbox)
    results.refresh()
    assert results.done_count == 7
    pages, mark = [], ""
    while True:
        page, mark = results.done(3, mark)
        pages.append([result.name for result in page])
        if not mark:
            break
    assert pages == [["p6", "p5", "p4"], ["p3", "p2", "p1"], ["p0"]]


def test_pages_do_not_shift_when_new_results_come(outbox: Path) -> None:
    for number in range(4):
        add(outbox, f"p{number}", 100 + number)
    results = Results(outbox)
    results.refresh()
    _, mark = results.done(2)
    add(outbox, "new", 200)
    results.refresh()
    assert [result.name for result in results.done(2, mark)[0]] == ["p1", "p0"]
    assert results.done(2)[0][0].name == "new"


def test_results_of_one_time_are_in_one_order(outbox: Path) -> None:
    for number in range(5):
        add(outbox, f"p{number}", 100)
    results = Results(outbox)
    results.refresh()
    (one,), mark = results.done(1)
    rest, end = results.done(10, mark)
    assert {one.name, *(result.name for result in rest)} == {f"p{number}" for number in range(5)}
    assert end == ""


@pytest.mark.parametrize("mark", ["x", "1.5-a", "-", "x-y", "１２x"])
def test_a_wrong_mark_is_refused(outbox: Path, mark: str) -> None:
    with pytest.raises(ValueError, match="int"):
        Results(outbox).done(10, mark)


def test_what_changes_is_seen(outbox: Path) -> None:
    add(outbox, "a", 100)
    results = Results(outbox)
    assert names(results) == ["a"]
    add(outbox, "b", 101)
    add(outbox, "deep/er/c", 102, batch="other")
    assert names(results) == ["deep/er/c", "b", "a"]
    add(outbox, "a", 103, seconds=9.0)
    assert names(results)[0] == "a"
    assert results.done(1)[0][0].seconds == 9.0
    (outbox / "night/logs/b.json").unlink()
    (outbox / "night/b.png").unlink()
    assert names(results) == ["a", "deep/er/c"]


def test_pictures_that_were_taken_away_are_not_listed_until_they_are_back(outbox: Path) -> None:
    add(outbox, "a", 100)
    add(outbox, "b", 101)
    results = Results(outbox)
    (outbox / "night/b.png").rename(outbox.parent / "b.png")
    assert names(results) == ["a"]
    (outbox.parent / "b.png").rename(outbox / "night/b.png")
    assert names(results) == ["b", "a"]


def test_failures_are_apart(outbox: Path) -> None:
    add(outbox, "a", 100)
    add(outbox, "b", 101, **failed())
    add(outbox, "c", 102, **failed(), drop="some-drop")
    results = Results(outbox)
    assert names(results) == ["a"]
    assert [(result.name, result.drop) for result in results.failed] == [("c", "some-drop"), ("b", "")]
    assert results.failed[1].error == "a.png: broken."


def test_older_and_hidden_files_and_what_is_no_record_are_passed_over(outbox: Path) -> None:
    add(outbox, "a", 100)
    add(outbox, "older/b", 100)
    add(outbox, ".hidden", 100)
    add(outbox, "c", 100, batch=".thumbs")
    logs = outbox / "night/logs"
    (logs / "d.json").write_text("{")
    (logs / "e.json").write_text("[]")
    (logs / "f.json").symlink_to("nowhere")
    (logs / "runs.jsonl").write_text("{}")
    (outbox / "file").write_text("")
    (outbox / "folder").mkdir()
    assert names(Results(outbox)) == ["a"]


def test_a_record_that_leads_out_of_the_outbox_has_no_picture(outbox: Path) -> None:
    add(outbox, "a", 100)
    draw(outbox.parent / "secret.png")
    record = outbox / "night/logs/a.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "image": "../../secret.png"}))
    assert names(Results(outbox)) == []


def test_records_are_read_once(outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        add(outbox, f"p{number}", 100 + number)
    read: list[str] = []
    original = results_module.read_picture

    def reading(paths, name, **options):
        read.append(name)
        return original(paths, name, **options)

    monkeypatch.setattr(results_module, "read_picture", reading)
    results = Results(outbox)
    names(results)
    assert len(read) == 5
    add(outbox, "new", 200)
    names(results)
    assert read[5:] == ["new"]
    names(results)
    assert read[6:] == []


def test_folders_that_did_not_change_are_not_listed_again(outbox: Path, monkeypatch) -> None:
    for number in range(3):
        add(outbox, f"p{number}", 100, batch=f"batch{number}")
    for folder in (*outbox.iterdir(), *outbox.glob("*/logs")):
        os.utime(folder, (100, 100))
    results = Results(outbox)
    names(results)
    listed: list[str] = []
    scandir = os.scandir

    def scanning(path):
        listed.append(os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scanning)
    names(results)
    assert listed == [str(outbox)]
    add(outbox, "new", 200, batch="batch1")
    listed.clear()
    assert "new" in names(results)
    assert {Path(path).relative_to(outbox).parts[0] for path in listed[1:]} == {"batch1"}


def test_only_the_newest_of_very_many_are_kept(outbox: Path) -> None:
    for number in range(9):
        add(outbox, f"p{number}", 100 + number, batch=f"batch{number % 2}")
    results = Results(outbox, most=4)
    assert names(results) == ["p8", "p7", "p6", "p5"]


def test_ids_tell_results_apart_and_nothing_else(outbox: Path) -> None:
    add(outbox, "a", 100)
    add(outbox, "a", 100, batch="other")
    results = Results(outbox)
    results.refresh()
    ids = [result.id for result in results.done(9)[0]]
    assert len(set(ids)) == 2
    assert all(id.isalnum() and len(id) == 24 for id in ids)
    for id in ids:
        found = results.get(id)
        assert found is not None
        assert found.id == id
    for id in ("night/a", "../outbox/night/a", "", "a"):
        assert results.get(id) is None


def test_all_about_a_result_is_read_on_demand(outbox: Path) -> None:
    add(outbox, "a", 100)
    results = Results(outbox)
    results.refresh()
    (result,) = results.done(1)[0]
    picture = results.read(result)
    assert picture is not None
    assert picture.curves is not None
    assert picture.recipe["preset"] == "default"
    (outbox / "night/logs/a.json").unlink()
    assert results.read(result) is None


def test_a_fault_in_the_middle_hides_nothing_for_good(outbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch in ("a", "b", "c"):
        add(outbox, batch, 100, batch=batch)
        for folder in (outbox / batch, outbox / batch / "logs"):
            os.utime(folder, (100, 100))
    original = results_module.read_picture
    broken = {"b"}

    def reading(paths, name, **options):
        if name in broken:
            raise OSError(5, "Input/output error")
        return original(paths, name, **options)

    monkeypatch.setattr(results_module, "read_picture", reading)
    results = Results(outbox)
    with pytest.raises(DiskError, match="Input/output"):
        results.refresh()
    broken.clear()
    assert sorted(names(results)) == ["a", "b", "c"]


def test_an_outbox_that_is_not_there_is_empty_and_one_that_cannot_be_read_is_a_fault(
    outbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names(Results(outbox / "later")) == []

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DiskError, match="outbox"):
        Results(outbox).refresh()
