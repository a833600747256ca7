# SPDX-License-Identifier: Apache-2.0
"""Rows about sessions whose transceiver keeps the pwd: little passes until it has answered a request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from control import abi
from control.abi import FlowState, Reason
from tests.bpf import stun, world
from tests.bpf.case import (
    DTLS,
    RTCP,
    RTP,
    Arrange,
    Case,
    Change,
    answer,
    charged_binding,
    charged_source,
    counted_down,
    counted_up,
    established,
    from_backend,
    from_client,
    held,
    left_out,
    new_hop,
    request,
    superseded,
    to_backend,
    to_client,
)
from tests.bpf.packets import Datagram
from tests.bpf.rig import Rig, State, flow_key
from tests.bpf.world import BACKENDS, CAROL, CAROL_AGAIN, DAVE, LENIENT_CAROL, Family

CAROL_SESSION = world.SESSIONS[CAROL].number
HELD_BEFORE = FlowState.PROVISIONAL | 99 << abi.FLOW_STATE_BITS
FIRST, OTHER = stun.TRANSACTION, b"another one!"
MOST = 32  # packets each way
PROVISIONAL, DROPPED = Reason.FORWARD_PROVISIONAL, Reason.DROP_PROVISIONAL


def rows() -> Iterator[Case]:
    for family in world.FAMILIES:
        yield from _first_requests(family)
        yield from _unwell(family)
        yield from _more_requests(family)
        yield from _beside_a_flow(family)
        yield from _kept_back(family)
        yield from _not_confirmed(family)
        yield from _confirmed(family)


def holding(family: Family, *, up: int = 1, down: int = 0) -> Arrange:
    """Carol's provisional flow, for the family's client, after so many packets each way."""

    def arrange(rig: Rig) -> None:
        rig.put_flow(family, session=CAROL_SESSION, state=HELD_BEFORE, transaction=FIRST[:8])
        rig.datapath.flows["up_packets"][family.live] = up
        rig.datapath.flows["down_packets"][family.live] = down

    return arrange


def live_beside(family: Family) -> Arrange:
    """A live flow of Bob's session that the same 5-tuple leads to, in another record."""
    return lambda rig: rig.put_flow(
        family, beside(family), session=world.BOB_SESSION, backend=family.backends.other
    )


def beside(family: Family) -> int:
    return family.live + 1


def confirmed(family: Family) -> Change:
    """The provisional record became the client's flow."""

    def change(state: State, rig: Rig) -> None:
        record = family.live
        state.flows["state"][record] = FlowState.LIVE | 99 << abi.FLOW_STATE_BITS
        state.flows["down_packets"][record] = state.flows["down_bytes"][record] = 0

    return change


def counted_down_held(record: int) -> Change:
    """A packet went to the client; where bytes are counted, the transaction stands."""

    def change(state: State, rig: Rig) -> None:
        bytes_before = state.flows["down_bytes"][record]
        counted_down(record, 0)(state, rig)
        state.flows["down_bytes"][record] = bytes_before

    return change


def _first_requests(family: Family) -> Iterator[Case]:
    """Whatever their MESSAGE-INTEGRITY says: nobody here can tell."""
    record, hop = family.free[0], new_hop(family.client.address)
    plain = stun.message(stun.REQUEST, [(stun.USERNAME, CAROL + b":peer")])
    lenient = stun.message(stun.REQUEST, [(stun.USERNAME, LENIENT_CAROL + b":peer")])
    kinds = {
        "a request": (CAROL, request(family, CAROL).payload),
        "a request of another ufrag": (CAROL_AGAIN, request(family, CAROL_AGAIN).payload),
        "a request for another transceiver": (DAVE, request(family, DAVE).payload),
        "a request without integrity": (CAROL, stun.with_fingerprint(plain)),
        "a request without optional FINGERPRINT": (LENIENT_CAROL, lenient),
    }
    for what, (ufrag, message) in kinds.items():
        datagram = from_client(family, message)
        backend = world.SESSIONS[ufrag].backends[family.index]
        yield Case(
            f"v{family.version} provisional: {what}",
            PROVISIONAL,
            datagram.frame(),
            out=to_backend(datagram, family, record, backend=backend),
            changes=(hop, held(family, ufrag), counted_up(record, datagram.ip_bytes)),
        )
    for what, message, reason in (
        ("no FINGERPRINT", plain, Reason.DROP_STUN_NO_FINGERPRINT),
        ("FINGERPRINT wrong", request(family, CAROL).payload[:-4] + bytes(4), Reason.DROP_STUN_FINGERPRINT),
    ):
        frame = from_client(family, message).frame()
        charged = (charged_source(family.client.address),)
        yield Case(f"v{family.version} provisional: {what}", reason, frame, changes=charged)


