# SPDX-License-Identifier: Apache-2.0
"""A load balancer for HTTP that knows nothing of sessions: every request goes to the next one that is ready.

python -m tests.lab.balancer --listen 192.0.2.2:8080 --to http://192.0.2.2:8081 --to http://192.0.2.2:8082
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

TIMEOUT = aiohttp.ClientTimeout(total=60)
_LOOK_SECONDS = 0.2
_DROPPED = {"host", "content-length", "transfer-encoding", "connection"}


class Balancer:
    """Round and round.

    Attributes:
        targets: base URLs, in their order; may be changed at any time.
        sent: the target and path of each request, as they came.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.targets = list(targets)
        self.sent: list[tuple[str, str]] = []
        self._ready = set(targets)
        self._turn = 0

    @asynccontextmanager
    async def serving(self, host: str, port: int = 0) -> AsyncIterator[str]:
        """Listens there; yields its own base URL."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as self._http:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._hand_on)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
            looking = asyncio.create_task(self._look())
            try:
                yield f"http://{host}:{runner.addresses[0][1]}"
            finally:
                looking.cancel()
                await runner.cleanup()

    async def _look(self) -> None:
        while True:
            for target in self.targets:
                try:
                    async with self._http.get(f"{target}/readyz") as answer:
                        ready = answer.status == 200
                except aiohttp.ClientError:
                    ready = False
                (self._ready.add if ready else self._ready.discard)(target)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _hand_on(self, request: web.Request) -> web.Response:
        there = [target for target in self.targets if target in self._ready] or self.targets
        target = there[self._turn % len(there)]
        self._turn += 1
        self.sent.append((target, request.path))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
        try:
            async with self._http.request(
                request.method, f"{target}{request.rel_url}", data=await request.read(), headers=headers
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
        except aiohttp.ClientError:
            return web.Response(status=502)


async def _serve(listen: str, targets: Sequence[str]) -> None:
    host, _, port = listen.rpartition(":")
    async with Balancer(targets).serving(host, int(port)):
        print("event=ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.lab.balancer")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--to", action="append", required=True)
    flags = parser.parse_args()
    asyncio.run(_serve(flags.listen, flags.to))
