"""Answers of the page's server: JSON, refusals, and errors of the pipeline as both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from ..errors import JobError, LockedError, MachineError, PipelineError, UsageError

# How long a client should wait before it tries again what a fault of the machine prevented.
RETRY_AFTER_S = "5"


class Json(Response):
    """A value as JSON. It is ASCII: a file's name need not be valid UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json_bytes(content)


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


class Refusal(Exception):
    """Why a request is not answered, and what to do."""

    def __init__(self, status: HTTPStatus, error: str, next_step: str = "") -> None:
        super().__init__(status, error, next_step)
        self.status = status
        self.error = error
        self.next_step = next_step

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        waits = self.status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}
        more = {"retry-after": RETRY_AFTER_S} if waits else {}
        return Json(
            {"error": self.error, "nextStep": self.next_step}, self.status, {**more, **(headers or {})}
        )


def refusal_of(error: PipelineError) -> Refusal:
    """Return the refusal of a request that ended with an error."""
    if isinstance(error, UsageError | LockedError | JobError):
        status = HTTPStatus.CONFLICT
    elif isinstance(error, MachineError):
        status = HTTPStatus.SERVICE_UNAVAILABLE
    else:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Refusal(status, error.message, error.next_step)
