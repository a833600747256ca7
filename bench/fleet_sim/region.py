# SPDX-License-Identifier: Apache-2.0
"""A region that lives: its relays, its directory, its calls; and what becomes of them when something dies.

Regions share nothing that the model knows of, so one of them is simulated and stands for all.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import simpy

from bench.fleet_sim.assumptions import Assumptions
from bench.fleet_sim.calls import Calls, Counts
from bench.fleet_sim.capacity import rates
from bench.fleet_sim.directory import Directory, Steps
from bench.fleet_sim.fleets import Fleet
from bench.fleet_sim.members import LAG_STEP, Relay

LOOK_SECONDS = 0.02  # between looks at how far behind the region is


class Spent(NamedTuple):
    """What had been used at a moment; the difference of two is what a while took."""

    seconds: float
    redis_busy: float
    redis_bytes: int
    changes: int
    daemon_busy: float
    replication_bytes: int

    def since(self, before: Spent) -> Spent:
        """What the while from `before` to now took."""
        return Spent(
            self.seconds - before.seconds,
            self.redis_busy - before.redis_busy,
            self.redis_bytes - before.redis_bytes,
            self.changes - before.changes,
            self.daemon_busy - before.daemon_busy,
            self.replication_bytes - before.replication_bytes,
        )


class Region:
    """Runs on its own environment, `env`; everything random comes from `seed`."""

    def __init__(self, fleet: Fleet, a: Assumptions, seed: int) -> None:
        self.fleet, self.a = fleet, a
        self.rates = rates(fleet, a)
        self.random = np.random.default_rng(seed + 1)
        self.env = simpy.Environment()
        self.directory = Directory(self.env, a)
        self.relays = [Relay(self.env, a, self.directory, number) for number in range(fleet.region_relays)]
        self.calls = Calls(len(self.relays), fleet.region_calls, self.rates.starts, a.call_seconds, seed)
        self.behind: list[tuple[float, float]] = []  # when, and how old the oldest change was then
        self.waiting = 0  # calls that began where nobody knew them, Redis being away
        for relay in self.relays:
            first = relay.number - relay.number % fleet.group
            relay.group = [peer for peer in self.relays[first : first + fleet.group] if peer is not relay]
            self.env.process(relay.scan(self.random.uniform(0, a.scan_seconds)))
        self.env.process(self._live())
        self.env.process(self._look())

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        self.env.run(until=self.env.now + seconds)
        self.calls.check()

    def spent(self) -> Spent:
        alive = [relay for relay in self.relays if relay.alive]
        return Spent(
            self.env.now,
            self.directory.thread.busy_seconds,
            self.directory.bytes_out,
            self.directory.appended,
            float(np.mean([relay.thread.busy_seconds for relay in alive])),
            int(np.mean([relay.bytes_moved for relay in alive])),
        )

    def take_lags(self) -> dict[int, int]:
        """From a change to its being known elsewhere, in LAG_STEP: how many; since the last time."""
        lags: dict[int, int] = defaultdict(int)
        for relay in self.relays:
            for lag, count in relay.lags.items():
                lags[lag] += count
            relay.lags.clear()
        return lags

    def stale_until(self, since: float) -> float | None:
        """The last moment from `since` on at which a relay lacked a change older than `fresh_seconds`.

        `since` if there is none; None if one lacks it still.
        """
        late = [when for when, age in self.behind if when >= since and age > self.a.fresh_seconds]
        if self.behind and self.behind[-1][1] > self.a.fresh_seconds:
            return None
        return max(late, default=since)

    def lose_relay(self, number: int) -> tuple[int, int, int]:
        """A relay dies. Returns calls carried over, bound again later, lost."""
        relay = self.relays[number]
        heirs = np.array([peer.number for peer in relay.group] or self._others(number))
        self.calls.alive[number] = False
        unknown = relay.unknown if relay.group else int(self.calls.ingress[number])
        relay.die()
        self.env.process(self._reattach(number, self.env.now))
        return self.calls.reroute(number, heirs, unknown, self.a.silent_client_share)

    def lose_redis(self, seconds: float, empty: bool) -> None:
        """Redis goes away for a while."""
        self.env.process(self.directory.fail(seconds, empty))

    def _others(self, number: int) -> list[int]:
        return [relay.number for relay in self.relays if relay.number != number and relay.alive]

    def _reattach(self, number: int, died: float) -> Steps:
        yield self.env.timeout(self.a.reattach_seconds)
        moved = self.calls.rehome(number)
        attached = self._split(round(self._transceivers()))
        for relay, sessions, transceivers in zip(self.relays, moved, attached, strict=True):
            if not self.fleet.routable:
                relay.change(round(int(sessions) * self.a.moved_changes), died)
            self.env.process(self._attach(relay, int(sessions), int(transceivers), died))

    def _attach(self, relay: Relay, sessions: int, transceivers: int, died: float) -> Steps:
        """Snapshots are compared with what is known, as far as another relay had told it; then all hear."""
        yield from relay.work(sessions, self.a.again_us)
        relay.change(transceivers, died, known=True)

    def _split(self, count: int) -> Counts:
        alive = self.calls.alive
        counts: Counts = self.random.multinomial(count, alive / alive.sum())
        return counts

    def _transceivers(self) -> float:
        return self.fleet.region_transceivers / len(self.relays)

    def _live(self) -> Steps:
        """Calls and transceivers come and go; leases are renewed."""
        step, roams = self.a.flush_seconds, self.a.bindings_per_call - 1
        transceivers = 2 * self.fleet.region_transceivers / self.a.transceiver_seconds
        while True:
            yield self.env.timeout(step)
            moment = self.calls.step(step)
            roamed = self._among_alive(self.rates.starts * roams * step)
            churn = self._among_alive(transceivers * step)
            self._note(moment.started + moment.ended, churn)
            for relay, bound, ended in zip(
                self.relays, moment.bound + roamed, moment.unbound + roamed, strict=True
            ):
                relay.bound += int(bound)
                relay.unknown += int(bound)
                relay.changed += int(bound) + int(ended)
            self._beat(step)
            self.waiting += int(self.random.binomial(moment.started.sum(), self._share_that_waits()))

    def _beat(self, step: float) -> None:
        """Relays renew leases, and say which transceivers they have."""
        if not self.directory.up:
            return
        a, readers = self.a, int(self.calls.alive.sum())
        held = self.fleet.region_transceivers * step / a.beat_seconds
        beats = readers * step / a.beat_seconds
        commands = self.rates.lease_commands * step
        self.directory.thread.give(
            self.directory.others_seconds(beats, commands, held * a.held_bytes, readers)
        )
        for relay in self.relays:
            relay.thread.give(1e-6 * (beats * a.message_us + held * a.held_us))

    def _share_that_waits(self) -> float:
        """Of calls that begin now.

        Where Redis is away, relays bind by each other's promises, but no one hears of others' sessions.
        """
        if self.directory.up or self.fleet.routable:
            return 0.0
        return 1 - 1 / len(self.relays)

    def _among_alive(self, mean: float) -> Counts:
        alive = self.calls.alive
        counts: Counts = self.random.poisson(mean / alive.sum() * alive)
        return counts

    def _note(self, sessions: Counts, transceivers: Counts) -> None:
        now = self.env.now
        for relay, mine, churn, live in zip(
            self.relays, sessions, transceivers, self.calls.home, strict=True
        ):
            if not relay.alive:
                continue
            if self.fleet.routable:
                relay.sessions = round(self._transceivers())
                relay.thread.give(1e-6 * int(mine) * self.a.register_us)
                relay.change(int(churn), now)
            else:
                relay.sessions = int(live)
                relay.change(int(mine + churn), now)

    def _look(self) -> Steps:
        while True:
            yield self.env.timeout(LOOK_SECONDS)
            oldest = min(relay.waits_since() for relay in self.relays if relay.alive)
            self.behind.append((self.env.now, max(0.0, self.env.now - oldest)))


def quantile(lags: dict[int, int], share: float) -> float | None:
    """Seconds that `share` of the lags do not exceed; None without any."""
    left = share * sum(lags.values())
    for lag in sorted(lags):
        left -= lags[lag]
        if left <= 0:
            return (lag + 1) * LAG_STEP
    return None
