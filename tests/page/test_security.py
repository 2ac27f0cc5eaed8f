from __future__ import annotations

import stat
from pathlib import Path

import pytest
from page_client import HOST, Browser, World

from pipeline.errors import DiskError
from pipeline.page.app import page_application
from pipeline.page.security import Hosts, Sessions, allowed_hosts, is_loopback


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost:8765", 200),
        ("LocalHost:8765", 200),
        ("[::1]:8765", 200),
        ("localhost", 200),
        ("localhost:9000", 200),  # through a tunnel
        ("evil.example:8765", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("localhost.", 421),
        ("127.0.0.1@evil.example", 421),
        ("evil.example#127.0.0.1", 421),
        ("localhost:8765:1", 421),
        ("localhost:", 421),
        ("localhost:123456", 421),
        ("[::1", 421),
        ("[::2]:8765", 421),
        ("192.168.1.2:8765", 421),
        ("127.0.0.2", 421),
        ("0.0.0.0:8765", 421),
        ("localhost, evil.example", 421),
        ("", 421),
        (None, 421),
    ],
)
def test_only_our_own_hosts_are_answered(world: World, host: str | None, status: int) -> None:
    for target in ("/", "/static/page.js", "/api/state", "/nothing"):
        answer = world.browser.ask("GET", target, {"host": host})
        assert answer.status == (404 if target == "/nothing" and status == 200 else status), target


def test_two_hosts_are_refused(world: World) -> None:
    scope = world.browser.scope("GET", "/", {})
    scope["headers"].append((b"host", b"evil.example"))
    assert world.browser.app.refusal("GET", "/", _headers(scope)).status == 421


def _headers(scope: dict[str, object]):
    from starlette.datastructures import Headers

    return Headers(scope=scope)


@pytest.mark.parametrize(
    ("bound", "more", "host", "allowed"),
    [
        ("", [], "192.168.1.2:8765", False),
        ("127.0.0.1", [], "192.168.1.2:8765", False),
        ("0.0.0.0", [], "192.168.1.2:8765", True),  # an address is no name that a DNS server can give away
        ("::", [], "[fe80::1]:8765", True),
        ("0.0.0.0", [], "evil.example", False),
        ("studio.lan", [], "studio.lan:8765", True),
        ("", ["Pictures.Example.org"], "pictures.example.org", True),
        ("", ["pictures.example.org"], "other.example.org", False),
    ],
)
def test_hosts_of_a_page_that_others_reach(bound: str, more: list[str], host: str, allowed: bool) -> None:
    assert allowed_hosts(bound, more).allows(host) == allowed


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.2", False), ("studio.lan", False), ("::ffff:192.168.1.2", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


UNSAFE = [("POST", "/api/daemon/pause"), ("PUT", "/api/photos?name=a.png"), ("POST", "/api/session")]
CROSS_SITE = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},  # another port of this machine, or another name of its domain
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": ""},
    {"sec-fetch-site": "same-origin, cross-site"},
    {"sec-fetch-site": "cross-site", "origin": f"http://{HOST}"},
    {"sec-fetch-site": None, "origin": "null"},
    {"sec-fetch-site": None, "origin": "http://evil.example"},
    {"sec-fetch-site": None, "origin": "http://127.0.0.1:9999"},
    {"sec-fetch-site": None, "origin": "http://127.0.0.1"},
    {"sec-fetch-site": None, "origin": f"http://{HOST}.evil.example"},
    {"sec-fetch-site": None, "origin": f"http://evil.example/{HOST}"},
    {"sec-fetch-site": None, "origin": f"http://user@{HOST}"},
    {"sec-fetch-site": None, "origin": f"ftp://{HOST}"},
    {"sec-fetch-site": None, "origin": f"http://[{HOST}"},
    {"sec-fetch-site": None, "origin": HOST},
    {"sec-fetch-site": None, "origin": ""},
    {"sec-fetch-site": None, "origin": None},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_only_our_own_page_changes_anything(world: World, headers: dict[str, str | None]) -> None:
    for method, target in UNSAFE:
        answer = world.browser.ask(method, target, dict(headers))
        assert answer.status == 403, (method, target)
        assert "itself" in answer.json["error"]
    assert world.in_inbox() == []
    assert world.site.state.watched.control.paused_since() is None


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": None, "origin": f"http://{HOST}"},
        {"sec-fetch-site": None, "origin": f"https://{HOST}"},  # behind a proxy
    ],
)
def test_our_own_page_may(world: World, headers: dict[str, str | None]) -> None:
    assert world.browser.ask("POST", "/api/daemon/pause", headers).status == 204
    assert world.site.state.watched.control.paused_since() is not None


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "other"])
def test_no_other_site_reads_anything_even_with_the_cookie(world: World, site: str) -> None:
    for target in ("/api/state", "/api/events", "/api/pictures/x/image"):
        assert world.browser.get(target, **{"sec-fetch-site": site}).status == 403
    assert world.browser.get("/", **{"sec-fetch-site": site}).status == 200  # a link to the page
    assert world.browser.get("/api/state", **{"sec-fetch-site": "none"}).status == 200  # typed
    assert world.browser.get("/api/state", **{"sec-fetch-site": None}).status == 200  # an old browser


