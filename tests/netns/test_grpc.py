# SPDX-License-Identifier: Apache-2.0
"""The gRPC service of a running daemon: what is answered, refused, reported and ended."""

from __future__ import annotations

import os
import random
import socket
import stat
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from control import abi, libbpf
from control.maps import HashMap
from control.records import ufrag_keys
from control.requests import Code
from tests.lab.calls import RTP, Call, binding_request, call, payload, wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.services import REGION, relay_target, start_relay
from tests.lab.topology import VIP_PORT, Site, two_armed
from tests.netns.raw_stream import RawStream, add, raw_stream, remove, renew, session, unregistered_call

pytestmark = [pytest.mark.root, pytest.mark.netns]

MAX_SESSIONS = 64
GRACE = 1
IDLE = 2
SERVICE = "earshot.relay.v1.RelayService"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        made = two_armed(lab)
        start_relay(
            made,
            f"--max-sessions={MAX_SESSIONS}",
            f"--grace-seconds={GRACE}",
            f"--flow-idle-seconds={IDLE}",
        )
        yield made


@pytest.fixture
def channel(site: Site) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(relay_target(site)) as made:
        yield made


@pytest.fixture
def stream(channel: grpc.Channel, relay: RelayClient) -> Iterator[RawStream]:
    """A stream that is attached; what it leaves is removed."""
    with raw_stream(channel) as made:
        made.hello("raw")
        yield made
        made.snapshot()


def transceivers(channel: grpc.Channel) -> list[pb.TransceiverInfo]:
    stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
    return list(stub.ListTransceivers(pb.ListTransceiversRequest(), timeout=10).transceivers)


def session_ids(relay: RelayClient) -> set[str]:
    return {one.session_id for one in relay.sessions()}


# ---- what a caller can get wrong ------------------------------------------------------------


def test_each_operation_has_its_own_result_and_the_good_ones_go_through(
    stream: RawStream, relay: RelayClient, channel: grpc.Channel
) -> None:
    with raw_stream(channel) as other:
        other.hello("other")
        assert other.batch(add("theirs", "theirs")) == [(Code.OK, "")]
        results = stream.batch(
            add("good-1", "good1"),
            add("bad id", "ufr1"),
            add("x", "abc"),
            add("x", "u" * 33),
            add("x", "ufr1", pwd="short"),
            add("x", "ufr1", pwd="x" * 257),
            add("x"),
            add("x", "ufr1", to=[]),
            add("x", "ufr1", to=[("nonsense", 1)]),
            add("x", "ufr1", to=[("224.0.0.1", 1)]),
            add("x", "ufr1", to=[("203.0.113.1", 1)]),
            add("x", "ufr1", to=[("10.20.0.1", 1)]),
            add("x", "ufr1", to=[("10.20.0.10", 0)]),
            add("x", "ufr1", to=[("10.20.0.10", 1), ("10.20.0.11", 1)]),
            add("x", "ufr1", "theirs"),
            add("x", "good1"),
            add("x", "ufr1", to=[("192.168.77.1", 1)]),  # no route
            add("x", "ufr1", to=[("10.20.0.99", 1)]),  # nobody there
            add("x", "ufr1", ttl_seconds=2**31),
            renew("nobody"),
            remove("nobody"),
            pb.Operation(),
            add("good-2", "good2", "good3", pwd=""),
        )
    assert results == [
        (Code.OK, ""),
        (Code.INVALID_ARGUMENT, "session_id"),
        (Code.INVALID_ARGUMENT, "credentials[0].ufrag"),
        (Code.INVALID_ARGUMENT, "credentials[0].ufrag"),
        (Code.INVALID_ARGUMENT, "credentials[0].pwd"),
        (Code.INVALID_ARGUMENT, "credentials[0].pwd"),
        (Code.INVALID_ARGUMENT, "credentials"),
        (Code.INVALID_ARGUMENT, "endpoints"),
        (Code.INVALID_ARGUMENT, "endpoints[0].address"),
        (Code.INVALID_ARGUMENT, "endpoints[0].address"),
        (Code.INVALID_ARGUMENT, "endpoints[0].address"),
        (Code.INVALID_ARGUMENT, "endpoints[0].address"),
        (Code.INVALID_ARGUMENT, "endpoints[0].port"),
        (Code.INVALID_ARGUMENT, "endpoints[1].address"),
        (Code.ALREADY_EXISTS, "credentials[1].ufrag"),
        (Code.ALREADY_EXISTS, "credentials[0].ufrag"),
        (Code.UNAVAILABLE, "endpoints[0].address"),
        (Code.UNAVAILABLE, "endpoints[0].address"),
        (Code.INVALID_ARGUMENT, "ttl_seconds"),
        (Code.NOT_FOUND, "session_id"),
        (Code.NOT_FOUND, "session_id"),
        (Code.INVALID_ARGUMENT, "operation"),
        (Code.OK, ""),
    ]
    stored = {one.session_id: one for one in relay.sessions() if one.transceiver == "raw"}
    assert {name: (list(one.ufrags), one.has_pwd) for name, one in stored.items()} == {
        "good-1": (["good1"], True),
        "good-2": (["good2", "good3"], False),
    }


