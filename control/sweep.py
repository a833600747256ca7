# SPDX-License-Identifier: Apache-2.0
"""What a look at a stretch of the flow table finds. Pure functions over the mapping.

A stretch is what may be looked at in one go: the loop's other tasks wait meanwhile. Each record takes
a cache line, of which two words are read, and what is read is compared while it is still in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.flows import FUTURE_TICKS, Numbers, Records

# Records: about a millisecond.
STRETCH = 1 << 16

STATE_MASK = np.uint32((1 << abi.FLOW_STATE_BITS) - 1)
_LIVE, _SUPERSEDED, _PROVISIONAL = (
    np.uint32(state) for state in (abi.FlowState.LIVE, abi.FlowState.SUPERSEDED, abi.FlowState.PROVISIONAL)
)


class Limits(NamedTuple):
    """As of now: what is idle, and what was held for too long without its transceiver's word."""

    now_ticks: int
    idle_ticks: int
    bound_before: int  # second of CLOCK_MONOTONIC


class Found(NamedTuple):
    """Numbers of records, by what has to be done about them.

    Attributes:
        appeared: live or provisional, and another binding, or in another state, than when `seen` was taken.
        superseded: their clients have newer ones.
        unconfirmed: provisional for too long.
        idle: live, without a packet for too long.
    """

    appeared: Numbers
    superseded: Numbers
    unconfirmed: Numbers
    idle: Numbers


class Snapshot(NamedTuple):
    """Records and the state words that they had."""

    numbers: Numbers
    states: NDArray[np.uint32]

    def unchanged(self, flows: Records) -> Numbers:
        """Those that are still as they were: a state word is not used twice."""
        same: NDArray[np.bool_] = flows["state"][self.numbers] == self.states
        return self.numbers[same]


def look(flows: Records, seen: NDArray[np.uint32], start: int, limits: Limits) -> Found:
    """Looks at the records from `start` on, one stretch, and notes in `seen` the state words found."""
    stretch = slice(start, start + STRETCH)
    states = flows["state"][stretch].copy()
    last_seen = flows["last_seen"][stretch].copy()
    before = seen[stretch]
    kinds = states & STATE_MASK
    live, provisional = kinds == _LIVE, kinds == _PROVISIONAL
    # Across the wrap of the counter. XDP may have seen a packet since the clock was read: then it is huge.
    silent = np.uint32(limits.now_ticks) - last_seen
    is_idle = live & (silent >= limits.idle_ticks) & (silent < FUTURE_TICKS)
    held = provisional & (states >> np.uint32(abi.FLOW_STATE_BITS) < limits.bound_before)
    appeared = (states != before) & (live | provisional)
    before[:] = states
    return Found(*(_numbers(mask, start) for mask in (appeared, kinds == _SUPERSEDED, held, is_idle)))


def parts(numbers: Numbers, size: int) -> Iterator[Numbers]:
    """So many of them at a time."""
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _numbers(mask: NDArray[np.bool_], start: int) -> Numbers:
    return (np.flatnonzero(mask) + start).astype(np.uint32)
