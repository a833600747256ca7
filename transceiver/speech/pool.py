# SPDX-License-Identifier: Apache-2.0
"""The speech backends of a process: which are healthy, and which gets the next session.

Each is asked for its health (grpc.health.v1, service `SERVICE`) every `INTERVAL`; one that has no such
service is taken for healthy. A backend that did not answer `MISSES` times is down, and so are the sessions
it has: that is how one is noticed that hangs while its client says nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from earshot.speech.v1 import speech_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from transceiver.errors import NoBackendError
from transceiver.log import event
from transceiver.relay_target import RelayTarget

SERVICE = "earshot.speech.v1.SpeechService"
INTERVAL = 1.0
CHECK_TIMEOUT = 1.0
MISSES = 3
AVOIDED = 5.0  # seconds, after it failed a session


class Backend:
    """One of them. `sessions` are those of this process."""

    def __init__(self, target: RelayTarget, channel: Any) -> None:
        self.target = target
        self.name = str(target)
        self.sessions = 0
        self.last = 0  # when it was last chosen, by count
        self.failures: Counter[str] = Counter()  # by `SpeechError.kind`
        self.failed_at = float("-inf")
        self.healthy = False
        self.down = asyncio.Event()  # it does not answer at all
        self.stub: Any = speech_pb2_grpc.SpeechServiceStub(channel)  # type: ignore[no-untyped-call]
        self._health: Any = health_pb2_grpc.HealthStub(channel)
        self._misses = 0

    def failed(self, kind: str) -> None:
        """It has failed a session, by that `SpeechError.kind`."""
        self.failures[kind] += 1
        self.failed_at = time.monotonic()

    async def check(self) -> None:
        """Asks once."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            answer = await self._health.Check(request, timeout=CHECK_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            there = error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)
            self._judge(healthy=error.code() is grpc.StatusCode.UNIMPLEMENTED, answered=there)
        else:
            self._judge(healthy=answer.status == health_pb2.HealthCheckResponse.SERVING, answered=True)

    def _judge(self, healthy: bool, answered: bool) -> None:
        self._misses = 0 if answered else self._misses + 1
        if healthy != self.healthy:
            event(logging.INFO if healthy else logging.WARNING, "backend", target=self.name, healthy=healthy)
        self.healthy = healthy
        if answered:
            self.down.clear()
        elif self._misses >= MISSES:
            self.down.set()


class Pool:
    """The backends by configuration. Made by `pool_of`."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = backends
        self._choices = itertools.count(1)

    @property
    def available(self) -> bool:
        """Whether any would be chosen."""
        return any(backend.healthy for backend in self.backends)

    def choose(self) -> Backend:
        """The healthy one with the fewest sessions; of several, the one not chosen for the longest.

        One that has just failed a session is chosen only if there is no other. Raises `NoBackendError`.
        """
        candidates = [backend for backend in self.backends if backend.healthy]
        if not candidates:
            raise NoBackendError("no speech backend is healthy")
        lately = time.monotonic() - AVOIDED
        chosen = min(candidates, key=lambda one: (one.failed_at > lately, one.sessions, one.last))
        chosen.last = next(self._choices)
        return chosen

    async def watch(self) -> None:
        """Keeps asking for their health; runs until cancelled."""
        async with asyncio.TaskGroup() as watchers:
            for backend in self.backends:
                watchers.create_task(_watch(backend))


async def _watch(backend: Backend) -> None:
    while True:
        await backend.check()
        await asyncio.sleep(INTERVAL)


@asynccontextmanager
async def pool_of(targets: Sequence[RelayTarget]) -> AsyncIterator[Pool]:
    """The pool of these targets, each asked once for its health.

    Raises `RelayAwayError` if the files for TLS cannot be read.
    """
    async with AsyncExitStack() as channels:
        backends = [
            Backend(target, await channels.enter_async_context(target.channel())) for target in targets
        ]
        pool = Pool(backends)
        await asyncio.gather(*(backend.check() for backend in backends))
        yield pool
