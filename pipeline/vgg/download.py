"""Fetches a file of weights over HTTP: whole and with the right digest, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ..errors import WeightsError
from ..storage.files import published

Progress = Callable[[int, int | None], None]

# Many addresses may each have to time out before a machine without a way out is known to be one.
CONNECT_S = 4.0
CHUNK_BYTES = 1 << 18


def download(
    url: str,
    destination: Path,
    sha256_prefix: str,
    stall_s: float = 20.0,
    on_progress: Progress | None = None,
) -> None:
    """Fetch `url` into `destination`, which appears only when it is complete and has the right digest.

    Gives up when nothing comes for `stall_s` seconds. `on_progress` gets the bytes done and the bytes
    in total (None where the server does not say). Raises WeightsError on any failure.
    """
    opener = urllib.request.build_opener(_Http, _Https)
    try:
        with opener.open(url, timeout=stall_s) as response, published(destination) as file:
            found = _receive(response, file, on_progress)
            if not found.startswith(sha256_prefix):
                raise _download_error(
                    url, f"its SHA-256 begins with {found[:8]}, not {sha256_prefix}: damaged or replaced"
                )
    except urllib.error.HTTPError as error:
        error.close()
        raise _download_error(url, f"the server answered {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise _download_error(url, f"it stalled, nothing came for {stall_s:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _download_error(url, str(getattr(error, "reason", error))) from error


def sha256_prefix(url: str) -> str:
    """Return the digits of its SHA-256 that a file has in its name. Raises WeightsError without any."""
    match = re.search(r"-([0-9a-f]{8,64})\.\w+$", urlsplit(url).path)
    if match is None:
        raise _download_error(url, "its name ends in no SHA-256 prefix, so it cannot be checked")
    return match[1]


def _receive(response: Any, file: BinaryIO, on_progress: Progress | None) -> str:
    """Copy the body to `file`; return its SHA-256. Raises OSError when it is shorter than promised."""
    promised = response.headers.get("Content-Length")
    total = int(promised) if promised is not None else None
    digest, done = hashlib.sha256(), 0
    while chunk := response.read(CHUNK_BYTES):
        file.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        if on_progress is not None:
            on_progress(done, total)
    if total is not None and done != total:
        raise OSError(f"it ended early, after {done} of {total} bytes")
    return digest.hexdigest()


class _Connection(http.client.HTTPConnection):
    """Waits `CONNECT_S` at most for a connection, then the caller's time-out for every read."""

    def connect(self) -> None:
        stall_s, self.timeout = self.timeout, min(self.timeout or CONNECT_S, CONNECT_S)
        super().connect()
        self.sock.settimeout(stall_s)


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    pass


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req)


def _download_error(url: str, reason: str) -> WeightsError:
    return WeightsError(
        f"Downloading {urlsplit(url).path.rpartition('/')[2]} failed: {reason}.",
        f"Run again, or download {url} on another machine and run `style-pipeline weights import PATH`.",
    )
