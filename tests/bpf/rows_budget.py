# SPDX-License-Identifier: Apache-2.0
"""Rows about budgets: of a source, of a session, and of a CPU.

That they fill up again is a matter of time, which no row asserts: a spent one is not whole again for
an hour, and a row that takes the last token knows what it leaves, since that is counted from what was there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from control.abi import FlowState, Reason
from control.addresses import Endpoint, IPAddress
from tests.bpf import stun, world
from tests.bpf.case import (
    Arrange,
    Case,
    Change,
    bound,
    charged_source,
    counted_up,
    established,
    from_client,
    held,
    in_state,
    new_hop,
    request,
    superseded,
    to_backend,
)
from tests.bpf.packets import Datagram
from tests.bpf.rig import CHARGED_NOW, Rig, State, earliest
from tests.bpf.rows_provisional import CAROL_SESSION, HELD_BEFORE
from tests.bpf.world import ALICE, ALICE_AGAIN, BOB, CAROL, Family

HOUR = 3600 * 10**9
SOURCE, SESSION, BINDING = (
    Reason.DROP_SOURCE_BUDGET,
    Reason.DROP_SESSION_BUDGET,
    Reason.DROP_BINDING_BUDGET,
)
# Two seconds' worth of requests and of bindings; the flows of a session. All but one token.
SOURCE_BURST = world.SOURCE_INTERVAL * (2 * world.SOURCE_REQUESTS_PER_SECOND - 1)
BINDING_BURST = world.BINDING_INTERVAL * (2 * world.BINDINGS_PER_SECOND - 1)
SESSION_BURST = world.SESSION_INTERVAL * (world.FLOWS_PER_SESSION - 1)

# Beside the distant client, which is exempt (world.SOURCE_EXEMPT): outside the prefix by its last bit.
NOT_EXEMPT = {4: ip_address("192.0.3.0"), 6: ip_address("2001:db8:78::77")}


def rows() -> Iterator[Case]:
    for family in world.FAMILIES:
        yield from _sources(family)
        yield from _flows_that_exist(family)
        yield from _prefixes(family)
        yield from _exempt(family)
        yield from _sessions(family)
        yield from _bindings(family)
        yield from _last_tokens(family)


def spent_source(address: IPAddress) -> Arrange:
    return lambda rig: rig.put_source_budget(address, time.monotonic_ns() + HOUR)


def spent_session(ufrag: bytes) -> Arrange:
    return lambda rig: rig.put_session_budget(ufrag, time.monotonic_ns() + 2 * HOUR)


def spent_cpus(rig: Rig) -> None:
    rig.put_cpu_budget(time.monotonic_ns() + HOUR)


def _without_charges(change: Change) -> Change:
    """The change, but for budgets."""

    def changed(state: State, rig: Rig) -> None:
        sources, sessions, cpu = dict(state.sources), dict(state.sessions), state.cpu
        change(state, rig)
        state.sources, state.sessions, state.cpu = sources, sessions, cpu

    return changed


def _sources(family: Family) -> Iterator[Case]:
    """Whatever the request: it is not looked at. All else from there goes its way."""
    name, spent = f"v{family.version} source spent:", (spent_source(family.client.address),)
    requests = {
        "a request": request(family).payload,
        "a request for a session without a pwd": request(family, CAROL).payload,
        "a forged request": stun.request(ALICE + b":peer", b"guessed"),
        "an unknown ufrag": stun.request(b"mallory0:peer", b"guessed"),
        "a bare header": stun.message(stun.REQUEST),
        "an attribute that lies": stun.header(stun.REQUEST, 4) + b"\0\6\xff\xff",
    }
    for what, payload in requests.items():
        yield Case(f"{name} {what}", SOURCE, from_client(family, payload).frame(), arrange=spent)
    others = {
        "media": (from_client(family), Reason.DROP_NO_FLOW),
        "an indication": (from_client(family, stun.message(stun.INDICATION)), Reason.DROP_NO_FLOW),
        "a short message": (from_client(family, b"\0\1"), Reason.DROP_STUN_SHORT),
        "a request from port 0": (replace(request(family), sport=0), Reason.DROP_BAD_SOURCE),
    }
    for what, (datagram, reason) in others.items():
        yield Case(f"{name} {what}", reason, datagram.frame(), arrange=spent)
    # One that is on its way: neither the record of another session, nor a provisional one, is a live flow.
    for state in FlowState:
        if state is not FlowState.LIVE:
            yield Case(
                f"{name} a request, its record {state.name.lower()}",
                SOURCE,
                request(family).frame(),
                arrange=(*spent, in_state(family, state)),
            )
    # What is turned away is charged all the same: a forger spends what it has.
    charged = (charged_source(family.client.address),)
    for what, payload, reason in (
        ("an unknown ufrag", requests["an unknown ufrag"], Reason.DROP_UNKNOWN_UFRAG),
        ("a bare header", requests["a bare header"], Reason.DROP_STUN_NO_USERNAME),
    ):
        frame = from_client(family, payload).frame()
        yield Case(f"v{family.version} source charged: {what}", reason, frame, changes=charged)


def _flows_that_exist(family: Family) -> Iterator[Case]:
    """Whoever has a live flow is not charged, and not asked: its checks go on, and it may be re-pointed."""
    name = f"v{family.version} source spent, but a flow:"
    hop = new_hop(family.client.address)
    arrange = (established(family), spent_source(family.client.address))

    def moved(state: State, rig: Rig) -> None:
        state.flows["client_hop"][family.live] = world.FREE_HOPS[0]

    for ufrag in (ALICE, ALICE_AGAIN):
        again = request(family, ufrag)
        yield Case(
            f"{name} {ufrag.decode()}",
            Reason.FORWARD_TO_TRANSCEIVER,
            again.frame(),
            out=to_backend(again, family, family.live),
            # Spent, all of them: none is needed.
            arrange=(*arrange, spent_session(ufrag), spent_cpus),
            changes=(hop, moved, counted_up(family.live, again.ip_bytes)),
        )
    bob = request(family, BOB)
    yield Case(
        f"{name} another session",
        Reason.FORWARD_REBOUND,
        bob.frame(),
        out=to_backend(bob, family, family.free[0], backend=family.backends.other),
        arrange=arrange,
        changes=(
            hop,
            bound(family, BOB, had_flow=True),
            superseded(family.live),
            counted_up(family.free[0], bob.ip_bytes),
        ),
    )
    forged = from_client(family, stun.request(ALICE + b":peer", b"guessed")).frame()
    yield Case(f"{name} a forged request", Reason.DROP_STUN_INTEGRITY, forged, arrange=arrange)


def _binds(
    family: Family, name: str, client: Endpoint, gateway: IPAddress | None, *arrange: Arrange, charged: bool
) -> Case:
    datagram = request(family, client=client)
    hop = new_hop(gateway, world.GATEWAY_MAC) if gateway else new_hop(client.address)
    record = family.free[0]
    return Case(
        f"v{family.version} {name}",
        Reason.FORWARD_BOUND,
        datagram.frame(),
        out=to_backend(datagram, family, record),
        arrange=arrange,
        changes=(
            hop,
            bound(family, client=client, had_flow=not charged),
            counted_up(record, datagram.ip_bytes),
        ),
    )


def _prefixes(family: Family) -> Iterator[Case]:
    """One IPv4 address, or an IPv6 /64, shares a budget whatever its ports; its neighbours have their own."""
    name, client = f"v{family.version} source spent:", family.client
    spent = spent_source(client.address)
    other_port = request(family, client=client._replace(port=client.port + 1)).frame()
    yield Case(f"{name} another port", SOURCE, other_port, arrange=(spent,))
    if family.version == 6:
        for what, address in (
            ("another address of the /64", ip_address(int(client.address) ^ 1)),
            ("the last address of the /64", ip_address(int(client.address) | (1 << 64) - 1)),
        ):
            frame = request(family, client=client._replace(address=address)).frame()
            yield Case(f"{name} {what}", SOURCE, frame, arrange=(spent,))
    spent_next_door = spent_source(world.next_door(client.address))
    yield _binds(family, "source of a neighbour spent", client, None, spent_next_door, charged=True)


def _exempt(family: Family) -> Iterator[Case]:
    """A prefix that no budget holds for; it is looked up only once the budget is spent."""
    name, distant = f"v{family.version}", family.distant
    near = distant._replace(address=NOT_EXEMPT[family.version])
    spent = spent_source(distant.address)
    yield _binds(family, "exempt, and spent", distant, family.gateway, spent, charged=False)
    yield _binds(family, "exempt, not spent", distant, family.gateway, charged=True)
    beside = request(family, client=near).frame()
    yield Case(
        f"{name} beside an exempt prefix, and spent", SOURCE, beside, arrange=(spent_source(near.address),)
    )
    forged = from_client(family, stun.request(ALICE + b":peer", b"guessed"), client=distant).frame()
    yield Case(f"{name} exempt, but forged", Reason.DROP_STUN_INTEGRITY, forged, arrange=(spent,))


def _sessions(family: Family) -> Iterator[Case]:
    """A ufrag's new flows. It is told before the secret is checked where it can make no difference."""
    name, charged = f"v{family.version} session spent:", (charged_source(family.client.address),)
    hop = new_hop(family.client.address)
    spent = (spent_session(ALICE),)
    messages = {
        "a good request": request(family).payload,
        "a forged request": stun.request(ALICE + b":peer", b"guessed"),
        "no FINGERPRINT": stun.message(stun.REQUEST, [(stun.USERNAME, ALICE + b":peer")]),
    }
    for what, payload in messages.items():
        frame = from_client(family, payload).frame()
        yield Case(f"{name} {what}", SESSION, frame, arrange=spent, changes=charged)
    # Its other ufrag has a budget of its own, and so have other sessions.
    for ufrag in (ALICE_AGAIN, BOB):
        datagram = request(family, ufrag)
        backend = world.SESSIONS[ufrag].backends[family.index]
        yield Case(
            f"{name} a request for {ufrag.decode()}",
            Reason.FORWARD_BOUND,
            datagram.frame(),
            out=to_backend(datagram, family, family.free[0], backend=backend),
            arrange=spent,
            changes=(hop, bound(family, ufrag), counted_up(family.free[0], datagram.ip_bytes)),
        )
    # Who has a flow of another session would need a new one, and is told so only if it knows the secret.
    beside = (established(family), spent_session(BOB))
    bob = request(family, BOB).frame()
    yield Case(f"{name} a good request, but a flow", SESSION, bob, arrange=beside, changes=(hop,))
    forged = from_client(family, stun.request(BOB + b":peer", b"guessed")).frame()
    yield Case(f"{name} a forged request, but a flow", Reason.DROP_STUN_INTEGRITY, forged, arrange=beside)
    # Without a pwd: the record that it has may go on; another it does not get.
    spent = (spent_session(CAROL),)
    carol = request(family, CAROL)
    yield Case(f"{name} provisional", SESSION, carol.frame(), arrange=spent, changes=(*charged, hop))

    def holding(rig: Rig) -> None:
        rig.put_flow(family, session=CAROL_SESSION, state=HELD_BEFORE, transaction=stun.TRANSACTION[:8])

    yield Case(
        f"{name} provisional, and there",
        Reason.FORWARD_PROVISIONAL,
        carol.frame(),
        out=to_backend(carol, family, family.live),
        arrange=(*spent, holding),
        changes=(*charged, hop, counted_up(family.live, carol.ip_bytes)),
    )


