"""The API's description at /docs, with its assets served from here and not from a CDN."""

import base64
import hashlib
import html
import re
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.responses import FileResponse

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


class Asset(FileResponse):
    # What each of many slow clients takes in memory.
    chunk_size = 16_384


def router(title: str) -> APIRouter:
    """Return the page and its assets, at relative addresses: any path prefix of a proxy works."""
    routes = APIRouter(include_in_schema=False)
    folder = files("fastapi_swagger") / "resources"
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=html.escape(title),
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
    ).body
    policy = _policy(bytes(page))

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    for name, media_type in ASSETS.items():
        asset = partial(Asset, str(folder / name), media_type=media_type)
        routes.add_api_route(f"/docs/{name}", _serving(asset), response_class=Response)
    return routes


def _serving(asset: Callable[[], Response]) -> Callable[[], Awaitable[Response]]:
    async def serve() -> Response:
        return asset()

    return serve


def _policy(page: bytes) -> str:
    """Allow the page its own assets and its one inline script, by hash (CSP Level 3)."""
    (script,) = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