def test_full_table(stream: RawStream, relay: RelayClient) -> None:
    before = sum(len(one.ufrags) for one in relay.sessions())
    results = stream.batch(*(add(f"s{n}", f"ufrag{n:03}") for n in range(MAX_SESSIONS + 3)))
    room = MAX_SESSIONS - before
    assert results[:room] == [(Code.OK, "")] * room
    assert set(results[room:]) == {(Code.RESOURCE_EXHAUSTED, "credentials")}
    # What is removed makes room within the same batch.
    assert stream.batch(remove("s0"), add("late", "late")) == [(Code.OK, "")] * 2


def test_map_that_someone_else_has_filled(site: Site, stream: RawStream, relay: RelayClient) -> None:
    """The registry counts what is in the map; here its count is wrong."""
    fd = libbpf.get_pinned(site.lab.pins / "sessions_v1")
    sessions = HashMap(fd, abi.UFRAG_KEY, abi.SESSION)
    there = len(sessions.read()[0])
    strays = ufrag_keys([f"stray{n}" for n in range(MAX_SESSIONS - there - 2)])
    sessions.put_many(strays, np.zeros(len(strays), abi.SESSION))
    try:
        results = stream.batch(add("fits", "fits"), add("half", "fits2", "over"), add("out", "none"))
        assert results == [
            (Code.OK, ""),
            (Code.RESOURCE_EXHAUSTED, "credentials"),
            (Code.RESOURCE_EXHAUSTED, "credentials"),
        ]
        assert {one.session_id for one in relay.sessions() if one.transceiver == "raw"} == {"fits"}
        assert len(sessions.read()[0]) == MAX_SESSIONS - 1
    finally:
        sessions.delete_many(strays)
        os.close(fd)
    assert stream.batch(add("half", "fits2", "over")) == [(Code.OK, "")]


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        ({"batch": pb.Batch()}, grpc.StatusCode.FAILED_PRECONDITION, "has to come first"),
        (
            {"snapshot": pb.Snapshot(last=True)},
            grpc.StatusCode.FAILED_PRECONDITION,
            "hello: has to come first",
        ),
        ({}, grpc.StatusCode.FAILED_PRECONDITION, "has to come first"),
        ({"hello": pb.Hello()}, grpc.StatusCode.INVALID_ARGUMENT, "hello.transceiver"),
        ({"hello": pb.Hello(transceiver="a b")}, grpc.StatusCode.INVALID_ARGUMENT, "hello.transceiver"),
    ],
)
def test_bad_beginnings(
    channel: grpc.Channel, message: dict[str, Any], code: grpc.StatusCode, says: str
) -> None:
    with raw_stream(channel) as stream:
        stream.send(**message)
        status, details = stream.error()
    assert status == code
    assert says in details


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        (
            {"hello": pb.Hello(transceiver="x")},
            grpc.StatusCode.FAILED_PRECONDITION,
            "was sent already",
        ),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "message: is empty"),
        (
            {"batch": pb.Batch(operations=[remove("x")] * 1001)},
            grpc.StatusCode.INVALID_ARGUMENT,
            "batch.operations: has 1001 entries; at most 1000",
        ),
        (
            {"snapshot": pb.Snapshot(sessions=[session("x")] * 1001)},
            grpc.StatusCode.INVALID_ARGUMENT,
            "snapshot.sessions: has 1001 entries; at most 1000",
        ),
    ],
)
def test_what_ends_a_stream(
    channel: grpc.Channel, message: dict[str, Any], code: grpc.StatusCode, says: str
) -> None:
    with raw_stream(channel) as stream:
        stream.hello("ended")
        stream.send(**message)
        status, details = stream.error()
    assert status == code
    assert says in details


def test_garbage_ends_calls_and_nothing_else(site: Site, channel: grpc.Channel, relay: RelayClient) -> None:
    chance = random.Random(5)
    raw = channel.stream_stream(f"/{SERVICE}/Attach")
    path = relay_target(site).removeprefix("unix:")
    for _ in range(50):
        noise = [chance.randbytes(chance.randrange(1, 200)) for _ in range(3)]
        hello = pb.AttachRequest(hello=pb.Hello(transceiver="noise")).SerializeToString()
        with pytest.raises(grpc.RpcError):
            list(raw(iter([*chance.choice([[], [hello]]), *noise]), timeout=10))
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(path)
            plain.send(chance.randbytes(100))
    for method in ("ListSessions", "ListFlows"):
        with pytest.raises(grpc.RpcError):
            list(channel.unary_stream(f"/{SERVICE}/{method}")(b"\xff\xff", timeout=10))
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/NoSuchCall")(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as caught:
        list(raw(iter([bytes(3 << 20)]), timeout=10))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert relay.counters()
    assert "level=error" not in site.lab.log("earshotd").read_text()


