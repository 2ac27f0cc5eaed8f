"""Who may talk to the page: checks that come before any route, the session's cookie, and headers of answers.

A browser shows other pages beside ours, and each of them may send requests to this machine. So the Host
header must be one of ours (DNS rebinding), what changes something must come from our own page (cross-site
requests), and everything but the page's own files needs a cookie that is only given for the token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..storage.files import disk_errors, make_private
from .answers import Refusal

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD"})
METHODS = SAFE_METHODS | {"POST", "PUT"}
# What browsers say of requests that no other site, nor another port of this host, has caused.
OUR_SITES = frozenset({"same-origin", "none"})
# The only address below /api/ that needs no cookie: it gives one.
SESSION_PATH = "/api/session"
SHORTEST_TOKEN = 16
KEY_BYTES = 32

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for browsers that do not know frame-ancestors
}


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hosts:
    """The names by which the page may be asked for. `addresses`: every IP address is one of them.

    No DNS server can make a browser believe that an address is a name of its own.
    """

    names: frozenset[str] = LOOPBACK_NAMES
    addresses: bool = False

    def allows(self, host: str) -> bool:
        """Tell whether a Host header names us; its port does not count, as a tunnel has another."""
        found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", host.lower())
        if not found:
            return False
        name = found[1] or found[2]
        return name in self.names or (self.addresses and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address or a name."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


class Sessions:
    """Exchanges the token for a cookie.

    The token is new at every start, unless it was chosen. The cookie depends on a key in `state_dir`, so that
    an open page continues after a restart. Whoever can read that folder can read everything else, too.
    """

    def __init__(self, state_dir: Path, port: int, chosen_token: str = "") -> None:
        key = _session_key(state_dir / "page.key")
        self.token = chosen_token or secrets.token_urlsafe(24)
        # Cookies are shared by all ports of a host.
        self.cookie = f"style-pipeline-{port}"
        self.value = hmac.new(key, b"session " + chosen_token.encode(), hashlib.sha256).hexdigest()

    def is_token(self, token: object) -> bool:
        return isinstance(token, str) and _same(token, self.token)

    def has_cookie(self, headers: Headers) -> bool:
        pairs = (pair.partition("=") for line in headers.getlist("cookie") for pair in line.split(";"))
        return any(
            name.strip() == self.cookie and _same(value.strip(), self.value) for name, _, value in pairs
        )

    def set_cookie(self) -> str:
        return f"{self.cookie}={self.value}; Path=/; HttpOnly; SameSite=Strict"


def _same(one: str, other: str) -> bool:
    """Compare in a time that does not tell how much is the same."""
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode())


def _session_key(path: Path) -> bytes:
    """Return the key in a file, which is made for its owner alone if there is none.

    Raises:
        DiskError: it cannot be read or made.
    """
    with disk_errors(path, "the key of the page's sessions cannot be kept there"):
        make_private(path.parent)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
        if len(key) < KEY_BYTES:  # the process that made it was killed
            path.unlink(missing_ok=True)
            return _session_key(path)
        return key


class Gate:
    """Refuses what does not pass the checks before any route sees it, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, hosts: Hosts, sessions: Sessions) -> None:
        self.app = app
        self.hosts = hosts
        self.sessions = sessions

    def refusal(self, method: str, path: str, headers: Headers) -> Refusal | None:
        """Return why a request is refused; None if it is not."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.hosts.allows(hosts[0]):
            return Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"The page is not known by the name '{hosts[0] if hosts else ''}'.",
                "Open the address that was printed, or add this name to page.allow_hosts in config.yaml.",
            )
        if method not in METHODS:
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{method} is not used here.")
        if method not in SAFE_METHODS and not _is_from_the_page(hosts[0], headers):
            return Refusal(HTTPStatus.FORBIDDEN, "This request does not come from the page itself.")
        if path.startswith("/api/") and not OUR_SITES.issuperset(headers.getlist("sec-fetch-site")):
            return Refusal(HTTPStatus.FORBIDDEN, "Another site must not read what the page shows.")
        if path.startswith("/api/") and path != SESSION_PATH and not self.sessions.has_cookie(headers):
            return Refusal(
                HTTPStatus.UNAUTHORIZED,
                "This browser was not let in yet.",
                "Open the whole address that style-pipeline printed, with what follows the #.",
            )
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _complete(message)
            await send(message)

        refusal = self.refusal(scope["method"], scope["path"], Headers(scope=scope))
        answer: ASGIApp = self.app if refusal is None else refusal.response()
        try:
            await answer(scope, receive, send_with_headers)
        except Exception as error:  # Starlette has answered, and leaves the rest to the server
            logger.error("unexpected %s: %s", type(error).__name__, error, exc_info=error)


def _is_from_the_page(host: str, headers: Headers) -> bool:
    """Tell whether a browser says that our own page sent a request. Programs without such headers do not."""
    if sites := headers.getlist("sec-fetch-site"):
        return sites == ["same-origin"]
    origins = headers.getlist("origin")
    if len(origins) != 1:
        return False
    try:
        origin = urlsplit(origins[0])
    except ValueError:
        return False
    return origin.scheme in {"http", "https"} and origin.netloc.lower() == host.lower()


def _complete(message: MutableMapping[str, Any]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("cache-control", "no-store")


def allowed_hosts(bound: str, more: Iterable[str]) -> Hosts:
    """Return the names of a page that listens on an address, "" for loopback, and `more` of them."""
    names = {name.lower() for name in (bound, *more) if name}
    return Hosts(LOOPBACK_NAMES | names, addresses=bool(bound) and not is_loopback(bound))
