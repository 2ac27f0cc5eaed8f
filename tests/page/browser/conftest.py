"""A real browser. Chromium is the system's; where it or playwright is missing, these tests are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from page_world import Page
from visits import Visit, Visits
from watching import Watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    here = os.path.dirname(__file__)
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the PATH; CHROMIUM can name one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def visits(browser: Browser) -> Iterator[Visits]:
    """The pages that a test opens. At its end, none of them has complained or asked elsewhere."""
    with Visits(browser) as visits:
        yield visits


@pytest.fixture
def visit(visits: Visits) -> Callable[..., Visit]:
    """Return a function that opens an address; options are those of a browser's context."""
    return visits.open


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.fixture
def page(watched: Watched) -> Iterator[Page]:
    page = Page(watched)
    yield page
    page.close()
