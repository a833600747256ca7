# SPDX-License-Identifier: Apache-2.0
"""What is done to a fleet, one after the other: nothing, a relay dies, Redis goes, Redis comes back empty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bench.fleet_sim.assumptions import Assumptions
from bench.fleet_sim.fleets import Fleet
from bench.fleet_sim.region import Region, quantile
from bench.fleet_sim.takeover import deaths

WARM_UP_SECONDS = 1.0
QUIET_SECONDS = 4.0
AWAY_SECONDS = 5.0
PATIENCE_SECONDS = 240.0  # until a region is said not to converge
DEATHS = 400


class Quiet(NamedTuple):
    """Nothing happens. Of one relay where nothing else is said; seconds, bytes, shares of a core."""

    lag_p50: float | None
    lag_p99: float | None
    changes_per_second: float
    redis_cpu: float
    redis_bytes_per_second: float
    daemon_cpu: float
    replication_bytes_per_second: float
    falls_behind: bool


class RelayLost(NamedTuple):
    """A relay dies: how long its flows are not served, what becomes of its calls, when all is known again."""

    gap_p50: float
    gap_p99: float
    carried: int
    bound_again: int
    lost: int
    converges: float | None


class RedisLost(NamedTuple):
    """Redis was away for AWAY_SECONDS: calls that had to wait; seconds from its return until all is known."""

    waiting: int
    converges: float | None


class Outcome(NamedTuple):
    """None: not tried, since the region cannot even keep up when nothing happens."""

    quiet: Quiet
    relay_lost: RelayLost | None
    redis_lost: RedisLost | None
    redis_emptied: RedisLost | None
    calls_seen: int
    calls_lost: int


def play(fleet: Fleet, a: Assumptions, seed: int = 1) -> Outcome:
    """Everything, in the life of one region."""
    region = Region(fleet, a, seed)
    region.run(WARM_UP_SECONDS)
    calm = quiet(region)
    relay_lost = redis_lost = redis_emptied = None
    if not calm.falls_behind:
        relay_lost = _relay_lost(region, seed)
        redis_lost = _redis_lost(region, empty=False)
        redis_emptied = _redis_lost(region, empty=True)
    calls = region.calls
    return Outcome(calm, relay_lost, redis_lost, redis_emptied, calls.initial + calls.started, calls.lost)


def quiet(region: Region) -> Quiet:
    """What QUIET_SECONDS take in which nothing happens."""
    region.take_lags()
    before = region.spent()
    region.run(QUIET_SECONDS)
    spent = region.spent().since(before)
    lags = region.take_lags()
    return Quiet(
        lag_p50=quantile(lags, 0.5),
        lag_p99=quantile(lags, 0.99),
        changes_per_second=spent.changes / spent.seconds,
        redis_cpu=spent.redis_busy / spent.seconds,
        redis_bytes_per_second=spent.redis_bytes / spent.seconds,
        daemon_cpu=spent.daemon_busy / spent.seconds,
        replication_bytes_per_second=spent.replication_bytes / spent.seconds,
        falls_behind=region.stale_until(before.seconds) is None,
    )


def _relay_lost(region: Region, seed: int) -> RelayLost:
    died = region.env.now
    fates = deaths(region.a, DEATHS, region.fleet.group - 1, seed)
    gaps = [fate.gap for fate in fates] if region.fleet.group > 1 else [region.a.stun_seconds]
    carried, again, lost = region.lose_relay(len(region.relays) - 1)
    return RelayLost(
        gap_p50=float(np.quantile(gaps, 0.5)),
        gap_p99=float(np.quantile(gaps, 0.99)),
        carried=carried,
        bound_again=again,
        lost=lost,
        converges=_converges(region, died, died + region.a.reattach_seconds),
    )


def _redis_lost(region: Region, empty: bool) -> RedisLost:
    waiting = region.waiting
    region.lose_redis(AWAY_SECONDS, empty)
    region.run(AWAY_SECONDS)
    back = region.env.now
    return RedisLost(region.waiting - waiting, _converges(region, back, back))


def _converges(region: Region, since: float, not_before: float) -> float | None:
    """Seconds from `since` until all is known, by what is seen until a second after that."""
    for _ in range(int(PATIENCE_SECONDS)):
        region.run(1.0)
        until = region.stale_until(since)
        if until is not None and region.env.now > max(until, not_before) + 1:
            return until - since
    return None