def _unwell(family: Family) -> Iterator[Case]:
    """No record to be had, no slot for it, and an index that names what it should not."""
    name, carol = f"v{family.version} provisional:", request(family, CAROL)
    version, record, hop = family.version, family.free[0], new_hop(family.client.address)
    key = flow_key(family, family.client)
    charged = (charged_source(family.client.address), charged_binding(CAROL))
    yield Case(
        f"{name} no record is free",
        Reason.DROP_FLOWS_FULL,
        carol.frame(),
        arrange=(lambda rig: rig.set_free_flows(version),),
        changes=(hop, *charged),
    )
    yield Case(
        f"{name} index full",
        Reason.DROP_INDEX_FULL,
        carol.frame(),
        arrange=(lambda rig: rig.entries.fill(),),
        changes=(hop, left_out(family, CAROL)),
    )
    yield Case(
        f"{name} index locked",
        Reason.DROP_BUSY,
        carol.frame(),
        arrange=(lambda rig: rig.entries.lock(key),),
        changes=(hop, *charged),
    )
    holds = Case(
        f"{name} the index names an absent record",
        PROVISIONAL,
        carol.frame(),
        out=to_backend(carol, family, record),
        arrange=(lambda rig: rig.entries.put(key, world.ABSENT_RECORD),),
        changes=(hop, held(family), counted_up(record, carol.ip_bytes)),
    )
    yield holds
    for state in FlowState:
        if state is FlowState.LIVE:
            continue

        def of_another(rig: Rig, state: FlowState = state) -> None:
            rig.put_flow(family, session=CAROL_SESSION, state=state, client=family.distant)
            rig.entries.put(key, family.live)

        yield replace(
            holds,
            name=f"{name} the index names another client's {state.name.lower()} record",
            arrange=(of_another,),
        )
        if state is FlowState.PROVISIONAL:
            continue

        def ended(rig: Rig, state: FlowState = state) -> None:
            rig.put_flow(family, session=CAROL_SESSION, state=state | 99 << abi.FLOW_STATE_BITS)

        yield replace(holds, name=f"{name} its record is {state.name.lower()}", arrange=(ended,))


def _takes(family: Family, transaction: bytes) -> Change:
    def change(state: State, rig: Rig) -> None:
        state.flows["down_bytes"][family.live] = np.frombuffer(transaction[:8], np.uint64)[0]

    return change


def _more_requests(family: Family) -> Iterator[Case]:
    name, hop = f"v{family.version} provisional:", new_hop(family.client.address)
    charge = charged_source(family.client.address)
    for what, ufrag, transaction, before in (
        ("the request again", CAROL, FIRST, 1),
        ("another request", CAROL, OTHER, 1),
        ("another request, by the other ufrag", CAROL_AGAIN, OTHER, 1),
        (f"request number {MOST}", CAROL, OTHER, MOST - 1),
    ):
        datagram = request(family, ufrag, transaction=transaction)
        yield Case(
            f"{name} {what}",
            PROVISIONAL,
            datagram.frame(),
            out=to_backend(datagram, family, family.live),
            arrange=(holding(family, up=before),),
            changes=(
                hop,
                charge,
                _takes(family, transaction),
                counted_up(family.live, datagram.ip_bytes),
            ),
        )
    frame = request(family, CAROL, transaction=OTHER).frame()
    full = (holding(family, up=MOST),)
    yield Case(f"{name} request number {MOST + 1}", DROPPED, frame, arrange=full, changes=(hop, charge))
    # Another session's request has nothing to do with it: a record of its own.
    dave, record = request(family, DAVE), family.free[0]
    yield Case(
        f"{name} a request for another session",
        PROVISIONAL,
        dave.frame(),
        out=to_backend(dave, family, record, backend=family.backends.other),
        arrange=(holding(family, up=MOST),),
        changes=(hop, held(family, DAVE), counted_up(record, dave.ip_bytes)),
    )
    # Nor has one that the session made at another backend.
    carol = request(family, CAROL)

    def elsewhere(rig: Rig) -> None:
        rig.put_flow(family, session=CAROL_SESSION, state=HELD_BEFORE, backend=family.backends.other)

    yield Case(
        f"{name} a request, its session has moved to another backend",
        PROVISIONAL,
        carol.frame(),
        out=to_backend(carol, family, record),
        arrange=(elsewhere,),
        changes=(hop, held(family), counted_up(record, carol.ip_bytes)),
    )
    # Whoever else has asked for the same 5-tuple, before it or after, each finds the record of its own.
    for what, order in (("since", (_carols, _daves)), ("before", (_daves, _carols))):
        yield Case(
            f"{name} another request, another session's came {what}",
            PROVISIONAL,
            request(family, CAROL, transaction=OTHER).frame(),
            out=to_backend(request(family, CAROL, transaction=OTHER), family, family.live),
            arrange=tuple(one(family) for one in order),
            changes=(
                hop,
                charge,
                _takes(family, OTHER),
                counted_up(family.live, carol.ip_bytes),
            ),
        )
    # The lock is for who makes a record.
    yield Case(
        f"{name} the request again, index locked",
        PROVISIONAL,
        carol.frame(),
        out=to_backend(carol, family, family.live),
        arrange=(holding(family), lambda rig: rig.entries.lock()),
        changes=(hop, charge, counted_up(family.live, carol.ip_bytes)),
    )


