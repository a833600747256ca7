# SPDX-License-Identifier: Apache-2.0
"""The process in front of several workers: it takes HTTP, and hands each request to a worker.

A session's id ends in its worker's number, so a request for it goes there and nowhere else. An offer goes
to the next worker that takes it. Nothing is remembered here: a worker that died took its sessions with it,
and one that was started again is used at once. Media never passes through here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
from aiohttp import hdrs, web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from supervision.notify import Manager
from transceiver.cross_origin import cors
from transceiver.hops import PEER, end_to_end
from transceiver.listening import addresses, listening
from transceiver.log import event
from transceiver.merge import merged
from transceiver.peers import HANDED_ON, Peers
from transceiver.problem import problem, problems
from transceiver.settings import Settings
from transceiver.stopping import Stop
from transceiver.whip import MAX_OFFER, RETRY_AFTER, SESSION, peer_of
from transceiver.workers import Workers

STATUS_SECONDS = 2.0
LOOK_TIMEOUT = aiohttp.ClientTimeout(total=2.0)  # for metrics and health


async def serve_front(
    settings: Settings, count: int, work: Callable[[Settings, Connection], None], manager: Manager
) -> None:
    """Runs workers, and HTTP in front of them, until SIGTERM or SIGINT, and then as long as calls may go on.

    `manager` is told how it goes; it is asked after this process, which looks after its workers itself.

    Raises:
        OSError: it cannot listen.
        WorkerError: a worker cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="earshot-transceiver-") as folder:
        sockets = [Path(folder) / str(number) for number in range(count)]
        workers = Workers(
            [partial(work, settings.of_worker(number, socket)) for number, socket in enumerate(sockets)],
            settings.drain,
        )
        stop = Stop(workers.hurry)
        stop.listen()
        timeout = settings.limits.answer
        peers = Peers(settings.name, settings.web.peers, timeout)
        front = Front(sockets, workers, timeout, settings.web.origins, peers)
        runner = await listening(front.app, settings.http, settings.web)
        running = asyncio.create_task(workers.run())
        stopping = asyncio.create_task(stop.asked())
        announcing = asyncio.create_task(_announce(workers, runner))
        telling = asyncio.create_task(_tell(manager, workers, count))
        manager.ready()
        try:
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            event(logging.INFO, "stopping")
            manager.stopping()
            announcing.cancel()
            stopping.cancel()
            # As long as they drain, requests for calls that are there have to reach them.
            running.cancel()
            await asyncio.wait([running])
            telling.cancel()
            await runner.cleanup()
    if not running.cancelled():
        running.result()
    event(logging.INFO, "stopped")


class Front:
    """The HTTP application before those of the workers, which listen on `sockets`."""

    def __init__(
        self, sockets: Sequence[Path], workers: Workers, timeout: float, origins: Sequence[str], peers: Peers
    ) -> None:
        self._peers = peers
        self._sockets = sockets
        self._workers = workers
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._clients: list[aiohttp.ClientSession] = []
        self._numbers = {str(number): number for number in range(len(sockets))}
        self._first = itertools.cycle(range(len(sockets)))
        self.app = web.Application(middlewares=[cors(origins), problems], client_max_size=MAX_OFFER)
        self.app.cleanup_ctx.append(self._clients_open)
        self.app.cleanup_ctx.append(peers.opened)
        self.app.router.add_get("/metrics", self._metrics)
        self.app.router.add_get("/healthz", self._health)
        self.app.router.add_get("/readyz", self._ready)
        self.app.router.add_route("*", SESSION, self._to_owner)
        self.app.router.add_route("*", "/{path:.*}", self._to_any)

    async def _clients_open(self, _: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            for socket in self._sockets:
                client = aiohttp.ClientSession(
                    "http://worker",
                    connector=aiohttp.UnixConnector(str(socket), limit=0),
                    timeout=self._timeout,
                )
                self._clients.append(await opened.enter_async_context(client))
            yield

    async def _to_owner(self, request: web.Request) -> web.StreamResponse:
        """To the worker that a session's id names, or to the transceiver that has it.

        Whoever names a worker that is not there gets the 404 of any other.
        """
        owner = request.match_info["owner"]
        if request.method in HANDED_ON and not self._peers.is_own(owner):
            return await self._peers.hand_on(request, owner)
        number = self._numbers.get(request.match_info["id"].rpartition(".")[2])
        if number is None:
            return await self._to_any(request)
        response = await self._forward(number, request, await request.read())
        return response or problem(404, "there is no such session; the process that had it is gone")

    async def _to_any(self, request: web.Request) -> web.StreamResponse:
        """To each in turn until one takes it, beginning with another one every time."""
        body = await request.read()
        first = next(self._first)
        refusal = problem(503, "no worker is there to answer; they are being started", RETRY_AFTER)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout.total):
                for offset in range(len(self._clients)):
                    response = await self._forward((first + offset) % len(self._clients), request, body)
                    if response is not None and response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                        return response
                    refusal = response or refusal
        return refusal

    async def _forward(self, number: int, request: web.Request, body: bytes) -> web.Response | None:
        """A worker's answer; None if it is gone, and all that it began with it."""
        headers = end_to_end(request.headers.items())
        headers[PEER] = str(peer_of(request) or "")
        try:
            async with self._clients[number].request(
                request.method, request.rel_url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                kept = end_to_end(answer.headers.items())
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
        except TimeoutError:
            return problem(503, f"worker {number} does not answer", RETRY_AFTER)
        except aiohttp.ClientError:
            return None

    async def _metrics(self, _: web.Request) -> web.Response:
        answers = await self._look("/metrics")
        pages = {str(number): page for number, (status, page) in answers.items() if status == HTTPStatus.OK}
        body = merged(pages, alive=self._workers.alive, restarts=self._workers.restarts)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST})

    async def _health(self, _: web.Request) -> web.Response:
        """Good as long as one worker can take calls."""
        answers = await self._look("/healthz")
        attached = sum(status == HTTPStatus.OK for status, _ in answers.values())
        text = f"{attached} of {len(self._clients)} workers are attached"
        return web.Response(text=f"{text}\n") if attached else problem(503, f"{text} to a relay")

    async def _ready(self, _: web.Request) -> web.Response:
        """As long as one worker would take a call."""
        answers = await self._look("/readyz")
        ready = sum(status == HTTPStatus.OK for status, _ in answers.values())
        text = f"{ready} of {len(self._clients)} workers would take a call"
        return web.Response(text=f"{text}\n") if ready else problem(503, text, RETRY_AFTER)

    async def _look(self, path: str) -> dict[int, tuple[int, str]]:
        """Status and text that those workers answer which are there."""

        async def one(client: aiohttp.ClientSession) -> tuple[int, str] | None:
            try:
                async with client.get(path, timeout=LOOK_TIMEOUT) as answer:
                    return answer.status, await answer.text()
            except (aiohttp.ClientError, TimeoutError):
                return None

        answers = await asyncio.gather(*map(one, self._clients))
        return {number: answer for number, answer in enumerate(answers) if answer is not None}


async def _tell(manager: Manager, workers: Workers, count: int) -> None:
    while True:
        manager.status(f"{workers.alive} of {count} workers run")
        manager.alive()
        await asyncio.sleep(STATUS_SECONDS)


async def _announce(workers: Workers, runner: web.AppRunner) -> None:
    await workers.wait_ready()
    event(logging.INFO, "ready", http=addresses(runner))
