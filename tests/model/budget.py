# SPDX-License-Identifier: Apache-2.0
"""Token buckets, given a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network

from tests.model.wire import IPAddress

SAVED_SECONDS = 2  # how much a budget saves up


@dataclass
class Bucket:
    """So many tokens a second, saved up for two seconds; full at first. Times are in nanoseconds."""

    rate: int
    time: int
    credit: int = SAVED_SECONDS * 1_000_000_000  # in nanoseconds: a token costs a second's / rate

    def take(self, now: int) -> bool:
        """Whether there was a token."""
        self.credit = min(SAVED_SECONDS * 1_000_000_000, self.credit + max(0, now - self.time))
        self.time = now
        cost = 1_000_000_000 // self.rate
        if self.credit < cost:
            return False
        self.credit -= cost
        return True


@dataclass
class Budget:
    """A bucket for each of something; rate 0: there is no budget."""

    rate: int = 0
    buckets: dict[object, Bucket] = field(default_factory=dict)

    def take(self, key: object, now: int) -> bool:
        if not self.rate:
            return True
        return self.buckets.setdefault(key, Bucket(self.rate, now)).take(now)


def prefix_of(source: IPAddress) -> object:
    """What shares a source's budget: its /32 or /64."""
    return ip_network((source, 32 if source.version == 4 else 64), strict=False)