def _carols(family: Family) -> Arrange:
    return holding(family)


def _daves(family: Family) -> Arrange:
    """A provisional record of another session for the same 5-tuple."""
    return lambda rig: rig.put_flow(
        family,
        beside(family),
        session=world.SESSIONS[DAVE].number,
        backend=family.backends.other,
        state=HELD_BEFORE,
        transaction=FIRST[:8],
    )


def _beside_a_flow(family: Family) -> Iterator[Case]:
    """The client's 5-tuple has a live flow: it goes on, and its clock stands still."""
    name, hop, record = f"v{family.version} provisional:", new_hop(family.client.address), family.free[0]
    carol = request(family, CAROL)
    yield Case(
        f"{name} a request beside a flow",
        PROVISIONAL,
        carol.frame(),
        out=to_backend(carol, family, record),
        arrange=(live_beside(family),),
        changes=(hop, held(family, had_flow=True), counted_up(record, carol.ip_bytes)),
    )
    yield Case(
        f"{name} more requests than may be beside a flow",
        DROPPED,
        carol.frame(),
        arrange=(live_beside(family), holding(family, up=MOST)),
        changes=(hop,),
    )
    for what, datagram, link, change in (
        ("up", from_client(family), world.CLIENTS, counted_up),
        (
            "down",
            from_backend(family, record=beside(family), backend=family.backends.other),
            BACKENDS,
            counted_down,
        ),
    ):
        up = what == "up"
        other = family.backends.other
        yield Case(
            f"{name} media {what} by the flow beside",
            Reason.FORWARD_TO_TRANSCEIVER if up else Reason.FORWARD_TO_CLIENT,
            datagram.frame(),
            link=link,
            out=to_backend(datagram, family, beside(family), backend=other)
            if up
            else to_client(datagram, family),
            arrange=(live_beside(family), holding(family)),
            changes=(change(beside(family), datagram.ip_bytes),),
        )
    # A flow of the session's own, confirmed before, takes requests of both of its ufrags.
    for ufrag in (CAROL, CAROL_AGAIN):
        again = request(family, ufrag)

        def moved(state: State, rig: Rig) -> None:
            state.flows["client_hop"][family.live] = world.FREE_HOPS[0]

        yield Case(
            f"{name} {ufrag.decode()}'s request on a confirmed flow",
            Reason.FORWARD_TO_TRANSCEIVER,
            again.frame(),
            out=to_backend(again, family, family.live),
            arrange=(lambda rig: rig.put_flow(family, session=CAROL_SESSION),),
            changes=(hop, moved, counted_up(family.live, again.ip_bytes)),
        )


def _kept_back(family: Family) -> Iterator[Case]:
    """Neither media nor DTLS, either way; and only its transceiver speaks to it."""
    name, arrange = f"v{family.version} provisional:", (holding(family),)
    for what, payload in (("rtp", RTP), ("rtcp", RTCP), ("dtls", DTLS)):
        up, down = from_client(family, payload).frame(), from_backend(family, payload).frame()
        yield Case(f"{name} {what} up", Reason.DROP_NO_FLOW, up, arrange=arrange)
        yield Case(f"{name} {what} down", DROPPED, down, link=BACKENDS, arrange=arrange)
    indication = from_client(family, stun.message(stun.INDICATION)).frame()
    yield Case(f"{name} indication up", Reason.DROP_NO_FLOW, indication, arrange=arrange)
    response = from_client(family, answer(family).payload).frame()
    yield Case(f"{name} response up", Reason.DROP_NO_FLOW, response, arrange=arrange)
    good = answer(family)
    other = world.BACKEND_ENDPOINTS[family.backends.other]
    for what, datagram, reason in (
        ("another host", replace(good, src=other.address, sport=other.port), Reason.DROP_WRONG_BACKEND),
        ("another port", replace(good, sport=good.sport + 1), Reason.DROP_WRONG_BACKEND),
        ("the vip's address", replace(good, src=family.vip.address), Reason.DROP_SPOOFED_SOURCE),
    ):
        frame = datagram.frame()
        yield Case(f"{name} the answer from {what}", reason, frame, link=BACKENDS, arrange=arrange)


