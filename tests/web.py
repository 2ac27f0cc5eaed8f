"""A web server on this machine, for tests of downloads."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

Reply = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A web server on this machine that answers every request with `reply`."""

    def __init__(self) -> None:
        self.reply: Reply
        self.requests = 0
        self.end = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                outer.reply(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, name: str = "vgg19-dcbb9e9d.pth") -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def send(self, body: bytes, promised: int | None = None, wait: bool = False) -> None:
        """Answer with `body`, a Content-Length of `promised`, and then silence if `wait`."""

        def reply(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body) if promised is None else promised))
            handler.end_headers()
            handler.wfile.write(body)
            handler.wfile.flush()
            if wait:
                self.end.wait(30)

        self.reply = reply

    def close(self) -> None:
        self.end.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def closed_port_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/vgg19-dcbb9e9d.pth"


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
