# SPDX-License-Identifier: Apache-2.0
"""SpeechService for backends written in Python, with health, and the process that serves it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Any, Protocol

import grpc
import grpc.aio
from earshot.speech.v1 import speech_pb2 as pb
from earshot.speech.v1 import speech_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from transceiver.backends.session import Session
from transceiver.relay_target import is_loopback

SERVICE = "earshot.speech.v1.SpeechService"
DRAIN = 5.0  # seconds that sessions have when the process stops

_log = logging.getLogger("earshot.backend")


class Backend(Protocol):
    """What is served."""

    audio_format: pb.AudioFormat
    speech_format: pb.AudioFormat

    async def converse(self, session: Session) -> str:
        """One session, to its end; returns the reason. It is cancelled when the client has gone."""


class SpeechService(speech_pb2_grpc.SpeechServiceServicer):
    """At most `capacity` sessions of a backend at a time."""

    def __init__(self, backend: Backend, capacity: int) -> None:
        self._backend = backend
        self._capacity = capacity
        self.sessions = 0

    async def Converse(self, _: Any, context: Any) -> None:  # gRPC's name
        request = await context.read()
        if request is grpc.aio.EOF or request.WhichOneof("message") != "start":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message is not Start")
        if self.sessions >= self._capacity:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._capacity} sessions are all")
        for chosen in (self._backend.audio_format, self._backend.speech_format):
            if chosen not in request.start.formats:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no format in common")
        session = Session(request.start, self._backend.audio_format, self._backend.speech_format)
        self.sessions += 1
        try:
            await self._serve(session, context)
        finally:
            self.sessions -= 1

    async def _serve(self, session: Session, context: Any) -> None:
        reading = asyncio.create_task(_read(session, context))
        writing = asyncio.create_task(_write(session, context))
        conversing = asyncio.create_task(self._backend.converse(session))
        try:
            await asyncio.wait([reading, writing, conversing], return_when=asyncio.FIRST_COMPLETED)
            if conversing.done():
                session.outbox.put_nowait(pb.ConverseResponse(end=pb.End(reason=conversing.result())))
            elif reading.done():
                reading.result()
                return
            await writing
        finally:
            for task in (reading, writing, conversing):
                task.cancel()
            await asyncio.gather(reading, writing, conversing, return_exceptions=True)


async def _read(session: Session, context: Any) -> None:
    """Returns when the transceiver has ended the session."""
    while True:
        request = await context.read()
        if request is grpc.aio.EOF or not session.take(request):
            session.over()
            return


async def _write(session: Session, context: Any) -> None:
    """Returns when the end has been written."""
    while True:
        response = await session.outbox.get()
        await context.write(response)
        if response.WhichOneof("message") == "end":
            return


async def serve(backend: Backend, listen: str, capacity: int, ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT: then it is unhealthy at once, and sessions have a while to end.

    Raises `OSError` if it cannot listen, or should not: nothing is encrypted here.
    """
    if not listen.startswith("unix:") and not is_loopback(listen.rpartition(":")[0].strip("[]")):
        raise OSError(f"cannot listen on {listen}: unix:PATH, or HOST:PORT of a loopback address")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = grpc.aio.server()
    service = SpeechService(backend, capacity)
    speech_pb2_grpc.add_SpeechServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    try:
        server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {listen}: {error}") from None
    await state.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    ready()
    await stop.wait()
    await state.enter_graceful_shutdown()
    await server.stop(DRAIN if service.sessions else 0)
