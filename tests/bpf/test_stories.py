# SPDX-License-Identifier: Apache-2.0
"""Several packets in a row: what one leaves in the maps is what the next one meets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from control import abi
from control.abi import FlowState, Reason
from control.datapath import STATE_MASK
from tests.bpf import stun, world
from tests.bpf.case import DTLS, answer, from_backend, from_client, request, to_backend, to_client
from tests.bpf.packets import Datagram
from tests.bpf.rig import Rig, flow_key, hop_key
from tests.bpf.world import ALICE, ALICE_AGAIN, BACKENDS, BOB, CAROL, CLIENTS, DAVE, FAMILIES, Family

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.fixture(params=FAMILIES, ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    made: Family = request.param
    return made


def up(rig: Rig, family: Family, datagram: Datagram, record: int, backend: int | None = None) -> Reason:
    """A client's packet, which must come out for this record's backend."""
    outcome = rig.run(datagram.frame(), CLIENTS)
    assert outcome.frame == to_backend(datagram, family, record, backend=backend)
    return outcome.reason


def states(rig: Rig, *records: int) -> list[int]:
    return [state & STATE_MASK for state in rig.datapath.flows["state"][list(records)].tolist()]


def down(rig: Rig, family: Family, datagram: Datagram) -> Reason:
    """A transceiver's packet, which must come out for the family's client."""
    outcome = rig.run(datagram.frame(), BACKENDS)
    assert outcome.frame == to_client(datagram, family)
    return outcome.reason


def test_a_call(rig: Rig, family: Family) -> None:
    record = family.free[0]
    assert rig.run(from_client(family).frame()).reason == Reason.DROP_NO_FLOW
    assert up(rig, family, request(family), record) == Reason.FORWARD_BOUND
    for payload in (DTLS, b"\x80media", request(family).payload):
        assert up(rig, family, from_client(family, payload), record) == Reason.FORWARD_TO_TRANSCEIVER
        assert down(rig, family, from_backend(family, payload, record=record)) == Reason.FORWARD_TO_CLIENT
    flow = rig.datapath.flows[record]
    assert (flow["up_packets"], flow["down_packets"]) == (4, 3)


def test_a_nat_gives_a_port_to_another_client(rig: Rig, family: Family) -> None:
    first, second, _ = family.free
    other = family.backends.other
    up(rig, family, request(family), first)
    assert up(rig, family, request(family, BOB), second, other) == Reason.FORWARD_REBOUND
    assert up(rig, family, from_client(family), second, other) == Reason.FORWARD_TO_TRANSCEIVER
    assert down(rig, family, from_backend(family, record=second, backend=other)) == Reason.FORWARD_TO_CLIENT
    # The first session's transceiver is not heard by the second's client.
    late = from_backend(family, record=first).frame()
    assert rig.run(late, BACKENDS).reason == Reason.DROP_STALE_FLOW
    # Nor may it use the new port, nor the new one the old.
    for record, backend in ((second, None), (first, other)):
        crossed = from_backend(family, record=record, backend=backend).frame()
        assert rig.run(crossed, BACKENDS).action == "DROP"
    assert states(rig, first, second) == [FlowState.SUPERSEDED, FlowState.LIVE]
    # Both are entered until the daemon ends the first.
    assert rig.entries.records(flow_key(family, family.client)) == sorted([first, second])


def test_two_clients_have_a_port_in_turn(rig: Rig, family: Family) -> None:
    """Each takes over from the other, by a record of its own each time."""
    first, second, third = family.free
    up(rig, family, request(family), first)
    up(rig, family, request(family, BOB), second, family.backends.other)
    assert up(rig, family, request(family), third) == Reason.FORWARD_REBOUND
    assert up(rig, family, from_client(family), third) == Reason.FORWARD_TO_TRANSCEIVER
    assert states(rig, *family.free) == [FlowState.SUPERSEDED, FlowState.SUPERSEDED, FlowState.LIVE]
    assert rig.run(request(family, BOB).frame()).reason == Reason.DROP_FLOWS_FULL
    assert up(rig, family, request(family), third) == Reason.FORWARD_TO_TRANSCEIVER


def test_an_ice_restart_on_the_same_socket_keeps_the_flow(rig: Rig, family: Family) -> None:
    record = family.free[0]
    up(rig, family, request(family, ALICE), record)
    assert up(rig, family, request(family, ALICE_AGAIN), record) == Reason.FORWARD_TO_TRANSCEIVER
    assert up(rig, family, request(family, ALICE), record) == Reason.FORWARD_TO_TRANSCEIVER
    assert rig.snapshot().free_flows[family.version] == list(family.free[1:])


def test_a_client_that_roams_has_two_flows(rig: Rig, family: Family) -> None:
    first, second, _ = family.free
    up(rig, family, request(family), first)
    assert up(rig, family, request(family, client=family.distant), second) == Reason.FORWARD_BOUND
    for client, record in ((family.client, first), (family.distant, second)):
        media = from_client(family, client=client)
        assert up(rig, family, media, record) == Reason.FORWARD_TO_TRANSCEIVER
    assert down(rig, family, from_backend(family, record=first)) == Reason.FORWARD_TO_CLIENT


def test_clients_behind_one_gateway_share_a_hop(rig: Rig, family: Family) -> None:
    for number in range(2):
        client = family.distant._replace(port=family.distant.port + number)
        assert rig.run(request(family, client=client).frame()).reason == Reason.FORWARD_BOUND
    state = rig.snapshot()
    assert state.free_hops == list(world.FREE_HOPS[1:])
    assert len(state.hop_index) == 1


def test_a_hop_that_the_daemon_has_taken_back(rig: Rig, family: Family) -> None:
    """No CPU goes on using what it remembers of the gateway."""
    hops, key = [], hop_key(family.gateway, rig.ifindex[CLIENTS])
    for number in range(3):
        client = family.distant._replace(port=family.distant.port + number)
        assert rig.run(request(family, client=client).frame()).reason == Reason.FORWARD_BOUND
        hops.append(int(rig.datapath.flows["client_hop"][family.free[number]]))
        if number == 1:
            rig.datapath.hop_index.delete(key)
            rig.datapath.hops["taken_back"][0] += 1
    assert hops == [world.FREE_HOPS[0], world.FREE_HOPS[0], world.FREE_HOPS[1]]
    assert rig.snapshot().hop_index == {key: world.FREE_HOPS[1]}


def test_ended_and_freed(rig: Rig, family: Family) -> None:
    """The daemon's way with a flow, seen by packets."""
    record, numbers = family.free[0], np.array(family.free[:1], np.uint32)
    up(rig, family, request(family), record)
    rig.datapath.end_flows(numbers)
    assert rig.run(from_client(family).frame()).reason == Reason.DROP_NO_FLOW
    late = from_backend(family, record=record).frame()
    assert rig.run(late, BACKENDS).reason == Reason.DROP_STALE_FLOW
    rig.datapath.free_flows(numbers)
    assert rig.run(late, BACKENDS).reason == Reason.DROP_NO_RELAY_FLOW
    after = rig.snapshot()
    assert after.free_flows[family.version] == [*family.free[1:], record]
    assert after.index == []


