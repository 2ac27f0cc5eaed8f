"""The sheet in a browser, opened from its folder as by a double click."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_records import add_record, draw, failed
from visits import PHONE, Visit

from pipeline.page.sheet import write_sheet

Open = Callable[..., Visit]

OLIVE, NAVY = (128, 128, 0), (0, 0, 128)
HOSTILE = "<img src=x onerror=alert(1)>\n\u202egnp.a"


@pytest.fixture
def sheet(batch: Path, tmp_path: Path) -> Path:
    """Two contents times two styles, and one that failed."""
    add_record(batch, tmp_path / "photos/a.png", draw(tmp_path / "styles/torn.png"), **failed())
    return write_sheet(batch)


def open_first(visit: Visit) -> Any:
    """Open the first picture, `a--monet`, large; return its slider."""
    visit.page.get_by_role("link", name="a.png in the style monet").click()
    return visit.page.get_by_role("slider")


def assert_cut(visit: Visit, at: float) -> None:
    """The photograph is shown to the left of `at`, the result to its right."""
    box = visit.page.locator(".compare")
    for beside, color in ((at - 0.05, NAVY), (at + 0.05, OLIVE)):
        if 0 <= beside <= 1:
            assert visit.pixel(box, beside, 0.2) == pytest.approx(color, abs=3)


def test_every_picture_is_there(visit: Callable[..., Visit], sheet: Path) -> None:
    seen = visit(sheet)
    images = seen.page.locator("img")
    assert images.count() >= 4
    assert all(images.evaluate_all("all => all.map(one => one.complete && one.naturalWidth > 0)"))
    assert "4 pictures" in seen.page.locator("#head").inner_text()
    assert seen.page.get_by_text("Copy it again.").first.is_visible()
    assert len(seen.requests) > 1


def test_it_moves_with_its_folder(visit: Open, sheet: Path) -> None:
    folder = sheet.parent.rename(sheet.parent.with_name("50% #1? é"))
    seen = visit(folder / sheet.name)
    open_first(seen)
    assert_cut(seen, 0.5)


def test_without_the_photograph_there_is_no_slider(visit: Open, sheet: Path) -> None:
    for thumbnail in (sheet.parent / ".thumbs").glob("content-*"):
        thumbnail.unlink()
    seen = visit(sheet)
    open_first(seen).wait_for(state="detached")
    assert seen.pixel(seen.page.locator(".compare"), 0.1, 0.2) == pytest.approx(OLIVE, abs=3)
    seen.forgive("ERR_FILE_NOT_FOUND")


def test_the_slider_follows_the_mouse(visit: Open, sheet: Path) -> None:
    seen = visit(sheet)
    open_first(seen)
    assert_cut(seen, 0.5)
    box = seen.page.locator(".compare").bounding_box()
    middle = box["y"] + box["height"] / 2
    seen.page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=4)
    assert_cut(seen, 0.25)
    seen.page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=4)
    seen.page.mouse.up()
    assert_cut(seen, 0.8)


def test_the_slider_follows_a_finger(visit: Open, sheet: Path) -> None:
    seen = visit(sheet, viewport=PHONE, has_touch=True, is_mobile=True)
    seen.page.get_by_role("link", name="a.png in the style monet").tap()
    box = seen.page.locator(".compare").bounding_box()
    fingers = seen.page.context.new_cdp_session(seen.page)

    def touch(kind: str, *at: float) -> None:
        points = [{"x": box["x"] + box["width"] * x, "y": box["y"] + box["height"] / 2} for x in at]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.5)
    for at in (0.6, 0.7, 0.75):
        touch("touchMove", at)
    touch("touchEnd")
    assert_cut(seen, 0.75)


def test_the_slider_follows_keys(visit: Open, sheet: Path) -> None:
    seen = visit(sheet)
    slider = open_first(seen)
    slider.focus()
    for key, at in (("Home", 0.0), ("End", 1.0), ("PageDown", 0.9), ("ArrowLeft", 0.89)):
        seen.page.keyboard.press(key)
        assert_cut(seen, at)
    assert slider.get_attribute("aria-valuetext") == "89 % photograph"


def test_pictures_are_reached_and_left_by_keys(visit: Open, sheet: Path) -> None:
    seen = visit(sheet)
    page = seen.page
    page.get_by_role("link", name="a.png in the style monet").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    assert "a--monet" in page.title()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-place").inner_text() == "2 of 5"
    second = page.locator("#viewer-name").inner_text()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert second in seen.focused()
    page.keyboard.press("Enter")
    dialog.wait_for()
    page.go_back()
    dialog.wait_for(state="hidden")


def test_tab_reaches_everything_in_the_viewer(visit: Open, sheet: Path) -> None:
    seen = visit(sheet)
    open_first(seen)
    reached = []
    for _ in range(6):
        seen.page.keyboard.press("Tab")
        reached.append(seen.focused().partition(" ")[2])
    assert reached == [
        "Next picture",
        "Close",
        "How much of the photograph is shown before the result",
        "open the picture",
        "Copy the recipe",
        "Recipe as YAML",
    ]


def test_a_hostile_name_is_text(visit: Open, batch: Path, tmp_path: Path) -> None:
    content = draw(tmp_path / "hostile" / "<img onerror=alert(1)>\n\u202egnp.a.png")
    add_record(
        batch, content, tmp_path / "styles/monet.png", name="hostile",
        **failed(error=f"{HOSTILE}: torn <b>off</b>.", next_step="<script>alert(1)</script>"),
    )  # fmt: skip
    seen = visit(write_sheet(batch))
    card = seen.page.locator("a.card.failed")
    assert "\\u202egnp.a: torn <b>off</b>." in card.inner_text()
    card.click()
    shown = seen.page.get_by_role("dialog").inner_text()
    assert "<script>alert(1)</script>" in shown
    assert "<img onerror=alert(1)>" in shown
    assert seen.page.locator("[onerror], b b, script:not([type])").count() == 0


def test_without_scripts_it_says_where_the_pictures_are(visit: Open, sheet: Path) -> None:
    seen = visit(sheet, java_script_enabled=False)
    assert "look into the folder" in seen.page.locator("body").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(visit: Open, sheet: Path, scheme: str) -> None:
    seen = visit(sheet, color_scheme=scheme)
    seen.assert_accessible()
    open_first(seen)
    seen.assert_accessible()


def test_it_is_dark_where_the_system_is(visit: Open, sheet: Path) -> None:
    light, dark = (
        seen.style(seen.page.locator("body"), "background-color")
        for seen in (visit(sheet, color_scheme=scheme) for scheme in ("light", "dark"))
    )
    assert light != dark


def test_it_fits_a_phone(visit: Open, batch: Path, tmp_path: Path) -> None:
    seen = visit(write_sheet(batch), viewport=PHONE, has_touch=True, is_mobile=True)
    seen.page.get_by_role("link", name="a.png in the style monet").tap()
    seen.page.locator(".compare").wait_for()
    box = seen.page.locator(".compare").bounding_box()
    assert (box["x"], box["x"] + box["width"]) == (0, PHONE["width"])
    assert seen.page.get_by_role("button", name="Close").is_visible()


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_those_who_do_not_like_it(visit: Open, sheet: Path, motion: str) -> None:
    assert visit(sheet, reduced_motion=motion).has_motion() == (motion == "no-preference")


def trial(folder: Path, *styles: str, **recipe: list[Any]) -> Path:
    """Write the sheet of one content in several styles, each with the values of some recipe fields."""
    photo = draw(folder / "me.png", "navy")
    combinations = [dict(zip(recipe, values, strict=True)) for values in itertools.product(*recipe.values())]
    for style, fields in itertools.product(styles, combinations):
        name = "--".join(["me", style, *(f"{key}-{value}" for key, value in fields.items())])
        add_record(folder / "try-me", photo, draw(folder / f"{style}.png", "pink"), name=name, recipe=fields)
    return write_sheet(folder / "try-me")


def test_a_content_that_all_pictures_share_stands_above_them(visit: Open, tmp_path: Path) -> None:
    seen = visit(trial(tmp_path, "x", "y", "z"))
    (figure,) = seen.page.locator("#head figure").all()
    assert figure.inner_text().split() == ["Photograph", "me.png"]
    assert seen.pixel(figure, 0.1, 0.5) == pytest.approx(NAVY, abs=3)
    assert seen.page.locator(".card .caption img").count() == 3


def test_so_does_a_style_and_the_values_of_two_fields_are_a_grid(visit: Open, tmp_path: Path) -> None:
    seen = visit(trial(tmp_path, "x", strength=[0.5, 2], seed=[1, 2, 3]))
    assert seen.page.locator("#head figcaption").all_inner_texts() == ["Photograph\nme.png", "Style\nx.png"]
    assert seen.page.get_by_role("columnheader").all_inner_texts() == ["seed 1", "seed 2", "seed 3"]
    assert seen.page.get_by_role("rowheader").all_inner_texts() == ["strength 0.5", "strength 2"]
    assert seen.page.locator(".row .card").count() == 6
