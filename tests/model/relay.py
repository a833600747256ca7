# SPDX-License-Identifier: Apache-2.0
"""The rules, in the order of docs/packet-semantics.md."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from ipaddress import ip_network

from tests.model import rewrite, routable, stun, wire
from tests.model.budget import prefix_of
from tests.model.state import Endpoint, FlowKey, Life, Record, Resolved, Session, State, Tally
from tests.model.table import Table
from tests.model.verdict import Decided
from tests.model.wire import Packet

THIS_CPU = "this CPU"
ROUTABLE_BUDGETS = 1 << 16
PROVISIONAL_MAX = 32  # packets of a flow that is not confirmed, each way
BAD_SOURCES = [ip_network(one) for one in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "ff00::/8", "::/32")]
MEDIA = (range(4), range(20, 64), range(128, 192))  # RFC 7983, 7: STUN, DTLS, RTP and RTCP


@dataclass(frozen=True)
class Decision:
    """What became of a frame. What became of the maps stands in the state, and is told in changes."""

    action: str  # PASS, DROP, ABORTED, TX, REDIRECT
    frame: bytes
    reason: str
    counted: int  # bytes
    changes: tuple[str, ...]
    record: int | None = None  # by which it is forwarded


@dataclass(frozen=True)
class Accepted:
    """A Binding Request that held, and where it leads."""

    packet: Packet
    key: FlowKey
    budget: object  # whose
    session: Session
    backend: int
    hop: int
    transaction: bytes


class Relay(Table):
    """A relay host with a state, which its packets change."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._link = ""  # by which the packet came
        self._frame = b""
        self._by: int | None = None  # the record that it is forwarded by

    def handle(self, frame: bytes, link: str) -> Decision:
        """Lets a frame come in by a link."""
        self._frame, self._link, self._by = frame, link, None
        self._begin()
        action, out = "", frame
        try:
            action, out, reason = self._decide()
        except Decided as decided:
            reason = decided.reason
            action = reason.partition("_")[0].upper()
        counted = wire.counted_bytes(frame)
        self.state.counters.setdefault(reason, Tally()).count(counted)
        return Decision(action, out, reason, counted, tuple(self._changes), self._by)

    def preview(self, frame: bytes, link: str) -> Decision:
        """What handle() would say, without changing the state."""
        return Relay(copy.deepcopy(self.state)).handle(frame, link)

    def _decide(self) -> tuple[str, bytes, str]:
        packet = wire.parse(self._frame)
        vip = self._check_ours(packet)
        payload = wire.payload(self._frame, packet)
        if not any(payload[0] in firsts for firsts in MEDIA):
            raise Decided("drop_not_rtc")  # 2.3
        if stun.is_stun(payload):
            stun.check_header(payload)
        if vip is None:
            return self._from_transceiver(packet, payload)
        key = FlowKey(Endpoint(packet.source, packet.source_port), vip)
        if stun.is_stun(payload) and stun.kind(payload) == stun.BINDING_REQUEST:
            return self._binding_request(packet, payload, key)
        return self._from_client(packet, key)

    def _check_ours(self, packet: Packet) -> int | None:
        """1.5 and 1.6: the number of the VIP; None: to a relay port."""
        state = self.state
        if packet.unusual and not packet.destination_port:
            raise Decided(packet.unusual if state.is_own(packet.destination) else "pass_not_ours")
        target = Endpoint(packet.destination, packet.destination_port)
        to_relay = target.address in state.relays and target.port in state.ports
        if target not in state.vips and not to_relay:
            raise Decided("pass_not_ours")
        if packet.unusual:
            raise Decided(packet.unusual)
        return None if to_relay else state.vips.index(target)

    # ---- 3. To a VIP ---------------------------------------------------------------------

    def _from_client(self, packet: Packet, key: FlowKey) -> tuple[str, bytes, str]:
        """Everything but Binding Requests."""
        number = self._flow(key)
        if number is None:
            own = self.state.is_own(packet.source)
            raise Decided("drop_spoofed_source" if own else "drop_no_flow")
        return self._to_transceiver(packet, number, "forward_to_transceiver")

    def _binding_request(self, packet: Packet, message: bytes, key: FlowKey) -> tuple[str, bytes, str]:
        state = self.state
        if state.is_own(packet.source):  # 3.1
            raise Decided("drop_spoofed_source")
        if not packet.source_port or any(packet.source in bad for bad in BAD_SOURCES):
            raise Decided("drop_bad_source")

        if self._flow(key) is None and not self._source_has_token(packet):  # 3.2
            raise Decided("drop_source_budget")

        request = stun.read_request(message)  # 3.3
        ufrag = stun.server_ufrag(request.username)  # 3.4
        session = state.sessions.get(ufrag)
        budget: object = ufrag
        if session is None:
            session = self._routable(ufrag)
            budget = session.number % ROUTABLE_BUDGETS
        spent = state.session_budget.is_spent(budget, state.clock())
        if self._flow(key) is None and session.pwd is not None and spent:
            raise Decided("drop_session_budget")
        self._check_authentic(request, session)
        backend = session.backends.get(packet.version)  # 3.7
        if backend is None:
            raise Decided("drop_no_backend")
        met = (self._link, self._frame[6:12])
        hop = self._hop_towards(packet.source, packet.destination, met)  # 3.8
        self._backend(backend)  # must exist
        accepted = Accepted(packet, key, budget, session, backend, hop, stun.transaction(message))

        number = self._flow(key)  # 3.9
        if number is not None and self._is_of(number, accepted):
            self._record(number).hop = hop
            return self._to_transceiver(packet, number, "forward_to_transceiver")
        return self._bind(accepted) if session.pwd is not None else self._bind_provisionally(accepted)

    def _routable(self, ufrag: bytes) -> Session:
        """3.4: the session that a ufrag itself names."""
        said = routable.read(ufrag, self.state.fleet_keys)
        backends = self.state.fleet_owners.get(said.owner)
        if not backends:
            raise Decided("drop_unknown_owner")
        return Session(said.session, backends, said.pwd)

    def _source_has_token(self, packet: Packet) -> bool:
        state = self.state
        had = state.source_budget.take(state.budget_of(prefix_of(packet.source)), state.clock())
        return had or any(packet.source in one for one in state.exempt)

    def _check_authentic(self, request: stun.Request, session: Session) -> None:
        """3.5 and 3.6."""
        if request.fingerprint is None and not session.fingerprint_optional:
            raise Decided("drop_stun_no_fingerprint")
        if request.fingerprint is not None and not stun.fingerprint_holds(request):
            raise Decided("drop_stun_fingerprint")
        if session.pwd is not None:
            if request.integrity is None:
                raise Decided("drop_stun_no_integrity")
            if not stun.integrity_holds(request, session.pwd):
                raise Decided("drop_stun_integrity")

    def _bind(self, accepted: Accepted) -> tuple[str, bytes, str]:
        """3.10."""
        former = self._flow(accepted.key)
        number = self._new_record(accepted, Life.LIVE)
        self._supersede(former)
        reason = "forward_bound" if former is None else "forward_rebound"
        return self._to_transceiver(accepted.packet, number, reason)

    def _bind_provisionally(self, accepted: Accepted) -> tuple[str, bytes, str]:
        """3.11."""
        waiting = [one for one in self._find(accepted.key, Life.PROVISIONAL) if self._is_of(one, accepted)]
        number = waiting[0] if waiting else self._new_record(accepted, Life.PROVISIONAL)
        record = self._record(number)
        if record.up.packets >= PROVISIONAL_MAX:
            raise Decided("drop_provisional")
        record.transaction = accepted.transaction
        return self._to_transceiver(accepted.packet, number, "forward_provisional")

    def _new_record(self, accepted: Accepted, life: Life) -> int:
        """3.10: a record off the ring, filled and entered."""
        state = self.state
        if not state.session_budget.take(accepted.budget, state.clock()):
            raise Decided("drop_session_budget")
        if not state.binding_budget.take(THIS_CPU, state.clock()):
            raise Decided("drop_binding_budget")
        self._lock()
        if state.is_lease_over:
            raise Decided("drop_lease_expired")
        ring = state.free_records[accepted.packet.version]
        if not ring:
            raise Decided("drop_flows_full")
        number = ring.popleft()
        session, backend = accepted.session.number, accepted.backend
        self._fill(number, Record(life, accepted.key, backend, session, accepted.hop, second=None))
        return number

    # ---- 4. To a relay port --------------------------------------------------------------

    def _from_transceiver(self, packet: Packet, payload: bytes) -> tuple[str, bytes, str]:
        state = self.state
        number = state.record_at(packet.destination, packet.destination_port)
        record = self._record(number)
        refused = None
        if record.life in (Life.FREE, Life.BINDING):
            refused = "drop_no_relay_flow"
        elif record.life in (Life.SUPERSEDED, Life.DEAD):
            refused = "drop_stale_flow"
        elif self._backend(record.backend).endpoint != (packet.source, packet.source_port):
            refused = "drop_wrong_backend"
        if refused:
            raise Decided("drop_spoofed_source" if state.is_own(packet.source) else refused)
        if record.life is Life.PROVISIONAL:
            if not stun.is_stun(payload) or record.down.packets >= PROVISIONAL_MAX:
                raise Decided("drop_provisional")
            answers = stun.transaction(payload)[:8] == record.transaction[:8]
            if stun.kind(payload) == stun.BINDING_SUCCESS and answers:
                self._confirm(number, record)
        return self._to_client(packet, number)

    def _confirm(self, number: int, record: Record) -> None:
        """4.2: the transceiver has accepted the request."""
        assert record.key is not None
        self._lock()
        former = self._flow(record.key)
        record.life, record.transaction, record.down = Life.LIVE, b"", Tally()
        self._supersede(former)
        self._note(f"record {number} is confirmed")

    # ---- 5. Forwarding -------------------------------------------------------------------

    def _to_transceiver(self, packet: Packet, number: int, reason: str) -> tuple[str, bytes, str]:
        record = self._record(number)
        backend = self._backend(record.backend)
        source = self.state.relay_endpoint(number)
        forwarded = self._forward(packet, source, backend.endpoint, backend.hop, record, record.up, reason)
        self._by = number
        return forwarded

    def _to_client(self, packet: Packet, number: int) -> tuple[str, bytes, str]:
        record = self._record(number)
        assert record.key is not None
        source = self.state.vips[record.key.vip]
        reason = "forward_to_client"
        forwarded = self._forward(packet, source, record.key.client, record.hop, record, record.down, reason)
        self._by = number
        return forwarded

    def _forward(
        self,
        packet: Packet,
        source: Endpoint,
        destination: Endpoint,
        hop_number: int,
        record: Record,
        tally: Tally,
        reason: str,
    ) -> tuple[str, bytes, str]:
        hop = self._hop(hop_number)  # 5.1
        if hop is None or hop.resolved is Resolved.NO:
            raise Decided("drop_hop_unresolved")
        if packet.ip_bytes > hop.mtu:
            raise Decided("drop_too_big")
        out = rewrite.forwarded(self._frame, packet, source, destination, hop)  # 5.2
        tally.count(packet.ip_bytes)  # 5.3
        if record.life is Life.PROVISIONAL:
            record.down.bytes = 0
        record.seen = True
        return ("TX" if hop.link == self._link else "REDIRECT"), out, reason

    def _is_of(self, number: int, accepted: Accepted) -> bool:
        record = self._record(number)
        return (record.session, record.backend) == (accepted.session.number, accepted.backend)
