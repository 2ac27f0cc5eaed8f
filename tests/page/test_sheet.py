from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from batch_records import add_record, draw, failed
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PathError, UsageError
from pipeline.page import records
from pipeline.page.assets import joined_script
from pipeline.page.layout import arrange
from pipeline.page.records import BatchRecords, Curves, Picture, Source
from pipeline.page.sheet import (
    HEIGHT,
    Sheet,
    curve_data,
    read_sheet,
    render_sheet,
    write_sheet,
)

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "'\"&amp;`${x}$title",
    "two\nlines\r\u2028\u2029",
    "\u202egnp.exe",
    "\udcff\ud800",
    "javascript:alert(1)",
    "]]>\0",
]


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of its data."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self._inside = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = str(dict(attrs).get("id"))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data


def data_of(page: bytes) -> dict[str, Any]:
    return json.loads(Elements(page).data)


def page_of(*pictures: Picture, name: str = "night", notes: tuple[str, ...] = ()) -> bytes:
    batch = BatchRecords(name, pictures, notes=notes, fault=name)
    return render_sheet(Sheet(batch, arrange(pictures), frozenset()))


def hostile_picture(text: str) -> Picture:
    source = Source(f"/photos/{text}.jpg", text)
    return Picture(
        text, "failed", text, "image.png", source, text, (source,), {"name": text, text: [text]},
        finished=text, facts={text: text}, notes=(text,), error=text, next_step=text,
    )  # fmt: skip


PLAIN = [element for element, _ in Elements(page_of(hostile_picture("plain"))).found]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_text_becomes_markup(text: str) -> None:
    page = page_of(hostile_picture(text), name=text, notes=(text,))
    assert [element for element, _ in Elements(page).found] == PLAIN
    data = data_of(page)
    assert data["pictures"][0]["name"] == text
    assert data["pictures"][0]["error"] == text
    assert data["notes"] == [text]


@given(st.text())
@settings(max_examples=40, deadline=None)
def test_any_text_arrives_as_it_is(text: str) -> None:
    page = page_of(hostile_picture(text), name=text)
    assert [element for element, _ in Elements(page).found] == PLAIN
    assert data_of(page)["pictures"][0].get("name", "") == text


@given(st.text(alphabet="<>/!-scriptSCRIPT\"'&= ", min_size=4))
@settings(max_examples=40, deadline=None)
def test_markup_arrives_as_it_is(text: str) -> None:
    page = page_of(hostile_picture(text), name=text)
    assert [element for element, _ in Elements(page).found] == PLAIN
    assert data_of(page)["batch"] == text


