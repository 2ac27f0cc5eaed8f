from __future__ import annotations

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from web import Server, closed_port_url, sha256

from pipeline.errors import WeightsError
from pipeline.vgg.download import CONNECT_S, download


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_download_writes_the_body_and_tells_progress(server: Server, tmp_path: Path) -> None:
    body = bytes(range(256)) * 4000
    server.send(body)
    steps: list[tuple[int, int | None]] = []
    target = tmp_path / "file"
    download(server.url(), target, sha256(body)[:8], on_progress=lambda *step: steps.append(step))
    assert target.read_bytes() == body
    assert everything_below(tmp_path) == [target]
    assert steps[-1] == (len(body), len(body))
    assert len(steps) > 1
    assert steps == sorted(steps)


def test_download_without_a_length_tells_no_total(server: Server, tmp_path: Path) -> None:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"abc")

    server.reply = reply
    steps: list[tuple[int, int | None]] = []
    download(server.url(), tmp_path / "f", sha256(b"abc"), on_progress=lambda *step: steps.append(step))
    assert steps == [(3, None)]


def break_stalled(server: Server) -> str:
    server.send(b"x" * 500, promised=1000, wait=True)
    return "stalled, nothing came for 0.2 s"


def break_silent(server: Server) -> str:
    server.reply = lambda handler: void(server.end.wait(30))
    return "stalled, nothing came for 0.2 s"


def break_truncated(server: Server) -> str:
    server.send(b"x" * 500, promised=1000)
    return ""  # Which of the two noticed, http.client or we, depends on Python.


def break_contents(server: Server) -> str:
    server.send(b"y" * 500)
    return f"begins with {sha256(b'y' * 500)[:8]}, not dcbb9e9d"


def break_missing(server: Server) -> str:
    server.reply = lambda handler: handler.send_error(404)
    return "404 Not Found"


def break_length(server: Server) -> str:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "many")
        handler.end_headers()

    server.reply = reply
    return "many"


def break_status(server: Server) -> str:
    server.reply = lambda handler: void(handler.wfile.write(b"no web server\r\n\r\n"))
    return "no web server"


def void(_: object) -> None:
    return None


@pytest.mark.parametrize(
    "breakage",
    [
        break_stalled,
        break_silent,
        break_truncated,
        break_contents,
        break_missing,
        break_length,
        break_status,
    ],
)
def test_a_failed_download_leaves_nothing_and_tells_what_to_do(
    breakage: Callable[[Server], str], server: Server, tmp_path: Path
) -> None:
    expected = breakage(server)
    with pytest.raises(WeightsError) as caught:
        download(server.url(), tmp_path / "file", "dcbb9e9d", stall_s=0.2)
    assert expected in caught.value.message
    assert "vgg19-dcbb9e9d.pth" in caught.value.message
    assert "style-pipeline weights import PATH" in caught.value.next_step
    assert caught.value.exit_code == 3
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize("url", [closed_port_url(), "no-scheme/vgg19-dcbb9e9d.pth", "http:///a-dcbb9e9d.pth"])
def test_an_absent_server_leaves_nothing_and_tells_what_to_do(url: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        download(url, tmp_path / "file", "dcbb9e9d", stall_s=0.2)
    assert "style-pipeline weights import PATH" in caught.value.next_step
    assert url in caught.value.next_step
    assert everything_below(tmp_path) == []


def test_connecting_is_given_less_time_than_reading(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection
    waits: list[float | None] = []
    sockets: list[socket.socket] = []

    def recorded(address: tuple[str, int], timeout: float | None, *rest: Any) -> socket.socket:
        waits.append(timeout)
        sockets.append(connect(address, timeout, *rest))
        return sockets[-1]

    monkeypatch.setattr(socket, "create_connection", recorded)
    server.send(b"abc")
    download(
        server.url(),
        tmp_path / "file",
        sha256(b"abc"),
        stall_s=20.0,
        on_progress=lambda done, total: waits.append(sockets[0].gettimeout()),
    )
    assert waits == [CONNECT_S, 20.0]


def test_an_interrupted_download_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.send(b"abc")

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url(), tmp_path / "file", sha256(b"abc"), on_progress=interrupt)
    assert everything_below(tmp_path) == []


def test_a_failed_download_keeps_the_file_that_was_there(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")
    break_truncated(server)
    with pytest.raises(WeightsError):
        download(server.url(), target, "dcbb9e9d")
    assert target.read_bytes() == b"before"
    assert everything_below(tmp_path) == [target]
