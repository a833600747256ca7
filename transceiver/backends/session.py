# SPDX-License-Identifier: Apache-2.0
"""One session of proto/earshot/speech/v1, as a backend's code sees it; flow control is done here."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from earshot.speech.v1 import speech_pb2 as pb

AUDIO_WINDOW_MS = 2000
PROGRESS_US = AUDIO_WINDOW_MS * 1000 // 8  # of sound used, after which the transceiver is told
PROGRESS_AFTER = (
    PROGRESS_US / 1e6
)  # seconds, after which it is told of less: a pause finds nothing on its way


@dataclass(frozen=True)
class Heard:
    """The client's sound; `timestamp_us` is that of its first sample."""

    timestamp_us: int
    data: bytes


@dataclass(frozen=True)
class Message:
    """What the client sent over its data channel: a JSON value."""

    value: Any


@dataclass(frozen=True)
class Spoken:
    """An utterance is over: played to its end, or interrupted."""

    utterance: int
    played_us: int
    interrupted: bool


Event = Heard | Message | Spoken


class Session:
    """A session. Iterating gives what happens, until the client has gone.

    What has been iterated past counts as used; a backend that works on sound for longer than the window
    gets no more of it meanwhile.
    """

    def __init__(self, start: pb.Start, audio: pb.AudioFormat, speech: pb.AudioFormat) -> None:
        self.start = start
        self.audio_format = audio
        self.speech_format = speech
        self.outbox: asyncio.Queue[pb.ConverseResponse] = asyncio.Queue()
        self._events: deque[Event] = deque()
        self._happened = asyncio.Event()
        self._over = False
        self._utterance = 0
        self._said_us = 0  # sent, in total
        self._used_us = 0  # played or dropped there, in total
        self._room = asyncio.Event()
        self._used_until = 0  # what the transceiver is told next
        self._told_us = 0
        self._telling: asyncio.TimerHandle | None = None
        self.outbox.put_nowait(
            pb.ConverseResponse(
                ready=pb.Ready(audio_format=audio, speech_format=speech, audio_window_ms=AUDIO_WINDOW_MS)
            )
        )

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while not self._events:
                if self._over:
                    return
                self._happened.clear()
                await self._happened.wait()
            event = self._events.popleft()
            yield event
            if isinstance(event, Heard):
                self._used(event.timestamp_us)

    def begin_utterance(self) -> int:
        """A number for what is said next."""
        self._utterance += 1
        return self._utterance

    async def say(self, utterance: int, data: bytes, *, last: bool = False) -> None:
        """Sends speech when there is room: whole samples of a second at most, or one Opus packet."""
        length = self._length_us(data)
        window = self.start.speech_window_ms * 1000
        while self._said_us + length - self._used_us > window:
            self._room.clear()
            await self._room.wait()
        self._said_us += length
        speech = pb.Speech(utterance=utterance, data=data, rate_hz=self.speech_format.rate_hz, last=last)
        self.outbox.put_nowait(pb.ConverseResponse(speech=speech))

    def stop(self) -> None:
        """Drops all speech that has been sent and not played."""
        self.outbox.put_nowait(pb.ConverseResponse(stop_speech=pb.StopSpeech()))

    def tell(self, value: object) -> None:
        """Sends the client a JSON value."""
        message = pb.ClientMessage(json=json.dumps(value))
        self.outbox.put_nowait(pb.ConverseResponse(client_message=message))

    # What the service brings.

    def take(self, request: pb.ConverseRequest) -> bool:
        """What the transceiver says; False if it was the end."""
        kind = request.WhichOneof("message")
        if kind == "audio":
            self._push(Heard(request.audio.timestamp_us, request.audio.data))
        elif kind == "client_message":
            self._push(Message(json.loads(request.client_message.json)))
        elif kind == "speech_ended":
            ended = request.speech_ended
            self._push(Spoken(ended.utterance, ended.played_us, ended.interrupted))
        elif kind == "progress":
            self._used_us = request.progress.until_us
            self._room.set()
        return bool(kind != "end")

    def over(self) -> None:
        """The client has gone."""
        if self._telling is not None:
            self._telling.cancel()
        self._over = True
        self._happened.set()

    def _push(self, event: Event) -> None:
        self._events.append(event)
        self._happened.set()

    def _used(self, timestamp_us: int) -> None:
        """Not every frame is told of: a message costs the transceiver nearly as much as a frame of speech."""
        self._used_until = timestamp_us
        if timestamp_us - self._told_us >= PROGRESS_US:
            self._tell_progress()
        elif self._telling is None and not self._over:
            self._telling = asyncio.get_running_loop().call_later(PROGRESS_AFTER, self._tell_progress)

    def _tell_progress(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._told_us = self._used_until
        progress = pb.Progress(until_us=self._used_until)
        self.outbox.put_nowait(pb.ConverseResponse(progress=progress))

    def _length_us(self, data: bytes) -> int:
        if self.speech_format.encoding == pb.ENCODING_OPUS:
            return 20_000 if data else 0
        return len(data) // 2 * 1_000_000 // self.speech_format.rate_hz
