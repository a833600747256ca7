# SPDX-License-Identifier: Apache-2.0
"""Speech that waits to be played: cut into frames of 20 ms, accounted for by utterance. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from transceiver.speech.codec import FRAME_US, OPUS_RATE, SAMPLE_BYTES, frame_bytes, opus_us

MOST_SECONDS = 1  # in one piece


class SpeechFault(ValueError):
    """What a backend sent is not what was agreed on."""


class Frame(NamedTuple):
    """20 ms of speech."""

    utterance: int
    data: bytes
    used: int  # samples of what came; the rest is silence that fills the frame up


class Ended(NamedTuple):
    """An utterance that is over, and how much of it was played."""

    utterance: int
    played_us: int
    interrupted: bool


class SpeechBuffer:
    """Holds at most `window_us` of speech; `rate` is that of samples, or None for Opus packets."""

    def __init__(self, rate: int | None, window_us: int) -> None:
        self._rate = rate
        self._hz = rate or OPUS_RATE
        self._window = window_us * self._hz // 1_000_000
        self._frames: deque[Frame] = deque()
        self._partial = b""
        self._open: int | None = None  # the utterance that speech was last pushed for, until its end
        self._played: dict[int, int] = {}  # samples, by utterance that is not over
        self._closed: set[int] = set()  # utterances whose end has been pushed
        self._ended: list[Ended] = []
        self._used = 0  # samples that were played or dropped
        self._waiting = 0  # samples

    def push(self, utterance: int, data: bytes, last: bool) -> None:
        """Speech to be played after all that waits. Raises `SpeechFault`."""
        samples = self._samples(data)
        if self._waiting + samples > self._window:
            raise SpeechFault(f"more than {self._us(self._window) // 1000} ms of speech that waits")
        if self._open not in (None, utterance):
            self._finish()
        self._open = utterance
        self._played.setdefault(utterance, 0)
        self._waiting += samples
        if self._rate is None:
            if data:
                self._frames.append(Frame(utterance, data, samples))
        else:
            self._partial += data
            self._cut(utterance, frame_bytes(self._rate))
        if last:
            self._finish()

    def pop(self) -> Frame | None:
        """The next frame, which counts as played."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._used += frame.used
        self._waiting -= frame.used
        self._played[frame.utterance] += frame.used
        self._settle(frame.utterance)
        return frame

    def clear(self) -> None:
        """Drops all that waits: what has begun ends here, interrupted."""
        self._used += self._waiting
        self._waiting = 0
        self._frames.clear()
        self._partial = b""
        self._ended += [
            Ended(utterance, self._us(played), True) for utterance, played in self._played.items()
        ]
        self._played.clear()
        self._closed.clear()
        self._open = None

    @property
    def used_us(self) -> int:
        """Microseconds of speech that were played or dropped, since the beginning."""
        return self._us(self._used)

    def take_ended(self) -> list[Ended]:
        """The utterances that have ended since it was last asked."""
        ended, self._ended = self._ended, []
        return ended

    def __bool__(self) -> bool:
        """Whether a frame is ready to be played."""
        return bool(self._frames)

    def _us(self, samples: int) -> int:
        return samples * 1_000_000 // self._hz

    def _samples(self, data: bytes) -> int:
        if self._rate is None:
            try:
                microseconds = opus_us(data) if data else 0
            except ValueError as error:
                raise SpeechFault(str(error)) from None
            if microseconds not in (0, FRAME_US):
                raise SpeechFault(f"an Opus packet of {microseconds} us: agreed on are {FRAME_US}")
            return microseconds * OPUS_RATE // 1_000_000
        if len(data) % SAMPLE_BYTES:
            raise SpeechFault(f"{len(data)} bytes are no whole samples")
        samples = len(data) // SAMPLE_BYTES
        if samples > self._rate * MOST_SECONDS:
            raise SpeechFault(f"{self._us(samples) // 1000} ms of speech in one message")
        return samples

    def _cut(self, utterance: int, size: int) -> None:
        whole = len(self._partial) // size * size
        self._frames.extend(
            Frame(utterance, self._partial[start : start + size], size // SAMPLE_BYTES)
            for start in range(0, whole, size)
        )
        self._partial = self._partial[whole:]

    def _finish(self) -> None:
        """The open utterance has come to its end; what is left of it is filled up with silence."""
        assert self._open is not None
        utterance, self._open = self._open, None
        if self._partial and self._rate is not None:
            data = self._partial.ljust(frame_bytes(self._rate), b"\0")
            self._frames.append(Frame(utterance, data, len(self._partial) // SAMPLE_BYTES))
            self._partial = b""
        self._closed.add(utterance)
        self._settle(utterance)

    def _settle(self, utterance: int) -> None:
        """Ends an utterance of which nothing waits any more and nothing will come."""
        ends = (self._frames[0].utterance, self._frames[-1].utterance) if self._frames else ()
        if utterance in self._closed and utterance not in ends:
            self._closed.discard(utterance)
            self._ended.append(Ended(utterance, self._us(self._played.pop(utterance)), False))
