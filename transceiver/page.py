# SPDX-License-Identifier: Apache-2.0
"""The page to call from: the files of web/, as they are."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from transceiver.problem import Handler

_FOLDER = Path(__file__).parent / "web"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # they change with the process that serves them
}


def add_page(app: web.Application) -> None:
    """Serves it at / and what belongs to it under /page."""
    app.router.add_get("/", _file("index.html"))
    for name in ("page.js", "call.js", "moving.js", "meters.js", "page.css", "icon.svg"):
        app.router.add_get(f"/page/{name}", _file(name))


def _file(name: str) -> Handler:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(_FOLDER / name, headers=_HEADERS)

    return serve
