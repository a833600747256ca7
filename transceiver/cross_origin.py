# SPDX-License-Identifier: Apache-2.0
"""Which other sites' pages may call (CORS): a page's own site always may. Who calls is a matter of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from transceiver.problem import Handler

_EXPOSED = "Location, ETag, Retry-After, Accept-Patch"


def cors(origins: Sequence[str]) -> Middleware:
    """Tells browsers that pages of these origins may see the answers; `*` stands for all."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        origin = request.headers.get(hdrs.ORIGIN)
        if "*" in origins:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"
        else:
            response.headers[hdrs.VARY] = hdrs.ORIGIN
            if origin is not None and origin in origins:
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        if hdrs.ACCESS_CONTROL_ALLOW_ORIGIN in response.headers:
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED
        return response

    return middleware