def _not_confirmed(family: Family) -> Iterator[Case]:
    """STUN of the transceiver that goes to the client, and changes nothing about the flow."""
    name = f"v{family.version} provisional:"
    check = from_backend(family, stun.request(b"peer:" + CAROL, b"p" * 22))
    kinds: dict[str, Datagram] = {
        "an answer to another request": answer(family, transaction=OTHER),
        "an answer, its transaction's first byte wrong": answer(family, transaction=b"T" + FIRST[1:]),
        "an answer, its transaction's eighth byte wrong": answer(
            family, transaction=FIRST[:7] + b"!" + FIRST[8:]
        ),
        "an error": answer(family, kind=stun.ERROR),
        "an indication of the same transaction": answer(family, kind=stun.INDICATION),
        "the transceiver's own request": check,
    }
    for what, datagram in kinds.items():
        yield Case(
            f"{name} {what}",
            Reason.FORWARD_TO_CLIENT,
            datagram.frame(),
            link=BACKENDS,
            out=to_client(datagram, family),
            arrange=(holding(family, down=MOST - 1),),
            changes=(counted_down_held(family.live),),
        )
        yield Case(
            f"{name} {what}, too late",
            DROPPED,
            datagram.frame(),
            link=BACKENDS,
            arrange=(holding(family, down=MOST),),
        )


def _confirmed(family: Family) -> Iterator[Case]:
    name, good = f"v{family.version} provisional:", answer(family)
    won = Case(
        f"{name} the answer",
        Reason.FORWARD_TO_CLIENT,
        good.frame(),
        link=BACKENDS,
        out=to_client(good, family),
        arrange=(holding(family),),
        changes=(confirmed(family), counted_down(family.live, good.ip_bytes)),
    )
    yield won
    late = replace(won, name=f"{name} the answer, the last packet that may be")
    yield replace(late, arrange=(holding(family, down=MOST - 1),))
    yield Case(
        f"{name} the answer, one packet too late",
        DROPPED,
        good.frame(),
        link=BACKENDS,
        arrange=(holding(family, down=MOST),),
    )
    yield replace(
        won,
        name=f"{name} the answer takes the 5-tuple over",
        arrange=(live_beside(family), holding(family)),
        changes=(*won.changes, superseded(beside(family))),
    )
    # Where another session's has asked too, its record waits on.
    yield replace(
        won,
        name=f"{name} the answer, another session's record beside",
        arrange=(_daves(family), holding(family)),
    )
    # One that the index has lost is confirmed all the same, and is not found.
    yield replace(
        won, name=f"{name} the answer to a record that is not entered", arrange=(_not_entered(family),)
    )
    yield Case(
        f"{name} the answer, index locked",
        Reason.DROP_BUSY,
        good.frame(),
        link=BACKENDS,
        arrange=(live_beside(family), holding(family), lambda rig: rig.entries.lock()),
    )
    # The flow is there when the next packet can be sent.
    unresolved = holding(family)

    def without_hop(rig: Rig) -> None:
        unresolved(rig)
        rig.datapath.flows["client_hop"][family.live] = world.UNRESOLVED

    yield replace(
        won,
        name=f"{name} the answer, but the client's hop is unresolved",
        reason=Reason.DROP_HOP_UNRESOLVED,
        out=None,
        arrange=(without_hop,),
        changes=(confirmed(family),),
    )
    # Once confirmed it is a flow like any other.
    yield Case(
        f"{name} a second answer",
        Reason.FORWARD_TO_CLIENT,
        good.frame(),
        link=BACKENDS,
        out=to_client(good, family),
        arrange=(established(family),),
        changes=(counted_down(family.live, good.ip_bytes),),
    )


def _not_entered(family: Family) -> Arrange:
    def arrange(rig: Rig) -> None:
        holding(family)(rig)
        rig.entries.clear()

    return arrange
