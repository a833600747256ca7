# SPDX-License-Identifier: Apache-2.0
"""A region's Redis: a stream of changes that relays append to and all of them tail, on one thread.

The stream holds messages, each a cohort: how many changes of which relay, and since when they wait.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import simpy

from bench.fleet_sim.assumptions import Assumptions

Steps = Generator[simpy.Event, Any, None]


class Cohort(NamedTuple):
    """Changes that came about together: how many, when (seconds), at which relay; `again`: all know them."""

    entries: int
    born: float
    relay: int
    again: bool = False


class Thread:
    """A thread on a core of its own, that does what it is given one after the other."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.free_at = self.given_seconds = 0.0

    @property
    def busy_seconds(self) -> float:
        """For how long it has worked until now."""
        return self.given_seconds - max(0.0, self.free_at - self.env.now)

    def give(self, seconds: float) -> None:
        """Something to do that nobody waits for."""
        self.free_at = max(self.free_at, self.env.now) + seconds
        self.given_seconds += seconds

    def work(self, seconds: float) -> simpy.Event:
        """Happens when the thread has done all that came before, and this."""
        self.give(seconds)
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
        self.up, self.epoch = True, 0
        self.grown, self.back = env.event(), env.event()
        self.messages: list[Cohort] = []
        self.appended = self.bytes_out = 0

    def others_seconds(self, messages: float, commands: float, size: float, readers: float) -> float:
        """What the thread takes for messages that are no changes of sessions, `size` bytes in all."""
        entries = size / self.a.entry_bytes
        self.bytes_out += int(size * readers)
        return 1e-6 * also_us(self.a, messages, commands, entries, readers)

    def append(self, cohorts: Sequence[Cohort]) -> Generator[simpy.Event, Any, bool]:
        """One pipeline. False: Redis was away before it was done, and nothing of it counts."""
        epoch, count = self.epoch, sum(cohort.entries for cohort in cohorts)
        if not self.up:
            return False
        yield self.thread.work(1e-6 * (self.a.command_us + count * (self.a.append_us + self.a.keep_us)))
        if not self.up or epoch != self.epoch:
            return False
        self.messages.extend(cohorts)
        self.appended += count
        self.grown.succeed()
        self.grown = self.env.event()
        return True

    def read(self, cursor: int) -> Generator[simpy.Event, Any, list[Cohort]]:
        """What a reader that has `cursor` messages gets by one command; never waits for more."""
        found = self.messages[cursor : cursor + int(self.a.read_messages)]
        entries = sum(one.entries for one in found)
        yield self.thread.work(1e-6 * (self.a.command_us + entries * self.a.read_us))
        self.bytes_out += int(entries * self.a.entry_bytes)
        return found

    def oldest_after(self, cursor: int) -> float:
        """When what a reader has not got began to be; infinite where it has all."""
        return self.messages[cursor].born if cursor < len(self.messages) else float("inf")

    def fail(self, seconds: float, empty: bool) -> Steps:
        """Redis goes away, and comes back: with what it had, or with nothing."""
        self.up = False
        yield self.env.timeout(seconds)
        if empty:
            self.epoch += 1
            self.messages = []
        self.up = True
        self.back.succeed()
        self.back = self.env.event()
