# SPDX-License-Identifier: Apache-2.0
"""Sweeps of a flow table step by step: what a whole one takes of the loop, and the longest step of it."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from control import abi
from control.batches import clock
from control.datapath import Datapath
from control.flows import ticks_of
from control.reaper import Reaper
from control.records import backends_of, owners_of, sessions_of
from control.sessions import Registry
from control.streams import Streams

IDLE_SECONDS = 3600
SWEEPS = 10
ENDED = 10_000  # flows that end in one sweep


def measure(datapath: Datapath, sessions: int) -> dict[str, Any]:
    """Of sweeps with nothing to do; of the first one, to which every flow is new; of one that ends many."""
    registry = Registry(max_sessions=sessions, max_backends=len(datapath.backends), grace_seconds=30)
    now = clock()
    registry.restore(
        owners_of(datapath.read_owners()),
        backends_of(datapath.backends),
        sessions_of(*datapath.read_sessions(), now.seconds),
        [],
        sessions,
        now.seconds,
    )
    reaper = Reaper(datapath, registry, Streams(), IDLE_SECONDS)
    first = timed(reaper)
    second = timed(reaper)
    quiet = [timed(reaper) for _ in range(SWEEPS)]
    idle = np.flatnonzero(datapath.states() == abi.FlowState.LIVE)[:ENDED]
    datapath.flows["last_seen"][idle] = (clock().ticks - ticks_of(IDLE_SECONDS + 1)) % (1 << 32)
    ending = timed(reaper)
    return {
        "sessions": sessions,
        "sweep_ms": round(median(sum(steps) for steps in quiet), 2),
        "longest_step_ms": round(max(max(steps) for steps in quiet), 2),
        **_figures("first", first),
        **_figures("second", second),
        "ended": len(idle),
        **_figures("ending", ending),
    }


def timed(reaper: Reaper) -> list[float]:
    """Milliseconds of each step of a sweep."""
    steps, last = [], time.perf_counter()
    for _ in reaper.steps(clock):
        steps.append(1e3 * (time.perf_counter() - last))
        last = time.perf_counter()
    return steps


def live(datapath: Datapath) -> int:
    """How many flows are live."""
    return int(np.count_nonzero(datapath.states() == abi.FlowState.LIVE))


def _figures(name: str, steps: list[float]) -> dict[str, Any]:
    return {f"{name}_ms": round(sum(steps), 1), f"{name}_longest_step_ms": round(max(steps), 2)}
