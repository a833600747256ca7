# SPDX-License-Identifier: Apache-2.0
"""What calls heard of an event, by kind of client and direction: packets that were lost, and silence."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np

from tests.lab.heard import Client, Hearing, Way


@dataclass(frozen=True)
class Row:
    """Calls of one kind, one way. Times in milliseconds."""

    kind: str
    way: str
    calls: int
    sent: int
    lost: int
    p50: float
    p99: float
    longest: float
    pause: float  # the longest silence of a sender
    slowest: float  # the longest that a packet was on its way

    def __str__(self) -> str:
        return (
            f"  {self.kind:7} {self.way:4} {self.calls:3} calls, {self.lost:,} of {self.sent:,} lost; silence"
            f" p50 {self.p50:.0f}, p99 {self.p99:.0f}, max {self.longest:.0f} ms (senders {self.pause:.0f});"
            f" slowest {self.slowest:.1f}"
        )


@dataclass(frozen=True)
class Gaps:
    """All of an event.

    Attributes:
        lost, repeated: packets.
        p99: of the widest gap of each call, in seconds, of the kind and direction where it is largest.
    """

    rows: tuple[Row, ...]
    repeated: int

    @property
    def lost(self) -> int:
        return sum(row.lost for row in self.rows)

    @property
    def p99(self) -> float:
        return max(row.p99 for row in self.rows) / 1e3

    def figures(self) -> list[dict[str, object]]:
        return [asdict(row) for row in self.rows]

    def __str__(self) -> str:
        return "\n".join(map(str, self.rows))


def gaps_of(hearing: Hearing, of_aiortc: Collection[Client]) -> Gaps:
    """`of_aiortc`: where its calls are made from; all others are libnice's."""
    rows, repeated = [], 0
    for kind in ("aiortc", "libnice"):
        calls = [
            call for client, call in hearing.calls.items() if (client in of_aiortc) == (kind == "aiortc")
        ]
        for name in ("up", "down"):
            ways = [getattr(call, name) for call in calls]
            repeated += sum(way.repeated for way in ways)
            if ways:
                rows.append(_row(kind, name, ways))
    return Gaps(tuple(rows), repeated)


def _row(kind: str, name: str, ways: list[Way]) -> Row:
    gaps = np.array([way.gap for way in ways]) * 1e3
    return Row(
        *(kind, name, len(ways), sum(way.sent for way in ways), sum(way.lost for way in ways)),
        p50=round(float(np.percentile(gaps, 50)), 1),
        p99=round(float(np.percentile(gaps, 99)), 1),
        longest=round(float(gaps.max()), 1),
        pause=round(max(way.pause for way in ways) * 1e3, 1),
        slowest=round(max(way.slowest for way in ways) * 1e3, 2),
    )
