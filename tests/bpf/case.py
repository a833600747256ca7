# SPDX-License-Identifier: Apache-2.0
"""A row of the packet table: a packet and the maps it meets, and all that must come of it.

What a row does not name must not happen: the frame stays as it came, and no map changes but
the one counter of its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from control import abi
from control.abi import Reason
from control.addresses import Endpoint, IPAddress
from tests.bpf import stun, world
from tests.bpf.packets import ETHERNET_BYTES, Datagram
from tests.bpf.rig import (
    BOUND_NOW,
    CHARGED_NOW,
    HELD_NOW,
    LEFT_OUT_NOW,
    SEEN_NOW,
    Rig,
    State,
    hop_key,
    put_flow,
    put_hop,
)
from tests.bpf.world import BACKEND_ENDPOINTS, LINK_MACS, Family

Arrange = Callable[[Rig], None]
Change = Callable[[State, Rig], None]

RTP = bytes.fromhex("806f0001000003c0deadbeef") + bytes(range(60))
RTCP = bytes.fromhex("80c80006deadbeef") + bytes(20)
DTLS = bytes.fromhex("16fefd0000000000000000000c") + bytes(12)


@dataclass(frozen=True)
class Case:
    name: str
    reason: Reason
    frame: bytes
    link: str = world.CLIENTS  # by which it comes
    action: str = ""  # only where the reason does not say it: TX instead of REDIRECT
    out: bytes | None = None
    counted: int = 0  # bytes; 0: of the IP packet as it came
    arrange: tuple[Arrange, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def expected_action(self) -> str:
        group = self.reason.name.partition("_")[0]
        return (self.action or "REDIRECT") if group == "FORWARD" else group

    @property
    def expected_bytes(self) -> int:
        if self.counted:
            return self.counted
        if self.reason in (Reason.PASS_NOT_IP, Reason.PASS_VLAN):
            return len(self.frame)
        return len(self.frame) - ETHERNET_BYTES

    def check(self, rig: Rig) -> None:
        """Runs the row, on maps that have been reset."""
        for arrange in self.arrange:
            arrange(rig)
        outcome = rig.run(self.frame, self.link)
        assert outcome.reason == self.reason
        assert outcome.action == self.expected_action
        assert outcome.frame == (self.frame if self.out is None else self.out)
        expected = outcome.before
        expected.packets[self.reason] += 1
        expected.bytes[self.reason] += self.expected_bytes
        for change in self.changes:
            change(expected, rig)
        outcome.assert_state(expected)


# ---- packets ---------------------------------------------------------------------------------


def from_client(family: Family, payload: bytes = RTP, *, client: Endpoint | None = None) -> Datagram:
    source = client or family.client
    return Datagram(
        source.address,
        family.vip.address,
        source.port,
        family.vip.port,
        payload,
        smac=world.QUIET_MAC,
        dmac=LINK_MACS[world.CLIENTS],
    )


def from_backend(
    family: Family, payload: bytes = RTP, *, record: int | None = None, backend: int | None = None
) -> Datagram:
    source = BACKEND_ENDPOINTS[backend or family.backends.usual]
    number = family.live if record is None else record
    return Datagram(
        source.address,
        world.relay_of(number),
        source.port,
        family.relay_port(number),
        payload,
        smac=world.BACKEND_MAC,
        dmac=LINK_MACS[world.BACKENDS],
    )


def request(
    family: Family,
    ufrag: bytes = world.ALICE,
    *,
    client: Endpoint | None = None,
    transaction: bytes = stun.TRANSACTION,
) -> Datagram:
    """An ordinary Binding Request to the family's VIP, of somebody who knows the pwd."""
    pwd = world.SESSIONS[ufrag].pwd
    return from_client(family, stun.request(ufrag + b":peer", pwd, transaction=transaction), client=client)


def answer(
    family: Family,
    record: int | None = None,
    *,
    backend: int | None = None,
    kind: int = stun.RESPONSE,
    transaction: bytes = stun.TRANSACTION,
) -> Datagram:
    """A transceiver's answer to such a request."""
    mapped = (0x0020, b"\0\1" + bytes(6))  # what is in it is not looked at
    raw = stun.signed(stun.message(kind, [mapped], transaction=transaction), world.PWD)
    return from_backend(family, raw, record=record, backend=backend)


def to_backend(
    datagram: Datagram,
    family: Family,
    record: int,
    *,
    backend: int | None = None,
    link: str = world.BACKENDS,
    dmac: bytes = world.BACKEND_MAC,
) -> bytes:
    """The frame that a transceiver must get for a client's datagram."""
    target = BACKEND_ENDPOINTS[backend or family.backends.usual]
    return replace(
        datagram,
        src=world.relay_of(record),
        sport=family.relay_port(record),
        dst=target.address,
        dport=target.port,
        ttl=datagram.ttl - 1,
        smac=LINK_MACS[link],
        dmac=dmac,
    ).frame()


