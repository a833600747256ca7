# SPDX-License-Identifier: Apache-2.0
"""Many WebRTC sessions by few means: set up by aiortc, then driven below it, and timed.

Each sends an Opus packet of 20 ms every 20 ms and notes when it comes back, without decoding, or decrypting,
what it is sent: so one core carries a few hundred of them. A frame is late if it is missing, or comes back
more than `LATE` after the quickest of its session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from tests.lab.line import Line
from tests.lab.line import connect as call

CLIENT = "127.0.0.2"
FRAME = 0.02  # seconds
FRAME_SAMPLES = 960
SLOTS = 20  # sessions are spread over the 20 ms
LATE = 0.03


class Session:
    """One of them, connected."""

    def __init__(self, line: Line, packets: Sequence[bytes]) -> None:
        # A client that has no time for its own checks would hang up, and end the measurement.
        line.stop_checks()
        self._line = line
        self._packets = packets
        self._number = 0
        self._clock = asyncio.get_running_loop().time
        self._sent_at: list[float] = []
        self._came_at: list[float] = []
        line.heard = lambda _: self._came_at.append(self._clock())

    def send(self) -> None:
        """The next packet."""
        number = self._number
        self._number += 1
        self._sent_at.append(self._clock())
        self._line.send(number, FRAME_SAMPLES, self._packets[number % len(self._packets)])

    def reset(self) -> None:
        """Measures anew."""
        self._sent_at, self._came_at = [], []

    def late(self, tail: float) -> tuple[int, int]:
        """How many frames were late or missing, and how many there should have been.

        What is sent comes back in order and at the pace that it was sent, later by a time that is the same
        for all: that of the quickest. The last `tail` seconds are not looked at: they may be on their way.
        """
        due = [at for at in self._sent_at if at < self._sent_at[-1] - tail]
        came = self._came_at[: len(due)]
        missing = len(due) - len(came)
        if not came:
            return len(due), len(due)
        delays = [after - before for before, after in zip(due, came, strict=False)]
        quickest = min(delays)
        return missing + sum(delay > quickest + LATE for delay in delays), len(due)

    async def close(self) -> None:
        await self._line.close()


async def connect(http: aiohttp.ClientSession, whip: str, packets: Sequence[bytes]) -> Session:
    """Sets one up."""
    return Session(await call(http, whip, CLIENT), packets)


class Load:
    """All sessions, and the task that sends for them."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.slips = 0  # times that the sender itself was late: then nothing was measured
        self._task = asyncio.create_task(self._drive())

    async def measure(self, settle: float, seconds: float, tail: float) -> float:
        """The share of frames that were not late. Takes all of these seconds together."""
        await asyncio.sleep(settle)
        self.slips = 0
        for session in self.sessions:
            session.reset()
        await asyncio.sleep(seconds + tail)
        if self._task.done():
            self._task.result()  # raises what ended it: nothing was sent any more
        counts = [session.late(tail) for session in self.sessions]
        return 1 - sum(late for late, _ in counts) / sum(due for _, due in counts)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(*(session.close() for session in self.sessions), return_exceptions=True)

    async def _drive(self) -> None:
        clock = asyncio.get_running_loop().time
        started, tick = clock(), 0
        while True:
            tick += 1
            due = started + tick * FRAME / SLOTS
            await asyncio.sleep(due - clock())
            if clock() - due > LATE / 2:
                self.slips += 1
            for session in self.sessions[tick % SLOTS :: SLOTS]:
                session.send()
