"""Routes that change something: pictures sent to the inbox, and what commands do as well."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import UsageError
from .answers import Json, Refusal
from .picture_routes import file_response
from .site import Site
from .thumbnails import STYLE_EDGE, Thumbnail
from .watched import StyleFile, Watched, file_id, file_version


def inbox_routes(site: Site) -> list[Route]:
    async def style_thumbnail(request: Request) -> Response:
        style = await _style(site, request.path_params["id"])
        path = await site.previews.get(await site.read(_thumbnail_of, style.path), site.cache)
        if path is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"{style.path.name}: cannot be read, or not yet.")
        return file_response(path)

    async def put_photo(request: Request) -> Response:
        style = request.query_params.get("style")
        onto = await _style(site, style) if style else None
        return await _receive(site, request, site.uploads.photo_place(_name(request), onto))

    async def put_style(request: Request) -> Response:
        return await _receive(site, request, site.uploads.style_place(_name(request)))

    async def retry(request: Request) -> Response:
        await site.read(site.state.watched.retry, request.path_params["id"])
        site.streams.refresh()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def retry_all(request: Request) -> Response:
        answer = await site.read(_retry_all, site.state.watched)
        site.streams.refresh()
        return Json(answer)

    return [
        Route("/api/styles/{id}/thumb", style_thumbnail),
        Route("/api/photos", put_photo, methods=["PUT"]),
        Route("/api/styles", put_style, methods=["PUT"]),
        Route("/api/failed/retry", retry_all, methods=["POST"]),
        Route("/api/failed/{id}/retry", retry, methods=["POST"]),
    ]


async def _receive(site: Site, request: Request, place: Path) -> Response:
    length = request.headers.get("content-length", "")
    uploaded = await site.uploads.receive(
        place, int(length) if length.isdecimal() else None, request.stream()
    )
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


def _thumbnail_of(path: Path) -> Thumbnail:
    """Return the thumbnail of a file that is in no batch; it has another name when the file is another."""
    version = file_version(path)
    return Thumbnail(f"{file_id(path)}-{version:x}.jpg", (path,), STYLE_EDGE)
