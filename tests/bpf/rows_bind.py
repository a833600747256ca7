# SPDX-License-Identifier: Apache-2.0
"""Rows about binding: who gets a flow, by which next hop, and what it does to a flow that is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import numpy as np

from control import abi
from control.abi import FlowState, HopState, Reason
from control.addresses import Endpoint
from tests.bpf import world
from tests.bpf.case import (
    Arrange,
    Case,
    Change,
    bound,
    charged_binding,
    charged_source,
    counted_down,
    counted_up,
    established,
    from_backend,
    from_client,
    in_state,
    left_out,
    lost_free_flow,
    new_hop,
    request,
    superseded,
    to_backend,
    to_client,
)
from tests.bpf.rig import Rig, State, flow_key, hop_key
from tests.bpf.world import ALICE, ALICE_AGAIN, BACKENDS, BOB, FREE_HOPS, V4, V6, Family

ABSENT_FREE_HOP = 20000
LONG_AGO = 1  # ns of CLOCK_MONOTONIC
TURNS = abi.SlotBit.TURNS

BAD_SOURCES = {
    4: (
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.255",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
    ),
    6: ("::", "::1", "ff02::1", "ff0e::1", "::ffff:198.51.100.10", "::198.51.100.10"),
}


def rows() -> Iterator[Case]:
    for family in world.FAMILIES:
        yield from _next_hops(family)
        yield from _sources(family)
        yield from _sessions(family)
        yield from _rebinding(family)
        yield from _full(family)
        yield from _locked(family)
        yield from _broken_maps(family)
        yield from _bound_but_not_sent(family)
    yield from _other_addresses()


def _binding(
    family: Family,
    name: str,
    client: Endpoint,
    *changes: Change,
    arrange: Arrange | None = None,
    hop: int = FREE_HOPS[0],
) -> Case:
    """Alice's request from this client: changes are those of the hop."""
    datagram = request(family, client=client)
    record = family.free[0]
    return Case(
        f"v{family.version} {name}",
        Reason.FORWARD_BOUND,
        datagram.frame(),
        out=to_backend(datagram, family, record),
        arrange=(arrange,) if arrange else (),
        changes=(
            *changes,
            bound(family, client=client, hop=hop),
            counted_up(record, datagram.ip_bytes),
        ),
    )


def _next_hops(family: Family) -> Iterator[Case]:
    name = f"v{family.version}"
    yield _binding(family, "neighbour binds", family.client, new_hop(family.client.address))
    # What a record had before it was free is gone.
    used = _binding(family, "a record with remains binds", family.client, new_hop(family.client.address))
    yield replace(used, arrange=(lambda rig: _leave_remains(rig, family.free[0]),))
    by_gateway = new_hop(family.gateway, world.GATEWAY_MAC)
    yield _binding(family, "distant client binds", family.distant, by_gateway)
    by_rule = new_hop(family.other_gateway, world.OTHER_GATEWAY_MAC)
    yield _binding(family, "client by a route for the vip alone", family.ruled, by_rule)

    def known(rig: Rig) -> None:
        key = hop_key(family.gateway, rig.ifindex[world.CLIENTS])
        rig.datapath.hop_index.put(key, np.uint32(world.TO_CLIENT).tobytes())

    def known_and_full(rig: Rig) -> None:
        known(rig)
        rig.set_free_hops()

    hop = world.TO_CLIENT
    yield _binding(family, "client by a known hop binds", family.distant, arrange=known, hop=hop)
    yield _binding(family, "known hop, hops full", family.distant, arrange=known_and_full, hop=hop)
    provisional = new_hop(family.quiet.address, world.QUIET_MAC, HopState.PROVISIONAL)
    yield _binding(family, "client without neighbour entry binds", family.quiet, provisional)
    # By another link than the answers will take: its MAC says nothing about theirs.
    unresolved = new_hop(family.quiet.address, bytes(6), HopState.UNRESOLVED)
    asymmetric = _binding(family, "client by the wrong link binds", family.quiet, unresolved)
    yield replace(asymmetric, link=BACKENDS, action="TX")
    for what, client in (("no route", family.unreachable), ("a route by a strange link", family.elsewhere)):
        frame = request(family, client=client).frame()
        charged = (charged_source(client.address),)
        yield Case(f"{name} {what}", Reason.DROP_UNROUTABLE, frame, changes=charged)
    frame = request(family).frame()
    charge = charged_source(family.client.address)
    yield Case(
        f"{name} hops full",
        Reason.DROP_HOPS_FULL,
        frame,
        arrange=(lambda rig: rig.set_free_hops(),),
        changes=(charge,),
    )
    yield Case(
        f"{name} hop index full",
        Reason.DROP_HOPS_FULL,
        frame,
        arrange=(_fill_hop_index,),
        changes=(charge, _hop_given_back),
    )

    def absent(rig: Rig) -> None:
        rig.set_free_hops(ABSENT_FREE_HOP)

    def popped(state: State, rig: Rig) -> None:
        state.free_hops.pop(0)

    yield Case(
        f"{name} absent free hop",
        Reason.ABORTED_BAD_NUMBER,
        frame,
        arrange=(absent,),
        changes=(charge, popped),
    )


