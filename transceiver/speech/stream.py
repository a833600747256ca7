# SPDX-License-Identifier: Apache-2.0
"""One Converse stream with one backend, from Start to its end. Whatever goes wrong with it ends it alone."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any, Protocol

import grpc
import grpc.aio
from earshot.speech.v1 import speech_pb2 as pb

from transceiver.errors import BackendAwayError, BackendFaultError, BackendStalledError
from transceiver.speech.buffer import SpeechFault
from transceiver.speech.codec import OPUS_RATE, RATES, decoder, opus_us
from transceiver.speech.ledger import Ledger
from transceiver.speech.libopus import OpusDecoder
from transceiver.speech.messages import MESSAGE_LIMIT, load, size
from transceiver.speech.playout import Playout

SPEECH_WINDOW_MS = 10_000  # speech is made faster than it is heard; this is 320 KB at 16 kHz
PROGRESS_US = 100_000  # of speech played, after which a backend is told
OUTBOX = 1000  # messages that may wait to be sent; sound is bounded by its window
END_TIMEOUT = 1.0  # seconds that a backend has to end the stream
FORMATS = [
    pb.AudioFormat(encoding=pb.ENCODING_PCM_S16LE, rate_hz=16000),
    *(pb.AudioFormat(encoding=pb.ENCODING_PCM_S16LE, rate_hz=rate) for rate in RATES if rate != 16000),
    pb.AudioFormat(encoding=pb.ENCODING_OPUS, rate_hz=OPUS_RATE),
]
_REASON = re.compile(r"[a-z_]{1,64}")


class Sink(Protocol):
    """Whom a stream brings what the backend says to the client."""

    def tell(self, text: str) -> None:
        """A message for the data channel."""

    def interrupted(self) -> None:
        """The backend has stopped the speech."""


class Stream:
    """The transceiver's end of a stream. `call` is the gRPC call, not yet used."""

    def __init__(self, call: Any, playout: Playout, sink: Sink, stall_timeout: float) -> None:
        self._call = call
        self._playout = playout
        self._sink = sink
        self._stall_timeout = stall_timeout
        self._clock = asyncio.get_running_loop().time
        self._outbox: deque[pb.ConverseRequest] = deque()
        self._wake = asyncio.Event()
        self._ledger: Ledger | None = None
        self._decoder: OpusDecoder | None = None
        self._speech_rate: int | None = None
        self._told_us = 0  # of speech, by Progress
        self._end = asyncio.Event()  # our End is in the outbox

    @property
    def dropped_us(self) -> int:
        """The client's sound that the backend was too slow for."""
        return self._ledger.dropped_us if self._ledger else 0

    async def open(self, start: pb.Start, timeout: float) -> None:
        """Agrees on formats. Raises `SpeechError`."""
        try:
            async with asyncio.timeout(timeout):
                await self._call.write(pb.ConverseRequest(start=start))
                response = await self._call.read()
        except TimeoutError:
            raise BackendStalledError(f"no Ready within {timeout:g} s") from None
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise _away(error) from None
        if response is grpc.aio.EOF:
            raise BackendAwayError(f"ended before Ready ({(await self._call.code()).name})")
        if response.WhichOneof("message") != "ready":
            raise BackendFaultError("the first message is not Ready")
        ready = response.ready
        for chosen in (ready.audio_format, ready.speech_format):
            if chosen not in start.formats:
                raise BackendFaultError(f"chose a format that was not offered: {chosen.rate_hz} Hz")
        if ready.audio_window_ms < 100:
            raise BackendFaultError("takes less than 100 ms of sound at a time")
        if ready.audio_format.encoding == pb.ENCODING_PCM_S16LE:
            self._decoder = decoder(ready.audio_format.rate_hz)
        self._speech_rate = ready.speech_format.rate_hz
        opus = ready.speech_format.encoding == pb.ENCODING_OPUS
        self._playout.begin(None if opus else self._speech_rate, start.speech_window_ms * 1000)
        self._ledger = Ledger(ready.audio_window_ms * 1000)

    def hear(self, packet: bytes, timestamp_us: int) -> None:
        """The client's sound, an Opus packet; dropped if it is none, or the backend does not keep up."""
        if self._ledger is None or self._end.is_set():
            return
        try:
            length_us = opus_us(packet)
            data = packet if self._decoder is None else self._decoder.decode(packet)
        except ValueError:
            return
        if data and self._ledger.sends(timestamp_us, length_us, self._clock()):
            self._send(pb.ConverseRequest(audio=pb.Audio(timestamp_us=timestamp_us, data=data)))

    def message(self, text: str) -> None:
        """The client's message: JSON."""
        if not self._end.is_set():
            self._send(pb.ConverseRequest(client_message=pb.ClientMessage(json=text)))

    def moved(self) -> None:
        """Speech has been played, or dropped."""
        if self._ledger is None or self._end.is_set():
            return
        ended = self._playout.take_ended()
        used = self._playout.used_us
        if used - self._told_us >= PROGRESS_US or (ended and used > self._told_us):
            self._told_us = used
            self._send(pb.ConverseRequest(progress=pb.Progress(until_us=used)))
        for one in ended:
            said = pb.SpeechEnded(
                utterance=one.utterance, played_us=one.played_us, interrupted=one.interrupted
            )
            self._send(pb.ConverseRequest(speech_ended=said))

    async def run(self) -> str:
        """Serves the stream until the backend ends it; returns its reason. Raises `SpeechError`."""
        tasks = [asyncio.create_task(work) for work in (self._read(), self._write(), self._watch())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # Of several that ended at once the reader knows the reason best.
            return next(task for task in tasks if task in done).result()
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise _away(error) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def end(self, reason: str) -> None:
        """Tells the backend that the session is over; `run` then returns soon."""
        if not self._end.is_set():
            self._outbox.append(pb.ConverseRequest(end=pb.End(reason=reason)))
            self._end.set()
            self._wake.set()

    def _send(self, request: pb.ConverseRequest) -> None:
        if len(self._outbox) < OUTBOX:  # beyond that, `_watch` ends it
            self._outbox.append(request)
            self._wake.set()

    async def _write(self) -> str:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                request = self._outbox.popleft()
                try:
                    await self._call.write(request)
                except (grpc.RpcError, asyncio.InvalidStateError):
                    await asyncio.sleep(END_TIMEOUT)  # the reader meets the same break, and says why
                    raise
                if request.WhichOneof("message") == "end":
                    await self._call.done_writing()
                    await asyncio.sleep(END_TIMEOUT)
                    return request.end.reason

    async def _watch(self) -> str:
        """Raises when the backend does not take what it is sent."""
        assert self._ledger is not None
        while True:
            await asyncio.sleep(self._stall_timeout / 4)
            if self._ledger.stalled(self._clock(), self._stall_timeout):
                raise BackendStalledError(f"has used no sound for {self._stall_timeout:g} s")
            if len(self._outbox) >= OUTBOX:
                raise BackendStalledError(f"{OUTBOX} messages wait for it")

    async def _read(self) -> str:
        while True:
            response = await self._call.read()
            if response is grpc.aio.EOF:
                if self._end.is_set():
                    return ""
                raise BackendAwayError(f"ended without End ({(await self._call.code()).name})")
            kind = response.WhichOneof("message")
            if kind == "end":
                return self._reason(response.end)
            try:
                self._take(kind, response)
            except ValueError as error:
                raise BackendFaultError(str(error)) from None

    def _take(self, kind: str, response: pb.ConverseResponse) -> None:
        """Raises `ValueError` if it is not as agreed."""
        assert self._ledger is not None
        if kind == "speech":
            speech = response.speech
            if speech.rate_hz != self._speech_rate:
                raise SpeechFault(f"speech of {speech.rate_hz} Hz; agreed on are {self._speech_rate}")
            self._playout.push(speech.utterance, speech.data, speech.last)
        elif kind == "stop_speech":
            self._playout.interrupt()
            self._sink.interrupted()
        elif kind == "client_message":
            text = response.client_message.json
            if size(text) > MESSAGE_LIMIT:
                raise ValueError(f"a message of {size(text)} bytes")
            load(text)
            self._sink.tell(text)
        elif kind == "progress":
            self._ledger.used(response.progress.until_us)
        elif kind == "ready":
            raise ValueError("a second Ready")
        # Anything else is of a newer backend.

    def _reason(self, end: pb.End) -> str:
        if not _REASON.fullmatch(end.reason):
            raise BackendFaultError("ended with a reason that is not one word of a-z and _")
        return end.reason

    def close(self) -> None:
        """Leaves nothing behind."""
        self._call.cancel()


def _away(error: BaseException) -> BackendAwayError:
    if isinstance(error, grpc.aio.AioRpcError):
        return BackendAwayError(f"{error.code().name}: {error.details() or 'no details'}")
    return BackendAwayError("the stream broke")
