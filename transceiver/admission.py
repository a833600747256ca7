# SPDX-License-Identifier: Apache-2.0
"""Whether a process has room for another call: what it would cost must not be taken from those it has.

A process has one thread that matters, so one core is all that it can use. When the share of it that was used
lately, with what the calls that have just been taken will use, is above the limit, or the loop runs late
(some other process has the core), there is no room. Setting up costs too, and so has a rate of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

INTERVAL = 0.25  # seconds between samples
MEMORY = 6  # samples that an average looks back to, roughly
LATE = 0.03  # seconds; media that leaves later than that is heard
COST = (0.003, 0.03)  # of a core, for a call: whose sound is passed on undecoded, or coded both ways


class Load:
    """How much of a core is used, averaged; the clocks are told."""

    def __init__(self, now: float, cpu: float) -> None:
        self._now, self._cpu = now, cpu
        self.share = 0.0
        self.late = 0.0  # seconds

    def sample(self, now: float, cpu: float, expected: float) -> None:
        """The clock and the process's CPU time, at a moment that was `expected` to be at that time."""
        elapsed = max(now - self._now, 1e-6)
        self.share += ((cpu - self._cpu) / elapsed - self.share) / MEMORY
        self.late += (max(0.0, now - expected) - self.late) / MEMORY
        self._now, self._cpu = now, cpu


class Admission:
    """Says no, and why. A `load` of 1 is no limit; `available` says why nobody would answer, if so."""

    def __init__(
        self, calls: int, load: float, setups: float, available: Callable[[], str | None] = lambda: None
    ) -> None:
        self._most_calls = calls
        self._most_load = load
        self._setups = setups
        self._available = available
        self._closed: str | None = None
        self._load = Load(time.monotonic(), time.process_time())
        self._recent = 0.0  # calls that the load does not show yet
        self._tokens = max(1.0, setups)
        self._filled_at = time.monotonic()

    @property
    def share(self) -> float:
        """Of a core, used lately."""
        return self._load.share

    def close(self, reason: str) -> None:
        """From now on there is no room, for that reason."""
        self._closed = reason

    def refusal(self, calls: int) -> str | None:
        """Why there is no room beside so many calls; None if there is, and then it counts as taken."""
        reason = self.obstacle(calls)
        if reason is None:
            self._tokens -= 1
            self._recent += 1
        return reason

    def obstacle(self, calls: int) -> str | None:
        """The same, for who only asks."""
        if self._closed is not None:
            return self._closed
        if calls >= self._most_calls:
            return f"{self._most_calls} calls are all that this process carries"
        missing = self._available()
        if missing is not None:
            return missing
        if self._most_load < 1 and self._busy(calls):
            return "this process is as busy as it may be"
        now = time.monotonic()
        self._tokens = min(max(1.0, self._setups), self._tokens + (now - self._filled_at) * self._setups)
        self._filled_at = now
        if self._tokens < 1:
            return f"more than {self._setups:g} calls a second"
        return None

    def _busy(self, calls: int) -> bool:
        """Whether another call would take more than there is."""
        cost = min(max(COST[0], self._load.share / max(calls, 1)), COST[1])
        return self._load.share + self._recent * cost > self._most_load or self._load.late > LATE

    async def watch(self, beat: Callable[[], None] = lambda: None) -> None:
        """Samples the load; runs until cancelled. `beat` is called at each round."""
        while True:
            expected = time.monotonic() + INTERVAL
            await asyncio.sleep(INTERVAL)
            self._load.sample(time.monotonic(), time.process_time(), expected)
            self._recent *= 1 - 1 / MEMORY
            beat()
