# SPDX-License-Identifier: Apache-2.0
"""The relays of a region, as far as they talk to each other.

Each publishes its sessions' changes, tails everybody's, and sends its new and ended flows to its group.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import simpy

from bench.fleet_sim.assumptions import Assumptions
from bench.fleet_sim.directory import Cohort, Directory, Steps, Thread

LAG_STEP = 1e-3  # seconds: how finely lags are counted
NEVER = float("inf")


@dataclass
class News:
    """What a scan has found: flows bound, and all that changed; how many have not entered it yet."""

    sender: Relay
    bound: int
    changed: int
    missing: int


class Relay:
    """One earshotd: one thread of Python for all that it does."""

    def __init__(self, env: simpy.Environment, a: Assumptions, directory: Directory, number: int) -> None:
        self.env, self.a, self.directory, self.number = env, a, directory, number
        self.alive = True
        self.thread = Thread(env)
        self.pending: list[Cohort] = []  # changes that Redis does not have yet
        self.sending: list[Cohort] = []
        self.given = env.event()
        self.epoch = self.cursor = 0
        self.sessions = 0  # its own, which it can send again
        self.lags: dict[int, int] = defaultdict(int)  # of others' changes, in LAG_STEP: how many
        self.bound = self.changed = 0  # flows since the last scan
        self.unknown = 0  # flows that the group has not all entered
        self.bytes_moved = 0.0  # of flows, to Redis and from there
        self.group: list[Relay] = []  # the others
        self.heard: list[News] = []
        self.told = env.event()
        env.process(self.publish())
        env.process(self.tail())
        env.process(self.enter())

    def work(self, entries: int, microseconds: float) -> Steps:
        """Handles entries in slices, between which others have their turn."""
        while entries > 0 and self.alive:
            part = min(entries, int(self.a.slice_entries))
            yield self.thread.work(1e-6 * part * microseconds)
            entries -= part

    def change(self, count: int, born: float, known: bool = False) -> None:
        """Sessions of its own come or go; `known`: they have not changed, and are only said again."""
        if count:
            self.env.process(self._register(count, born, known))

    def _register(self, count: int, born: float, known: bool) -> Steps:
        if not known:
            yield from self.work(count, self.a.register_us)
        while count > 0:
            part = min(count, int(self.a.slice_entries))
            self.pending.append(Cohort(part, born, self.number, again=known))
            count -= part
        if not self.given.triggered:
            self.given.succeed()

    def publish(self) -> Steps:
        """Sends what has come together, every `flush_seconds`; keeps it while Redis is away."""
        while self.alive:
            if not self.pending:
                self.given = self.env.event()
                yield self.given
            yield self.env.timeout(self.a.flush_seconds)
            if not self.alive:
                return
            self._take()
            yield self.env.timeout(self.a.latency_seconds)
            done = yield from self.directory.append(self.sending)
            yield self.env.timeout(self.a.latency_seconds)
            if not done:
                self.pending[:0] = self.sending
            self.sending = []
            if not done and not self.directory.up:
                yield self.directory.back

    def _take(self) -> None:
        """The next message: the oldest changes, as many as one takes."""
        first, taken, entries = self.pending[0], 0, 0
        while taken < len(self.pending) and self.pending[taken].again == first.again:
            if taken and entries + self.pending[taken].entries > self.a.slice_entries:
                break
            entries += self.pending[taken].entries
            taken += 1
        self.sending = [first._replace(entries=entries)]
        del self.pending[:taken]

    def tail(self) -> Steps:
        """Reads on while there is something; with another stream begins again, and sends all of its own."""
        while self.alive:
            if not self.directory.up:
                yield self.directory.back
            if self.epoch != self.directory.epoch:
                self.epoch, self.cursor = self.directory.epoch, 0
                self.change(self.sessions, self.env.now, known=True)
            yield self.env.timeout(self.a.latency_seconds)
            if self.cursor >= len(self.directory.messages):  # the command waits there
                yield self.directory.grown | self.directory.back
            yield from self._read()
            yield self.env.timeout(self.a.pause_seconds)

    def _read(self) -> Steps:
        if not self.directory.up or self.epoch != self.directory.epoch:
            return
        found = yield from self.directory.read(self.cursor)
        yield self.env.timeout(self.a.latency_seconds)
        if not self.directory.up or self.epoch != self.directory.epoch:
            return
        cohorts = [one for one in found if one.relay != self.number]
        self.thread.give(1e-6 * len(cohorts) * self.a.message_us)
        for cost, again in (self.a.register_us, False), (self.a.again_us, True):
            yield from self.work(sum(one.entries for one in cohorts if one.again == again), cost)
        if self.epoch != self.directory.epoch:
            return
        for one in cohorts:
            self.lags[int((self.env.now - one.born) / LAG_STEP)] += one.entries
        self.cursor += len(found)

    def waits_since(self) -> float:
        """When the oldest change came about that this relay has not sent, or has not applied."""
        waiting = [one.born for one in (*self.pending, *self.sending)]
        unread = (
            self.directory.oldest_after(self.cursor) if self.epoch == self.directory.epoch else self.env.now
        )
        return min(waiting, default=NEVER) if not self.alive else min([*waiting, unread])

    def scan(self, phase: float) -> Steps:
        """Finds new and ended flows, every `scan_seconds`, and tells the group of them."""
        yield self.env.timeout(phase)
        while self.alive:
            news, self.bound, self.changed = News(self, self.bound, self.changed, len(self.group)), 0, 0
            if self.group:
                self.env.process(self._tell(news))
            yield self.env.timeout(self.a.scan_seconds)

    def _tell(self, news: News) -> Steps:
        """By a stream of the group's, which all of it read, this relay too."""
        while not self.directory.up:
            yield self.directory.back
        yield self.env.timeout(self.a.latency_seconds)
        size, readers = self.a.message_bytes + news.changed * self.a.record_bytes, len(self.group) + 1
        self.bytes_moved += size * (1 + readers)  # as much as the others', which it reads
        yield self.directory.thread.work(self.directory.others_seconds(1, 0, size, readers))
        yield self.env.timeout(self.a.latency_seconds)
        for peer in self.group:
            peer.heard.append(news)
            if not peer.told.triggered:
                peer.told.succeed()

    def enter(self) -> Steps:
        """Enters what the others of its group have bound, and ends what they have ended."""
        while self.alive:
            if not self.heard:
                self.told = self.env.event()
                yield self.told
            news, self.heard = self.heard, []
            self.thread.give(1e-6 * len(news) * self.a.message_us)
            yield from self.work(sum(one.changed for one in news), self.a.foreign_us)
            for one in news:
                one.missing -= 1
                if not one.missing:
                    one.sender.unknown -= one.bound
            yield self.env.timeout(self.a.pause_seconds)

    def die(self) -> None:
        """Nothing of what it had not sent goes anywhere; the group waits for it no more."""
        self.alive = False
        self.pending = []
        for peer in self.group:
            peer.group.remove(self)
