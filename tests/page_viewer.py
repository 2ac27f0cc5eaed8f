"""A viewer of the page over its real connection: signs in, asks, sends, and reads what it streams."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


class Viewer:
    """Whoever opened the address that the page printed."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.netloc = parts.netloc
        self.token = parts.fragment.removeprefix("token=")
        self.cookie = ""

    def sign_in(self) -> None:
        body = json.dumps({"token": self.token}).encode()
        with closing(self.connect()) as connection:
            connection.request(
                "POST", "/api/session", body, {**SAME_ORIGIN, "Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            assert answer.status == 204, answer.read()
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self.netloc, timeout=30)

    def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, Any]:
        """Return the status of an answer, and its JSON if it is some."""
        with closing(self.connect()) as connection:
            answer = self.send(connection, method, target, body)
            data = answer.read()
            is_json = answer.headers.get("Content-Type") == "application/json"
            return answer.status, json.loads(data) if is_json else data

    def send(self, connection: HTTPConnection, method: str, target: str, body: bytes = b"") -> HTTPResponse:
        connection.request(method, target, body or None, {**SAME_ORIGIN, "Cookie": self.cookie})
        return connection.getresponse()

    def states(self, most_quiet: float = 3) -> Iterator[dict[str, Any]]:
        """Yield each state that the page streams, until it ends the stream.

        It says every 15 s that nothing changes; so often is too long for a test.
        """
        with closing(self.connect()) as connection:
            answer = self.send(connection, "GET", "/api/events")
            assert answer.status == 200, answer.read()
            name, quiet = "", 0
            for line in answer:
                quiet += line == b":\n"  # a comment, of an idle stream
                assert quiet < most_quiet, "nothing changes any more"
                if line.startswith(b"event: "):
                    name = line.decode().strip().removeprefix("event: ")
                elif line.startswith(b"data: ") and name == "state":
                    yield json.loads(line.removeprefix(b"data: "))

    def look(self) -> None:
        """Read the stream until the page ends, however it does."""
        try:
            self.sign_in()
            for _ in self.states(math.inf):
                pass
        except (OSError, HTTPException):
            return