def _charged_session(ufrag: bytes) -> Change:
    def change(state: State, rig: Rig) -> None:
        state.sessions[ufrag] = CHARGED_NOW

    return change


def _bindings(family: Family) -> Iterator[Case]:
    """This CPU's new flows, whosever they are. The session has paid by then."""
    name, hop = f"v{family.version} cpu spent:", new_hop(family.client.address)
    source = charged_source(family.client.address)
    for ufrag in (ALICE, CAROL):
        frame = request(family, ufrag).frame()
        yield Case(
            f"{name} {ufrag.decode()}",
            BINDING,
            frame,
            arrange=(spent_cpus,),
            changes=(source, hop, _charged_session(ufrag)),
        )
    bob = request(family, BOB).frame()
    yield Case(
        f"{name} another session of a flow",
        BINDING,
        bob,
        arrange=(established(family), spent_cpus),
        changes=(hop, _charged_session(BOB)),
    )


def _last_tokens(family: Family) -> Iterator[Case]:
    """A session's last token, and of the others what came back in the last jiffies: one of each is taken."""
    name, hop, record = f"v{family.version} the last tokens:", new_hop(family.client.address), family.free[0]

    def nearly_spent(rig: Rig) -> None:
        now = earliest()
        rig.put_source_budget(family.client.address, now + SOURCE_BURST)
        for ufrag in (ALICE, CAROL):
            rig.put_session_budget(ufrag, now + SESSION_BURST)
        rig.put_cpu_budget(now + BINDING_BURST)

    for ufrag, make in ((ALICE, bound), (CAROL, held)):
        datagram: Datagram = request(family, ufrag)

        def taken(state: State, rig: Rig, ufrag: bytes = ufrag) -> None:
            state.sources[rig.cell(family.client.address)] += world.SOURCE_INTERVAL
            state.sessions[ufrag] += world.SESSION_INTERVAL
            state.cpu += world.BINDING_INTERVAL

        yield Case(
            f"{name} {ufrag.decode()}",
            Reason.FORWARD_BOUND if ufrag is ALICE else Reason.FORWARD_PROVISIONAL,
            datagram.frame(),
            out=to_backend(datagram, family, record),
            arrange=(nearly_spent,),
            changes=(
                hop,
                _without_charges(make(family, ufrag)),
                taken,
                counted_up(record, datagram.ip_bytes),
            ),
        )