@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "PROPFIND"])
def test_other_methods_are_refused(world: World, method: str) -> None:
    answer = world.browser.ask(method, "/api/state", {"origin": "http://evil.example"})
    assert answer.status == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


API = [
    ("GET", "/api/state"), ("GET", "/api/events"), ("GET", "/api/pictures"), ("GET", "/api/pictures/x"),
    ("GET", "/api/pictures/x/image"), ("GET", "/api/styles/x/thumb"), ("GET", "/api/running/x/picture"),
    ("GET", "/api/nothing"), ("PUT", "/api/photos?name=a.png"), ("PUT", "/api/styles?name=a.png"),
    ("POST", "/api/daemon/pause"), ("POST", "/api/daemon/resume"), ("POST", "/api/failed/retry"),
    ("POST", "/api/failed/x/retry"), ("POST", "/api/waiting/x/cancel"), ("POST", "/api/waiting/x/first"),
    ("POST", "/api/running/x/cancel"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target"), API)
def test_all_but_the_pages_own_files_needs_the_cookie(world: World, method: str, target: str) -> None:
    name, value = world.browser.cookie.split("=")
    wrong = ("", f"{name}=", f"{name}=x", f"{name}={value}0", f"{name}={value[:-1]}", f"other={value}")
    for cookie in (*wrong, f"{name}={world.site.sessions.token}", f"{name}-1={value}"):
        answer = world.stranger.ask(method, target, {"cookie": cookie})
        assert answer.status == 401, cookie
        assert "#" in answer.json["nextStep"]
    assert world.in_inbox() == []
    assert world.site.state.watched.control.paused_since() is None


def test_every_route_below_api_is_in_the_table_above(world: World) -> None:
    from pipeline.page.inbox_routes import inbox_routes
    from pipeline.page.picture_routes import picture_routes

    routes = [*inbox_routes(world.site), *picture_routes(world.site)]
    paths = {route.path for route in routes}
    assert all(path.startswith("/api/") for path in paths)
    commands = {path for method, path in API if method == "POST"}
    assert {route.path.replace("{id}", "x") for route in routes if "POST" in route.methods} == commands


def test_the_cookie_is_found_among_others(world: World) -> None:
    cookie = f"a=1; {world.browser.cookie};b=2"
    assert world.stranger.get("/api/state", cookie=cookie).status == 200


def test_the_token_gives_a_cookie_that_scripts_cannot_read(world: World) -> None:
    answer = world.stranger.post("/api/session", {"token": world.site.sessions.token})
    assert answer.status == 204
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(attributes)
    assert world.stranger.get("/api/state", cookie=cookie).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"token": "x"}', 403), (b'{"token": ""}', 403), (b'{"token": null}', 403), (b'{"token": 1}', 403),
        (b'{"token": ["a"]}', 403), (b"{}", 403), (b"[]", 403), (b'"text"', 403), (b"", 400), (b"{", 400),
        (b"[" * 3000, 400), (b"\xff", 400), (b'{"token": "\\ud800"}', 403),
        (b'{"token": "' + b"x" * 5000 + b'"}', 413),
    ],
)  # fmt: skip
def test_no_other_token_does(world: World, body: bytes, status: int) -> None:
    answer = world.stranger.ask("POST", "/api/session", {"content-type": "application/json"}, [body])
    assert answer.status == status
    assert "set-cookie" not in answer.headers


def test_a_form_of_another_site_cannot_send_a_token(world: World) -> None:
    body = f'{{"token": "{world.site.sessions.token}"}}'.encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = world.stranger.ask("POST", "/api/session", {"content-type": kind}, [body])
        assert answer.status == 415


@pytest.mark.parametrize(
    "target", ["/", "/static/page.js", "/api/state", "/nothing", "/api/pictures/x/image"]
)
def test_every_answer_has_the_headers_that_protect_it(world: World, target: str) -> None:
    for browser in (world.browser, world.stranger):
        headers = browser.get(target).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")]


def test_the_key_is_private_and_survives_a_restart(tmp_path: Path) -> None:
    first, second = (Sessions(tmp_path / "state", 8765) for _ in range(2))
    assert first.token != second.token
    assert first.value == second.value
    assert first.value != Sessions(tmp_path / "elsewhere", 8765).value
    path = tmp_path / "state/page.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_another_chosen_token_ends_the_sessions_of_the_one_before(tmp_path: Path) -> None:
    one, other = (Sessions(tmp_path, 8765, token) for token in ("a" * 16, "b" * 16))
    assert one.token == "a" * 16
    assert len({one.value, other.value, Sessions(tmp_path, 8765).value}) == 3


def test_a_key_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "page.key").write_bytes(b"short")
    assert Sessions(tmp_path, 1).value == Sessions(tmp_path, 1).value
    assert len((tmp_path / "page.key").read_bytes()) == 32


def test_a_state_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"page\.key"):
        Sessions(tmp_path / "file", 1)


def test_a_page_for_other_names_answers_to_them(tmp_path: Path) -> None:
    world = World(tmp_path / "world", hosts=Hosts(frozenset({"pictures.example.org"})))
    browser = Browser(page_application(world.site, world.hosts), world.browser.cookie)
    assert browser.get("/api/state", host="pictures.example.org").status == 200
    assert browser.get("/api/state").status == 421
    world.close()
