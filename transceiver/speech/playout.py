# SPDX-License-Identifier: Apache-2.0
"""Speech as a track of Opus packets, in real time. While nothing is said, nothing is encoded or sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from transceiver.speech.buffer import Ended, SpeechBuffer
from transceiver.speech.codec import FRAME_US, OPUS_RATE, encoder
from transceiver.speech.libopus import OpusEncoder
from transceiver.speech.packet import OpusPacket

FRAME = FRAME_US / 1e6  # seconds
PAUSE = 3 * FRAME  # a frame that is later than this begins a new run, and its timestamp shows the pause


class Playout(MediaStreamTrack):  # type: ignore[misc]  # aiortc is untyped to mypy
    """What the client hears. `moved`, which must not block, is told when speech was played or dropped."""

    kind = "audio"

    def __init__(self, moved: Callable[[], None]) -> None:
        super().__init__()
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._buffer = SpeechBuffer(None, 0)
        self._encoder: OpusEncoder | None = None
        self._waiting: asyncio.Future[None] | None = None  # whoever waits for the next packet
        self._alarm: asyncio.TimerHandle | None = None  # that wakes it when there is one, and it is due
        self._origin: float | None = None  # when slot 0 was, or would have been, due
        self._slot = 0  # of 20 ms

    def begin(self, rate: int | None, window_us: int) -> None:
        """From now on speech comes as samples of `rate`, or as Opus (None); what was left is dropped."""
        self._buffer = SpeechBuffer(rate, window_us)
        self._encoder = encoder(rate) if rate is not None else None

    def push(self, utterance: int, data: bytes, last: bool) -> None:
        """Plays it after all that waits. Raises `SpeechFault`."""
        self._buffer.push(utterance, data, last)
        self._set_alarm()
        if last:
            self._moved()

    def interrupt(self) -> None:
        """Drops all that waits: at most the frame that has just been sent is still heard."""
        self._buffer.clear()
        self._moved()

    @property
    def used_us(self) -> int:
        """Speech that was played or dropped since `begin`."""
        return self._buffer.used_us

    def take_ended(self) -> list[Ended]:
        """The utterances that have ended since it was last asked."""
        return self._buffer.take_ended()

    async def recv(self) -> OpusPacket:
        """The next packet, when it is due. What is interrupted until then is not in it."""
        while self.readyState == "live":
            if not self._buffer or self._due() > self._clock():
                await self._until_due()
                continue
            frame = self._buffer.pop()
            assert frame is not None
            data = self._encoder.encode(frame.data) if self._encoder else frame.data
            packet = OpusPacket(self._slot * FRAME_US * OPUS_RATE // 1_000_000, data)
            self._slot += 1
            self._moved()
            return packet
        raise MediaStreamError

    async def _until_due(self) -> None:
        """Waits, once for both: speech, and the time to play it."""
        self._waiting = self._loop.create_future()
        self._set_alarm()
        try:
            await self._waiting
        finally:
            self._waiting = None
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    def _set_alarm(self) -> None:
        if self._waiting is not None and self._alarm is None and self._buffer:
            self._alarm = self._loop.call_at(self._due(), self._wake)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _due(self) -> float:
        """When the present slot is due. After a pause it is a later one, due at once."""
        now = self._clock()
        if self._origin is None:
            self._origin = now
        late = now - self._origin - self._slot * FRAME
        if late > PAUSE:
            self._slot += int(late / FRAME)
            self._origin = now - self._slot * FRAME
        return self._origin + self._slot * FRAME
