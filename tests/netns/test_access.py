# SPDX-License-Identifier: Apache-2.0
"""Who gets in, by the socket and over TCP, and what each of them may touch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from control import pki
from control.requests import Code
from tests.lab.calls import wait_for
from tests.lab.host import LabError
from tests.lab.netns import Lab
from tests.lab.services import relay_target, start_relay, start_transceiver
from tests.lab.tcp import forwarded
from tests.lab.topology import IPV4, Site, two_armed
from tests.netns.raw_stream import RawStream, add, raw_stream, remove, renew, session

pytestmark = [pytest.mark.root, pytest.mark.netns]

PORT = 9000
UID = 64123
SERVER_NAME = "relay-1.example"
ENTRIES = f"""
[[transceivers]]
identity = "san:voice-1.example"
names = ["voice-*"]
addresses = ["10.20.0.0/24"]

[[transceivers]]
identity = "san:spiffe://example/batch"
names = ["batch"]
addresses = ["10.20.0.10/32", "fd00:20::/64"]

[[transceivers]]
identity = "uid:{UID}"
names = ["local-*"]
addresses = ["10.20.0.0/24"]
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        made = two_armed(lab)
        make_pki(lab.dir / "pki")
        (lab.dir / "earshotd.toml").write_text(ENTRIES)
        start_relay(made, *tls_flags(made), f"--config={lab.dir}/earshotd.toml")
        yield made


def make_pki(folder: Path) -> None:
    pki.init(folder, [SERVER_NAME], 1)
    pki.issue(folder, "voice", ["voice-1.example"], 1)
    pki.issue(folder, "batch", ["spiffe://example/batch"], 1)
    pki.issue(folder, "stranger", ["stranger.example"], 1)


def tls_flags(site: Site) -> list[str]:
    folder = site.lab.dir / "pki"
    return [
        f"--grpc-listen={IPV4.relay}:{PORT}",
        f"--tls-certificate={folder}/relay.crt",
        f"--tls-key={folder}/relay.key",
        f"--tls-client-ca={folder}/ca.crt",
    ]


