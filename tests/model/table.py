# SPDX-License-Identifier: Apache-2.0
"""The flow table: records, what they lead to, and how one becomes a flow."""

from __future__ import annotations

from tests.model.fib import UNICAST
from tests.model.state import Backend, FlowKey, Hop, Life, Record, Resolved, State
from tests.model.verdict import Decided
from tests.model.wire import IPAddress


class Table:
    """The part of the rules that packets and the daemon have in common."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._changes: list[str] = []

    def _begin(self) -> None:
        """Something happens: what it changes is told from here on."""
        self._changes = []
        for record in self.state.records:
            record.seen = False

    def _note(self, change: str) -> None:
        self._changes.append(change)

    # ---- what there is -------------------------------------------------------------------

    def _record(self, number: int) -> Record:
        if number >= len(self.state.records):
            raise Decided("aborted_bad_number")
        return self.state.records[number]

    def _backend(self, number: int) -> Backend:
        if number not in self.state.backends:
            raise Decided("aborted_bad_number")
        return self.state.backends[number]

    def _hop(self, number: int) -> Hop | None:
        """None: nobody has entered it."""
        if number >= self.state.hops_max:
            raise Decided("aborted_bad_number")
        return self.state.hops.get(number)

    def _find(self, key: FlowKey, life: Life) -> list[int]:
        """The records of a 5-tuple in a state that are entered."""
        records = self.state.records
        return [one for one in self.state.entered if (records[one].key, records[one].life) == (key, life)]

    def _flow(self, key: FlowKey) -> int | None:
        """The number of a 5-tuple's flow."""
        found = self._find(key, Life.LIVE)
        assert len(found) <= 1, f"{key} has several flows: {found}"
        return found[0] if found else None

    # ---- what becomes of it --------------------------------------------------------------

    def _hop_towards(self, client: IPAddress, vip: IPAddress, met: tuple[str, bytes] | None) -> int:
        """3.8: the number of the next hop towards a client; met: link and source MAC of its packet."""
        state = self.state
        route = state.fib.route(vip, client)
        if route is None or route.kind != UNICAST or route.link not in state.links:
            raise Decided("drop_unroutable")
        neighbour = route.gateway or client
        known = state.hop_index.get((neighbour, route.link))
        if known is not None:
            return known
        if not state.free_hops:
            raise Decided("drop_hops_full")
        number = state.free_hops.popleft()
        link = state.links[route.link]
        dmac, resolved = state.fib.neighbours.get((neighbour, route.link), bytes(6)), Resolved.YES
        if not any(dmac):
            resolved = Resolved.NO
            if met is not None and met[0] == route.link:  # where the packet came from is the best guess
                dmac, resolved = met[1], Resolved.PROVISIONALLY
        state.hops[number] = Hop(route.link, link.mac, dmac, link.mtu, resolved)
        state.hop_index[neighbour, route.link] = number
        self._note(f"hop {number} is {neighbour} on {route.link}, resolved: {resolved.value}")
        return number

    def _lock(self) -> None:
        """3.10, 4.2 and 6.3: the place in the index, where others do not have it."""
        if self.state.is_locked:
            raise Decided("drop_busy")

    def _fill(self, number: int, record: Record) -> None:
        """3.10: a FREE record becomes this one, and is entered."""
        state = self.state
        if self._record(number).life is not Life.FREE:
            raise Decided("drop_free_list")
        state.records[number] = record
        record.seen = True
        self._note(
            f"record {number} is {record.life.value}: {record.key}, session {record.session}, "
            f"backend {record.backend}"
        )
        if state.is_full:
            record.life = Life.SUPERSEDED
            raise Decided("drop_index_full")
        state.entered.add(number)

    def _supersede(self, number: int | None) -> None:
        """What happens to the record that another takes the place of."""
        if number is not None and self._record(number).life is Life.LIVE:
            self._record(number).life = Life.SUPERSEDED
            self._note(f"record {number} is superseded")
