# SPDX-License-Identifier: Apache-2.0
"""Reading the flow table: one numpy array over the mapping, one record for each relay port.

Pure functions over such an array. Numbers of records are indices into it. What XDP writes at the
same time is read word by word, and no word is ever half written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import Endpoint

if TYPE_CHECKING:
    from earshot.relay.v1 import relay_pb2 as pb

Records = NDArray[np.void]
Numbers = NDArray[np.uint32]

_STATE_MASK = np.uint32((1 << abi.FLOW_STATE_BITS) - 1)
_TICKS = 1 << 32
# XDP may have seen a packet after the clock was read here: long after it, where this process was stopped
# in between. So half of all differences are the future. No flow is left alone for the other 26 days.
FUTURE_TICKS = np.uint32(1 << 31)


class FlowTable(Protocol):
    """What of the datapath it takes to describe flows."""

    @property
    def flows(self) -> Records: ...
    @property
    def backends(self) -> Records: ...
    @property
    def vips(self) -> Sequence[Endpoint]: ...
    def relay_endpoint(self, number: int) -> Endpoint: ...


class Clock(NamedTuple):
    """One reading of CLOCK_MONOTONIC, as the flow table counts time."""

    seconds: float
    ticks: int

    @classmethod
    def at(cls, nanoseconds: int) -> Clock:
        return cls(nanoseconds / 1e9, (nanoseconds >> abi.FLOW_TICK_SHIFT) % _TICKS)


def ticks_of(seconds: float) -> int:
    """A duration in ticks."""
    return int(seconds * 1e9) >> abi.FLOW_TICK_SHIFT


def milliseconds_of(ticks: int) -> int:
    return (ticks << abi.FLOW_TICK_SHIFT) // 1_000_000


def in_state(states: NDArray[np.uint32], *wanted: abi.FlowState) -> Numbers:
    """The records whose state word says one of these states."""
    return np.flatnonzero(np.isin(states & _STATE_MASK, wanted)).astype(np.uint32)


def idle_ticks(flows: Records, numbers: Numbers, now_ticks: int) -> NDArray[np.uint32]:
    """Ticks since the last packet in either direction, across the wrap of the 32-bit counter."""
    idle: NDArray[np.uint32] = np.uint32(now_ticks) - flows["last_seen"][numbers]
    idle[idle > np.uint32(_TICKS - 1) - FUTURE_TICKS] = 0
    return idle


def idle(flows: Records, numbers: Numbers, now_ticks: int, limit_ticks: int) -> Numbers:
    """Those of the records that have been idle for at least so long."""
    return numbers[idle_ticks(flows, numbers, now_ticks) >= limit_ticks]


def of_sessions(flows: Records, numbers: Numbers, pairs: Iterable[tuple[int, int]]) -> Numbers:
    """Those of the records that belong to one of these pairs of session number and backend."""
    wanted = np.array([session << 16 | backend for session, backend in pairs], np.uint64)
    held = flows["session"][numbers].astype(np.uint64) << np.uint64(16) | flows["backend"][numbers]
    return numbers[np.isin(held, wanted)]


def count_by_session(flows: Records) -> dict[int, int]:
    """How many live flows each session has, by its number."""
    live = in_state(flows["state"], abi.FlowState.LIVE)
    sessions, counts = np.unique(flows["session"][live], return_counts=True)
    return dict(zip(sessions.tolist(), counts.tolist(), strict=True))


def flow_id(number: int, state: int) -> int:
    """Unique in the life of the maps: no record is bound twice within one second."""
    return (state >> abi.FLOW_STATE_BITS) << 32 | number


def endpoint_message(endpoint: Endpoint) -> pb.Endpoint:
    """An endpoint as the API shows it."""
    # Not before it is needed: whoever only looks at maps has no use of it, and it is slow to load.
    from earshot.relay.v1 import relay_pb2 as pb

    return pb.Endpoint(address=str(endpoint.address), port=endpoint.port)