def _leave_remains(rig: Rig, record: int) -> None:
    flow = np.frombuffer(b"\xa5" * abi.FLOW.itemsize, abi.FLOW).copy()
    flow["state"] = FlowState.FREE
    rig.datapath.flows[record] = flow[0]


def _fill_hop_index(rig: Rig) -> None:
    keys = np.zeros(abi.HOP_MAX, abi.HOP_KEY)
    keys["ifindex"] = np.arange(abi.HOP_MAX) + 1000
    assert rig.datapath.hop_index.put_many(keys, np.zeros(abi.HOP_MAX, np.uint32)) == abi.HOP_MAX


def _hop_given_back(state: State, rig: Rig) -> None:
    """Filled, not entered, and put back: unresolved, and of no link."""
    number = state.free_hops.pop(0)
    state.free_hops.append(number)
    state.hops["dmac"][number] = np.void(world.CLIENT_MAC)
    state.hops["smac"][number] = np.void(world.LINK_MACS[world.CLIENTS])
    state.hops["mtu"][number] = world.MTU


def _sources(family: Family) -> Iterator[Case]:
    name, good = f"v{family.version}", request(family)
    for bad in BAD_SOURCES[family.version]:
        frame = replace(good, src=ip_address(bad)).frame()
        yield Case(f"{name} request from {bad}", Reason.DROP_BAD_SOURCE, frame)
    yield Case(f"{name} request from port 0", Reason.DROP_BAD_SOURCE, replace(good, sport=0).frame())
    for what, address in (("the vip", family.vip.address), ("the relay", family.relay)):
        for port in (family.client.port, 0):
            frame = replace(good, src=address, sport=port).frame()
            yield Case(f"{name} request from {what}, port {port}", Reason.DROP_SPOOFED_SOURCE, frame)


def _sessions(family: Family) -> Iterator[Case]:
    name = f"v{family.version}"
    other = b"onlyv6" if family is V4 else b"onlyv4"
    frame = request(family, other).frame()
    charged = (charged_source(family.client.address),)
    yield Case(f"{name} session of the other family", Reason.DROP_NO_BACKEND, frame, changes=charged)
    only = b"onlyv4" if family is V4 else b"onlyv6"
    for ufrag, link, action in (
        (only, BACKENDS, ""),
        (BOB, BACKENDS, ""),
        (b"near", world.CLIENTS, "TX"),
    ):
        datagram = request(family, ufrag)
        record = family.free[0]
        backend = world.SESSIONS[ufrag].backends[family.index]
        yield Case(
            f"{name} session {ufrag.decode()} binds",
            Reason.FORWARD_BOUND,
            datagram.frame(),
            action=action,
            out=to_backend(datagram, family, record, backend=backend, link=link),
            changes=(
                new_hop(family.client.address),
                bound(family, ufrag),
                counted_up(record, datagram.ip_bytes),
            ),
        )


