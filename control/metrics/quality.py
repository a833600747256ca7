# SPDX-License-Identifier: Apache-2.0
"""How live calls fare, as histograms: what XDP has measured of each flow (control/quality.py), by size.

Some thousands of flows at a time, so that the interpreter is not held for long.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import Metric

from control import abi
from control import quality as measured
from control.datapath import Datapath
from control.flows import Clock, in_state
from control.metrics import catalogue
from control.metrics.reasons import DOWN, UP
from telemetry.declared import Declared, Distribution

# What is older is not of now: a stream that is over, an answer before a pause of the checks.
STREAM_SECONDS = 10.0
TRIP_SECONDS = 60.0
# Flows that are looked at, evenly chosen where there are more: all of half a million take a second.
MOST = 100_000

_Floats = NDArray[np.float64]


class _Spread:
    """One distribution while it is put together."""

    def __init__(self, metric: Declared) -> None:
        self._bounds = np.array(metric.bounds)
        self._counts = np.zeros(len(metric.bounds) + 1, np.int64)
        self._total = 0.0

    def add(self, values: _Floats) -> None:
        places = np.searchsorted(self._bounds, values, side="left")  # a bound belongs to its bucket
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._total += float(values.sum())

    def distribution(self) -> Distribution:
        return Distribution(self._counts.tolist(), self._total)


def collect(datapath: Datapath, now: Clock) -> Iterator[Metric]:
    """The families; empty ones where nothing is measured."""
    loss, jitter = _of(catalogue.STREAM_LOSS, UP, DOWN), _of(catalogue.STREAM_JITTER, UP, DOWN)
    trips = _of(catalogue.ROUND_TRIP, "client", "transceiver")
    live = in_state(datapath.flows["state"], abi.FlowState.LIVE)
    chosen = live[:: 1 + len(live) // MOST]
    for streams, ways in measured.of_flows(datapath, chosen, int(now.seconds * 1e9)):
        flowing = (streams.last_seen_s < STREAM_SECONDS) & (streams.expected > 0)
        share = streams.lost / np.maximum(streams.expected, 1)
        for direction, is_there in ((UP, flowing & ~streams.is_down), (DOWN, flowing & streams.is_down)):
            loss[direction].add(share[is_there])
            jitter[direction].add(streams.jitter_ms[is_there] / 1e3)
        for side, age, took in (
            ("client", ways.client_rtt_age_s, ways.client_rtt_ms),
            ("transceiver", ways.transceiver_rtt_age_s, ways.transceiver_rtt_ms),
        ):
            trips[side].add(took[age < TRIP_SECONDS] / 1e3)  # NaN, never measured, is not less
    yield _family(catalogue.STREAM_LOSS, loss)
    yield _family(catalogue.STREAM_JITTER, jitter)
    yield _family(catalogue.ROUND_TRIP, trips)


def _of(metric: Declared, *words: str) -> dict[str, _Spread]:
    return {word: _Spread(metric) for word in words}


def _family(metric: Declared, spreads: dict[str, _Spread]) -> Metric:
    return metric.spread({(word,): spread.distribution() for word, spread in spreads.items()})
