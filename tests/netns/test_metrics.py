# SPDX-License-Identifier: Apache-2.0
"""What Prometheus gets to see."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import grpc
import pytest

from control import abi
from control.metrics.reasons import direction
from control.requests import Code
from control.streams import MAX_EVENTS
from tests.lab import scraping
from tests.lab.calls import RTP, STUN_PWD, binding_request, call, payload, wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.scraping import Values
from tests.lab.services import BIN, REGION, relay_target, start_relay
from tests.lab.topology import Site, two_armed
from tests.netns.raw_stream import add, raw_stream, remove, unregistered_call

pytestmark = [pytest.mark.root, pytest.mark.netns]

PORT = 9555


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab:
        made = two_armed(lab)
        # One session makes thousands of flows here, from one address.
        budgets = ("--flows-per-session=0", "--source-requests-per-second=0")
        start_relay(made, f"--metrics-listen=127.0.0.1:{PORT}", *budgets)
        yield made


def scrape(site: Site) -> Values:
    return scraping.scrape(site.relay, "127.0.0.1", PORT)


def test_every_reason_has_both_counters(site: Site) -> None:
    values = scrape(site)
    for what in ("packets", "bytes"):
        labels = {key[1:] for key in values if key[0] == f"earshot_datapath_{what}_total"}
        assert labels == {(direction(reason), reason.name.lower()) for reason in abi.Reason}


def test_readiness_follows_draining(site: Site) -> None:
    """For whoever spreads packets, without gRPC."""

    def found() -> tuple[int, str, float]:
        status, text = scraping.get(site.relay, "127.0.0.1", PORT, "/readyz")
        return status, text, scrape(site)["earshot_ready",]

    assert found() == (200, "ready\n", 1)
    socket_option = f"--socket={site.lab.dir}/earshotd.sock"
    site.relay.run(str(BIN / "earshot"), "drain", "--deadline=60", socket_option, timeout=90)
    try:
        assert found() == (503, "draining\n", 0)
    finally:
        site.relay.run(str(BIN / "earshot"), "undrain", socket_option)
    assert found() == (200, "ready\n", 1)


def test_values_follow_the_maps(site: Site, relay: RelayClient, attachment: Attachment) -> None:
    with call(site, attachment, 4) as made:
        unbound = scrape(site)
        made.bind(4)
        before = scrape(site)
        assert before["earshot_bindings_total", "bound"] == unbound["earshot_bindings_total", "bound"] + 1
        for _ in range(3):
            made.up(payload(RTP, 100))
        made.down(payload(RTP, 50))
        made.client.sendto(binding_request("nobody"), made.vip)
        wait_for(
            lambda: relay.counters()["drop_unknown_ufrag"] > 0, "a request for a session that is not there"
        )
        after = scrape(site)

    def grown(*key: str) -> float:
        return after[key] - before[key]

    up, down = ("to_transceiver", "forward_to_transceiver"), ("to_client", "forward_to_client")
    assert grown("earshot_datapath_packets_total", *up) == 3
    assert grown("earshot_datapath_bytes_total", *up) == 3 * (100 + 28)
    assert grown("earshot_datapath_packets_total", *down) == 1
    assert grown("earshot_datapath_bytes_total", *down) == 50 + 28
    assert grown("earshot_datapath_packets_total", "to_transceiver", "drop_unknown_ufrag") == 1
    assert grown("earshot_bindings_total", "unknown_ufrag") == 1
    assert grown("earshot_bindings_total", "bound") == 0
    assert after["earshot_flows",] == 1
    span = 32767 - 10000 + 1
    assert after["earshot_flow_capacity",] == 2 * span
    for address in (one.relay for one in site.addresses.values()):
        ports = {key[2]: value for key, value in after.items() if key[:2] == ("earshot_relay_ports", address)}
        assert ports.keys() == {state.name.lower() for state in abi.FlowState}
        assert sum(ports.values()) == span
    assert after["earshot_relay_ports", site.addresses[4].relay, "live"] == 1
    assert after["earshot_table_entries", "flows_ipv4"] >= 1
    assert after["earshot_table_capacity", "flows_ipv4"] == span
    assert after["earshot_table_entries", "sessions"] == 1
    assert after["earshot_table_capacity", "sessions"] == 65536
    assert after["earshot_table_occupancy_ratio", "sessions"] == 1 / 65536
    assert after["earshot_sessions",] == after["earshot_ufrags",] == 1
    assert after["earshot_transceivers", "attached"] == 1
    assert after["earshot_transceivers", "detached"] == 0
    assert after["earshot_stream_events_dropped_total",] == 0
    assert after["earshot_sweep_age_seconds", "flows"] >= 0
    assert after["earshot_sweep_age_seconds", "sessions"] >= 0
    assert any(name == "earshot_build_info" for name, *_ in after)
    assert after["earshot_relay_info", REGION, "relay"] == 1


def test_what_became_of_a_call(site: Site, attachment: Attachment) -> None:
    """Registered, bound and removed; and what was refused."""
    before = scrape(site)
    with call(site, attachment, 4) as made:
        made.bind(4)
        refused = attachment.add("s", "bad ufrag", [made.transceiver.getsockname()[:2]], STUN_PWD)
        assert refused.code == Code.INVALID_ARGUMENT
        assert attachment.remove("nothing").code == Code.NOT_FOUND
    after = scrape(site)
    for operation, code in (
        ("add", "OK"),
        ("remove", "OK"),
        ("add", "INVALID_ARGUMENT"),
        ("remove", "NOT_FOUND"),
    ):
        key = ("earshot_session_operations_total", code, operation)
        assert after[key] - before.get(key, 0) == 1, key
    key = ("earshot_flows_ended_total", "session_ended")
    assert after[key] - before[key] == 1


def test_grpc_calls_by_method_and_status(site: Site, relay: RelayClient) -> None:
    prefix = "/earshot.relay.v1.RelayService"

    def ended(values: Values, method: str, status: str) -> float:
        return values.get(("earshot_grpc_calls_total", status, method), 0)

    # Those of the tests before this one are over, and counted.
    wait_for(
        lambda: scrape(site).get(("earshot_grpc_calls_open", f"{prefix}/Attach"), 0) == 0, "no stream is open"
    )
    before = scrape(site)
    relay.counters()
    relay.flows()
    with relay.attach("one"):
        wait_for(
            lambda: scrape(site)["earshot_grpc_calls_open", f"{prefix}/Attach"] == 1, "the stream is counted"
        )
        with relay.attach("one") as second:  # which ends the other
            wait_for(
                lambda: (
                    ended(scrape(site), f"{prefix}/Attach", "ABORTED")
                    == ended(before, f"{prefix}/Attach", "ABORTED") + 1
                ),
                "the one that was replaced",
            )
            second.finish()
    with relay.attach("two"):
        pass  # broken off
    wait_for(lambda: scrape(site)["earshot_grpc_calls_open", f"{prefix}/Attach"] == 0, "all streams are over")
    with grpc.insecure_channel(relay_target(site)) as channel:
        for method in ("/earshot.relay.v1.RelayService/Made", "/up/ofcalls"):
            with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                channel.unary_unary(method)(b"", timeout=10)
        with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
            channel.unary_unary(f"{prefix}/GetCounters")(b"\xff", timeout=10)
    after = scrape(site)
    for method, status, calls in (
        (f"{prefix}/GetCounters", "OK", 1),
        (f"{prefix}/GetCounters", "INVALID_ARGUMENT", 1),
        (f"{prefix}/ListFlows", "OK", 1),
        (f"{prefix}/Attach", "ABORTED", 1),
        ("unknown", "UNIMPLEMENTED", 2),
    ):
        assert ended(after, method, status) - ended(before, method, status) == calls, (method, status)
    # gRPC may tell of the end of what is read before it tells that the call was cancelled.
    ok, cancelled = (
        ended(after, f"{prefix}/Attach", status) - ended(before, f"{prefix}/Attach", status)
        for status in ("OK", "CANCELLED")
    )
    assert ok >= 1
    assert ok + cancelled == 2
    took = ("earshot_grpc_call_seconds_count", f"{prefix}/GetCounters")
    assert after[took] - before.get(took, 0) == 2
    assert ("earshot_grpc_call_seconds_count", f"{prefix}/Attach") not in after


def test_transceiver_that_does_not_read(site: Site, relay: RelayClient) -> None:
    """Its events are dropped and counted; others are served, and it loses nothing else."""
    key = ("earshot_stream_events_dropped_total",)
    with (
        # Without this, gRPC makes room for megabytes on the way to whoever does not read.
        grpc.insecure_channel(relay_target(site), [("grpc.http2.bdp_probe", 0)]) as channel,
        raw_stream(channel) as deaf,
        unregistered_call(site, 4, "deaf") as made,
    ):
        deaf.hello("deaf")
        deaf.batch(add("deaf", made.ufrag, to=[made.endpoint]))
        made.bind(4)
        request = binding_request(made.ufrag)
        for port in range(20000, 20000 + 2 * MAX_EVENTS):
            with site.client.socket(socket.AF_INET) as client:
                client.bind(("", port))
                client.sendto(request, made.vip)
        wait_for(lambda: scrape(site)[key] > 0, "events are dropped")
        with relay.attach("other") as other, call(site, other, 4) as another:
            another.bind(4)
            assert next(other.events()).HasField("flow_bound")
        assert deaf.batch(remove("deaf")) == [(0, "")]
        wait_for(lambda: relay.flows("deaf") == [], "the end of all its flows")


def test_quality_is_of_calls_that_live(site: Site, attachment: Attachment) -> None:
    """Ten packets and every second one lost on the way up; ten whole ones down."""

    def streams(values: Values, direction: str, end: str) -> float:
        return values["earshot_stream_loss_ratio_bucket", direction, end]

    with call(site, attachment, 4) as made:
        made.bind(4)
        before = scrape(site)
        for number in range(0, 20, 2):
            made.up(rtp(1, number))
        for number in range(10):
            made.down(rtp(2, number))
        after = scrape(site)
    up, down = "to_transceiver", "to_client"
    assert streams(after, up, "+Inf") - streams(before, up, "+Inf") == 1
    assert streams(after, up, "0.2") - streams(before, up, "0.2") == 0
    assert streams(after, up, "0.5") - streams(before, up, "0.5") == 1  # 9 of 19
    assert streams(after, down, "0.001") - streams(before, down, "0.001") == 1
    jitter = ("earshot_stream_jitter_seconds_bucket", up, "+Inf")
    assert after[jitter] - before[jitter] == 1
    assert after["earshot_stream_loss_ratio_gsum", up] == pytest.approx(9 / 19)


def rtp(ssrc: int, number: int) -> bytes:
    """A packet of Opus (RFC 3550, 5.1), 20 ms each."""
    return struct.pack("!BBHII", 0x80, 111, number, 960 * number, ssrc) + bytes(80)
