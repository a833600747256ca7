# SPDX-License-Identifier: Apache-2.0
"""A region's Redis: a stream of changes that relays append to and all of them tail, on one thread.

The stream holds cohorts: how many changes of which relay, and when the oldest of them came about.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import simpy

from bench.fleet_sim.assumptions import Assumptions

Steps = Generator[simpy.Event, Any, None]


class Cohort(NamedTuple):
    """Changes that came about together: how many, when (seconds), at which relay."""

    entries: int
    born: float
    relay: int


class Thread:
    """A thread on a core of its own, that does what it is given one after the other."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.free_at = self.busy_seconds = 0.0

    def work(self, seconds: float) -> simpy.Event:
        """Happens when the thread has done all that came before, and this."""
        self.free_at = max(self.free_at, self.env.now) + seconds
        self.busy_seconds += seconds
        return self.env.timeout(self.free_at - self.env.now)


def also_us(a: Assumptions, messages: float, commands: float, entries: float, readers: float) -> float:
    """What Redis' thread takes for other messages; `entries`: as many changes have their size."""
    return (messages * (1 + readers) + commands) * a.command_us + entries * (
        a.append_us + readers * a.read_us
    )


class Directory:
    """`epoch` says which stream it is: another one when Redis has come back empty."""

    def __init__(self, env: simpy.Environment, a: Assumptions) -> None:
        self.env, self.a = env, a
        self.thread = Thread(env)
        self.up, self.epoch, self.away_since = True, 0, 0.0
        self.grown, self.back = env.event(), env.event()
        self.cohorts: list[Cohort] = []
        self.ends: list[int] = []  # entries up to and with each cohort
        self.appended = self.bytes_out = 0

    @property
    def length(self) -> int:
        return self.ends[-1] if self.ends else 0

    def also(self, messages: float, commands: float, size: float, readers: float) -> simpy.Event:
        """What is no change of sessions: messages, each for so many readers, of `size` bytes in all."""
        entries = size / self.a.entry_bytes
        self.bytes_out += int(size * readers)
        return self.thread.work(1e-6 * also_us(self.a, messages, commands, entries, readers))

    def append(self, cohorts: Sequence[Cohort]) -> Generator[simpy.Event, Any, bool]:
        """One pipeline. False: Redis was away before it was done, and nothing of it counts."""
        epoch, count = self.epoch, sum(cohort.entries for cohort in cohorts)
        if not self.up:
            return False
        yield self.thread.work(1e-6 * (self.a.command_us + count * (self.a.append_us + self.a.keep_us)))
        if not self.up or epoch != self.epoch:
            return False
        for cohort in cohorts:
            self.cohorts.append(cohort)
            self.ends.append(self.length + cohort.entries)
        self.appended += count
        self.grown.succeed()
        self.grown = self.env.event()
        return True

    def read(self, cursor: int) -> Generator[simpy.Event, Any, int]:
        """Up to where a reader that has `cursor` entries gets by one command; never waits for entries."""
        last = min(len(self.ends), bisect_right(self.ends, cursor) + int(self.a.read_messages))
        end = self.ends[last - 1] if last else 0
        yield self.thread.work(1e-6 * (self.a.command_us + (end - cursor) * self.a.read_us))
        self.bytes_out += int((end - cursor) * self.a.entry_bytes)
        return end

    def between(self, start: int, end: int) -> Iterator[Cohort]:
        """The entries from `start` to `end`, as cohorts or parts of them."""
        at = bisect_right(self.ends, start)
        while start < end:
            cohort, stop = self.cohorts[at], min(self.ends[at], end)
            yield cohort if stop - start == cohort.entries else cohort._replace(entries=stop - start)
            start, at = stop, at + 1

    def oldest_after(self, cursor: int) -> float:
        """When the first entry that a reader has not got came about; infinite where it has all."""
        return self.cohorts[bisect_right(self.ends, cursor)].born if cursor < self.length else float("inf")

    def fail(self, seconds: float, empty: bool) -> Steps:
        """Redis goes away, and comes back: with what it had, or with nothing."""
        self.up, self.away_since = False, self.env.now
        yield self.env.timeout(seconds)
        if empty:
            self.epoch += 1
            self.cohorts, self.ends = [], []
        self.up = True
        self.back.succeed()
        self.back = self.env.event()