def _moved_to_hop(record: int) -> Change:
    def change(state: State, rig: Rig) -> None:
        state.flows["client_hop"][record] = FREE_HOPS[0]

    return change


def _rebinding(family: Family) -> Iterator[Case]:
    name = f"v{family.version}"
    hop = new_hop(family.client.address)
    for what, ufrag in (("its ufrag again", ALICE), ("another ufrag of the session", ALICE_AGAIN)):
        datagram = request(family, ufrag)
        yield Case(
            f"{name} {what} keeps the flow",
            Reason.FORWARD_TO_TRANSCEIVER,
            datagram.frame(),
            out=to_backend(datagram, family, family.live),
            arrange=(established(family),),
            changes=(hop, _moved_to_hop(family.live), counted_up(family.live, datagram.ip_bytes)),
        )
    bob, record, other = request(family, BOB), family.free[0], family.backends.other
    taken_over = Case(
        f"{name} another session takes the flow over",
        Reason.FORWARD_REBOUND,
        bob.frame(),
        out=to_backend(bob, family, record, backend=other),
        arrange=(established(family),),
        changes=(
            hop,
            bound(family, BOB, had_flow=True),
            superseded(family.live),
            counted_up(record, bob.ip_bytes),
        ),
    )
    yield taken_over
    yield replace(
        taken_over,
        name=f"{name} another session, and no record is free",
        reason=Reason.DROP_FLOWS_FULL,
        out=None,
        arrange=(established(family), lambda rig: rig.set_free_flows(family.version)),
        changes=(hop, charged_binding(BOB)),
    )
    # One that the same transceiver has: its record says which session it is for.
    beside = request(family, world.LONGEST)
    yield replace(
        taken_over,
        name=f"{name} another session of the same transceiver takes the flow over",
        frame=beside.frame(),
        out=to_backend(beside, family, record),
        changes=(
            hop,
            bound(family, world.LONGEST, had_flow=True),
            superseded(family.live),
            counted_up(record, beside.ip_bytes),
        ),
    )
    alice = request(family)
    again = (hop, bound(family, had_flow=True), counted_up(record, alice.ip_bytes))
    yield Case(
        f"{name} the session has moved to another backend",
        Reason.FORWARD_REBOUND,
        alice.frame(),
        out=to_backend(alice, family, record),
        arrange=(lambda rig: rig.put_flow(family, backend=other),),
        changes=(superseded(family.live), *again),
    )
    # What has ended, or waits, leads nowhere: a flow is there only as long as it lives.
    for state in FlowState:
        if state is not FlowState.LIVE:
            yield Case(
                f"{name} the flow's record is {state.name.lower()}",
                Reason.FORWARD_BOUND,
                alice.frame(),
                out=to_backend(alice, family, record),
                arrange=(in_state(family, state),),
                changes=(hop, bound(family), counted_up(record, alice.ip_bytes)),
            )
            yield replace(
                taken_over,
                name=f"{name} another session, and beside the flow is a record {state.name.lower()}",
                arrange=(*taken_over.arrange, _beside(family, state)),
            )


def _beside(family: Family, state: FlowState) -> Arrange:
    """Another record of the client's, that nothing must happen to."""
    return lambda rig: rig.put_flow(family, family.live + 1, state=state | 99 << abi.FLOW_STATE_BITS)


