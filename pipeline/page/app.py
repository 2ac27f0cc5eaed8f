"""The page as an ASGI application: its files, the way in, the state, and how every error is answered."""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import PipelineError
from .answers import Json, Refusal, refusal_of
from .inbox_routes import inbox_routes
from .picture_routes import picture_routes
from .security import SESSION_PATH, Gate, Hosts
from .site import Site

# The longest body of a request that is not an upload.
MOST_BODY = 4096
ASSETS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def page_application(site: Site, hosts: Hosts) -> Gate:
    """Return the page as an ASGI application that answers to the names of `hosts`."""
    routes = [*_asset_routes(), *_state_routes(site), *picture_routes(site), *inbox_routes(site)]
    handlers = {
        HTTPException: _answer_http_error,
        Refusal: _answer_refusal,
        PipelineError: _answer_error,
        ClientDisconnect: _answer_nobody,
        Exception: _answer_fault,
    }
    return Gate(Starlette(routes=routes, exception_handlers=handlers), hosts, site.sessions)


# The page's own files


def _asset_routes() -> list[Route]:
    """Return the routes of the files in this package: a browser chooses among names that are known here."""
    files = {"page.html": "text/html"}
    for file in resources.files(__package__).iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in ASSETS:
            files[file.name] = ASSETS[suffix]

    async def page(request: Request) -> Response:
        return _asset(request, "page.html", files)

    async def asset(request: Request) -> Response:
        return _asset(request, request.path_params["name"], files)

    return [Route("/", page), Route("/static/{name}", asset)]


def _asset(request: Request, name: str, files: dict[str, str]) -> Response:
    if name not in files:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    data = resources.files(__package__).joinpath(name).read_bytes()
    headers = {"etag": f'"{hashlib.sha256(data).hexdigest()[:32]}"', "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(data, media_type=files[name], headers=headers)


# The way in, and the state


def _state_routes(site: Site) -> list[Route]:
    async def open_session(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Expected JSON.")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY:
                raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request is too long.")
        try:
            given = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, "Expected JSON.") from error
        if not (isinstance(given, dict) and site.sessions.is_token(given.get("token"))):
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                "This address is no longer valid.",
                "Open the address that style-pipeline printed when it started last.",
            )
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={"set-cookie": site.sessions.set_cookie()})

    async def state(request: Request) -> Response:
        return Json(await site.read(site.state.read))

    async def events(request: Request) -> Response:
        return site.streams.response()

    return [
        Route(SESSION_PATH, open_session, methods=["POST"]),
        Route("/api/state", state),
        Route("/api/events", events),
    ]


# Errors


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    texts = {HTTPStatus.NOT_FOUND: "There is no such thing here, or not any more."}
    return Refusal(status, texts.get(status, f"{status.phrase}.")).response(error.headers)


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PipelineError)
    return refusal_of(error).response()


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # the client went away, and does not read it


async def _answer_fault(request: Request, error: Exception) -> Response:
    return Refusal(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"Unexpected {type(error).__name__}.",
        "This is a fault in style-pipeline; please report it with its log.",
    ).response()
