# SPDX-License-Identifier: Apache-2.0
"""HTTP errors as problem details (RFC 9457)."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web

from transceiver.log import event

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error response. `detail` is for people and holds nothing secret."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return web.Response(
        status=status, text=json.dumps(body), content_type="application/problem+json", headers=headers
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the errors of aiohttp itself the same form."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return problem(error.status, _detail(error), kept)
    # A defect of ours, met by one request: it is logged with its trace and answered, and all others go on.
    except Exception as error:  # noqa: BLE001
        event(logging.ERROR, "request_failed", error=error, method=request.method, path=request.path)
        return problem(500, "an error of the server's own; it is in its log")


def _detail(error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{error.method} is not supported here"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return "the request's body is too large"
    return error.text or error.reason
