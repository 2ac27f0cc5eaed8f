"""Pages that are visited in a browser, and what must hold for each of them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request

PATIENCE_MS = 30_000
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# `make test-browser` fetches it where it can.
AXE = Path(sys.prefix) / "share/axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class Visit:
    """One page. `problems` are its errors, and what it asked of others than where it came from."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._home = home(address)
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._note_request)
        page.on("dialog", lambda dialog: (self.problems.append("a dialog"), dialog.dismiss()))
        page.goto(address)

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _note_request(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((self._home, "data:", "blob:")):
            self.problems.append(f"a request to {request.url}")

    def forgive(self, part: str) -> None:
        """Forget the problems whose text has a part: this test has made them."""
        self.problems = [problem for problem in self.problems if part not in problem]

    def pixel(self, place: Locator, x: float, y: float = 0.5) -> tuple[int, ...]:
        """Return the colour of a point, whose coordinates are shares of the place's width and height."""
        image = Image.open(io.BytesIO(place.screenshot())).convert("RGB")
        color = image.getpixel((int(x * (image.width - 1)), int(y * (image.height - 1))))
        assert isinstance(color, tuple)
        return color

    def style(self, place: Locator, name: str) -> str:
        return str(place.evaluate("(one, name) => getComputedStyle(one).getPropertyValue(name)", name))

    def focused(self) -> str:
        """Return the role and name of what has the focus, or "" if nothing has."""
        return str(
            self.page.evaluate("""() => {
            const one = document.activeElement;
            if (!one || one === document.body) return "";
            const name = one.getAttribute("aria-label") ?? one.labels?.[0]?.textContent ?? one.textContent;
            return `${one.getAttribute("role") ?? one.localName} ${name.trim().replace(/\\s+/g, " ")}`;
        }""")
        )

    def has_motion(self) -> bool:
        """Return whether anything would move: an animation, or a transition that takes time."""
        found = self.page.evaluate("""() => [...document.querySelectorAll("*")].some(one => {
            const {transitionDuration, animationName} = getComputedStyle(one);
            const takesTime = transitionDuration.split(", ").some(time => parseFloat(time) > 0);
            return takesTime || animationName !== "none";
        })""")
        return bool(found)

    def assert_accessible(self) -> None:
        """Hold the page, as it is now, to the rules of axe-core."""
        if not AXE.is_file():
            pytest.skip(f"axe-core is not at {AXE}: `make test-browser` fetches it with npm")
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found: dict[str, Any] = self.page.evaluate(
            "rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES
        )
        wrong = [
            f"{rule['id']}: {rule['help']}: {[node['html'][:160] for node in rule['nodes']][:4]}"
            for rule in found["violations"]
        ]
        assert not wrong, "\n".join(wrong)

    def assert_fits(self) -> None:
        """The page is no wider than its window."""
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(wide) <= 0


class Visits:
    """Opens pages, each in a context of its own, and closes them with the `with` block."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.opened: list[Visit] = []

    def __enter__(self) -> Visits:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for one in self.opened:
            one.page.context.close()
        problems = [problem for one in self.opened for problem in one.problems]
        assert kind or not problems, "\n".join(problems)

    def open(self, where: str | Path, **options: Any) -> Visit:
        address = where.as_uri() if isinstance(where, Path) else where
        context = self.browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        self.opened.append(Visit(context.new_page(), address))
        return self.opened[-1]


def home(address: str) -> str:
    """Return what the addresses of a page's own files begin with."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return address.rpartition("/")[0] + "/"
    return f"{parts.scheme}://{parts.netloc}/"