def test_mutated_batches(stream: RawStream, relay: RelayClient) -> None:
    """Well-formed messages with any text in any field."""
    chance = random.Random(6)
    texts = [
        "",
        "a",
        "good",
        "x" * 300,
        "\0\0\0\0",
        "ü" * 40,
        "10.20.0.10",
        "::",
        "fe80::1%1",
        "1.2.3.4/24",
        "\n",
    ]

    def text() -> str:
        return chance.choice(texts)

    for _ in range(20):
        operations = [
            chance.choice(
                [
                    add(text(), text(), pwd=text(), to=[(text(), chance.randrange(1 << 32))]),
                    renew(text()),
                    remove(text()),
                    pb.Operation(),
                ]
            )
            for _ in range(50)
        ]
        assert len(stream.batch(*operations)) == 50
    assert relay.counters()


# ---- snapshots, streams and grace -----------------------------------------------------------


def test_snapshot_in_parts(stream: RawStream, relay: RelayClient) -> None:
    stream.batch(add("a", "aaaa"), add("b", "bbbb"), add("c", "cccc"))
    first = stream.snapshot(session("a", "aaaa"), session("new", "nnnn"), last=False)
    assert ([result.code for result in first.results], first.removed) == ([0, 0], 0)
    assert session_ids(relay) >= {"a", "b", "c", "new"}
    last = stream.snapshot(session("b", "bad ufrag"))
    assert [(result.code, result.field) for result in last.results] == [
        (Code.INVALID_ARGUMENT, "credentials[0].ufrag")
    ]
    assert last.removed == 1
    assert session_ids(relay) >= {"a", "b", "new"}
    assert "c" not in session_ids(relay)


def test_take_over_within_grace(channel: grpc.Channel, relay: RelayClient) -> None:
    with raw_stream(channel) as first:
        assert first.hello("again").sessions == 0
        first.batch(add("s", "again"))
    with raw_stream(channel) as second:
        welcome = second.hello("again")
        assert (welcome.sessions, welcome.grace_seconds, welcome.max_batch) == (1, GRACE, 1000)
        assert [vip.port for vip in welcome.vips] == [VIP_PORT, VIP_PORT]
        assert (welcome.relay, welcome.region) == ("relay", REGION)
        assert second.snapshot(session("s", "again")).removed == 0
        assert "s" in session_ids(relay)


def test_grace_ends(site: Site, channel: grpc.Channel, relay: RelayClient) -> None:
    with raw_stream(channel) as stream, unregistered_call(site, 4, "vanishing-1") as made:
        stream.hello("vanishing")
        stream.batch(add("vanishing-1", made.ufrag, pwd="", to=[made.endpoint]))
        made.bind(4)
    wait_for(lambda: "vanishing-1" not in session_ids(relay), "the session's end")
    assert relay.flows("vanishing-1") == []
    assert "vanishing" not in {one.transceiver for one in transceivers(channel)}


def test_second_stream_replaces_the_first(channel: grpc.Channel, relay: RelayClient) -> None:
    with raw_stream(channel) as first, raw_stream(channel) as second:
        first.hello("twin")
        first.batch(add("kept", "kept"))
        assert second.hello("twin").sessions == 1
        assert first.error()[0] == grpc.StatusCode.ABORTED
        assert second.batch(renew("kept")) == [(Code.OK, "")]
        assert [one.attached for one in transceivers(channel) if one.transceiver == "twin"] == [True]


def test_time_to_live(stream: RawStream, relay: RelayClient) -> None:
    stream.batch(add("short", "short", ttl_seconds=1), add("long", "long", ttl_seconds=600))
    left = {one.session_id: one.ttl_seconds for one in relay.sessions()}
    assert 590 < left["long"] <= 601
    wait_for(lambda: "short" not in session_ids(relay), "the session's end")
    assert stream.batch(renew("short"), renew("long")) == [(Code.NOT_FOUND, "session_id"), (Code.OK, "")]


# ---- flows ------------------------------------------------------------------------------------


def next_event(attachment: Attachment, kind: str, session_id: str) -> Any:
    """The next FlowBound or FlowEnded of a session."""
    for event in attachment.events():
        if event.WhichOneof("message") == kind and getattr(event, kind).flow.session_id == session_id:
            return getattr(event, kind)
    raise AssertionError(f"no {kind}")


