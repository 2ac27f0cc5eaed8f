"""Routes that change something: pictures sent to the inbox, and what commands do as well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import UsageError
from ..storage.control import Drop
from ..storage.live import Live
from .answers import Json, Refusal
from .picture_routes import INERT, file_response
from .site import Site
from .thumbnails import STYLE_EDGE, Thumbnail
from .watched import StyleFile, Watched, file_id, file_version


def inbox_routes(site: Site) -> list[Route]:
    async def style_thumbnail(request: Request) -> Response:
        style = await _style(site, request.path_params["id"])
        return await _preview(site, style.path)

    async def put_photo(request: Request) -> Response:
        style = request.query_params.get("style")
        onto = await _style(site, style) if style else None
        return await _receive(site, request, site.uploads.photo_place(_name(request), onto))

    async def put_style(request: Request) -> Response:
        return await _receive(site, request, site.uploads.style_place(_name(request)))

    return [
        Route("/api/styles/{id}/thumb", style_thumbnail),
        Route("/api/photos", put_photo, methods=["PUT"]),
        Route("/api/styles", put_style, methods=["PUT"]),
        *_running_routes(site),
        *_command_routes(site),
    ]


def _running_routes(site: Site) -> list[Route]:
    async def found(request: Request) -> Live:
        job = await site.read(site.state.running, request.path_params["id"])
        if job is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "This picture is not being made any more.")
        return job

    async def picture(request: Request) -> Response:
        path = (await found(request)).picture
        try:
            data = None if path is None else await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            data = None
        if data is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "There is no picture yet, or not any more.")
        return Response(data, media_type="image/jpeg", headers=INERT)

    async def content(request: Request) -> Response:
        return await _preview(site, (await found(request)).content)

    async def style(request: Request) -> Response:
        job = await found(request)
        return await _preview(site, job.styles[0][0] if job.styles else None)

    return [
        Route("/api/running/{id}/picture", picture),
        Route("/api/running/{id}/content", content),
        Route("/api/running/{id}/style", style),
    ]


def _command_routes(site: Site) -> list[Route]:
    """Return the routes of what commands do as well."""
    state, watched = site.state, site.state.watched

    def command(path: str, obey: Callable[[str], object]) -> Route:
        async def endpoint(request: Request) -> Response:
            answer = await site.read(obey, request.path_params.get("id", ""))
            site.streams.refresh()
            return Json(answer) if isinstance(answer, dict) else Response(status_code=HTTPStatus.NO_CONTENT)

        return Route(path, endpoint, methods=["POST"])

    return [
        command("/api/failed/retry", lambda _: _retry_all(watched)),
        command("/api/failed/{id}/retry", watched.retry),
        command(
            "/api/waiting/{id}/cancel", lambda id: watched.control.cancel(_there(state.waiting_drop(id)))
        ),
        command(
            "/api/waiting/{id}/first", lambda id: watched.control.put_first(_there(state.waiting_drop(id)))
        ),
        command(
            "/api/running/{id}/cancel", lambda id: watched.control.cancel(_there(state.running_drop(id)))
        ),
        command("/api/daemon/pause", lambda _: watched.control.pause()),
        command("/api/daemon/resume", lambda _: watched.control.resume()),
    ]


def _there(drop: Drop | None) -> Drop:
    if drop is None:
        raise Refusal(HTTPStatus.NOT_FOUND, "It is neither waiting nor being made any more.")
    return drop


async def _receive(site: Site, request: Request, place: Path) -> Response:
    announced = request.headers.get("content-length", "")
    length = int(announced[:20]) if announced.isdecimal() else None  # int() refuses thousands of digits
    uploaded = await site.uploads.receive(place, length, request.stream())
    site.streams.refresh()
    folder = "" if uploaded.relative.parent == Path() else str(uploaded.relative.parent)
    answer = {"id": uploaded.id, "name": uploaded.relative.name, "folder": folder}
    return Json(answer, HTTPStatus.CREATED)


def _retry_all(watched: Watched) -> dict[str, object]:
    """Retry all that is quarantined; what cannot be is in the answer, with the reason."""
    retried, errors = 0, []
    for one in watched.read_status()["quarantined"]:
        try:
            watched.retry(one["id"])
            retried += 1
        except UsageError as error:
            errors.append({"error": error.message, "nextStep": error.next_step})
    return {"retried": retried, "errors": errors}


async def _style(site: Site, id: str) -> StyleFile:
    style = await site.read(site.state.style, id)
    if style is None:
        raise Refusal(HTTPStatus.NOT_FOUND, "This style is not there any more.")
    return style


def _name(request: Request) -> str:
    return request.query_params.get("name", "")


async def _preview(site: Site, path: Path | None) -> Response:
    """Answer with a thumbnail of a file that is in no batch."""
    wanted = None if path is None else await asyncio.to_thread(_thumbnail_of, path)
    made = None if wanted is None else await site.previews.get(wanted, site.cache)
    if made is None:
        raise Refusal(HTTPStatus.NOT_FOUND, "This file is not there, or cannot be read as a picture.")
    return file_response(made)


def _thumbnail_of(path: Path) -> Thumbnail:
    """Return the thumbnail of a file that is in no batch; it has another name when the file is another."""
    version = file_version(path)
    return Thumbnail(f"{file_id(path)}-{version:x}.jpg", (path,), STYLE_EDGE)