def to_client(datagram: Datagram, family: Family, *, client: Endpoint | None = None) -> bytes:
    """The frame that a client must get for a transceiver's datagram."""
    target = client or family.client
    return replace(
        datagram,
        src=family.vip.address,
        sport=family.vip.port,
        dst=target.address,
        dport=target.port,
        ttl=datagram.ttl - 1,
        smac=LINK_MACS[world.CLIENTS],
        dmac=world.CLIENT_MAC,
    ).frame()


# ---- maps beforehand -------------------------------------------------------------------------


def established(family: Family) -> Arrange:
    """A live flow of Alice's, for the family's client."""
    return lambda rig: rig.put_flow(family)


def in_state(family: Family, state: abi.FlowState) -> Arrange:
    """A record in this state that the client's 5-tuple leads to, whether or not that can be."""

    return lambda rig: rig.put_flow(family, state=state | 99 << abi.FLOW_STATE_BITS)


# ---- maps afterwards -------------------------------------------------------------------------


def counted_up(record: int, length: int) -> Change:
    """A packet of that many bytes went to the transceiver."""

    def change(state: State, rig: Rig) -> None:
        state.flows["up_packets"][record] += 1
        state.flows["up_bytes"][record] += length
        state.flows["last_seen"][record] = SEEN_NOW

    return change


def counted_down(record: int, length: int) -> Change:
    """A packet of that many bytes went to the client."""

    def change(state: State, rig: Rig) -> None:
        state.flows["down_packets"][record] += 1
        state.flows["down_bytes"][record] += length
        state.flows["last_seen"][record] = SEEN_NOW

    return change


def charged_source(address: IPAddress) -> Change:
    """A request was charged to its source."""

    def change(state: State, rig: Rig) -> None:
        state.sources[rig.cell(address)] = CHARGED_NOW

    return change


def charged_binding(ufrag: bytes) -> Change:
    """A new flow was charged to its session and to the CPU."""

    def change(state: State, rig: Rig) -> None:
        state.sessions[ufrag] = state.cpu = CHARGED_NOW

    return change


def bound(
    family: Family,
    ufrag: bytes = world.ALICE,
    *,
    session: world.Session | None = None,
    client: Endpoint | None = None,
    hop: int = world.FREE_HOPS[0],
    had_flow: bool = False,
) -> Change:
    """The first free record became a live flow of the ufrag's session, or of one that nobody has registered.

    had_flow: the client had a live one before, so that its source was not charged.
    """
    return _new_flow(
        family, ufrag, client or family.client, hop, BOUND_NOW, had_flow=had_flow, derived=session
    )


def held(
    family: Family,
    ufrag: bytes = world.CAROL,
    *,
    hop: int = world.FREE_HOPS[0],
    transaction: bytes = stun.TRANSACTION,
    had_flow: bool = False,
) -> Change:
    """The first free record became a provisional flow."""
    return _new_flow(family, ufrag, family.client, hop, HELD_NOW, transaction, had_flow=had_flow)


def left_out(
    family: Family,
    ufrag: bytes = world.ALICE,
    *,
    had_flow: bool = False,
) -> Change:
    """The first free record was filled, and found no slot in the index: the daemon is to end it."""
    return _new_flow(family, ufrag, family.client, world.FREE_HOPS[0], LEFT_OUT_NOW, had_flow=had_flow)


def _new_flow(
    family: Family,
    ufrag: bytes,
    client: Endpoint,
    hop: int,
    flow_state: int,
    transaction: bytes = bytes(8),
    *,
    had_flow: bool,
    derived: world.Session | None = None,
) -> Change:
    session = derived or world.SESSIONS[ufrag]

    def change(state: State, rig: Rig) -> None:
        record = state.free_flows[family.version].pop(0)
        put_flow(
            state.flows,
            family,
            record,
            client=client,
            backend=session.backends[family.index],
            session=session.number,
            hop=hop,
            state=flow_state,
            last_seen=SEEN_NOW,
            transaction=transaction[:8],
        )
        if flow_state != LEFT_OUT_NOW:
            state.index = sorted([*state.index, record])
        if derived:
            state.derived[session.number % abi.DERIVED_CELLS] = state.cpu = CHARGED_NOW
        else:
            charged_binding(ufrag)(state, rig)
        if not had_flow:
            charged_source(client.address)(state, rig)

    return change


def new_hop(
    neighbour: IPAddress,
    dmac: bytes = world.CLIENT_MAC,
    resolved: abi.HopState = abi.HopState.RESOLVED,
) -> Change:
    """The first free hop became one of the clients' link."""

    def change(state: State, rig: Rig) -> None:
        number = state.free_hops.pop(0)
        ifindex = rig.ifindex[world.CLIENTS]
        put_hop(state.hops, number, dmac, ifindex, world.CLIENTS, resolved=resolved)
        state.hop_index[hop_key(neighbour, ifindex)] = number

    return change


def lost_free_flow(version: int) -> Change:
    """A number left the free list, and is nowhere now."""

    def change(state: State, rig: Rig) -> None:
        state.free_flows[version].pop(0)

    return change


def superseded(record: int) -> Change:
    def change(state: State, rig: Rig) -> None:
        low = np.uint32((1 << abi.FLOW_STATE_BITS) - 1)
        state.flows["state"][record] = state.flows["state"][record] & ~low | abi.FlowState.SUPERSEDED

    return change
