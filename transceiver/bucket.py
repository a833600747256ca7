# SPDX-License-Identifier: Apache-2.0
"""A token bucket: how much of something is taken, at once and for as long as it likes. It has no clock."""

from __future__ import annotations


class Bucket:
    """At most `burst` at once, and `rate` a second."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled_at = now

    def takes(self, now: float) -> bool:
        """Whether there is room for one more now; if so, it counts."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