def test_relay_ports_rest_as_long_as_there_are_others(rig: Rig, family: Family) -> None:
    """The ring goes round, past its own end, and hands out what was given back longest ago."""
    places = int(rig.free_list(family.version)["size"])
    for turn in range(2 * places):
        record = family.free[turn % len(family.free)]
        assert up(rig, family, request(family), record) == Reason.FORWARD_BOUND
        rig.datapath.end_flows(np.array([record], np.uint32))
        rig.datapath.free_flows(np.array([record], np.uint32))
        rig.put_session_budget(ALICE, 0)


def test_a_flow_whose_bucket_is_full(rig: Rig, family: Family) -> None:
    """It is entered in another, found there, and leaves it without a trace but in the counts."""
    key, (first, second, _) = flow_key(family, family.client), family.free
    home = rig.entries.home(key)
    away = (home + 2) % rig.datapath.layout.buckets
    rig.entries.fill(but=[away])
    up(rig, family, request(family), first)
    assert rig.entries.buckets_of(first) == [away]
    assert up(rig, family, from_client(family), first) == Reason.FORWARD_TO_TRANSCEIVER
    assert up(rig, family, request(family, BOB), second, family.backends.other) == Reason.FORWARD_REBOUND
    assert rig.entries.buckets_of(second) == [away]
    rig.datapath.end_flows(np.array([first], np.uint32))
    assert rig.snapshot().removed[home] == abi.BucketBit.SPILT_ONE
    media = from_client(family)
    assert up(rig, family, media, second, family.backends.other) == Reason.FORWARD_TO_TRANSCEIVER
    rig.datapath.end_flows(np.array([second], np.uint32))
    assert rig.snapshot().removed[home] == 2 * abi.BucketBit.SPILT_ONE
    assert rig.run(media.frame()).reason == Reason.DROP_NO_FLOW