@contextmanager
def by_tcp(site: Site, name: str, folder: str = "pki", ca: str = "") -> Iterator[grpc.Channel]:
    """A channel with that client's certificate, or none."""
    pem = {path.name: path.read_bytes() for path in (site.lab.dir / folder).iterdir()}
    roots = (site.lab.dir / (ca or folder) / "ca.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(roots, pem.get(f"{name}.key"), pem.get(f"{name}.crt"))
    options = [("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.use_local_subchannel_pool", 1)]
    with (
        forwarded(site.relay, IPV4.relay, PORT) as port,
        grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel,
    ):
        yield channel


def is_served(channel: grpc.Channel) -> bool:
    try:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


def attached(stack: ExitStack, channel: grpc.Channel, name: str) -> RawStream:
    stream = stack.enter_context(raw_stream(channel))
    stream.hello(name)
    return stream


def refusal(channel: grpc.Channel, name: str) -> tuple[grpc.StatusCode, str]:
    with raw_stream(channel) as stream:
        stream.send(hello=pb.Hello(transceiver=name))
        return stream.error()


# ---- over TCP --------------------------------------------------------------------------------


def test_only_who_has_a_certificate_of_the_ca(site: Site) -> None:
    make_pki(site.lab.dir / "other")
    with by_tcp(site, "voice") as channel:
        assert is_served(channel)
    with by_tcp(site, "") as channel:
        assert not is_served(channel)
    with by_tcp(site, "voice", folder="other", ca="pki") as channel:
        assert not is_served(channel)
    with (
        forwarded(site.relay, IPV4.relay, PORT) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        assert not is_served(channel)
    # What strangers do fills no log.
    assert "andshake failed" not in site.lab.log("earshotd").read_text()


def test_who_has_no_entry_may_do_nothing(site: Site) -> None:
    with by_tcp(site, "stranger") as channel:
        code, details = refusal(channel, "voice-1")
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert details == "hello.transceiver: san:stranger.example may not attach as that"
        stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
        for call in (
            lambda: list(stub.ListSessions(pb.ListSessionsRequest(), timeout=10)),
            lambda: list(stub.ListFlows(pb.ListFlowsRequest(), timeout=10)),
            lambda: stub.ListTransceivers(pb.ListTransceiversRequest(), timeout=10),
            lambda: stub.ListVips(pb.ListVipsRequest(), timeout=10),
            lambda: stub.GetCounters(pb.GetCountersRequest(), timeout=10),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_names_and_prefixes(site: Site) -> None:
    with ExitStack() as stack:
        voice = attached(stack, stack.enter_context(by_tcp(site, "voice")), "voice-1")
        assert voice.batch(
            add("in", "in11"),
            add("out", "out1", to=[("10.30.0.10", 4000)]),
            add("half", "half", to=[("10.20.0.10", 4000), ("fd00:20::10", 4000)]),
            add("in2", "in22"),
        ) == [
            (Code.OK, ""),
            (Code.PERMISSION_DENIED, "endpoints[0].address"),
            (Code.PERMISSION_DENIED, "endpoints[1].address"),
            (Code.OK, ""),
        ]
        part = voice.snapshot(session("in", "in11"), session("out", "out1", to=[("10.30.0.10", 1)]))
        assert [result.code for result in part.results] == [Code.OK, Code.PERMISSION_DENIED]
        channel = stack.enter_context(by_tcp(site, "batch"))
        for name in ("voice-1", "voice-2", "local-1", "batch2"):
            assert refusal(channel, name)[0] == grpc.StatusCode.PERMISSION_DENIED
        batch = attached(stack, channel, "batch")
        assert batch.batch(
            add("b", "bbbb", to=[("fd00:20::10", 4000)]), add("c", "cccc", to=[("10.20.0.11", 1)])
        ) == [(Code.OK, ""), (Code.PERMISSION_DENIED, "endpoints[0].address")]


def test_nobody_touches_anothers_sessions(site: Site) -> None:
    with ExitStack() as stack:
        theirs = stack.enter_context(by_tcp(site, "batch"))
        batch = attached(stack, theirs, "batch")
        assert batch.batch(add("mine", "mine")) == [(Code.OK, "")]
        voice = attached(stack, stack.enter_context(by_tcp(site, "voice")), "voice-1")
        # By ufrag; by session id, which is another session here; by a snapshot that does not name it.
        assert voice.batch(add("x", "mine"), renew("mine"), remove("mine")) == [
            (Code.ALREADY_EXISTS, "credentials[0].ufrag"),
            (Code.NOT_FOUND, "session_id"),
            (Code.NOT_FOUND, "session_id"),
        ]
        assert voice.batch(add("mine", "also")) == [(Code.OK, "")]
        voice.snapshot()
        assert batch.batch(renew("mine")) == [(Code.OK, "")]
        # By name.
        assert refusal(theirs, "voice-1")[0] == grpc.StatusCode.PERMISSION_DENIED
        assert voice.batch(add("still", "still")) == [(Code.OK, "")]


def test_reading_goes_as_far_as_the_names_do(site: Site) -> None:
    with ExitStack() as stack:
        channels = {name: stack.enter_context(by_tcp(site, name)) for name in ("voice", "batch")}
        attached(stack, channels["voice"], "voice-1").batch(add("v", "vvvv"))
        attached(stack, channels["batch"], "batch").batch(add("b", "bbbb"))
        local = stack.enter_context(grpc.insecure_channel(relay_target(site)))

        def seen(channel: grpc.Channel, transceiver: str = "") -> tuple[set[str], set[str]]:
            stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
            request = pb.ListSessionsRequest(transceiver=transceiver)
            pages = stub.ListSessions(request, timeout=10)
            names = stub.ListTransceivers(pb.ListTransceiversRequest(), timeout=10).transceivers
            return {one.session_id for page in pages for one in page.sessions}, {
                one.transceiver for one in names
            }

        sessions, names = seen(channels["batch"])
        assert "b" in sessions
        assert "v" not in sessions
        assert names == {"batch"}
        assert seen(channels["batch"], "voice-1")[0] == set()
        assert "v" in seen(channels["voice"])[0]
        assert "b" not in seen(channels["voice"])[0]
        assert seen(local)[0] >= {"v", "b"}  # by the socket: everything


def test_certificates_are_renewed_while_calls_go_on(site: Site) -> None:
    folder, new = site.lab.dir / "pki", site.lab.dir / "new"
    with ExitStack() as stack:
        old = stack.enter_context(by_tcp(site, "voice"))
        stream = attached(stack, old, "voice-renewed")
        make_pki(new)
        old_ca = (folder / "ca.crt").read_bytes()
        # In the order in which it can be done without an outage: callers of both CAs are let in first.
        (folder / "ca.crt").write_bytes(old_ca + (new / "ca.crt").read_bytes())
        with by_tcp(site, "voice", folder="new", ca="other") as channel:
            assert not is_served(channel)  # the relay's own is still of the old one
        (folder / "relay.crt").write_bytes((new / "relay.crt").read_bytes())
        log = site.lab.log("earshotd")
        with by_tcp(site, "voice") as channel:  # half renewed: what was read before serves
            assert is_served(channel)
        wait_for(lambda: "event=certificates_not_read" in log.read_text(), "the warning")
        (folder / "relay.key").write_bytes((new / "relay.key").read_bytes())
        with by_tcp(site, "voice", folder="new") as channel:
            assert is_served(channel)
        (folder / "ca.crt").write_bytes((new / "ca.crt").read_bytes())
        with by_tcp(site, "voice", ca="new") as channel:  # the old CA is no longer trusted
            assert not is_served(channel)
        # A stream that is open stays open.
        assert stream.batch(add("goes-on", "goesOn")) == [(Code.OK, "")]
    shutil.rmtree(folder)
    new.rename(folder)


# ---- by the socket ---------------------------------------------------------------------------

_ATTACH = """
import os, sys, grpc
from earshot.relay.v1 import relay_pb2 as pb, relay_pb2_grpc
stub = relay_pb2_grpc.RelayServiceStub(grpc.insecure_channel(sys.argv[1]))
try:
    hello = pb.AttachRequest(hello=pb.Hello(transceiver=sys.argv[2]))
    next(stub.Attach(iter([hello]), timeout=10))
    print("OK", flush=True)
except grpc.RpcError as error:
    print(error.code().name, flush=True)
os._exit(0)  # without a farewell between gRPC's threads and the interpreter's
"""


def as_user(uid: int, gid: int, target: str, name: str) -> str:
    """What becomes of an attempt to attach by a process of that user."""
    done = subprocess.run(
        [
            *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"),
            *(sys.executable, "-c", _ATTACH, target, name),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


def test_the_sockets_mode_and_the_callers_uid(site: Site) -> None:
    target = relay_target(site)
    assert as_user(UID, 0, target, "local-1") == "OK"
    assert as_user(UID, 0, target, "voice-1") == "PERMISSION_DENIED"
    assert as_user(UID + 1, 0, target, "local-1") == "PERMISSION_DENIED"
    assert as_user(UID, 64999, target, "local-1") == "UNAVAILABLE"  # not in the socket's group
    assert as_user(0, 0, target, "local-1") == "PERMISSION_DENIED"  # root has no entry


def test_the_inner_socket_is_nobodys_entrance(site: Site) -> None:
    inner = f"{relay_target(site)}.d/g"
    assert as_user(UID, 0, inner, "local-1") == "UNAVAILABLE"
    # Whoever is the daemon's own user may connect, and is nobody there.
    assert as_user(0, 0, inner, "local-1") == "UNAUTHENTICATED"
    folder = Path(inner.removeprefix("unix:")).parent
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_name_that_was_seen_is_of_no_use(site: Site) -> None:
    """Whoever reads the name of a connection cannot take it, nor is it worth anything to have had it."""
    script = """
import socket, sys
names = [line.split()[-1] for line in open("/proc/net/unix") if "@earshotd-" in line]
assert names
for name in names:
    try:
        socket.socket(socket.AF_UNIX).bind("\\0" + name[1:])
        print("bound")
    except OSError as error:
        print(error.errno)
"""
    with grpc.insecure_channel(relay_target(site)) as channel:
        assert is_served(channel)
        said = site.relay.run(sys.executable, "-c", script).split()
    assert set(said) == {"98"}  # EADDRINUSE


def test_group_of_the_socket() -> None:
    with Lab() as lab:
        site = two_armed(lab)
        start_relay(site, "--grpc-socket-group=daemon")
        path = relay_target(site).removeprefix("unix:")
        assert (os.stat(path).st_gid, os.stat(path).st_mode & 0o777) == (1, 0o660)
        assert as_user(UID, 1, relay_target(site), "anyone") == "OK"
        assert as_user(UID, 0, relay_target(site), "anyone") == "UNAVAILABLE"


def test_loopback_without_tls(site: Site) -> None:
    with Lab() as lab:
        other = two_armed(lab)
        start_relay(other, f"--grpc-listen=127.0.0.1:{PORT}", "--insecure")
        with (
            forwarded(other.relay, "127.0.0.1", PORT) as port,
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            assert is_served(channel)
            assert refusal(channel, "voice-1")[0] == grpc.StatusCode.PERMISSION_DENIED


# ---- the transceiver's program, and a second daemon ------------------------------------------------


def test_the_transceiver_attaches_over_tls(site: Site) -> None:
    folder = site.lab.dir / "pki"
    start_transceiver(
        site,
        [4],
        "--name=voice-7",
        f"--relay={IPV4.relay}:{PORT}",
        f"--relay-ca={folder}/ca.crt",
        f"--relay-certificate={folder}/voice.crt",
        f"--relay-key={folder}/voice.key",
        f"--relay-server-name={SERVER_NAME}",
    )
    log = site.lab.log("earshotd").read_text()
    assert "event=attached transceiver=voice-7 caller=san:voice-1.example" in log


def test_a_socket_that_is_served_is_not_taken_away(site: Site) -> None:
    path = relay_target(site).removeprefix("unix:")
    with Lab() as lab, pytest.raises(LabError, match="another process serves there"):
        start_relay(two_armed(lab), f"--grpc-socket={path}")
    with grpc.insecure_channel(relay_target(site)) as channel:
        assert is_served(channel)
