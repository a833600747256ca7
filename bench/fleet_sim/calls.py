# SPDX-License-Identifier: Apache-2.0
"""The calls of a region, counted: by the relay that their packets go through, and by the one that their
transceiver is attached to (their home).

Every call that ever began is live, ended, or lost, at any time;
and the live ones are as many by either count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


class Moment(NamedTuple):
    """What came about in a step: calls by their home, flows by the relay that bound them."""

    started: Counts
    ended: Counts
    bound: Counts
    unbound: Counts


class Calls:
    """Starts with `calls` live ones, spread evenly; `start_rate` new ones a second of all relays, and each
    lives for `mean_seconds` more at any time."""

    def __init__(self, relays: int, calls: int, start_rate: float, mean_seconds: float, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        # Of its own, so that faults do not change which calls come and go.
        self.fates = np.random.default_rng(seed + 1_000_000)
        self.start_rate, self.mean_seconds = start_rate, mean_seconds
        self.alive = np.ones(relays, bool)  # who takes new calls
        self.ingress = self._evenly(calls, self.random)
        self.home = self._evenly(calls, self.random)
        self.initial, self.started, self.ended, self.lost = calls, 0, 0, 0

    @property
    def live(self) -> int:
        return int(self.ingress.sum())

    def check(self) -> None:
        """Raises AssertionError where calls came from nowhere or went nowhere."""
        assert self.initial + self.started == self.live + self.ended + self.lost
        assert self.live == self.home.sum()
        assert (self.ingress >= 0).all()
        assert (self.home >= 0).all()

    def step(self, seconds: float) -> Moment:
        """Calls begin and end."""
        begin = int(self.random.poisson(self.start_rate * seconds))
        ended = self.random.binomial(self.ingress, -np.expm1(-seconds / self.mean_seconds))
        left = self.random.multivariate_hypergeometric(self.home, int(ended.sum()), method="marginals")
        bound, started = self._evenly(begin, self.random), self._evenly(begin, self.random)
        self.ingress += bound - ended
        self.home += started - left
        self.started += begin
        self.ended += int(ended.sum())
        return Moment(started, left, bound, ended)

    def rehome(self, relay: int) -> Counts:
        """The transceivers of a relay that is gone attach to others: how many sessions each of those gets."""
        moved = self._evenly(int(self.home[relay]), self.fates)
        self.home[relay] = 0
        self.home += moved
        return moved

    def reroute(self, relay: int, heirs: Counts, unknown: int, silent_share: float) -> tuple[int, int, int]:
        """A relay's clients come by others.

        Returns how many are carried over without noticing, how many bind again with their next check, and how
        many are lost: those of the `unknown` that send no more checks.
        """
        had = int(self.ingress[relay])
        unknown = min(unknown, had)
        lost = int(self.fates.binomial(unknown, silent_share))
        self.ingress[relay] = 0
        np.add.at(self.ingress, heirs, self._split(had - unknown, len(heirs)))
        self.ingress += self._evenly(unknown - lost, self.fates)
        self.home -= self.fates.multivariate_hypergeometric(self.home, lost, method="marginals")
        self.lost += lost
        return had - unknown, unknown - lost, lost

    def _split(self, count: int, ways: int) -> Counts:
        return self.fates.multinomial(count, np.full(ways, 1 / ways))

    def _evenly(self, count: int, random: np.random.Generator) -> Counts:
        return random.multinomial(count, self.alive / self.alive.sum())
