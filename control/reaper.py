# SPDX-License-Identifier: Apache-2.0
"""Ends flows and reports what became of them.

The flow table is looked at as a whole, five times a second: what is found there says what to do,
so nothing is lost when a scan is late or the daemon starts again. A flow whose session does not
exist, or does not have that backend (any more), is ended when it is first seen: this is how the
last packet that was in flight through the binding path when its session was removed is undone.

A scan is a series of steps, between which others have their turn: they may end flows meanwhile, so
each step goes by what it finds in the table, and by nothing that an earlier one has found there
unless that is still so. What must not be late comes first, reports come last.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

import numpy as np
from earshot.relay.v1 import relay_pb2 as pb

from control import abi
from control.flows import Clock, FlowTable, Numbers, idle, in_state, of_sessions, ticks_of
from control.model import EndedSession, Session
from control.places import is_derived
from control.reports import Ended, Reports
from control.session_flows import SessionFlows
from control.sessions import Registry
from control.streams import Streams
from control.sweep import STATE_MASK, STRETCH, Limits, Snapshot, look, parts

SCAN_SECONDS = 0.2
# How long a transceiver that keeps its pwd to itself has to answer a client's first request.
UNCONFIRMED_SECONDS = 5
# A program that found a record in the index just before it was ended is through with it by then.
QUARANTINE_SECONDS = 1.0
# Flows that are dealt with in one step: a few milliseconds.
PART = 1024
# Why flows end, as the metrics say it; nobody is told of what was never confirmed.
UNCONFIRMED = "unconfirmed"
# The relay that owns a flow says that it has ended, and not why.
ELSEWHERE = "elsewhere"
_WHY = {
    number: name.removeprefix("FLOW_END_REASON_").lower()
    for name, number in pb.FlowEndReason.items()
    if number
}
WHYS = (*_WHY.values(), UNCONFIRMED, ELSEWHERE)


class EndableFlows(FlowTable, Protocol):
    """What of the datapath it takes to end flows."""

    def end_flows(self, numbers: Numbers) -> None: ...
    def free_flows(self, numbers: Numbers) -> None: ...
    def repair_index(self) -> None: ...
    def lost(self) -> Numbers: ...
    def give_back(self, numbers: Numbers) -> None: ...


class Reaper:
    """Watches the flow table on behalf of the transceivers.

    Attributes:
        ended: flows that it has ended, by why, in the words of `_WHY`, and `unconfirmed`.
    """

    def __init__(
        self, table: EndableFlows, registry: Registry, streams: Streams, idle_seconds: float
    ) -> None:
        self.ended = Counter[str]()
        self._table = table
        self._registry = registry
        self._reports = Reports(table, registry, streams)
        self.set_idle_seconds(idle_seconds)
        self._seen = np.zeros(len(table.flows), np.uint32)  # state words at the last scan
        self._fresh: list[Snapshot] = []  # bound before this scan came to them
        self._of_session = SessionFlows(len(table.flows))
        self._dead: deque[tuple[float, Numbers]] = deque()
        self._adopted = 0.0
        self._lost: Numbers = np.zeros(0, np.uint32)  # at adoption; looked at again a second later

    def set_idle_seconds(self, idle_seconds: float) -> None:
        """How long a flow may be idle."""
        self._idle_ticks = ticks_of(idle_seconds)

    def grow(self) -> None:
        """The table may be larger than it was; the records that there were keep their numbers."""
        more = len(self._table.flows) - len(self._seen)
        if more:
            self._seen = np.concatenate((self._seen, np.zeros(more, np.uint32)))
            self._of_session = self._of_session.grown(len(self._table.flows))

    def adopt(self, clock: Callable[[], Clock]) -> None:
        """At start: what a former daemon had begun is brought to its end, in due time.

        The second of quarantine begins when all that is done: `clock` is read then.
        """
        self._table.repair_index()
        self._lost = self._table.lost()
        dead = in_state(self._table.flows["state"], abi.FlowState.DEAD)
        self._adopted = clock().seconds
        self._dead = deque((self._adopted, part) for part in parts(dead, PART))

    def scan(self, now: Clock) -> None:
        """All steps of a scan at once, at one moment: at start, when nobody waits yet."""
        for _ in self.steps(lambda: now):
            pass

    def steps(self, clock: Callable[[], Clock]) -> Iterator[None]:
        """Reports new flows, ends idle and superseded ones, frees those that were ended a while ago.

        A generator: a few milliseconds of work up to each yield. `clock` is read anew after each.
        """
        self._fresh = []
        ended: list[Ended] = []
        for start in range(0, len(self._table.flows), STRETCH):
            now = clock()
            limits = Limits(now.ticks, self._idle_ticks, int(now.seconds) - UNCONFIRMED_SECONDS)
            found = look(self._table.flows, self._seen, start, limits)
            for part in parts(found.superseded, PART):
                ended += self._end_known(self._unchanged(part), pb.FLOW_END_REASON_SUPERSEDED, clock())
                yield
            for part in parts(found.unconfirmed, PART):
                self._end(self._unchanged(part), clock(), UNCONFIRMED)
                yield
            for part in parts(found.idle, PART):
                now = clock()
                still = idle(self._table.flows, self._unchanged(part), now.ticks, self._idle_ticks)
                ended += self._end_known(still, pb.FLOW_END_REASON_IDLE, now)
                yield
            for part in parts(found.appeared, PART):
                self._take_in(self._unchanged(part), clock())
                yield
            yield
        for snapshot in self._fresh:
            yield from self._reports.bound(snapshot, clock)
        for one in ended:
            yield from self._reports.ended(one, clock)
        while self._free(clock()):
            yield

    def end_sessions(self, ended: Iterable[EndedSession], now: Clock) -> None:
        """Ends the flows of sessions that are no longer there, or no longer at that backend.

        Those that scans have seen are in the lists; to find the few that none has seen yet takes a look at
        all state words: with a million flows 3 ms, a fifth of what it would take without lists.
        """
        sessions: dict[int, Session] = {}
        pairs: list[tuple[int, int]] = []
        for session, backends in ended:
            sessions[session.number] = session
            pairs.extend((session.number, backend) for backend in backends)
        if not pairs:
            return
        flows = self._table.flows
        listed = [number for known in sessions for number in self._of_session.of(known)]
        unseen = np.flatnonzero(flows["state"] != self._seen)
        held = np.union1d(np.array(listed, np.uint32), unseen.astype(np.uint32))
        bound = held[
            in_state(
                flows["state"][held], abi.FlowState.LIVE, abi.FlowState.PROVISIONAL, abi.FlowState.SUPERSEDED
            )
        ]
        for numbers in parts(of_sessions(flows, bound, pairs), PART):
            self._end(numbers, now, _WHY[pb.FLOW_END_REASON_SESSION_ENDED])
            owners = [sessions[number] for number in flows["session"][numbers].tolist()]
            for _ in self._reports.ended(
                Ended(numbers, owners, pb.FLOW_END_REASON_SESSION_ENDED), lambda: now
            ):
                pass

    def end_places(self, backends: Collection[int], now: Clock) -> None:
        """Ends the flows to these backends of sessions that are known by their ufrags alone."""
        if not backends:
            return
        flows = self._table.flows
        held = in_state(flows["state"], abi.FlowState.LIVE, abi.FlowState.SUPERSEDED)
        held = held[np.isin(flows["backend"][held], list(backends))]
        known = self._registry.session
        unknown = [is_derived(one) and known(one) is None for one in flows["session"][held].tolist()]
        for numbers in parts(held[np.array(unknown, np.bool_)], PART):
            self._end(numbers, now, _WHY[pb.FLOW_END_REASON_SESSION_ENDED])

    def end_vips(self, vips: Iterable[int], now: Clock) -> None:
        """Ends the flows of VIPs, by their numbers, that the relay does not serve any more."""
        flows = self._table.flows
        live = in_state(flows["state"], abi.FlowState.LIVE)
        for numbers in parts(live[np.isin(flows["vip"][live], list(vips))], PART):
            for one in self._end_known(numbers, pb.FLOW_END_REASON_VIP_REMOVED, now):
                for _ in self._reports.ended(one, lambda: now):
                    pass

    def end_removed(self, numbers: Numbers, now: Clock) -> None:
        """Ends flows of a relay address that is taken away, LIVE or PROVISIONAL."""
        live = in_state(self._table.flows["state"][numbers], abi.FlowState.LIVE)
        known = numbers[live]
        self._end(np.setdiff1d(numbers, known), now, _WHY[pb.FLOW_END_REASON_RELAY_ADDRESS_REMOVED])
        for part in parts(known, PART):
            for one in self._end_known(part, pb.FLOW_END_REASON_RELAY_ADDRESS_REMOVED, now):
                for _ in self._reports.ended(one, lambda: now):
                    pass

    def end_elsewhere(self, numbers: Numbers, now: Clock) -> None:
        """Ends flows of other relays, LIVE or PROVISIONAL, that these have ended."""
        for part in parts(numbers, PART):
            sessions = [self._registry.session(one) for one in self._table.flows["session"][part].tolist()]
            self._end(part, now, ELSEWHERE)
            for _ in self._reports.ended(Ended(part, sessions, pb.FLOW_END_REASON_UNSPECIFIED), lambda: now):
                pass

    def _unchanged(self, numbers: Numbers) -> Numbers:
        """Those that are still as this scan has found them: others have had their turn since."""
        return Snapshot(numbers, self._seen[numbers]).unchanged(self._table.flows)

    def _take_in(self, numbers: Numbers, now: Clock) -> None:
        """New flows: those of sessions that do not have them any more end, the others are remembered."""
        flows = self._table.flows
        sessions, states = flows["session"][numbers], flows["state"][numbers]
        stale = np.array(
            [
                not self._registry.leads_on(number, backend)
                for number, backend in zip(sessions.tolist(), flows["backend"][numbers].tolist(), strict=True)
            ],
            np.bool_,
        )
        self._end(numbers[stale], now, _WHY[pb.FLOW_END_REASON_SESSION_ENDED])
        kept = ~stale
        self._of_session.add(numbers[kept], sessions[kept])
        fresh = kept & ((states & STATE_MASK) == abi.FlowState.LIVE)
        if fresh.any():
            self._fresh.append(Snapshot(numbers[fresh], states[fresh]))

    def _end_known(self, numbers: Numbers, reason: pb.FlowEndReason, now: Clock) -> list[Ended]:
        """Ends flows; returns what is to be reported of it."""
        sessions = [self._registry.session(one) for one in self._table.flows["session"][numbers].tolist()]
        self._end(numbers, now, _WHY[reason])
        return [Ended(numbers, sessions, reason)] if len(numbers) else []

    def _end(self, numbers: Numbers, now: Clock, why: str) -> None:
        if len(numbers):
            self.ended[why] += len(numbers)
            self._table.end_flows(numbers)
            self._dead.append((now.seconds, numbers))

    def _free(self, now: Clock) -> bool:
        """Frees some of those whose quarantine is over; whether there may be more."""
        if len(self._lost) and self._adopted + QUARANTINE_SECONDS <= now.seconds:
            # First, so that nothing is given back between the two looks. What a CPU had just taken
            # at the first one is in use by now.
            self._table.give_back(np.intersect1d(self._lost, self._table.lost()).astype(np.uint32))
            self._lost = np.zeros(0, np.uint32)
            return True
        if not self._dead or self._dead[0][0] + QUARANTINE_SECONDS > now.seconds:
            return False
        _, numbers = self._dead.popleft()
        self._table.free_flows(numbers)
        return True
