"""Routes to the pictures of an outbox. A browser knows them by ids, which only the index can resolve."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from .answers import Json, Refusal
from .pictures import CONTENT_TYPES, is_shown_as_it_is, picture_details
from .results import Result
from .site import Site

# Addresses change with what is behind them.
FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}
# A file must not do anything in a browser, whatever it is.
INERT = {"content-security-policy": "default-src 'none'; sandbox"}


def picture_routes(site: Site) -> list[Route]:
    async def found(request: Request) -> Result:
        result = await site.read(site.state.results.get, request.path_params["id"])
        if result is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "This picture is not there any more.")
        return result

    async def pictures(request: Request) -> Response:
        before = request.query_params.get("before", "")
        try:
            return Json(await site.read(site.state.page, before))
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"before: '{before}' is no mark.") from error

    async def picture(request: Request) -> Response:
        result = await found(request)
        read = await site.read(site.state.results.read, result)
        if read is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "This picture is not there any more.")
        return Json(picture_details(result, read))

    async def image(request: Request) -> Response:
        result = await found(request)
        path = await site.read(site.files.image, result)
        if path is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "This picture is not there any more.")
        return file_response(path, Path(result.image).name, as_download="download" in request.query_params)

    async def part(request: Request) -> Response:
        """Answer with a thumbnail or, where a result has none, with the result itself."""
        result = await found(request)
        name = request.url.path.rpartition(f"/{result.id}/")[2]
        wanted = await site.read(site.files.thumbnail, result, name)
        if wanted is not None and (path := await site.previews.get(*wanted)) is not None:
            return file_response(path)
        own = await site.read(site.files.image, result) if name in {"thumb", "large"} else None
        if own is None or not is_shown_as_it_is(own):
            raise Refusal(HTTPStatus.NOT_FOUND, "There is no picture of this.")
        return file_response(own)

    return [
        Route("/api/pictures", pictures),
        Route("/api/pictures/{id}", picture),
        Route("/api/pictures/{id}/image", image),
        Route("/api/pictures/{id}/thumb", part),
        Route("/api/pictures/{id}/large", part),
        Route("/api/pictures/{id}/content", part),
        Route("/api/pictures/{id}/styles/{number:int}", part),
    ]


def file_response(path: Path, name: str = "", as_download: bool = False) -> Response:
    """Answer with a picture, under the type that its suffix stands for here, whatever is in it."""
    kind = CONTENT_TYPES[path.suffix.lower()]
    headers = {**INERT, **FOR_EVER}
    if name:
        disposition = "attachment" if as_download else "inline"
        headers["content-disposition"] = (
            f"{disposition}; filename*=utf-8''{quote(name, safe='', errors='replace')}"
        )
    return FileResponse(path, headers=headers, media_type=kind)
