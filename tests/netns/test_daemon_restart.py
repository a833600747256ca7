# SPDX-License-Identifier: Apache-2.0
"""The daemon stops, starts again and goes on; and what it says when it cannot start."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from control import abi, libbpf
from control.abi import FlowState
from control.maps import HashMap
from control.pinned import open_pinned
from control.records import ufrag_keys
from tests.lab.calls import RTP, payload, wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import BIN, relay_target, start_relay
from tests.lab.topology import Site, two_armed
from tests.netns.raw_stream import add, raw_stream, remove, renew, unregistered_call

pytestmark = [pytest.mark.root, pytest.mark.netns]

STOP_TIMEOUT = 20


@pytest.fixture
def site() -> Iterator[Site]:
    """A site of the test's own, in which nothing runs yet."""
    with Lab() as lab:
        yield two_armed(lab)


def end(daemon: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    daemon.send_signal(number)
    assert daemon.wait(STOP_TIMEOUT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_says_so_first(site: Site, number: signal.Signals) -> None:
    daemon = start_relay(site)
    with grpc.insecure_channel(relay_target(site)) as channel, raw_stream(channel) as stream:
        stream.hello("t")
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        stopper = threading.Thread(target=end, args=(daemon, number))
        stopper.start()
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        status, details = stream.error()
        assert status == grpc.StatusCode.UNAVAILABLE
        assert "stopping" in details
        watched.cancel()  # or it is waited for
        stopper.join(STOP_TIMEOUT)
    assert "event=stopped" in site.lab.log("earshotd").read_text()
    assert set(site.xdp_modes().values()) == {"native"}


def test_sessions_and_flows_go_on(site: Site, family: int) -> None:
    daemon = start_relay(site)
    with unregistered_call(site, family, "s") as made:
        with (
            RelayClient(relay_target(site)) as relay,
            grpc.insecure_channel(relay_target(site)) as channel,
            raw_stream(channel) as stream,
        ):
            stream.hello("t")
            stream.batch(add("s", made.ufrag, to=[made.endpoint]))
            made.bind(4)
            (flow_before,), (session_before,) = relay.flows(), relay.sessions()
            end(daemon)
        made.up(payload(RTP, 100))
        made.down(payload(RTP, 100))
        start_relay(site)
        with RelayClient(relay_target(site)) as relay, relay.attach("t") as attachment:
            assert attachment.welcome.sessions == 1
            assert relay.sessions() == [session_before]
            (flow,) = relay.flows()
            assert (flow.flow_id, flow.session_id, flow.transceiver) == (flow_before.flow_id, "s", "t")
            assert flow.client == flow_before.client
            made.up(payload(RTP, 100))
            made.down(payload(RTP, 100))
            assert attachment.remove("s").code == 0
            assert relay.flows() == []
            ended = next(event for event in attachment.events() if event.HasField("flow_ended"))
            assert ended.flow_ended.flow.flow_id == flow.flow_id


def test_nobody_comes_back(site: Site) -> None:
    short_grace = "--grace-seconds=1"
    daemon = start_relay(site, short_grace)
    with unregistered_call(site, 4, "s") as made:
        with grpc.insecure_channel(relay_target(site)) as channel, raw_stream(channel) as stream:
            stream.hello("t")
            stream.batch(add("s", made.ufrag, to=[made.endpoint]))
            made.bind(4)
            end(daemon)
        start_relay(site, short_grace)
        with RelayClient(relay_target(site)) as relay:
            wait_for(lambda: relay.sessions() == [], "the end of the grace period")
            assert relay.flows() == []


def test_a_killed_daemon_leaves_an_owner_that_is_not_attached(site: Site) -> None:
    daemon = start_relay(site)
    with grpc.insecure_channel(relay_target(site)) as channel, raw_stream(channel) as stream:
        stream.hello("t")
        stream.batch(add("s", "ufrag", ttl_seconds=300))
        daemon.kill()
        daemon.wait(STOP_TIMEOUT)
    start_relay(site)
    with grpc.insecure_channel(relay_target(site)) as channel, raw_stream(channel) as stream:
        assert stream.hello("t").sessions == 1
        assert stream.batch(renew("s"), add("s", "ufrag", "other")) == [(0, ""), (0, "")]


def test_what_a_killed_daemon_left_half_done_is_finished(site: Site) -> None:
    """A flow that was ended but not freed, and one whose session is gone from the map."""
    daemon = start_relay(site)
    with (
        grpc.insecure_channel(relay_target(site)) as channel,
        raw_stream(channel) as stream,
        unregistered_call(site, 4, "ended") as ended,
        unregistered_call(site, 4, "orphan") as orphan,
    ):
        stream.hello("t")
        for made in (ended, orphan):
            stream.batch(add(made.session_id, made.ufrag, to=[made.endpoint]))
            made.bind(4)
            stream.take("flow_bound")  # a flow that no scan has seen is ended by the next one
        stream.batch(remove("ended"))
        daemon.kill()
        daemon.wait(STOP_TIMEOUT)
    fd = libbpf.get_pinned(site.lab.pins / "sessions_v1")
    assert HashMap(fd, abi.UFRAG_KEY, abi.SESSION).delete_many(ufrag_keys([orphan.ufrag])) == 1
    os.close(fd)
    datapath = open_pinned(site.lab.pins)
    try:
        assert sorted(datapath.states()[datapath.states() > 0]) == [FlowState.LIVE, FlowState.DEAD]
        start_relay(site)
        wait_for(lambda: not datapath.states().any(), "all records are free")
    finally:
        datapath.close()


def run_daemon(site: Site, *flags: str, **environment: str) -> tuple[int, str]:
    given = [f"{key}={value}" for key, value in environment.items()]
    command = site.relay.command("env", *given, str(BIN / "earshotd"), *flags)
    done: Any = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_bad_configuration_is_named(site: Site) -> None:
    pins = f"--pin-path={site.lab.pins}"
    good = ("--interface=client", "--vip=203.0.113.1:3478", "--relay-address=10.20.0.1", pins)
    file = site.lab.dir / "earshotd.toml"
    file.write_text("max_sessions = 0\n")
    broken = site.lab.dir / "broken.toml"
    broken.write_text("max_sessions =")
    for flags, environment, field in (
        ((), {}, "interfaces"),
        ((*good, "--relay-ports=1-4000"), {}, "vips"),
        (good, {"EARSHOT_GRACE_SECONDS": "-1"}, "grace_seconds"),
        ((*good, f"--config={file}"), {}, "max_sessions"),
        ((*good, f"--config={broken}"), {}, "config"),
        ((*good, "--config=/nowhere.toml"), {}, "config"),
        ((*good, "--interface=nowhere"), {}, "interfaces"),
        ((*good, "--metrics-listen=192.0.2.99:80"), {}, "metrics_listen"),
        ((*good, "--grpc-socket=/proc/nowhere/x.sock"), {}, "grpc_socket"),
    ):
        code, said = run_daemon(site, *flags, **environment)
        assert (code, f"event=bad_configuration field={field}" in said) == (2, True), said
        assert "Traceback" not in said


def test_listens_on_tcp_and_in_a_folder_that_it_makes(site: Site) -> None:
    folder = site.lab.dir / "made" / "by the daemon"
    start_relay(site, "--grpc-listen=127.0.0.1:9000", "--insecure", f"--grpc-socket={folder}/earshotd.sock")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert (folder / "earshotd.sock").is_socket()
    check = (
        "import grpc; from grpc_health.v1 import health_pb2 as h, health_pb2_grpc as g;"
        "stub = g.HealthStub(grpc.insecure_channel('127.0.0.1:9000'));"
        "print(stub.Check(h.HealthCheckRequest(), timeout=10))"
    )
    assert "SERVING" in site.relay.run(str(BIN / "python"), "-c", check)
