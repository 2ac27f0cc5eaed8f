"""Serves the page from a thread, for as long as a command runs."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from ..errors import MachineError, UsageError
from ..execution.executors import InProcessExecutor
from ..spec.config import Config
from .app import page_application
from .pictures import PictureFiles
from .previews import Previews, remove_old, worker_for_previews
from .results import Results
from .security import SHORTEST_TOKEN, Sessions, allowed_hosts, is_loopback
from .site import Site
from .state import State
from .watched import Watched

LOOPBACK = ("127.0.0.1", "::1")
# A picture that takes longer than this has no thumbnail.
THUMBNAIL_S = 60.0
# At the end, whoever still sends or reads something has this many seconds for it.
GRACE_S = 1
MOST_CONNECTIONS = 512

logger = logging.getLogger(__name__)


@contextmanager
def serving(config: Config, watched: Watched, token: str = "") -> Iterator[str]:
    """Serve the page of a configuration while the block runs, and yield its address.

    Without a `token` it has a new one each time.

    Raises:
        UsageError: there is no such address, or it needs a token.
        MachineError: the port cannot be used.
        DiskError: state_dir cannot be used.
    """
    host = config.page.host or ""
    check_token(host, token)
    with ExitStack() as stack:
        sockets = listen(host, config.page.port)
        for one in sockets:
            stack.callback(one.close)
        address, port = sockets[0].getsockname()[:2]
        sessions = Sessions(config.state_dir, port, token)
        results = Results(config.outbox)
        make = worker_for_previews(partial(InProcessExecutor, config), THUMBNAIL_S)
        cache = config.cache_dir / "page"
        originals = ((watched.inbox, config.watch.archive_dir),)
        site = Site(
            State(results, watched, config.state_dir),
            PictureFiles(results, originals),
            Previews(make),
            sessions,
            cache,
        )
        stack.callback(site.close)
        remove_old(cache, time.time())
        site.uploads.sweep()
        hosts = allowed_hosts(host, config.page.allow_hosts)
        server = _Server(site, _uvicorn_config(page_application(site, hosts)))
        stack.enter_context(server.running(sockets))
        yield f"http://{_shown(address)}:{port}/#token={sessions.token}"


def check_token(host: str, token: str) -> None:
    """Refuse to be seen from other machines without a token, and a token that is easily guessed.

    Raises:
        UsageError: so it would be.
    """
    if token and len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"The token has {len(token)} characters, and needs at least {SHORTEST_TOKEN}.",
            "`openssl rand -hex 16` prints a good one.",
        )
    if host and not is_loopback(host) and not token:
        raise UsageError(
            f"{host}: other machines could reach the page there.",
            "Set a token with --token or STYLE_PIPELINE_TOKEN, or use a tunnel; docs/page.md describes both.",
        )


def _uvicorn_config(application: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # anyone could send them
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
    )


class _Server(uvicorn.Server):
    """A server that first ends what it keeps open, so that open pages do not keep it from ending."""

    def __init__(self, site: Site, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.site = site

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.site.stop()
        await super().shutdown(sockets)

    @contextmanager
    def running(self, sockets: list[socket.socket]) -> Iterator[None]:
        """Serve from a thread while the block runs."""
        # What it reports is about clients that send no HTTP, or do not end; our own faults are logged apart.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        thread = threading.Thread(target=self._run, args=(sockets,), name="style-pipeline page", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.should_exit = True
            thread.join()

    def _run(self, sockets: list[socket.socket]) -> None:
        try:
            asyncio.run(self.serve(sockets))
        except BaseException as error:  # the command goes on without the page
            logger.error("the page ended: unexpected %s: %s", type(error).__name__, error, exc_info=error)


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on a port of a host or, without one, of both loopback addresses.

    Raises:
        UsageError: there is no such host.
        MachineError: the port cannot be used.
    """
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host):
            try:
                sockets.append(_listen_on(family, address, sockets[0].getsockname()[1] if sockets else port))
            except OSError as error:
                # A machine without IPv6 has the first address alone.
                if sockets and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    continue
                raise
    except OSError as error:
        for one in sockets:
            one.close()
        raise _cannot_listen(host or LOOPBACK[0], port, error) from error
    return sockets


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        return [
            (family, str(address[0]))
            for one in ([host] if host and host != "localhost" else LOOPBACK)
            for family, *_, address in socket.getaddrinfo(one, None, type=socket.SOCK_STREAM)
        ]
    except OSError as error:
        raise UsageError(
            f"--host {host}: there is no such address ({error.strerror or error}).", "Give an IP address."
        ) from error


def _listen_on(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if os.name != "nt":  # there it would share the port with other programs
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
        one.listen()
    except OSError:
        one.close()
        raise
    return one


def _cannot_listen(host: str, port: int, error: OSError) -> MachineError:
    if error.errno == errno.EADDRINUSE:
        return MachineError(
            f"Port {port} of {host} is in use, perhaps by another page of style-pipeline.",
            "Open that one, or give another port with --port; --port 0 takes any that is free.",
        )
    return MachineError(
        f"The page cannot listen on port {port} of {host} ({error.strerror or error}).",
        "Give another port with --port.",
    )


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
