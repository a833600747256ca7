# SPDX-License-Identifier: Apache-2.0
"""When somebody begins and ends to speak, from what a voice activity detector says of each 20 ms. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

FRAME_MS = 20
PRE_ROLL_MS = 300  # of sound before the beginning: the first consonant is often taken for noise


class Began(NamedTuple):
    """Somebody speaks."""

    at_us: int


class Ended(NamedTuple):
    """It was this, from a little before the beginning until the silence that ended it."""

    at_us: int  # of the last voiced frame's end
    sound: bytes


@dataclass(frozen=True)
class Patience:
    """How sure one wants to be; milliseconds."""

    voiced: int = 120  # of the last 200 that are voiced: somebody speaks
    silence: int = 500  # in which nothing is: it was all
    longest: int = 15_000  # a turn


class Turns:
    """One client's turns."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._recent: deque[tuple[bool, bytes]] = deque(maxlen=PRE_ROLL_MS // FRAME_MS)
        self._sound: list[bytes] = []
        self._speaking = False
        self._silent_ms = 0
        self._last_voiced_us = 0

    def hear(self, timestamp_us: int, frame: bytes, voiced: bool) -> Began | Ended | None:
        """Takes 20 ms; what they mean."""
        if voiced:
            self._last_voiced_us = timestamp_us + FRAME_MS * 1000
        if not self._speaking:
            return self._waits(timestamp_us, frame, voiced)
        self._sound.append(frame)
        self._silent_ms = 0 if voiced else self._silent_ms + FRAME_MS
        too_long = len(self._sound) * FRAME_MS >= self._patience.longest
        if self._silent_ms < self._patience.silence and not too_long:
            return None
        self._speaking = False
        self._recent.clear()
        sound, self._sound = b"".join(self._sound), []
        return Ended(self._last_voiced_us, sound)

    def _waits(self, timestamp_us: int, frame: bytes, voiced: bool) -> Began | None:
        self._recent.append((voiced, frame))
        latest = list(self._recent)[-200 // FRAME_MS :]
        if sum(FRAME_MS for was_voiced, _ in latest if was_voiced) < self._patience.voiced:
            return None
        self._speaking = True
        self._silent_ms = 0
        self._sound = [heard for _, heard in self._recent]
        return Began(timestamp_us)
