# SPDX-License-Identifier: Apache-2.0
"""What live flows do just now: two looks at the flow table, and the difference.

Columns, never rows: there may be a million. docs/performance-control.md has what a look takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.flows import Clock, idle_ticks, in_state

Records = NDArray[np.void]
Numbers = NDArray[np.uint32]
Floats = NDArray[np.float64]

COUNTERS = ("up_packets", "down_packets", "up_bytes", "down_bytes")
_STATE_MASK = (1 << abi.FLOW_STATE_BITS) - 1


class Look(NamedTuple):
    """Live flows at one moment. Columns are in the order of the records' numbers."""

    now: Clock
    numbers: Numbers
    states: NDArray[np.uint32]
    counters: Mapping[str, NDArray[Any]]
    superseded: int
    dead: int
    provisional: int


def look(flows: Records, now: Clock) -> Look:
    """Reads the whole table once."""
    states = flows["state"].copy()
    numbers = in_state(states, abi.FlowState.LIVE)
    counts = np.bincount(states & np.uint32(_STATE_MASK), minlength=len(abi.FlowState))
    return Look(
        now,
        numbers,
        states[numbers],
        {name: flows[name][numbers] for name in COUNTERS},
        int(counts[abi.FlowState.SUPERSEDED]),
        int(counts[abi.FlowState.DEAD]),
        int(counts[abi.FlowState.PROVISIONAL]),
    )


@dataclass(frozen=True)
class Activity:
    """Live flows between two looks.

    Attributes:
        seconds: between them.
        numbers: of the records, as in the second.
        rates: per second, by name of counter. A flow that is new has all that it has counted in that time.
    """

    seconds: float
    numbers: Numbers
    rates: Mapping[str, Floats]

    def total(self, counter: str) -> float:
        return float(self.rates[counter].sum())


def activity(before: Look, after: Look) -> Activity:
    """What happened in between. `after` is at least a little later."""
    seconds = max(after.now.seconds - before.now.seconds, 1e-6)
    rates: dict[str, Floats] = {}
    same = np.zeros(len(after.numbers), np.bool_)
    positions = np.searchsorted(before.numbers, after.numbers)
    if len(before.numbers):
        positions = np.minimum(positions, len(before.numbers) - 1)
        same = (before.numbers[positions] == after.numbers) & (before.states[positions] == after.states)
    for name in COUNTERS:
        counted = after.counters[name].copy()
        counted[same] -= before.counters[name][positions[same]]  # packets modulo 2^32
        rates[name] = counted / seconds
    return Activity(seconds, after.numbers, rates)


# ---- order -------------------------------------------------------------------------------

Key = Callable[["Subject"], NDArray[Any]]


class Subject(NamedTuple):
    """What flows are ordered by; columns go with `numbers`."""

    flows: Records
    numbers: Numbers
    rates: Mapping[str, Floats]
    measured: Mapping[str, Floats]  # quality by name; NaN where nothing is known
    owners: NDArray[np.int64]  # place of each flow's transceiver in the order of names
    now: Clock


def _measured(*names: str) -> Key:
    """The worse of some columns. What is not known is better than anything that is."""

    def key(subject: Subject) -> NDArray[Any]:
        columns = np.stack([subject.measured[name] for name in names])
        worst: NDArray[Any] = np.where(np.isnan(columns), -1.0, columns).max(axis=0)
        return worst

    return key


def _client(subject: Subject) -> NDArray[Any]:
    raw = np.ascontiguousarray(subject.flows["client_addr"][subject.numbers])
    words = raw.view(">u8").reshape(-1, 2).astype(np.uint64)
    ports = subject.flows["client_port"][subject.numbers]
    order = np.lexsort((ports, words[:, 1], words[:, 0]))
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


# By the name that people give. The first of an order are the largest, but for the texts among them.
ORDERS: dict[str, Key] = {
    "rate": lambda s: s.rates["up_bytes"] + s.rates["down_bytes"],
    "up": lambda s: s.rates["up_packets"],
    "down": lambda s: s.rates["down_packets"],
    "loss": _measured("up_loss", "down_loss"),
    "jitter": _measured("up_jitter", "down_jitter"),
    "trip": _measured("client_trip", "transceiver_trip"),
    "age": lambda s: -(s.flows["state"][s.numbers] >> abi.FLOW_STATE_BITS).astype(np.int64),
    "idle": lambda s: idle_ticks(s.flows, s.numbers, s.now.ticks),
    "client": lambda s: -_client(s),
    "transceiver": lambda s: -s.owners,
}


def first(subject: Subject, order: str, is_reversed: bool, count: int) -> NDArray[np.intp]:
    """Positions in `numbers` of the first so many in an order, without sorting all the others."""
    key = ORDERS[order](subject)
    key = key if is_reversed else -key.astype(np.float64)
    # Of those that are equal at the edge, any may be chosen; in the end the number decides.
    nearest = np.argpartition(key, count)[:count] if count < len(key) else np.arange(len(key))
    chosen: NDArray[np.intp] = nearest[np.lexsort((subject.numbers[nearest], key[nearest]))]
    return chosen