def test_a_flow_without_a_slot_disturbs_nobody(rig: Rig, family: Family) -> None:
    """Its record is the daemon's to end, and its client may ask again."""
    first, second, _ = family.free
    rig.entries.fill()
    assert rig.run(request(family).frame()).reason == Reason.DROP_INDEX_FULL
    assert states(rig, first) == [FlowState.SUPERSEDED]
    late = from_backend(family, record=first).frame()
    assert rig.run(late, BACKENDS).reason == Reason.DROP_STALE_FLOW
    rig.datapath.end_flows(np.array([first], np.uint32))
    rig.entries.sweep()
    assert up(rig, family, request(family), second) == Reason.FORWARD_BOUND
    rig.datapath.free_flows(np.array([first], np.uint32))
    assert rig.snapshot().free_flows[family.version] == [family.free[2], first]
    assert up(rig, family, from_client(family), second) == Reason.FORWARD_TO_TRANSCEIVER


@pytest.mark.parametrize("spilt", [False, True], ids=["at home", "spilt"])
def test_the_daemon_died_while_it_ended_a_flow(rig: Rig, family: Family, spilt: bool) -> None:
    """The client comes back before the daemon does; what is mended then is not its new flow."""
    key, (first, second, _) = flow_key(family, family.client), family.free
    if spilt:
        rig.entries.fill(but=[rig.entries.home(key) + 1])
    up(rig, family, request(family), first)
    rig.datapath.flows["state"][first] = FlowState.DEAD  # and no more
    assert rig.run(from_client(family).frame()).reason == Reason.DROP_NO_FLOW
    assert up(rig, family, request(family), second) == Reason.FORWARD_BOUND
    assert rig.entries.records(key) == sorted([first, second])
    rig.entries.sweep()
    rig.datapath.repair_index()
    rig.entries.read()  # which holds
    assert rig.entries.records(key) == [second]
    assert up(rig, family, from_client(family), second) == Reason.FORWARD_TO_TRANSCEIVER


def test_the_superseded_record_ends_without_harm_to_the_new_one(rig: Rig, family: Family) -> None:
    first, second, _ = family.free
    up(rig, family, request(family), first)
    rig.run(request(family, BOB).frame())
    rig.datapath.end_flows(np.array([first], np.uint32))
    media = from_client(family)
    assert up(rig, family, media, second, family.backends.other) == Reason.FORWARD_TO_TRANSCEIVER


def test_until_no_record_is_free(rig: Rig, family: Family) -> None:
    reasons = []
    for number in range(len(family.free) + 1):
        client = family.client._replace(port=family.client.port + number)
        reasons.append(rig.run(request(family, client=client).frame()).reason)
    assert reasons == [Reason.FORWARD_BOUND] * len(family.free) + [Reason.DROP_FLOWS_FULL]
    # Those that are bound go on.
    assert rig.run(from_client(family).frame()).reason == Reason.FORWARD_TO_TRANSCEIVER


def test_a_hop_that_is_resolved_later(rig: Rig, family: Family) -> None:
    asked = request(family, client=family.quiet)
    arrived = rig.run(asked.frame(), BACKENDS)  # by a link that says nothing about the way back
    assert arrived.reason == Reason.FORWARD_BOUND
    answer = from_backend(family, record=family.free[0])
    assert rig.run(answer.frame(), BACKENDS).reason == Reason.DROP_HOP_UNRESOLVED
    rig.put_hop(world.FREE_HOPS[0], world.QUIET_MAC, CLIENTS)
    ran = rig.run(answer.frame(), BACKENDS)
    expected = to_client(answer, family, client=family.quiet)
    assert ran.frame == world.QUIET_MAC + expected[6:]


def test_removed_session_binds_nobody(rig: Rig, family: Family) -> None:
    rig.datapath.delete_sessions(np.array([(ALICE,)], abi.UFRAG_KEY))
    assert rig.run(request(family).frame()).reason == Reason.DROP_UNKNOWN_UFRAG
    # A flow is ended by the daemon, not by its session's absence.
    rig.put_flow(family)
    media = replace(from_client(family), tos=0x2E)
    assert up(rig, family, media, family.live) == Reason.FORWARD_TO_TRANSCEIVER


