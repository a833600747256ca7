# SPDX-License-Identifier: Apache-2.0
"""RTP packets put in order, without a wait for those that came in order.

aiortc's jitter buffer holds four frames back before the first leaves (80 ms), keeps a lost packet's
successors until sixteen have come, and then stays that far behind. But whoever plays the sound has a jitter
buffer of its own, and whoever recognises it needs none: here a packet waits only for one that is missing
before it, and no longer than `PATIENCE` packets.
"""

from __future__ import annotations

from typing import Any

PATIENCE = 3  # packets after a gap that are held back: 60 ms
RESTART = 100  # a jump of the sequence further than this, either way, is a new beginning


class Frames:
    """What leaves at once; aiortc maps `timestamp`, that of the first."""

    def __init__(self, packets: list[tuple[int, bytes]]) -> None:
        self.timestamp = packets[0][0]
        self.data = packets[0][1]
        self._packets = packets
        self._first = self.timestamp

    def packets(self) -> list[tuple[int, bytes]]:
        """Timestamps, mapped as the first one's was, and payloads."""
        return [(self.timestamp + ((at - self._first) & 0xFFFFFFFF), data) for at, data in self._packets]


class Orderly:
    """Has of `aiortc.jitterbuffer.JitterBuffer` what a receiver of audio uses, and stands in for it."""

    def __init__(self, **_: Any) -> None:
        self._next: int | None = None  # the sequence number that is due
        self._held: dict[int, Any] = {}

    def add(self, packet: Any) -> tuple[bool, Frames | None]:
        """Takes a packet; what may leave now. Never asks for a picture (the first value)."""
        number = packet.sequence_number
        ahead = self._ahead(number)
        if self._next is None or RESTART <= ahead < 0x10000 - RESTART:
            self._held.clear()
            self._next = number
        elif ahead >= 0x8000:
            return False, None  # late, or twice
        self._held[number] = packet
        if self._next not in self._held and len(self._held) >= PATIENCE:
            self._next = min(self._held, key=self._ahead)
        leaving: list[tuple[int, bytes]] = []
        while (due := self._held.pop(self._next, None)) is not None:
            self._next = (self._next + 1) & 0xFFFF
            if due._data:
                leaving.append((due.timestamp, due._data))
        return False, Frames(leaving) if leaving else None

    def _ahead(self, number: int) -> int:
        """How far a number is ahead of the one that is due."""
        return (number - (self._next or 0)) & 0xFFFF
