# SPDX-License-Identifier: Apache-2.0
"""A request for another transceiver's session, handed to that one.

A load balancer sends what concerns a session to any transceiver. The path names the owner, and whoever gets
the request hands it on: to peers that it was told of, once, and not to more than it can wait for. Media has
nothing to do with any of this.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from transceiver.hops import HOP, end_to_end
from transceiver.problem import problem

HANDED_ON = ("PATCH", "DELETE")
AT_ONCE = 64  # requests that are handed on; more are answered 503
MOST_ANSWER = 65536  # bytes
NAME = "{name}"
RETRY_AFTER = {"Retry-After": "1"}
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)  # of a host's name (RFC 1123)


class PeersError(ValueError):
    """A peer's address cannot be used."""


@dataclass(frozen=True)
class Known:
    """Who the others are, and where their HTTP is.

    Attributes:
        named: base URLs, by the name of the transceiver.
        template: a base URL whose host begins with `{name}`, which stands for the name of any other.
        ca: who signs the certificates of those with https, if not one that the system trusts.

    Raises:
        PeersError: one of these cannot be.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    ca: Path | None = None

    def __post_init__(self) -> None:
        for url in self.named.values():
            _check(url)
        if self.template:
            # A name is part of a path that anybody may send: it must not lead out of the domain.
            if not (urlsplit(self.template).hostname or "").startswith(f"{NAME}."):
                raise PeersError(f"{self.template!r} is not of the form http://{NAME}.DOMAIN[:PORT]")
            _check(self.template.replace(NAME, "name"))

    def url_of(self, owner: str) -> str | None:
        """Where a transceiver's HTTP is; None if nobody has said."""
        if owner in self.named:
            return self.named[owner]
        if self.template and _LABEL.fullmatch(owner):
            return self.template.replace(NAME, owner)
        return None


class Peers:
    """Hands requests on, inside the application that `opened` is a context of.

    Attributes:
        own: this transceiver's name.
    """

    def __init__(self, own: str, known: Known, timeout: float) -> None:
        """`timeout`: seconds that another has to answer.

        Raises `OSError` (`ssl.SSLError` is one) if `ca` cannot be used.
        """
        self.own = own
        self._known = known
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._room = AT_ONCE
        self._ssl = ssl.create_default_context(cafile=known.ca) if known.ca else True
        self._client: aiohttp.ClientSession | None = None

    async def opened(self, _: web.Application) -> AsyncIterator[None]:
        """For `cleanup_ctx`."""
        async with aiohttp.ClientSession(timeout=self._timeout, trust_env=False) as self._client:
            yield

    def is_own(self, owner: str) -> bool:
        """Whether a session of that owner is this transceiver's."""
        return owner == self.own

    async def hand_on(self, request: web.Request, owner: str) -> web.Response:
        """The owner's answer, or why there is none."""
        if HOP in request.headers:
            return problem(404, f"{request.headers[HOP]} took {self.own} for {owner}, which it is not")
        url = self._known.url_of(owner)
        if url is None:
            return problem(421, f"the session is {owner}'s, and {self.own} does not know where that is")
        if not self._room:
            return problem(503, "too many requests for other transceivers' sessions", RETRY_AFTER)
        body = await request.read()
        self._room -= 1
        try:
            return await self._ask(url, request, body)
        except (aiohttp.ClientError, asyncio.IncompleteReadError, TimeoutError, OSError):
            return problem(503, f"{owner}, whose session it is, does not answer", RETRY_AFTER)
        finally:
            self._room += 1

    async def _ask(self, url: str, request: web.Request, body: bytes) -> web.Response:
        assert self._client is not None, "handed on outside of the application"
        headers = end_to_end(request.headers.items())
        headers[HOP] = self.own
        async with self._client.request(
            request.method,
            f"{url}{request.rel_url.raw_path}",
            data=body,
            headers=headers,
            allow_redirects=False,
            ssl=self._ssl,
        ) as answer:
            # More than any answer has. What is longer is cut, and so no answer that a client would take.
            text = await answer.content.read(MOST_ANSWER)
            return web.Response(status=answer.status, body=text, headers=end_to_end(answer.headers.items()))


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise PeersError(f"{url!r} is not http://HOST[:PORT] or https://HOST[:PORT]") from None
    if parts.query or parts.fragment or parts.username or url.endswith("/"):
        raise PeersError(f"{url!r}: no slash at its end, no query, no user")
