"""How long Chromium works to open and to scroll the sheet of a large batch, whose records are made up.

Times are those of the page's main thread, so that other programs on the machine change little.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import CDPSession, Page, sync_playwright

from pipeline.page.layout import arrange
from pipeline.page.records import BatchRecords, Curves, Picture, Source
from pipeline.page.sheet import Sheet, render_sheet
from pipeline.page.thumbnails import THUMBS, content_name, result_name, style_name
from pipeline.spec.recipe import Recipe

STYLES = 10
WIDTH, HEIGHT = 480, 320
SCROLLED = 100  # pixels a frame: a quick turn of the wheel
FRAMES = 100
SCROLL = """async ([pixels, frames]) => {
    for (let frame = 0; frame < frames; frame += 1) {
        scrollBy(0, pixels);
        await new Promise(requestAnimationFrame);
    }
}"""


def pictures(count: int, is_wall: bool) -> Iterator[Picture]:
    """Yield done pictures: a grid of contents and styles, or single pairs."""
    recipe = Recipe().model_dump(mode="json")
    steps = range(1, 65)
    losses = {name: tuple(share / step for step in steps) for name, share in
              (("total", 9.0), ("content", 4.0), ("style", 5.0))}  # fmt: skip
    curves = Curves(tuple(steps), tuple(256 if step < 32 else 512 for step in steps), losses)
    for number in range(count):
        content, style = (number, number) if is_wall else divmod(number, STYLES)
        name = f"photo_{content:04}--style_{style:04}"
        yield Picture(
            name, "done", digest(name), f"{name}.png", source(f"photos/photo_{content:04}.jpg"),
            f"style_{style:04}", (source(f"styles/style_{style:04}.jpg"),), recipe, WIDTH, HEIGHT, 60.0,
            "2030-01-02T03:04:05+00:00", {"Device": "cpu"}, curves=curves,
        )  # fmt: skip


def source(path: str) -> Source:
    return Source(path, digest(path))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_batch(folder: Path, count: int, is_wall: bool) -> Path:
    """Write the sheet of a batch and its thumbnails, which are all the same; return the sheet's path."""
    made = tuple(pictures(count, is_wall))
    names = {
        name
        for one in made
        for name in (result_name(one), content_name(one.content or source("")), style_name(one.styles[0]))
    }
    (folder / THUMBS).mkdir(parents=True)
    thumb = folder / "thumb.jpg"
    Image.effect_noise((WIDTH, HEIGHT), 60).convert("RGB").save(thumb, quality=84)
    for name in names:
        shutil.copy(thumb, folder / THUMBS / name)
    path = folder / "index.html"
    sheet = Sheet(BatchRecords("night", made), arrange(made), frozenset(names))
    path.write_bytes(render_sheet(sheet))
    return path


def measure(page: Page, path: Path, count: int) -> dict[str, float]:
    """Open a sheet and scroll it; return seconds, and milliseconds per frame."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_function("document.querySelector('.card img')?.naturalWidth > 0")
    shown = busy(session)
    page.wait_for_function("count => document.querySelectorAll('.card').length === count", arg=count)
    page.wait_for_load_state()
    whole = busy(session)
    page.evaluate(SCROLL, [SCROLLED, FRAMES])
    scrolled = busy(session)
    return {"shown_s": shown, "whole_s": whole, "frame_ms": 1000 * (scrolled - whole) / FRAMES}


def busy(session: CDPSession) -> float:
    """Return the seconds of processor time that the main thread has worked."""
    found: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in found if one["name"] == "TaskDuration")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as place:
        browser = driver.chromium.launch(executable_path=given.chromium)
        for kind in ("grid", "wall"):
            path = write_batch(Path(place, kind), given.pictures, kind == "wall")
            page = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True).new_page()
            page.set_default_timeout(300_000)
            found[kind] = {"file_mb": path.stat().st_size / 1e6, **measure(page, path, given.pictures)}
        browser.close()
    if given.json:
        print(json.dumps(found))
        return
    for kind, one in found.items():
        print(
            f"{given.pictures} pictures as a {kind}, {one['file_mb']:.1f} MB: shown after "
            f"{one['shown_s']:.2f} s, whole after {one['whole_s']:.2f} s, {one['frame_ms']:.0f} ms a frame"
        )


if __name__ == "__main__":
    main()