def _full(family: Family) -> Iterator[Case]:
    name, frame, version = f"v{family.version}", request(family).frame(), family.version
    hop = new_hop(family.client.address)
    charged = (charged_source(family.client.address), charged_binding(ALICE))
    yield Case(
        f"{name} no record is free",
        Reason.DROP_FLOWS_FULL,
        frame,
        arrange=(lambda rig: rig.set_free_flows(version),),
        changes=(hop, *charged),
    )
    yield Case(
        f"{name} no lease",
        Reason.DROP_LEASE_EXPIRED,
        frame,
        arrange=(lambda rig: rig.datapath.lease["until"].fill(LONG_AGO),),
        changes=(hop, *charged),
    )

    full = Case(
        f"{name} index full",
        Reason.DROP_INDEX_FULL,
        frame,
        arrange=(lambda rig: rig.entries.fill(),),
        changes=(hop, left_out(family)),
    )
    yield full
    yield replace(
        full,
        name=f"{name} index full, and another session's flow, which goes on",
        arrange=(established(family), *full.arrange),
        frame=request(family, BOB).frame(),
        changes=(hop, left_out(family, BOB, had_flow=True)),
    )
    # A slot is looked for at home and in the next three buckets, and nowhere else.
    alice = request(family)
    for turn in range(TURNS + 1):

        def crowd(rig: Rig, turn: int = turn) -> None:
            rig.entries.fill(but=[rig.entries.home(flow_key(family, family.client)) + turn])

        if turn == TURNS:
            yield replace(full, name=f"{name} index full but for the next bucket but three", arrange=(crowd,))
            continue
        yield Case(
            f"{name} index full but for bucket {turn} from home on",
            Reason.FORWARD_BOUND,
            frame,
            out=to_backend(alice, family, family.free[0]),
            arrange=(crowd,),
            changes=(hop, bound(family), counted_up(family.free[0], alice.ip_bytes)),
        )


def _locked(family: Family) -> Iterator[Case]:
    """Another CPU holds the lock of the bucket, and never lets go."""
    name, alice, bob = f"v{family.version} index locked:", request(family), request(family, BOB)
    hop = new_hop(family.client.address)
    record = family.free[0]

    def lock(rig: Rig) -> None:
        rig.entries.lock(flow_key(family, family.client))

    def lock_others(rig: Rig) -> None:
        rig.entries.lock()
        home = rig.entries.home(flow_key(family, family.client))
        rig.datapath.index[home, abi.BucketWord.SPILT] = 0

    charged = (charged_source(family.client.address), charged_binding(ALICE))
    yield Case(f"{name} a request", Reason.DROP_BUSY, alice.frame(), arrange=(lock,), changes=(hop, *charged))
    yield Case(
        f"{name} a request, and no record is free",
        Reason.DROP_BUSY,
        alice.frame(),
        arrange=(lock, lambda rig: rig.set_free_flows(family.version)),
        changes=(hop, *charged),
    )
    yield Case(
        f"{name} a request for another session",
        Reason.DROP_BUSY,
        bob.frame(),
        arrange=(established(family), lock),
        changes=(hop, charged_binding(BOB)),
    )
    yield Case(
        f"{name} a request of the flow's session",
        Reason.FORWARD_TO_TRANSCEIVER,
        alice.frame(),
        out=to_backend(alice, family, family.live),
        arrange=(established(family), lock),
        changes=(hop, _moved_to_hop(family.live), counted_up(family.live, alice.ip_bytes)),
    )
    yield Case(
        f"{name} all buckets but the client's",
        Reason.FORWARD_BOUND,
        alice.frame(),
        out=to_backend(alice, family, record),
        arrange=(lock_others,),
        changes=(hop, bound(family), counted_up(record, alice.ip_bytes)),
    )


