# SPDX-License-Identifier: Apache-2.0
"""Ends flows and reports what became of them.

The flow table is looked at as a whole, five times a second: what is found there says what to do,
so nothing is lost when a scan is late or the daemon starts again. A flow whose session does not
exist, or does not have that backend (any more), is ended when it is first seen: this is how the
last packet that was in flight through the binding path when its session was removed is undone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from earshot.relay.v1 import relay_pb2 as pb
from numpy.typing import NDArray

from control import abi
from control.flows import (
    Clock,
    FlowTable,
    Numbers,
    describe,
    idle,
    in_state,
    newly_bound,
    of_sessions,
    ticks_of,
    unconfirmed,
)
from control.model import EndedSession, Session
from control.sessions import Registry
from control.streams import Streams

SCAN_SECONDS = 0.2
# How long a transceiver that keeps its pwd to itself has to answer a client's first request.
UNCONFIRMED_SECONDS = 5
# A program that found a record in the index just before it was ended is through with it by then.
QUARANTINE_SECONDS = 1.0


class EndableFlows(FlowTable, Protocol):
    """What of the datapath it takes to end flows."""

    def end_flows(self, numbers: Numbers) -> None: ...
    def free_flows(self, numbers: Numbers) -> None: ...
    def claim_index(self, number: int) -> bool: ...


class Reaper:
    """Watches the flow table on behalf of the transceivers."""

    def __init__(
        self, table: EndableFlows, registry: Registry, streams: Streams, idle_seconds: float
    ) -> None:
        self._table = table
        self._registry = registry
        self._streams = streams
        self.set_idle_seconds(idle_seconds)
        self._seen = np.zeros(len(table.flows), np.uint32)  # state words at the last scan
        self._fresh: list[int] = []  # bound between the last two scans
        self._dead: deque[tuple[float, Numbers]] = deque()

    def set_idle_seconds(self, idle_seconds: float) -> None:
        """How long a flow may be idle."""
        self._idle_ticks = ticks_of(idle_seconds)

    def adopt(self, now: Clock) -> None:
        """At start: records that a former daemon ended are freed in due time."""
        dead = in_state(self._table.flows["state"], abi.FlowState.DEAD)
        self._dead.append((now.seconds, dead))

    def scan(self, now: Clock) -> None:
        """Reports new flows, ends idle and superseded ones, frees those that were ended a while ago."""
        states = self._table.flows["state"].copy()
        self._end_orphans(states, now)
        self._fresh = newly_bound(states, self._seen).tolist()
        self._seen = states
        for number in self._fresh:
            self._greet(number, now)
        superseded = in_state(states, abi.FlowState.SUPERSEDED)
        self._end_known(superseded, pb.FLOW_END_REASON_SUPERSEDED, now)
        self._end(unconfirmed(states, int(now.seconds) - UNCONFIRMED_SECONDS), now)
        live = in_state(self._table.flows["state"], abi.FlowState.LIVE)
        self._end_known(
            idle(self._table.flows, live, now.ticks, self._idle_ticks), pb.FLOW_END_REASON_IDLE, now
        )
        self._free(now)

    def end_sessions(self, ended: Iterable[EndedSession], now: Clock) -> None:
        """Ends the flows of sessions that are no longer there, or no longer at that backend."""
        sessions: dict[int, Session] = {}
        pairs: list[tuple[int, int]] = []
        for session, backends in ended:
            sessions[session.number] = session
            pairs.extend((session.number, backend) for backend in backends)
        if not pairs:
            return
        flows = self._table.flows
        bound = in_state(
            flows["state"], abi.FlowState.LIVE, abi.FlowState.PROVISIONAL, abi.FlowState.SUPERSEDED
        )
        numbers = of_sessions(flows, bound, pairs)
        self._end(numbers, now)
        for number in numbers.tolist():
            session = sessions[int(flows[number]["session"])]
            self._report_end(number, session, pb.FLOW_END_REASON_SESSION_ENDED, now)

    def end_vips(self, vips: Iterable[int], now: Clock) -> None:
        """Ends the flows of VIPs, by their numbers, that the relay does not serve any more."""
        flows = self._table.flows
        live = in_state(flows["state"], abi.FlowState.LIVE)
        self._end_known(live[np.isin(flows["vip"][live], list(vips))], pb.FLOW_END_REASON_VIP_REMOVED, now)

    def _end_orphans(self, states: NDArray[np.uint32], now: Clock) -> None:
        """Ends flows that lost their 5-tuple to another in the very moment of their binding.

        Two CPUs that re-point a 5-tuple at once both supersede the record that they found, and
        the later one's index entry stands: the other record is live, and no client leads to it.
        Looked at one scan after it was first seen, when its binding is surely over.
        """
        orphans = [
            number
            for number in self._fresh
            if states[number] == self._seen[number] and not self._table.claim_index(number)
        ]
        self._end_known(np.array(orphans, np.uint32), pb.FLOW_END_REASON_SUPERSEDED, now)

    def _greet(self, number: int, now: Clock) -> None:
        record = self._table.flows[number]
        session = self._registry.session(int(record["session"]))
        if session is None or int(record["backend"]) not in session.backends:
            self._end(np.array([number], np.uint32), now)
            return
        if self._streams.listens(session.owner):
            flow = describe(self._table, number, self._registry.name_of(session), now)
            self._streams.publish(session.owner, pb.AttachResponse(flow_bound=pb.FlowBound(flow=flow)))

    def _end_known(self, numbers: Numbers, reason: pb.FlowEndReason, now: Clock) -> None:
        self._end(numbers, now)
        for number in numbers.tolist():
            session = self._registry.session(int(self._table.flows[number]["session"]))
            if session is not None:
                self._report_end(number, session, reason, now)

    def _report_end(self, number: int, session: Session, reason: pb.FlowEndReason, now: Clock) -> None:
        if self._streams.listens(session.owner):
            flow = describe(self._table, number, self._registry.name_of(session), now)
            ended = pb.FlowEnded(flow=flow, reason=reason)
            self._streams.publish(session.owner, pb.AttachResponse(flow_ended=ended))

    def _end(self, numbers: Numbers, now: Clock) -> None:
        if len(numbers):
            self._table.end_flows(numbers)
            self._dead.append((now.seconds, numbers))

    def _free(self, now: Clock) -> None:
        while self._dead and self._dead[0][0] + QUARANTINE_SECONDS <= now.seconds:
            _, numbers = self._dead.popleft()
            self._table.free_flows(numbers)
