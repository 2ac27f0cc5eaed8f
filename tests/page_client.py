"""A browser for tests of the page: it asks an ASGI application directly, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fakes import FakeExecutor

from pipeline.errors import UsageError
from pipeline.page.app import page_application
from pipeline.page.pictures import PictureFiles
from pipeline.page.previews import Previews
from pipeline.page.results import Results
from pipeline.page.security import Hosts, Sessions
from pipeline.page.site import Site
from pipeline.page.state import State
from pipeline.page.watched import Watched
from pipeline.storage.paths import HIDDEN

HOST = "127.0.0.1:8765"
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
NOTHING: dict[str, Any] = {
    "alive": False,
    "since": None,
    "paused": "",
    "encoder": "",
    "device": "",
    "running": None,
    "waits": [],
    "eta_s": 0,
    "quarantined": [],
}


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Browser:
    """Sends requests as a browser does from our own page, unless headers say otherwise; None removes one."""

    app: Any
    cookie: str = ""

    def get(self, target: str, **headers: str | None) -> Answer:
        return self.ask("GET", target, headers)

    def post(self, target: str, value: Any = None, **headers: str | None) -> Answer:
        body = b"" if value is None else json.dumps(value).encode()
        return self.ask("POST", target, {"content-type": "application/json", **headers}, [body])

    def put(self, target: str, body: bytes, **headers: str | None) -> Answer:
        return self.ask("PUT", target, {"content-length": str(len(body)), **headers}, [body])

    def ask(
        self,
        method: str,
        target: str,
        headers: MutableMapping[str, str | None] | None = None,
        chunks: Iterable[bytes | None] = (b"",),
    ) -> Answer:
        """Return the answer to a request; a chunk None of its body means that the browser went away."""
        return asyncio.run(self.asking(method, target, headers, chunks))

    async def asking(
        self,
        method: str,
        target: str,
        headers: MutableMapping[str, str | None] | None = None,
        chunks: Iterable[bytes | None] = (b"",),
    ) -> Answer:
        answer = Answer()
        left = list(chunks)

        async def receive() -> dict[str, Any]:
            if not left:
                await asyncio.Event().wait()
            if (chunk := left.pop(0)) is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": chunk, "more_body": bool(left)}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        await self.app(self.scope(method, target, headers or {}), receive, send)
        return answer

    def scope(self, method: str, target: str, headers: MutableMapping[str, str | None]) -> dict[str, Any]:
        path, _, query = target.partition("?")
        given = {"host": HOST, "cookie": self.cookie or None, **SAME_ORIGIN, **headers}
        plain = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": unquote(path, errors="surrogateescape"),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plain.items()],
        }


@dataclass
class World:
    """A page of an outbox and an inbox below one folder.

    `status` is what `read_status` returns; `stays` are ids of quarantined files that cannot be put back.
    """

    folder: Path
    status: dict[str, Any] = field(default_factory=lambda: dict(NOTHING))
    retried: list[str] = field(default_factory=list)
    stays: frozenset[str] = frozenset()
    hosts: Hosts = field(default_factory=Hosts)

    def __post_init__(self) -> None:
        (self.inbox / HIDDEN).mkdir(parents=True)
        (self.inbox / "styles").mkdir()
        self.outbox.mkdir()
        watched = Watched(self.inbox, lambda: self.status, self.retry, ignore=("*_small.*",))
        results = Results(self.outbox)
        files = PictureFiles(results, ((self.inbox, self.folder / "archive"),))
        previews = Previews(lambda tick: FakeExecutor())
        state = State(results, watched, self.folder / "state")
        sessions = Sessions(self.folder / "state", 8765)
        self.site = Site(state, files, previews, sessions, self.folder / "cache")
        self.stranger = Browser(page_application(self.site, self.hosts))
        self.browser = Browser(self.stranger.app, f"{sessions.cookie}={sessions.value}")

    def retry(self, id: str) -> None:
        if id in self.stays:
            raise UsageError(f"{id}.png: exists already.", "Move it.")
        self.retried.append(id)

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox"

    def in_inbox(self) -> list[str]:
        """Return the files of the inbox, hidden ones too, but those of the daemon."""
        found = (path.relative_to(self.inbox) for path in self.inbox.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.parts[0] != HIDDEN)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.browser.get("/api/state").json
        return state

    def close(self) -> None:
        self.site.close()
