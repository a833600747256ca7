# SPDX-License-Identifier: Apache-2.0
"""A conversation that a speech backend carries: begun when the client is connected, begun anew if its backend
fails and the policy says so, ended with a reason. The client is told by events:

    {"type": "session", "state": "ready", "attempt": n}        a backend listens
    {"type": "session", "state": "lost", "reason": "..."}      it failed; `SpeechError.kind` says how
    {"type": "session", "state": "ended", "reason": "..."}     the call ends now
    {"type": "interrupted"}                                    queued speech was dropped
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from earshot.speech.v1 import speech_pb2 as pb

from telemetry.tracing import metadata_of
from transceiver.errors import BackendStalledError, SpeechError
from transceiver.library import hear
from transceiver.log import event
from transceiver.speech.codec import OPUS_RATE
from transceiver.speech.conversation import Client
from transceiver.speech.messages import MessageError, to_backend
from transceiver.speech.packet import OpusPacket
from transceiver.speech.playout import Playout
from transceiver.speech.pool import Backend, Pool
from transceiver.speech.stream import FORMATS, SPEECH_WINDOW_MS, Stream

ATTEMPTS = 3  # to begin, one after the other; one that lasted counts for none
LASTED = 30.0  # seconds
RETRY_AFTER = 0.2  # seconds, so that a backend's health is known by then
CLOSE_TIMEOUT = 2.0
EARLY = 20  # messages that are kept for a backend that is not ready yet


@dataclass(frozen=True)
class Policy:
    """How backends are dealt with; times in seconds."""

    retry: bool = True  # begin anew when one fails; otherwise the call ends
    start: float = 3.0
    stall: float = 3.0


@dataclass
class SpeechTally:
    """What happened since the process started."""

    dropped_us: int = 0  # of clients' sound, since a backend was too slow for it
    interruptions: int = 0


class RemoteConversation:
    """One call's (`conversation.Conversation`)."""

    def __init__(self, client: Client, name: str, pool: Pool, policy: Policy, tally: SpeechTally) -> None:
        self._client = client
        self._name = name
        self._pool = pool
        self._policy = policy
        self._tally = tally
        self._playout = Playout(self._moved)
        self._stream: Stream | None = None
        self._early: deque[str] = deque(maxlen=EARLY)
        self._running: asyncio.Task[None] | None = None
        self._closing: str | None = None

    def audio(self, source: Any) -> Playout:
        hear(source, self._heard)
        return self._playout

    def message(self, message: str | bytes) -> None:
        try:
            text = to_backend(message)
        except MessageError as error:
            self._client.tell(str(error))
            return
        if self._stream is not None:
            self._stream.message(text)
        else:
            self._early.append(text)

    def begin(self) -> None:
        if self._running is None and self._closing is None:
            self._running = asyncio.create_task(self._run())

    async def close(self, reason: str) -> None:
        self._closing = reason
        if self._running is None:
            return
        if self._stream is None:
            self._running.cancel()
        else:
            self._stream.end(reason)
        _, late = await asyncio.wait([self._running], timeout=CLOSE_TIMEOUT)
        if late:
            self._running.cancel()
            await asyncio.wait([self._running])

    def tell(self, text: str) -> None:
        """The backend's message for the client (`stream.Sink`)."""
        self._client.tell(text)

    def interrupted(self) -> None:
        """The backend has stopped the speech (`stream.Sink`)."""
        self._tally.interruptions += 1
        self._say(type="interrupted")

    def _moved(self) -> None:
        if self._stream is not None:
            self._stream.moved()

    def _say(self, **what: object) -> None:
        self._client.tell(json.dumps(what))

    def _heard(self, packet: OpusPacket | None) -> None:
        """Passes the client's sound on, or drops it while no backend listens."""
        if packet is not None and self._stream is not None:
            self._stream.hear(packet.data, packet.pts * 1_000_000 // OPUS_RATE)

    async def _run(self) -> None:
        """Attempts, until one ends as it should, or there is nothing more to try."""
        clock = asyncio.get_running_loop().time
        attempt, in_a_row = 0, 0
        while self._closing is None:
            attempt += 1
            in_a_row += 1
            started = clock()
            backend: Backend | None = None
            try:
                backend = self._pool.choose()
                reason = await self._attempt(backend, attempt)
            except SpeechError as error:
                if backend is not None:
                    backend.failed(error.kind)
                self._lost(backend, error)
                if clock() - started > LASTED:
                    in_a_row = 0
                if not self._policy.retry or in_a_row >= ATTEMPTS:
                    self._finish("backend_failed", failed=True)
                    return
                await asyncio.sleep(RETRY_AFTER)
            else:
                if self._closing is None:
                    self._finish(reason, failed=False)
                return

    async def _attempt(self, backend: Backend, attempt: int) -> str:
        """One session at one backend; returns its reason for ending. Raises `SpeechError`."""
        start = pb.Start(
            session_id=self._client.id,
            transceiver=self._name,
            metadata=self._client.metadata,
            formats=FORMATS,
            speech_window_ms=SPEECH_WINDOW_MS,
            attempt=attempt,
        )
        backend.sessions += 1
        stream = Stream(
            backend.stub.Converse(metadata=metadata_of(self._client.span)),
            self._playout,
            self,
            self._policy.stall,
        )
        try:
            await stream.open(start, self._policy.start)
            self._stream = stream
            event(logging.INFO, "backend_ready", call=self._client.id, backend=backend.name, attempt=attempt)
            self._say(type="session", state="ready", attempt=attempt)
            while self._early:
                stream.message(self._early.popleft())
            return await _unless_down(backend, stream)
        finally:
            self._stream = None
            backend.sessions -= 1
            self._tally.dropped_us += stream.dropped_us
            self._playout.interrupt()
            stream.close()

    def _lost(self, backend: Backend | None, error: SpeechError) -> None:
        event(
            logging.WARNING,
            "backend_lost",
            call=self._client.id,
            backend=backend.name if backend else "none",
            kind=error.kind,
            detail=str(error),
        )
        self._say(type="session", state="lost", reason=error.kind)

    def _finish(self, reason: str, *, failed: bool) -> None:
        self._say(type="session", state="ended", reason=reason)
        self._client.hang_up(reason, failed=failed)


async def _unless_down(backend: Backend, stream: Stream) -> str:
    """The stream's end; or, if its backend no longer answers at all, `BackendStalledError`."""
    running = asyncio.create_task(stream.run())
    watching = asyncio.create_task(backend.down.wait())
    try:
        await asyncio.wait([running, watching], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise BackendStalledError("does not answer health checks")
        return running.result()
    finally:
        watching.cancel()
        running.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)
