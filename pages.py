"""Pages for people, served out of web/: no foreign host, nothing inline, in no other site's frame."""

from collections.abc import Mapping
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

WEB = Path(__file__).parent / "web"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}


def routes(pages: Mapping[str, str]) -> list[BaseRoute]:
    """Each page, given as path and file name, and the files that pages load. Without a page, nothing."""
    return [*(_page(path, name) for path, name in pages.items()), _assets()] if pages else []


def _page(path: str, file_name: str) -> Route:
    async def page(_: Request) -> Response:
        return FileResponse(WEB / file_name, headers=_HEADERS)

    return Route(path, page)


def _assets() -> Route:
    # Only these names are served, so no path can lead out of the folder. A page has its own route, or is off.
    names = {path.name for path in WEB.iterdir() if path.suffix != ".html"}

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in names:
            raise HTTPException(404)
        return FileResponse(WEB / name, headers=_HEADERS)

    return Route("/web/{name}", asset)
