# SPDX-License-Identifier: Apache-2.0
"""What RTP statistics of a stream must be: computed plainly, with no packet forgotten."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Arrival(NamedTuple):
    """A packet as it came."""

    sequence: int  # 16 bits
    timestamp: int  # 32 bits
    nanoseconds: int


@dataclass
class Plain:
    """One SSRC, one way. Sequence numbers are extended to the nearest of what has come before."""

    clock_rate: int
    seen: list[int] = field(default_factory=list)  # extended sequence numbers, as they came
    arrivals: list[Arrival] = field(default_factory=list)

    def add(self, arrival: Arrival) -> None:
        if not self.seen:
            extended = arrival.sequence
        else:
            newest = max(self.seen)
            extended = newest + (arrival.sequence - newest + 0x8000) % 0x10000 - 0x8000
        self.seen.append(extended)
        self.arrivals.append(arrival)

    @property
    def packets(self) -> int:
        return len(set(self.seen))

    @property
    def expected(self) -> int:
        return max(self.seen) - min(self.seen) + 1

    @property
    def duplicates(self) -> int:
        return len(self.seen) - self.packets

    @property
    def reordered(self) -> int:
        return sum(
            one < max(self.seen[:at], default=one) and one not in self.seen[:at]
            for at, one in enumerate(self.seen)
        )

    @property
    def gaps(self) -> list[float]:
        """Milliseconds of each that is longer than 200."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        spacings = [(after.nanoseconds - before.nanoseconds) / 1e6 for before, after in pairs]
        return [spacing for spacing in spacings if spacing > 200]

    @property
    def jitters_ms(self) -> list[float]:
        """After each packet: RFC 3550, 6.4.1, in seconds and fractions of them."""
        jitter, jitters = 0.0, [0.0]
        for before, after in zip(self.arrivals, self.arrivals[1:], strict=False):
            units = (after.timestamp - before.timestamp + (1 << 31)) % (1 << 32) - (1 << 31)
            difference = (after.nanoseconds - before.nanoseconds) / 1e9 - units / self.clock_rate
            jitter += (abs(difference) - jitter) / 16
            jitters.append(jitter * 1e3)
        return jitters
