# SPDX-License-Identifier: Apache-2.0
"""Callers that want too much: they are told so, memory stays bounded, and others do not notice."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from control.requests import Code
from tests.lab.calls import wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import Site, two_armed
from tests.netns.raw_stream import add, raw_stream, session

pytestmark = [pytest.mark.root, pytest.mark.netns]

MAX_SESSIONS = 3000
PER_TRANSCEIVER = 1000
STREAMS, PER_IDENTITY = 40, 30
MIB = 1 << 20
OTHER_UID = 64123


@pytest.fixture(scope="module")
def daemon() -> Iterator[tuple[Site, int]]:
    """A site, and the process id of its daemon."""
    with Lab() as lab:
        made = two_armed(lab)
        process = start_relay(
            made,
            f"--max-sessions={MAX_SESSIONS}",
            f"--max-sessions-per-transceiver={PER_TRANSCEIVER}",
            f"--max-streams={STREAMS}",
            f"--max-streams-per-identity={PER_IDENTITY}",
            "--grace-seconds=1",
        )
        yield made, process.pid


@pytest.fixture
def site(daemon: tuple[Site, int]) -> Site:
    return daemon[0]


@pytest.fixture
def channel(site: Site) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(relay_target(site), options=options) as made:
        yield made


@pytest.fixture
def memory(daemon: tuple[Site, int]) -> Iterator[Any]:
    """How much the daemon's memory has grown since the test began, in MiB; said at the end."""
    before = resident(daemon[1])

    def grown() -> float:
        return (resident(daemon[1]) - before) / MIB

    yield grown
    print(f"resident memory: {before / MIB:.0f} MiB before, {grown():+.1f} MiB")


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


def other_user_attaches(site: Site) -> bool:
    """Whether somebody else can attach and register meanwhile."""
    script = """
import sys, grpc
from tests.netns.raw_stream import add, raw_stream
with grpc.insecure_channel(sys.argv[1]) as channel, raw_stream(channel) as stream:
    stream.hello("bystander")
    print(stream.batch(add("bystander", "bystander")))
"""
    done = subprocess.run(
        [
            *("setpriv", f"--reuid={OTHER_UID}", "--regid=0", "--clear-groups"),
            *(sys.executable, "-c", script, relay_target(site)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.strip() == "[(0, '')]"


def test_the_largest_message_there_can_be(channel: grpc.Channel, memory: Any) -> None:
    """A full batch of sessions with four ufrags and the longest of everything."""
    number = iter(range(10_000))
    operations = [
        add(f"{n:032}", *(f"{next(number):032}" for _ in range(4)), pwd="p" * 256) for n in range(1000)
    ]
    with raw_stream(channel) as stream:
        stream.hello("largest")
        results = stream.batch(*operations)
        assert Counter(results) == {(Code.OK, ""): 250, (Code.RESOURCE_EXHAUSTED, "credentials"): 750}
        stream.snapshot()
    assert memory() < 64


@pytest.mark.parametrize("repeat", [1, 30])
def test_messages_beyond_that_end_the_stream(
    site: Site, channel: grpc.Channel, memory: Any, repeat: int
) -> None:
    raw = channel.stream_stream("/earshot.relay.v1.RelayService/Attach")
    for _ in range(repeat):
        with pytest.raises(grpc.RpcError) as caught:
            list(raw(iter([bytes(3 * MIB)]), timeout=30))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in caught.value.details()
    assert memory() < 64
    assert other_user_attaches(site)


def test_messages_of_very_many_nothings(site: Site, channel: grpc.Channel, memory: Any) -> None:
    """Two bytes for each operation: 780,000 of them fit into one message."""
    empty = pb.AttachRequest(batch=pb.Batch(operations=[pb.Operation()] * 780_000)).SerializeToString()
    assert len(empty) < 1.5 * MIB
    hello = pb.AttachRequest(hello=pb.Hello(transceiver="nothing")).SerializeToString()
    raw = channel.stream_stream("/earshot.relay.v1.RelayService/Attach")
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as caught:
            list(raw(iter([hello, empty]), timeout=30))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert memory() < 256
    assert other_user_attaches(site)


def test_thousands_of_streams(site: Site, channel: grpc.Channel, memory: Any) -> None:
    stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
    ends = [threading.Event() for _ in range(3000)]

    def requests(number: int) -> Iterator[pb.AttachRequest]:
        yield pb.AttachRequest(hello=pb.Hello(transceiver=f"many-{number}"))
        ends[0].wait(60)

    # Threads of the client bound how many it can keep open at a time; each attempt is a stream all the same.
    codes: Counter[grpc.StatusCode] = Counter()
    with ExitStack() as stack:
        for number in range(PER_IDENTITY):
            call = stub.Attach(requests(number), timeout=60)
            stack.callback(call.cancel)
            next(call)
        for number in range(1500):
            hello = pb.AttachRequest(hello=pb.Hello(transceiver=f"more-{number}"))
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.Attach(iter([hello]), timeout=30))
            codes[caught.value.code()] += 1
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED: 1500}
        assert "max_streams_per_identity" in caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:  # other services are counted as well
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert other_user_attaches(site)
        ends[0].set()
    assert memory() < 64
    wait_for(lambda: is_served(channel), "room for the same caller")


def is_served(channel: grpc.Channel) -> bool:
    try:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    except grpc.RpcError:
        return False
    return True


def test_hundreds_of_connections(site: Site, memory: Any) -> None:
    path = relay_target(site).removeprefix("unix:")
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(500)]
        for one in opened:
            one.settimeout(10)
            one.connect(path)
        # gRPC speaks first; those that are one too many are closed.
        wait_for(lambda: other_user_attaches(site), "room for others", timeout=60)
        greeted = sum(bool(greeting(one)) for one in opened)
        assert 0 < greeted <= PER_IDENTITY
    assert memory() < 64


