"""The pages that show a document. All that they need comes from here, so that they work where no other host is reached.

Swagger UI and ReDoc are files of ``fastapi-offline``. Every address on the pages is relative to the page's own: it holds
below whatever path a proxy puts us. Browsers are told to ask nobody else, whatever these files would like.
"""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

DOCUMENT = "openapi.json"
FILES = Path(fastapi_offline.__file__).parent / "static"
ASSETS = "static"  # below the mount point, beside the pages
ICON = f"{ASSETS}/favicon.png"
# What a relative server of a document is relative to is the address of the document itself.
SERVERS = [{"url": "."}]
NOBODY_ELSE = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; worker-src 'self' blob:"
}


def add_pages(app: FastAPI) -> None:
    """Add the pages of an application's document to it, and what they show it with."""

    async def swagger_ui(_: Request) -> Response:
        page = get_swagger_ui_html(
            openapi_url=DOCUMENT,
            title=app.title,
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=ICON,
        )
        page.headers.update(NOBODY_ELSE)
        return page

    async def redoc(_: Request) -> Response:
        page = get_redoc_html(
            openapi_url=DOCUMENT,
            title=app.title,
            redoc_js_url=f"{ASSETS}/redoc.standalone.js",
            redoc_favicon_url=ICON,
            with_google_fonts=False,
        )
        page.headers.update(NOBODY_ELSE)
        return page

    app.add_route("/docs", swagger_ui, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
    app.mount(f"/{ASSETS}", StaticFiles(directory=FILES))
