# SPDX-License-Identifier: Apache-2.0
"""What the daemon does to the flow table between packets (6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.model.state import Endpoint, FlowKey, Life, Record, Session
from tests.model.table import Table
from tests.model.verdict import Decided

SAME_TIME = 2  # seconds


@dataclass(frozen=True)
class Told:
    """A flow that another relay has bound, as it stands in the list."""

    client: Endpoint
    vip: int
    record: int
    session: int
    backend: int
    second: int


class Daemon(Table):
    """The daemon of a relay host whose state it changes."""

    def enter(self, flows: Sequence[Told]) -> list[str]:
        """What becomes of each flow of a list."""
        self._begin()
        return [self._outcome(told) for told in flows]

    def end_session(self, session: Session) -> list[int]:
        """The records of a session's flows, which end."""
        self._begin()
        state = self.state
        for ufrag in [ufrag for ufrag, one in state.sessions.items() if one.number == session.number]:
            del state.sessions[ufrag]
            state.session_budget.buckets.pop(ufrag, None)
        ending = (Life.LIVE, Life.PROVISIONAL, Life.SUPERSEDED)
        numbers = [
            number
            for number, record in enumerate(state.records)
            if record.life in ending and record.session == session.number
        ]
        for number in numbers:
            self._record(number).life = Life.DEAD
            state.entered.discard(number)
        return numbers

    def free(self) -> list[int]:
        """The records that were DEAD: a second has passed. An entry that is left of one goes with it."""
        self._begin()
        state = self.state
        numbers = [number for number, record in enumerate(state.records) if record.life is Life.DEAD]
        for number in numbers:
            state.records[number] = Record()
            state.entered.discard(number)
            relay = number // len(state.ports)
            if relay not in state.foreign:
                state.free_records[state.relays[relay].version].append(number)
        return numbers

    def _outcome(self, told: Told) -> str:
        try:
            return self._enter(told)
        except Decided as decided:
            return decided.reason

    def _enter(self, told: Told) -> str:
        state = self.state
        if told.vip >= len(state.vips) or not told.second:  # 6.1
            raise Decided("aborted_bad_number")
        hop = self._hop_towards(told.client.address, state.vips[told.vip].address, None)  # 6.2
        self._lock()  # 6.3
        key = FlowKey(told.client, told.vip)
        flow = self._flow(key)
        if flow == told.record:  # 6.4
            return "forward_to_transceiver"
        if flow is not None and self._stays(flow, told):  # 6.5
            raise Decided("drop_stale_flow")
        self._backend(told.backend)  # 6.6: must exist
        record = Record(Life.LIVE, key, told.backend, told.session, hop, second=told.second)
        self._fill(told.record, record)  # 6.7
        self._supersede(flow)
        return "forward_bound" if flow is None else "forward_rebound"

    def _stays(self, flow: int, told: Told) -> bool:
        """6.5: whether a 5-tuple's flow is not replaced by one that is told of."""
        bound = self._record(flow).second
        assert bound is not None, "nobody has said when"
        if abs(told.second - bound) > SAME_TIME:
            return bound > told.second
        if told.record >= len(self.state.records):
            return True
        ours, theirs = self.state.relay_endpoint(flow), self.state.relay_endpoint(told.record)
        return (int(ours.address), ours.port) > (int(theirs.address), theirs.port)
