# SPDX-License-Identifier: Apache-2.0
"""Token buckets, given a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network

from tests.model.wire import IPAddress

SECOND = 1_000_000_000


@dataclass
class Bucket:
    """Tokens that are full at first and come back at an even pace."""

    tokens: int  # when it is full
    interval: int  # in which one token comes back, in ns
    time: int  # of the last look, in ns
    credit: int  # in ns: a token is an interval

    def is_spent(self, now: int) -> bool:
        """Whether there is no token."""
        self.credit = min(self.tokens * self.interval, self.credit + max(0, now - self.time))
        self.time = now
        return self.credit < self.interval

    def take(self, now: int) -> bool:
        """Whether there was a token."""
        if self.is_spent(now):
            return False
        self.credit -= self.interval
        return True


@dataclass
class Budget:
    """So many tokens, in so many seconds, for each of something. No tokens: there is no budget."""

    tokens: int = 0
    seconds: int = 2
    buckets: dict[object, Bucket] = field(default_factory=dict)

    def is_spent(self, key: object, now: int) -> bool:
        return self.tokens > 0 and self.bucket(key, now).is_spent(now)

    def take(self, key: object, now: int) -> bool:
        """Whether there was a token."""
        return self.tokens == 0 or self.bucket(key, now).take(now)

    def bucket(self, key: object, now: int) -> Bucket:
        """Full where nobody has asked before."""
        interval = self.seconds * SECOND // self.tokens
        return self.buckets.setdefault(key, Bucket(self.tokens, interval, now, self.tokens * interval))


def prefix_of(source: IPAddress) -> IPv4Network | IPv6Network:
    """What counts as one source: a /32 or a /64."""
    return ip_network((source, 32 if source.version == 4 else 64), strict=False)
