# SPDX-License-Identifier: Apache-2.0
"""What readings of jiffies and nanoseconds say about each other."""

from __future__ import annotations

import time

import pytest

from control import jiffies

_COARSE = 6


@pytest.mark.parametrize("length", [1_000_000, 3_333_333, 4_000_000, 10_000_000])
@pytest.mark.parametrize("late", [0, 999, 400_000])
def test_the_soonest_edge_counts(length: int, late: int) -> None:
    begun, phase = 4_294_892_296, 123_456
    edges = [(begun + n, n * length + phase + late * (n % 3)) for n in (7, 8, 9, 10)]
    measured = jiffies.of_edges(length, edges)
    for tick, nanoseconds in edges:
        told = tick * measured.nanoseconds - measured.offset
        assert told == nanoseconds - late * ((tick - begun) % 3)


@pytest.mark.root
def test_this_kernels_jiffies() -> None:
    """They are CLOCK_MONOTONIC as of the last tick: what the coarse clock shows, but for a tick."""
    measured = jiffies.measure()
    before = time.clock_gettime_ns(_COARSE)
    again = jiffies.measure.__wrapped__()
    after = time.clock_gettime_ns(_COARSE)
    assert again.nanoseconds == measured.nanoseconds
    assert abs(again.offset - measured.offset) < measured.nanoseconds
    assert before < after