def test_a_call_whose_transceiver_keeps_its_secret(rig: Rig, family: Family) -> None:
    record = family.free[0]
    media, speech = from_client(family), from_backend(family, record=record)
    check = from_backend(family, stun.request(b"peer:" + CAROL, b"p" * 22), record=record)
    for transaction in (b"the first id", b"a second one"):
        asked = request(family, CAROL, transaction=transaction)
        assert up(rig, family, asked, record) == Reason.FORWARD_PROVISIONAL
    assert rig.run(media.frame()).reason == Reason.DROP_NO_FLOW
    assert rig.run(speech.frame(), BACKENDS).reason == Reason.DROP_PROVISIONAL
    # A check of its own, an error, and an answer to what is not asked any more confirm nothing.
    for said in (
        check,
        answer(family, record, transaction=b"a second one", kind=stun.ERROR),
        answer(family, record, transaction=b"the first id"),
    ):
        assert down(rig, family, said) == Reason.FORWARD_TO_CLIENT
        assert rig.run(media.frame()).reason == Reason.DROP_NO_FLOW
    good = answer(family, record, transaction=b"a second one")
    assert down(rig, family, good) == Reason.FORWARD_TO_CLIENT
    assert up(rig, family, media, record) == Reason.FORWARD_TO_TRANSCEIVER
    assert down(rig, family, speech) == Reason.FORWARD_TO_CLIENT
    assert up(rig, family, request(family, CAROL), record) == Reason.FORWARD_TO_TRANSCEIVER
    flow = rig.datapath.flows[record]
    assert (flow["down_packets"], flow["down_bytes"]) == (2, good.ip_bytes + speech.ip_bytes)


def test_two_sessions_that_keep_their_secrets_ask_for_one_client(rig: Rig, family: Family) -> None:
    """Each has a record of its own, however their requests follow each other; the last answer wins."""
    first, second, third = family.free
    other = family.backends.other
    for _ in range(2):
        assert up(rig, family, request(family, CAROL), first) == Reason.FORWARD_PROVISIONAL
        assert up(rig, family, request(family, DAVE), second, other) == Reason.FORWARD_PROVISIONAL
    assert down(rig, family, answer(family, first)) == Reason.FORWARD_TO_CLIENT
    assert up(rig, family, from_client(family), first) == Reason.FORWARD_TO_TRANSCEIVER
    assert down(rig, family, answer(family, second, backend=other)) == Reason.FORWARD_TO_CLIENT
    assert up(rig, family, from_client(family), second, other) == Reason.FORWARD_TO_TRANSCEIVER
    assert states(rig, first, second) == [FlowState.SUPERSEDED, FlowState.LIVE]
    assert up(rig, family, request(family, CAROL), third) == Reason.FORWARD_PROVISIONAL
    assert states(rig, *family.free) == [FlowState.SUPERSEDED, FlowState.LIVE, FlowState.PROVISIONAL]


def test_a_forger_without_a_secret_to_forge_is_stopped(rig: Rig, family: Family) -> None:
    """It may have a transceiver asked 32 times for a victim's 5-tuple; the victim's call does not notice."""
    up(rig, family, request(family), family.free[0])
    before = rig.datapath.flows[family.free[0]].copy()
    reasons = [rig.run(request(family, CAROL).frame()).reason for _ in range(40)]
    assert reasons == [Reason.FORWARD_PROVISIONAL] * 32 + [Reason.DROP_PROVISIONAL] * 8
    assert rig.datapath.flows[family.free[0]] == before
    assert up(rig, family, from_client(family), family.free[0]) == Reason.FORWARD_TO_TRANSCEIVER


def test_a_forger_leaves_an_idle_flow_idle(rig: Rig, family: Family) -> None:
    rig.put_flow(family)
    before = rig.datapath.flows[family.live].copy()
    for forged in (
        stun.request(ALICE + b":peer", b"guessed"),
        stun.request(BOB + b":peer", b"guessed"),
        stun.request(b"mallory0:peer", b"guessed"),
        request(family).payload[:-1] + b"!",
        stun.message(stun.REQUEST),
    ):
        assert rig.run(from_client(family, forged).frame()).action == "DROP"
        assert rig.datapath.flows[family.live] == before


def test_a_request_that_somebody_replays(rig: Rig, family: Family) -> None:
    """MESSAGE-INTEGRITY does not cover where it comes from: the session's budget bounds what that yields."""
    first = family.relay_number * world.SPAN
    rig.set_free_flows(family.version, *range(first, first + world.SPAN))
    reasons = []
    for number in range(world.FLOWS_PER_SESSION + 3):
        client = family.distant._replace(port=family.distant.port + number)
        reasons.append(rig.run(request(family, client=client).frame()).reason)
    bound, rest = reasons[: world.FLOWS_PER_SESSION], reasons[world.FLOWS_PER_SESSION :]
    assert set(bound) == {Reason.FORWARD_BOUND}
    assert set(rest) == {Reason.DROP_SESSION_BUDGET}
    # Flows that are there go on, and other sessions' clients come in.
    client = family.distant
    assert rig.run(request(family, client=client).frame()).reason == Reason.FORWARD_TO_TRANSCEIVER
    assert rig.run(request(family, BOB).frame()).reason == Reason.FORWARD_BOUND
