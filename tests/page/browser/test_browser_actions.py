"""The page's buttons in a browser, and the live picture of a real job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fakes import picture_bytes
from page_world import Page, drop
from visits import Visit
from watching import Watched

if TYPE_CHECKING:
    from playwright.sync_api import Locator

Open = Callable[..., Visit]


@pytest.fixture
def seen(page: Page, visit: Open) -> Visit:
    """The page, open, beside a daemon that paints `slow.png` until it is told to stop. Another one waits."""
    page.watch(worker=True, faults={"slow": "wait"}).until("watching")
    seen = visit(page.address)
    seen.page.locator(".tile").first.wait_for()
    drop(seen, "s", {"slow.png": picture_bytes("slow")})
    seen.page.locator("#runs .run").wait_for()
    drop(seen, "s", {"b.png": picture_bytes("b")})
    row(seen, "b.png").wait_for()
    return seen


def row(visit: Visit, name: str) -> Locator:
    return visit.page.locator("#queue .row", has_text=name)


def card(visit: Visit, name: str) -> Locator:
    return visit.page.locator("#pictures .card", has_text=name)


def press(visit: Visit, name: str) -> None:
    visit.page.get_by_role("button", name=name, exact=True).click()


def test_what_runs_and_waits_is_shown(seen: Visit) -> None:
    assert "slow" in seen.page.locator("#runs .run").inner_text()
    assert seen.page.locator("#doing").inner_text().startswith("Painting slow")
    assert "slow" in seen.page.title()
    seen.assert_accessible()


def test_the_running_picture_is_cancelled_and_comes_back(seen: Visit) -> None:
    seen.page.locator("#runs").get_by_role("button", name="Cancel").click()
    card(seen, "b.png").wait_for()
    cancelled = seen.page.locator("#failures li", has_text="slow.png")
    cancelled.wait_for()
    assert "Cancelled." in cancelled.inner_text()
    press(seen, "Retry slow.png")
    seen.page.locator("#runs .run").wait_for()
    cancelled.wait_for(state="detached")


def test_a_waiting_picture_is_cancelled(seen: Visit) -> None:
    press(seen, "Cancel b.png")
    seen.page.locator("#failures li", has_text="b.png").wait_for()
    row(seen, "b.png").wait_for(state="detached")
    assert seen.focused() == "h1 style-pipeline"  # the section has gone with its last row


def test_a_waiting_picture_is_put_first(seen: Visit) -> None:
    drop(seen, "s", {"c.png": picture_bytes("c")})
    row(seen, "c.png").wait_for()
    press(seen, "First c.png")
    seen.page.locator("#queue .row:first-child", has_text="c.png").wait_for()
    seen.page.locator("#runs").get_by_role("button", name="Cancel").click()
    card(seen, "b.png").wait_for()
    names = seen.page.locator("#pictures .card b").all_inner_texts()
    assert names == ["b.png", "c.png"]  # the newest first


def test_the_daemon_is_paused_and_resumed(seen: Visit, watched: Watched) -> None:
    press(seen, "Pause")
    resume = seen.page.get_by_role("button", name="Resume")
    resume.wait_for()
    seen.page.locator("#runs .run").wait_for(state="detached")
    assert seen.page.locator("#doing").inner_text().startswith("Paused.")
    assert watched.images() == []
    seen.assert_accessible()
    resume.click()
    seen.page.locator("#runs .run").wait_for()
    seen.page.get_by_role("button", name="Pause").wait_for()


def test_a_button_that_comes_too_late_says_so(seen: Visit) -> None:
    seen.page.route("**/first", lambda route: route.abort())
    drop(seen, "s", {"c.png": picture_bytes("c")})
    row(seen, "c.png").wait_for()
    press(seen, "First c.png")
    notice = seen.page.get_by_role("alert")
    notice.wait_for()
    assert "The server does not answer." in notice.inner_text()
    notice.get_by_role("button").click()
    notice.wait_for(state="detached")
    seen.forgive("net::ERR_FAILED")