def test_the_page_names_nothing_outside_of_its_folder(batch: Path) -> None:
    page = write_sheet(batch).read_bytes()
    assert not re.search(
        rb"(https?:)?//(?!www\.w3\.org/2000/svg|[ \w-]*$)[a-z]+\.[a-z]", page.split(b"<script")[0]
    )
    for picture in data_of(page)["pictures"]:
        for link in (picture["image"], picture["large"], picture["thumb"], picture["content"]):
            assert not link.startswith(("/", "file:", ".."))
            assert (batch / link).is_file()
    policy = next(one["content"] for tag, one in Elements(page).found if one.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_the_page_never_sets_markup_from_text() -> None:
    script = joined_script("sheet.js")
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("):
        assert risky not in script


def test_the_sheet_shows_a_batch(batch: Path, tmp_path: Path) -> None:
    add_record(batch, tmp_path / "photos/a.png", draw(tmp_path / "styles/bad.png"), **failed())
    data = data_of(write_sheet(batch).read_bytes())
    assert data["batch"] == "night"
    pictures = {picture["name"]: picture for picture in data["pictures"]}
    assert len(pictures) == 5
    one = pictures["a--monet"]
    assert one["thumb"].startswith(".thumbs/result-")
    assert (one["image"], one["large"]) == ("a--monet.png", "a--monet.png")
    assert one["content"].startswith(".thumbs/content-")
    assert one["styles"][0]["thumb"].startswith(".thumbs/style-")
    assert "strength: 1.0" in data["recipes"][one["recipe"]]
    assert one["curves"]["steps"] == [1, 8]
    assert pictures["a--bad"]["error"] == "a.png: broken."
    assert pictures["a--bad"]["nextStep"] == "Copy it again."


def test_links_are_quoted(batch: Path, tmp_path: Path) -> None:
    name = "50% #1? é"
    add_record(batch, tmp_path / "a.png", tmp_path / "s.png", name=name)
    pictures = data_of(write_sheet(batch).read_bytes())["pictures"]
    assert "50%25%20%231%3F%20%C3%A9.png" in {picture["image"] for picture in pictures}


def test_errors_on_cards_leave_out_the_folders(batch: Path, tmp_path: Path) -> None:
    content = tmp_path / "photos/c.png"
    add_record(batch, content, tmp_path / "s.png", **failed(error=f"{content}: broken."))
    pictures = {picture["name"]: picture for picture in data_of(write_sheet(batch).read_bytes())["pictures"]}
    assert (pictures["c--s"]["briefly"], pictures["c--s"]["error"]) == (
        "c.png: broken.",
        f"{content}: broken.",
    )


def test_it_is_written_again_and_its_folder_may_move(batch: Path) -> None:
    first = write_sheet(batch).read_bytes().partition(b"<title>")[2]
    batch = batch.rename(batch.with_name("moved"))
    again = write_sheet(batch).read_bytes().partition(b"<title>")[2]
    assert first.replace(b"night", b"moved") == again


def test_a_batch_that_is_not_finished_is_shown(batch: Path) -> None:
    (batch / "b--scream.png").unlink()
    (batch / "logs/b--monet.json").unlink()
    data = data_of(write_sheet(batch).read_bytes())
    assert [picture["status"] for picture in data["pictures"]] == ["done", "done", "missing"]


def test_an_empty_batch_has_no_sheet(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(UsageError, match="no pictures"):
        write_sheet(tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_a_batch_of_damaged_records_has_no_sheet(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.json").write_text("{")
    with pytest.raises(UsageError):
        write_sheet(tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_file_of_someone_else_is_left_alone(batch: Path, kind: str) -> None:
    path = batch / "index.html"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        path.write_text("<title>mine</title>")
    with pytest.raises(PathError, match="left alone"):
        write_sheet(batch)
    assert kind != "file" or path.read_text() == "<title>mine</title>"


def test_very_large_batches_are_cut_off_with_a_note(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert records.MOST_PICTURES >= 5_000
    monkeypatch.setattr("pipeline.page.records.MOST_PICTURES", 3)
    read: list[Path] = []
    monkeypatch.setattr("pipeline.page.records.read_curves", read.append)
    sheet = read_sheet(batch)
    assert len(sheet.batch.pictures) == 3
    assert sheet.batch.notes == ("The first 3 of 4 pictures are shown.",)
    assert len(read) <= 3


def test_curves_are_heights_on_a_logarithmic_scale() -> None:
    curves = Curves((1, 2, 3), (64, 64, 128), {"total": (100.0, 10.0, 1.0), "content": (1.0, 0.0, 100.0)})
    data = curve_data(curves)
    assert (data["steps"], data["levels"]) == ([1, 3], [[0, 64], [2, 128]])
    heights = [int(data["lines"]["total"][at : at + 2], 36) for at in (0, 2, 4)]
    assert heights == [HEIGHT, round(HEIGHT / 2), 0]
    assert data["lines"]["content"] == "0000zz"
    assert data["ends"] == {"total": "1", "content": "100"}


def test_curves_without_a_range_can_be_drawn() -> None:
    assert curve_data(Curves((1, 2), (64, 64), {"total": (0.0, 0.0)}))["lines"]["total"] == "0000"
    assert curve_data(Curves((1, 2), (64, 64), {"total": (2.0, 2.0)}))["lines"]["total"] == "0000"


def test_a_page_of_many_pictures_stays_small() -> None:
    losses = {name: tuple(1 / (step + 1) for step in range(64)) for name in ("total", "content", "style")}
    curves = Curves(tuple(range(64)), (512,) * 64, losses)
    pictures = [
        Picture(
            f"IMG_{content:04d}--style{style:02d}", "done", f"{content:032x}{style:032x}", "a.png",
            Source(f"/photos/IMG_{content:04d}.jpg", "c" * 64), f"style{style:02d}",
            (Source(f"/styles/style{style:02d}.jpg", "d" * 64),), {"strength": 1.0}, 512, 384, 9.5,
            "2030-01-02T03:04:05+00:00", {"Device": "cpu", "Network": "vgg19-slim"}, curves=curves,
        )
        for content in range(50) for style in range(10)
    ]  # fmt: skip
    assert len(page_of(*pictures)) < 1500 * len(pictures)
