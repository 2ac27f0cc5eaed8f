"""The live picture of a job of the real engine, in a browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from fakes import picture_bytes
from page_world import Page
from visits import Visit
from watching import Watched


def test_a_job_is_watched_while_it_is_painted(
    watched: Watched, page: Page, visit: Callable[..., Visit]
) -> None:
    watched.configure(
        recipe={"size": 48, "pyramid": 0, "steps": 50_000, "encoder": "vgg19-slim"}, device="cpu"
    )
    seen = visit(page.address)
    seen.page.locator(".tile").first.wait_for()
    command = [sys.executable, "-m", "pipeline", "watch", "--config", str(watched.folder / "config.yaml")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as daemon:
        try:
            watched.drop("me.png", picture_bytes("me", size=(48, 48)))
            canvas = seen.page.locator("#runs img.canvas")
            seen.page.locator("#runs polyline.total").wait_for(timeout=90_000)
            address = canvas.get_attribute("src")
            assert canvas.evaluate("one => one.decode().then(() => one.naturalWidth)") == 48
            assert "of 50,000" in seen.page.locator("#runs .where").inner_text()
            assert "left" in seen.page.locator("#runs .time-left").inner_text()
            other = "address => document.querySelector('.canvas').getAttribute('src') !== address"
            seen.page.wait_for_function(other, arg=address)
            seen.assert_accessible()
        finally:
            daemon.terminate()
    watched.assert_nothing_lost()