def _broken_maps(family: Family) -> Iterator[Case]:
    name, frame, version = f"v{family.version}", request(family).frame(), family.version
    hop = new_hop(family.client.address)
    charge_source, charge_binding = charged_source(family.client.address), charged_binding(ALICE)
    for state in FlowState:
        if state is FlowState.FREE:
            continue

        def used(rig: Rig, state: FlowState = state) -> None:
            rig.put_flow(family, client=family.distant, state=state | 99 << abi.FLOW_STATE_BITS)
            rig.set_free_flows(version, family.live)

        yield Case(
            f"{name} the free list hands out a {state.name.lower()} record",
            Reason.DROP_FREE_LIST,
            frame,
            arrange=(used,),
            changes=(hop, charge_source, charge_binding, lost_free_flow(version)),
        )
    aborted = Reason.ABORTED_BAD_NUMBER
    yield Case(
        f"{name} the free list hands out an absent record",
        aborted,
        frame,
        arrange=(lambda rig: rig.set_free_flows(version, world.ABSENT_RECORD),),
        changes=(hop, charge_source, charge_binding, lost_free_flow(version)),
    )
    alice = request(family)
    yield Case(
        f"{name} the index names an absent record",
        Reason.FORWARD_BOUND,
        frame,
        out=to_backend(alice, family, family.free[0]),
        arrange=(lambda rig: rig.entries.put(flow_key(family, family.client), world.ABSENT_RECORD),),
        changes=(hop, bound(family), counted_up(family.free[0], alice.ip_bytes)),
    )
    yield Case(
        f"{name} the session names an absent backend",
        aborted,
        request(family, b"absentbackend").frame(),
        changes=(hop, charge_source),
    )


def _bound_but_not_sent(family: Family) -> Iterator[Case]:
    """The request is as good as any: the flow is there when the next one can be sent."""
    large = request(family, b"narrow")
    assert large.ip_bytes > world.NARROW_MTU
    rows = {
        b"unresolved": ("its hop is unresolved", Reason.DROP_HOP_UNRESOLVED),
        b"absenthop": ("its hop is absent", Reason.ABORTED_BAD_NUMBER),
        b"narrow": ("too big", Reason.DROP_TOO_BIG),
    }
    for ufrag, (what, reason) in rows.items():
        yield Case(
            f"v{family.version} bound, but {what}",
            reason,
            request(family, ufrag).frame(),
            changes=(new_hop(family.client.address), bound(family, ufrag)),
        )


def _other_addresses() -> Iterator[Case]:
    """A second VIP and a second relay address of a family."""
    second = replace(V4, vip=world.SECOND_VIP, vip_number=2, free=(42,))
    datagram = request(second)

    def arrange(rig: Rig) -> None:
        rig.set_free_flows(4, 42)
        rig.put_flow(V4)  # the same client on the first VIP: another flow

    yield Case(
        "v4 second vip and second relay address bind",
        Reason.FORWARD_BOUND,
        datagram.frame(),
        out=to_backend(datagram, second, 42),
        arrange=(arrange,),
        changes=(new_hop(V4.client.address), bound(second), counted_up(42, datagram.ip_bytes)),
    )
    down = from_backend(second)
    yield Case(
        "v4 down by the second vip",
        Reason.FORWARD_TO_CLIENT,
        down.frame(),
        link=BACKENDS,
        out=to_client(down, second),
        arrange=(lambda rig: rig.put_flow(second),),
        changes=(counted_down(V4.live, down.ip_bytes),),
    )
    # Maps know IPv4 addresses in their IPv4-mapped form, which no IPv6 packet may use to get at them.
    mapped_client = ip_address(f"::ffff:{V4.client.address}")
    mapped_vip = ip_address(f"::ffff:{V4.vip.address}")
    for what, frame in (
        ("media", replace(from_client(V6), src=mapped_client, dst=mapped_vip).frame()),
        ("request", replace(request(V6), dst=mapped_vip).frame()),
    ):
        yield Case(
            f"v6 {what} to the mapped ipv4 vip", Reason.PASS_NOT_OURS, frame, arrange=(established(V4),)
        )
    mapped_backend = ip_address(f"::ffff:{world.BACKEND_ENDPOINTS[1].address}")
    mapped_relay = ip_address(f"::ffff:{V4.relay}")
    down = replace(from_backend(V6), src=mapped_backend, dst=mapped_relay, dport=V4.relay_port(V4.live))
    yield Case(
        "v6 media to the mapped ipv4 relay address",
        Reason.PASS_NOT_OURS,
        down.frame(),
        link=BACKENDS,
        arrange=(established(V4),),
    )