def test_flow_bound_and_ended(site: Site, relay: RelayClient, attachment: Attachment, family: int) -> None:
    with call(site, attachment, family) as made:
        peer = made.bind(4)
        bound = next_event(attachment, "flow_bound", made.session_id).flow
        client = made.client.getsockname()
        assert (bound.client.address, bound.client.port) == (site.addresses[family].client, client[1])
        assert (bound.relay.address, bound.relay.port) == peer
        assert (bound.vip.address, bound.vip.port) == (site.addresses[family].vip, VIP_PORT)
        assert (bound.backend.address, bound.backend.port) == made.transceiver.getsockname()[:2]
        assert bound.transceiver == "transceiver"
        made.up(payload(RTP, 100))
        made.down(payload(RTP, 100))
        assert relay.sessions()[0].flows == 1
        assert attachment.remove(made.session_id).code == Code.OK
        ended = next_event(attachment, "flow_ended", made.session_id)
        assert ended.reason == pb.FLOW_END_REASON_SESSION_ENDED
        assert ended.flow.flow_id == bound.flow_id
        assert ended.flow.to_transceiver_packets >= 2
        assert ended.flow.to_client_packets == 1
        # Nothing gets through any more, either way.
        before = relay.counters()
        made.client.sendto(payload(RTP, 100), made.vip)
        made.client.sendto(binding_request(made.ufrag), made.vip)
        made.transceiver.sendto(payload(RTP, 100), made.peer)
        for reason in ("drop_no_flow", "drop_unknown_ufrag"):
            wait_for(lambda reason=reason: relay.counters()[reason] > before[reason], reason)  # type: ignore[misc]


def test_idle_flow_ends(site: Site, attachment: Attachment, relay: RelayClient) -> None:
    with call(site, attachment, 4) as made:
        made.bind(4)
        ended = next_event(attachment, "flow_ended", made.session_id)
        assert ended.reason == pb.FLOW_END_REASON_IDLE
        assert ended.flow.idle_milliseconds >= IDLE * 1000 - 2
        assert relay.flows(made.session_id) == []
        # The session is still there: the client comes back by another check.
        made.bind(4)


def test_client_that_moves_to_another_session(site: Site, attachment: Attachment, relay: RelayClient) -> None:
    with call(site, attachment, 4) as first, call(site, attachment, 4) as second:
        first.bind(4)
        moved = Call(first.client, second.transceiver, second.vip, second.session_id, second.ufrag)
        moved.bind(4)
        ended = next_event(attachment, "flow_ended", first.session_id)
        assert ended.reason == pb.FLOW_END_REASON_SUPERSEDED
        moved.up(payload(RTP, 100))
        moved.down(payload(RTP, 100))


def test_ice_restart_keeps_the_flow_and_a_new_endpoint_ends_it(
    site: Site, stream: RawStream, relay: RelayClient
) -> None:
    with unregistered_call(site, 4, "restarted") as made:
        stream.batch(add("restarted", made.ufrag, to=[made.endpoint]))
        made.bind(4)
        assert stream.batch(add("restarted", made.ufrag, "after", to=[made.endpoint])) == [(Code.OK, "")]
        made.up(payload(RTP, 100))
    assert len(relay.flows("restarted")) == 1
    assert stream.batch(add("restarted", "after", to=[("10.20.0.10", 9)])) == [(Code.OK, "")]
    assert relay.flows("restarted") == []
    assert stream.take("flow_ended").reason == pb.FLOW_END_REASON_SESSION_ENDED


# ---- everything else ----------------------------------------------------------------------------


def test_socket_is_for_its_group_alone(site: Site) -> None:
    mode = os.stat(relay_target(site).removeprefix("unix:")).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health(channel: grpc.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    assert SERVICE in {service.name for service in answer.list_services_response.service}


def test_lists_and_counters(site: Site, channel: grpc.Channel, stream: RawStream, relay: RelayClient) -> None:
    stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
    ours = stub.ListVips(pb.ListVipsRequest(), timeout=10)
    assert (ours.relay, ours.region) == ("relay", REGION)
    assert [(vip.address, vip.port) for vip in ours.vips] == [
        (site.addresses[family].vip, VIP_PORT) for family in (4, 6)
    ]
    stream.batch(add("listed", "listed", to=[("fd00:20::10", 7), ("10.20.0.10", 7)]))
    pages = stub.ListSessions(pb.ListSessionsRequest(transceiver="raw"), timeout=10)
    (listed,) = [one for page in pages for one in page.sessions]
    assert [end.address for end in listed.endpoints] == ["10.20.0.10", "fd00:20::10"]
    assert not list(stub.ListSessions(pb.ListSessionsRequest(transceiver="nobody"), timeout=10))
    (me,) = [one for one in transceivers(channel) if one.transceiver == "raw"]
    assert (me.attached, me.sessions, me.software, me.region) == (True, 1, "raw", "here")
    assert "drop_unknown_ufrag" in relay.counters()
