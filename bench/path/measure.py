# SPDX-License-Identifier: Apache-2.0
"""One candidate's figures: the highest rate without loss, CPU time a packet, and round trips."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.path.candidates import Ready
from bench.path.load import Run, run
from bench.path.traffic import ALL_PROBES
from control.libbpf import Array

LOSS_MAX = 0.001
FIRST_RATE = 25_000
STEPS = 5  # halvings of the last octave: to 3 % of the rate
LOWERED = 0.93
RETRIES = 20
PROBE_INTERVAL = 0.002
DRAIN = 0.02
HALF_LOAD_PROBES = 63  # one of 64
LOADED_TICK = 0.0002  # seconds; a longer one would be seen as waiting


@dataclass(frozen=True)
class Effort:
    """How much of everything.

    cpus: that make packets; the first alone where candidates do everything on the CPU of their packets.
    look, count: seconds of a run while a rate is looked for, and of one that counts.
    rounds: how many of those count; the median is taken.
    probes: packets that are timed one by one.
    """

    cpus: tuple[int, ...]
    look: float
    count: float
    rounds: int
    probes: int


@dataclass(frozen=True)
class Trips:
    """Round trips in microseconds."""

    count: int
    p50: float
    p99: float

    @classmethod
    def of(cls, nanoseconds: Array) -> Trips:
        if not len(nanoseconds):
            raise RuntimeError("no probe came back")
        p50, p99 = np.percentile(nanoseconds, [50, 99]) / 1e3
        return cls(len(nanoseconds), round(float(p50), 1), round(float(p99), 1))


class Meter:
    """Measures one candidate with packets of one size."""

    def __init__(self, ready: Ready, size: int, effort: Effort) -> None:
        self._ready, self._size, self._effort = ready, size, effort
        self._runs: list[Run] = []
        self.rate: float | None = None  # None: as fast as the generator goes
        self.cpus = effort.cpus[:1]

    def look(self) -> None:
        """Finds the rate to be measured at: the generator's own, where the candidate keeps up with it.

        Then it works on the CPU that its packets come from, and more CPUs would do more. All
        others get theirs from all CPUs, so that the work is spread evenly.
        """
        self._run(self._effort.look / 2, FIRST_RATE)  # first packets of flows may take longer
        if self._run(self._effort.look).loss <= LOSS_MAX:
            return
        self.cpus = self._effort.cpus
        self.rate = highest(lambda rate: self._run(self._effort.look, rate).loss <= LOSS_MAX)

    def count(self) -> None:
        """One run that counts; a rate that turns out to be too high is lowered."""
        for _ in range(RETRIES):
            made = self._run(self._effort.count, self.rate)
            if made.loss <= LOSS_MAX:
                self._runs.append(made)
                return
            self.rate = LOWERED * (self.rate or made.rate)
        raise RuntimeError(f"loses packets at any rate, {made.loss:.1%} at {self.rate:,.0f} a second")

    @property
    def pps(self) -> float:
        return statistics.median(made.rate for made in self._runs)

    @property
    def ns(self) -> float:
        return statistics.median(made.ns for made in self._runs)

    @property
    def loss(self) -> float:
        return statistics.median(made.loss for made in self._runs)

    def ns_at(self, rate: float, cpus: Sequence[int]) -> float:
        """CPU time a packet at another rate."""
        return self._run(self._effort.count, rate, cpus).ns

    def idle_trips(self) -> Trips:
        """One probe at a time, and nothing else."""
        before = os.sched_getaffinity(0)
        with self._ready.sources(self._size) as (up, _):
            up.set(probe_mask=ALL_PROBES)
            self._ready.down_sink.take_round_trips()
            os.sched_setaffinity(0, self._effort.cpus[:1])
            for _ in range(self._effort.probes):
                up.send(1)
                time.sleep(PROBE_INTERVAL)
            os.sched_setaffinity(0, before)
            return Trips.of(self._ready.down_sink.take_round_trips())

    def loaded_trips(self, rate: float, cpus: Sequence[int]) -> Trips:
        """Some packets on their way up are probes."""
        with self._ready.sources(self._size) as sources:
            sources[0].set(probe_mask=HALF_LOAD_PROBES)
            self._ready.down_sink.take_round_trips()
            run(self._ready, sources, cpus, self._effort.count, rate, tick=LOADED_TICK)
            time.sleep(DRAIN)
            return Trips.of(self._ready.down_sink.take_round_trips())

    def _run(self, seconds: float, rate: float | None = None, cpus: Sequence[int] = ()) -> Run:
        """Raises RuntimeError if anything came out wrong."""
        with self._ready.sources(self._size) as sources:
            made = run(self._ready, sources, cpus or self.cpus, seconds, rate)
        time.sleep(DRAIN)  # what is late is not the next run's
        if made.wrong:
            raise RuntimeError(f"{made.wrong} packets came out with a wrong address or port")
        return made


def highest(holds: Callable[[float], bool], first: float = FIRST_RATE) -> float:
    """The highest rate that holds, by doubling and halving; `first` if none does."""
    low, high = 0.0, first
    while holds(high):
        low, high = high, 2 * high
    if not low:
        return first
    for _ in range(STEPS):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
