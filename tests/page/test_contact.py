from __future__ import annotations

from pathlib import Path

import pytest
from batch_records import add_record, draw, failed
from PIL import Image

from pipeline.errors import UsageError
from pipeline.page.contact import LARGEST, draw_contact, picture_format, write_contact
from pipeline.page.sheet import read_sheet
from pipeline.page.thumbnails import THUMBS

OLIVE, PINK, NAVY = (128, 128, 0), (255, 192, 203), (0, 0, 128)


def colors(image: Image.Image) -> dict[tuple[int, ...], int]:
    """Count pixels by their colour, to the nearest of three bits: thumbnails are JPEGs."""
    return {
        color: sum(
            number for number, found in image.getcolors(1 << 24) or ()
            if max(abs(a - b) for a, b in zip(color, found, strict=True)) < 12
        )
        for color in (OLIVE, PINK, NAVY)
    }  # fmt: skip


def test_it_has_every_result_style_and_content(batch: Path) -> None:
    image = draw_contact(read_sheet(batch), batch / THUMBS)
    assert image.width > 3 * LARGEST
    found = colors(image)
    inner = LARGEST - LARGEST // 20
    assert found[OLIVE] == pytest.approx(4 * inner * inner * 2 / 3, rel=0.05)
    assert found[PINK] > 1000
    assert found[NAVY] > 1000


@pytest.mark.parametrize(
    ("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.png", "PNG"), ("a.webp", "WEBP")]
)
def test_its_suffix_chooses_the_format(batch: Path, tmp_path: Path, name: str, kind: str) -> None:
    write_contact(read_sheet(batch), batch, tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == kind


@pytest.mark.parametrize("name", ["a", "a.gif", "a.html", ".jpg"])
def test_other_suffixes_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"ends in \.jpg"):
        picture_format(Path(name))


def test_failed_pictures_and_walls_are_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "wall"
    add_record(folder, tmp_path / "a.png", tmp_path / "x.png", **failed())
    add_record(folder, tmp_path / "b\n漢字.png", tmp_path / "y.png")
    image = draw_contact(read_sheet(folder), folder / THUMBS)
    assert colors(image)[OLIVE] > 10_000


def test_a_content_that_all_pictures_share_is_shown_once(tmp_path: Path) -> None:
    photo, wall, grid = draw(tmp_path / "me.png", "navy"), tmp_path / "wall", tmp_path / "grid"
    for style in "xyz":
        add_record(wall, photo, tmp_path / f"{style}.png")
        for strength in (1, 2):
            name, recipe = f"{style}-{strength}", {"strength": strength}
            add_record(grid, photo, tmp_path / f"{style}.png", name=name, recipe=recipe)
    inner = LARGEST - LARGEST // 20
    found = colors(draw_contact(read_sheet(wall), wall / THUMBS))
    assert found[NAVY] == pytest.approx(inner * inner * 2 / 3, rel=0.05)
    assert found[OLIVE] == pytest.approx(3 * found[NAVY], rel=0.05)
    found = colors(draw_contact(read_sheet(grid), grid / THUMBS))
    assert 0 < found[NAVY] < inner * inner * 2 / 3
    assert found[OLIVE] == pytest.approx(6 * inner * inner * 2 / 3, rel=0.05)


def test_a_long_grid_has_small_cells_and_then_is_refused(
    batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.page.contact.MOST_PIXELS", 100_000)
    sheet = read_sheet(batch)
    image = draw_contact(sheet, batch / THUMBS)
    assert image.width * image.height < 200_000
    monkeypatch.setattr("pipeline.page.contact.LONGEST_SIDE", {"JPEG": 100})
    with pytest.raises(UsageError, match="too many"):
        write_contact(sheet, batch, tmp_path / "a.jpg")
    assert not (tmp_path / "a.jpg").exists()
