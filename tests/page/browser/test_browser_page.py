"""The page in a browser: dropping, looking, and what it says when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from batch_records import add_record, draw
from fakes import picture_bytes
from page_world import Page, drop
from visits import PHONE, Visit
from watching import Watched

Open = Callable[..., Visit]

HOSTILE = "<img src=x onerror=alert(1)>\n\u202egnp.a.png"


@pytest.fixture
def seen(page: Page, visit: Open) -> Visit:
    """The page, open, with a daemon beside it."""
    page.watch().until("watching")
    seen = visit(page.address)
    seen.page.locator(".tile").first.wait_for()
    return seen


def done(visit: Visit, name: str) -> None:
    """Wait for the card of a finished picture."""
    visit.page.locator("#pictures .card").filter(has_text=name).first.wait_for()


def test_a_photo_dropped_on_a_style_becomes_a_picture(seen: Visit, watched: Watched) -> None:
    photo = picture_bytes("me", size=(30, 20))
    watched.inputs[photo] += 1
    drop(seen, "s", {"me.png": photo})
    done(seen, "me.png")
    card = seen.page.locator("#pictures .card")
    assert card.inner_text().split("\n")[:2] == ["me.png", "s · 0.5 s"]
    assert card.locator("img").evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    watched.assert_done(["s/me--s.png"])


def test_a_newcomer_gets_a_first_picture_by_keys_and_a_file_chooser(
    watched: Watched, page: Page, visit: Open
) -> None:
    (watched.inbox / "styles/s.png").unlink()
    page.watch().until("watching")
    seen = visit(page.address, viewport=PHONE)
    welcome = seen.page.locator("#welcome")
    welcome.wait_for()
    assert welcome.locator("li b").all_inner_texts() == [
        "Add a style",
        "Drop photos on it",
        "Watch them being painted",
    ]
    with seen.page.expect_file_chooser() as chooser:
        seen.page.get_by_role("button", name="Add a style").press("Enter")
    style = {"name": "monet.png", "mimeType": "image/png", "buffer": picture_bytes("monet", size=(40, 40))}
    chooser.value.set_files(files=[style])
    tile = seen.page.get_by_role("button", name="monet")
    tile.wait_for()
    with seen.page.expect_file_chooser() as chooser:
        tile.press("Enter")
    assert chooser.value.is_multiple()
    photos = [{**style, "name": name, "buffer": picture_bytes(name)} for name in ("a.png", "b.png")]
    chooser.value.set_files(files=photos)
    done(seen, "a.png")
    done(seen, "b.png")
    assert welcome.is_hidden()
    seen.assert_fits()


def test_a_finished_picture_is_opened_and_compared(seen: Visit) -> None:
    drop(seen, "s", {"me.png": picture_bytes("me", size=(30, 20))})
    done(seen, "me.png")
    seen.page.locator("#pictures .card").focus()
    seen.page.keyboard.press("Enter")
    slider = seen.page.get_by_role("slider")
    slider.wait_for()
    box = seen.page.locator(".compare").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    seen.page.mouse.move(box["x"] + box["width"] / 2, middle)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + box["width"] / 4, middle, steps=3)
    seen.page.mouse.up()
    assert abs(int(slider.input_value()) - 25) <= 1
    slider.focus()
    seen.page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "0 % photograph"
    dialog = seen.page.get_by_role("dialog")
    dialog.get_by_role("region", name="Recipe as YAML").wait_for()
    assert "size: 16" in dialog.inner_text()
    assert dialog.locator(".before").evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    seen.assert_accessible()
    with seen.page.expect_download() as download:
        dialog.get_by_role("link", name="save it").click()
    assert download.value.suggested_filename == "me--s.png"
    seen.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert "me.png" in seen.focused()


def test_files_dropped_beside_the_styles_open_nothing(seen: Visit) -> None:
    address = seen.page.url
    seen.page.evaluate("""() => {
        const transfer = new DataTransfer();
        transfer.items.add(new File(["x"], "me.png"));
        for (const type of ["dragover", "drop"]) {
            const event = new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true});
            if (document.querySelector("#foot").dispatchEvent(event)) throw new Error("it would be opened");
        }
    }""")
    seen.page.get_by_text("Drop photos on a style.").wait_for()
    assert seen.page.url == address


def test_a_file_that_is_not_taken_says_why(seen: Visit) -> None:
    drop(seen, "s", {"notes.txt": b"text"})
    row = seen.page.locator("#uploads .refused")
    row.wait_for()
    assert row.inner_text().startswith("notes.txt")
    assert "was not sent." in row.inner_text()
    seen.assert_accessible()
    row.get_by_role("button", name="Dismiss notes.txt").click()
    row.wait_for(state="detached")
    seen.forgive("status of 415")


def test_what_failed_says_why_and_can_be_tried_again(page: Page, visit: Open) -> None:
    daemon = page.watch(faults={"me": "fail"})
    daemon.until("watching")
    seen = visit(page.address)
    seen.page.locator(".tile").first.wait_for()
    drop(seen, "s", {"me.png": picture_bytes("me")})
    failure = seen.page.locator("#failures li")
    failure.wait_for()
    assert "Told to fail." in failure.inner_text()
    failure.get_by_text("Tell it not to.").wait_for()
    seen.assert_accessible()
    daemon.stop()
    page.watch().until("watching")
    failure.get_by_role("button", name="Retry me.png").click()
    done(seen, "me.png")
    failure.wait_for(state="detached")


def test_a_hostile_name_is_text(page: Page, visit: Open, watched: Watched) -> None:
    page.watch(faults={HOSTILE.removesuffix(".png"): "fail"}).until("watching")
    seen = visit(page.address)
    watched.drop(HOSTILE)
    watched.drop(HOSTILE.replace("a.png", "b.png"))
    failure, card = seen.page.locator("#failures li"), seen.page.locator("#pictures .card")
    for place in (failure, card):
        place.wait_for()
        assert "<img src=x onerror=alert(1)>" in place.inner_text()
        assert "\\u202egnp." in place.inner_text()
    card.click()
    seen.page.get_by_role("dialog").get_by_role("region", name="Recipe as YAML").wait_for()
    assert seen.page.locator("[onerror]").count() == 0


def test_a_style_with_a_hostile_name_is_text(seen: Visit, watched: Watched) -> None:
    (watched.inbox / "styles" / f"{HOSTILE}.png").write_bytes(picture_bytes("style"))
    tile = seen.page.locator("li.tile", has_text="<img src=x onerror=alert(1)>")
    tile.wait_for()
    assert "\\u202egnp.a" in tile.inner_text()
    assert "\\u202egnp.a" in str(tile.get_by_role("button").get_attribute("aria-label"))
    assert seen.page.locator("[onerror]").count() == 0


def test_a_style_is_dropped_as_well(seen: Visit, watched: Watched) -> None:
    drop(seen, "Add a style", {"monet.png": picture_bytes("style")})
    seen.page.locator("li.tile", has_text="monet").wait_for()
    seen.page.locator("li.tile", has_text="Every style").wait_for()
    drop(seen, "Every style", {"me.png": picture_bytes("me")})
    done(seen, "me.png")
    seen.page.locator("#pictures .card").nth(1).wait_for()
    made = {path.name for path in watched.images()}
    assert made == {"me--s.png", "me--monet.png"}


def test_it_says_that_no_daemon_runs_and_when_one_does(watched: Watched, page: Page, visit: Open) -> None:
    watched.once()
    seen = visit(page.address)
    trouble = seen.page.locator("#trouble")
    trouble.get_by_text("No daemon is running.").wait_for()
    drop(seen, "s", {"me.png": picture_bytes("me")})
    seen.page.locator("#queue .row").filter(has_text="me.png").wait_for()
    daemon = page.watch()
    done(seen, "me.png")
    assert trouble.inner_text() == ""
    daemon.kill()
    trouble.get_by_text("No daemon is running.").wait_for()
    page.watch()
    trouble.get_by_text("No daemon is running.").wait_for(state="detached")


def test_it_connects_again_after_its_server_was_killed(seen: Visit, page: Page) -> None:
    page.kill()
    seen.page.get_by_text("The connection is lost.").wait_for()
    assert "style-pipeline" in seen.page.locator("#trouble code").inner_text()
    page.start()
    seen.page.get_by_text("Connected again.").wait_for()
    assert seen.page.locator("#trouble").inner_text() == ""
    drop(seen, "s", {"me.png": picture_bytes("me")})
    done(seen, "me.png")
    seen.forgive("net::ERR_")


def test_without_the_token_it_says_where_to_find_it(page: Page, visit: Open) -> None:
    seen = visit(page.address.partition("#")[0])
    seen.page.locator("#main .note").wait_for()
    assert "style-pipeline" in seen.page.locator("#main").inner_text()
    seen.forgive("status of 401")


def test_the_token_leaves_the_address(seen: Visit) -> None:
    assert "token" not in seen.page.url
    seen.page.reload()
    seen.page.locator(".tile").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{}, {"viewport": PHONE}], ids=["desktop", "phone"])
def test_it_is_accessible(page: Page, visit: Open, scheme: str, size: dict[str, object]) -> None:
    seen = visit(page.address, color_scheme=scheme, **size)
    seen.page.locator(".tile").first.wait_for()
    seen.assert_accessible()
    seen.assert_fits()
    page.watch(faults={"bad": "fail"}).until("watching")
    drop(seen, "s", {"good.png": picture_bytes("good"), "bad.png": picture_bytes("bad")})
    done(seen, "good.png")
    seen.page.locator("#failures li").wait_for()
    seen.assert_accessible()
    seen.assert_fits()


def test_tab_goes_through_the_page_in_its_order(seen: Visit) -> None:
    drop(seen, "s", {"me.png": picture_bytes("me")})
    done(seen, "me.png")
    seen.page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(4):
        seen.page.keyboard.press("Tab")
        reached.append(seen.focused())
    assert reached == [
        "button Pause",
        "button s: choose photos to paint in this style",
        "button Add a style: choose a picture",
        "a me.pngs · 0.5 s",
    ]


@pytest.fixture
def many(watched: Watched, tmp_path: Path) -> None:
    """A batch of seventy pictures."""
    style = draw(tmp_path / "styles/monet.png", "pink")
    for number in range(70):
        time = f"2030-01-02T03:{number // 60:02}:{number % 60:02}+00:00"
        content = draw(tmp_path / f"photos/{number:02}.png", "navy")
        add_record(watched.outbox / "night", content, style, finished=time)


@pytest.mark.usefixtures("many")
def test_older_pictures_are_shown_on_request(page: Page, visit: Open) -> None:
    seen = visit(page.address)
    cards = seen.page.locator("#pictures .card")
    cards.nth(59).wait_for()
    assert cards.count() == 60
    assert seen.page.locator("#done-title").inner_text() == "Done (70)"
    seen.page.get_by_role("button", name="Show older pictures").click()
    cards.nth(69).wait_for()
    names = cards.locator("b").all_text_contents()
    assert names == [f"{number:02}.png" for number in reversed(range(70))]
    assert seen.page.get_by_role("button", name="Show older pictures").is_hidden()
    cards.nth(59).click()
    seen.page.get_by_role("button", name="Next picture").click()
    seen.page.get_by_role("heading", name="09--monet").wait_for()
    assert seen.page.locator("#viewer-place").inner_text() == "61 of 70"


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_those_who_do_not_like_it(page: Page, visit: Open, motion: str) -> None:
    seen = visit(page.address, reduced_motion=motion)
    seen.page.locator("#pictures .card").first.wait_for()
    assert seen.has_motion() == (motion == "no-preference")
