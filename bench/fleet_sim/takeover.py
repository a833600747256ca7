# SPDX-License-Identifier: Apache-2.0
"""How long clients hear nothing of a relay that died: many deaths, at random moments of its lease.

And that a lease is fenced: a member that only was slow has given its addresses up before another takes them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import simpy

from bench.fleet_sim.assumptions import Assumptions
from bench.fleet_sim.directory import Steps


@dataclass
class Fate:
    """One member's death, or its sleep; all in seconds of the model, infinite where it did not happen."""

    died: float
    gave_up: float = float("inf")
    taken: float = float("inf")  # the lease is another's
    served: float = float("inf")  # and so are addresses and packets

    @property
    def gap(self) -> float:
        """For how long nobody forwarded its flows."""
        return self.served - self.died


class Lease:
    """A key in Redis with a time to live, by Redis' clock."""

    def __init__(self) -> None:
        self.ends = float("-inf")
        self.taken = False


def deaths(a: Assumptions, count: int, peers: int, seed: int, sleeps: float | None = None) -> list[Fate]:
    """`count` members die, or sleep for `sleeps` seconds and go on, at random moments; `peers` watch each."""
    luck = random.Random(seed)
    return [_one(a, peers, luck, sleeps) for _ in range(count)]


def _one(a: Assumptions, peers: int, luck: random.Random, sleeps: float | None) -> Fate:
    env, lease = simpy.Environment(), Lease()
    fate = Fate(died=2 * a.lease_seconds + luck.uniform(0, a.renew_seconds))
    env.process(_holder(env, a, lease, fate, sleeps))
    for _ in range(peers):
        env.process(_watcher(env, a, lease, fate, luck.uniform(0, a.watch_seconds)))
    env.run(until=fate.died + 2 * a.lease_seconds + a.watch_seconds + a.move_seconds + a.route_seconds + 1)
    return fate


def _holder(env: simpy.Environment, a: Assumptions, lease: Lease, fate: Fate, sleeps: float | None) -> Steps:
    """Renews; its own clock starts when it sends, so it never thinks that it has longer than Redis grants."""
    mine_until = float("-inf")
    while True:
        if env.now >= fate.died:
            if sleeps is None:
                return
            wakes, sleeps = fate.died + sleeps, 0.0
            # What gives up is not the daemon, which sleeps: it is a time that the packet path knows.
            yield env.timeout(max(0.0, min(wakes, mine_until) - env.now))
            if env.now >= mine_until:
                fate.gave_up = env.now
                return
        sent = env.now
        yield env.timeout(a.latency_seconds)
        lease.ends = env.now + a.lease_seconds
        yield env.timeout(a.latency_seconds)
        mine_until = sent + a.lease_seconds - a.margin_seconds
        yield env.timeout(a.renew_seconds)


def _watcher(env: simpy.Environment, a: Assumptions, lease: Lease, fate: Fate, phase: float) -> Steps:
    yield env.timeout(a.lease_seconds + phase)
    while not lease.taken:
        yield env.timeout(a.latency_seconds)
        if env.now >= lease.ends and not lease.taken:
            lease.taken, fate.taken = True, env.now
            yield env.timeout(a.latency_seconds + a.move_seconds)
            fate.served = max(env.now, fate.died + a.route_seconds)
            return
        yield env.timeout(a.latency_seconds + a.watch_seconds)