def greeting(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""


def test_a_transceiver_that_registers_without_end(site: Site, channel: grpc.Channel, memory: Any) -> None:
    with raw_stream(channel) as stream:
        stream.hello("endless")
        results: Counter[tuple[int, str]] = Counter()
        for start in range(0, 50_000, 1000):
            results.update(stream.batch(*(add(f"s{n}", f"u{n:06}") for n in range(start, start + 1000))))
        assert results == {(Code.OK, ""): PER_TRANSCEIVER, (Code.RESOURCE_EXHAUSTED, "credentials"): 49_000}
        assert other_user_attaches(site)
        stream.snapshot()
    assert memory() < 64


def test_a_transceiver_that_does_not_read(site: Site, channel: grpc.Channel, memory: Any) -> None:
    sent = 0

    def requests() -> Iterator[pb.AttachRequest]:
        nonlocal sent
        yield pb.AttachRequest(hello=pb.Hello(transceiver="deaf"))
        batch = pb.Batch(operations=[add("x", "bad ufrag", pwd="p" * 256)] * 1000)
        while not done.is_set():
            sent += 1
            yield pb.AttachRequest(batch=batch)

    done = threading.Event()
    stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
    call = stub.Attach(requests(), timeout=60)
    try:
        # The daemon stops to listen once its answers are not taken.
        seen = -1
        while seen != sent:
            seen = sent
            done.wait(1)
        assert other_user_attaches(site)
        print(f"{sent} batches were taken")
        assert memory() < 64
    finally:
        done.set()
        call.cancel()


@pytest.mark.nightly  # it takes the ten seconds that they have
def test_streams_that_say_nothing(site: Site, channel: grpc.Channel) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(raw_stream(channel)) for _ in range(PER_IDENTITY)]
        wait_for(lambda: not is_served(channel), "all of them to be open")
        assert other_user_attaches(site)
        for stream in silent:
            code, details = stream.error()
            assert (code, details) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "hello: did not come within 10 s",
            )
    with RelayClient(relay_target(site)) as relay:
        assert relay.counters()


def test_refusals_are_counted(site: Site) -> None:
    said = site.relay.run(
        sys.executable,
        "-c",
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())",
    )
    (line,) = [line for line in said.splitlines() if line.startswith("earshot_calls_refused_total ")]
    assert float(line.split()[1]) > 0


def test_all_of_it_in_one_snapshot_is_removed_in_slices(channel: grpc.Channel) -> None:
    with raw_stream(channel) as stream:
        stream.hello("slices")
        stream.batch(*(add(f"s{n}", f"u{n:06}") for n in range(PER_TRANSCEIVER)))
        result = stream.snapshot(session("s7", "u000007"))
        assert ([one.code for one in result.results], result.removed) == ([Code.OK], PER_TRANSCEIVER - 1)
        assert stream.batch(add("s7", "u000007")) == [(Code.OK, "")]
