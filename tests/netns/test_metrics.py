# SPDX-License-Identifier: Apache-2.0
"""What Prometheus gets to see."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPConnection

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from control import abi
from control.streams import MAX_EVENTS
from tests.lab.calls import RTP, binding_request, call, payload, wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.services import relay_target, start_relay
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


def scrape(site: Site) -> dict[tuple[str, ...], float]:
    """Values by name and label values."""
    connection = HTTPConnection("127.0.0.1", PORT, timeout=10)
    connection.sock = site.relay.socket(socket.AF_INET, socket.SOCK_STREAM)
    with connection.sock:
        connection.sock.connect(("127.0.0.1", PORT))
        connection.request("GET", "/metrics")
        with connection.getresponse() as response:
            assert response.status == 200
            text = response.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_reason_has_both_counters(site: Site) -> None:
    values = scrape(site)
    for what in ("packets", "bytes"):
        reasons = {key[1] for key in values if key[0] == f"earshot_datapath_{what}_total"}
        assert reasons == {reason.name.lower() for reason in abi.Reason}


def test_values_follow_the_maps(site: Site, relay: RelayClient, attachment: Attachment) -> None:
    with call(site, attachment, 4) as made:
        made.bind(4)
        before = scrape(site)
        for _ in range(3):
            made.up(payload(RTP, 100))
        after = scrape(site)
        key = ("earshot_datapath_packets_total", "forward_to_transceiver")
        assert after[key] - before[key] == 3
        size = ("earshot_datapath_bytes_total", "forward_to_transceiver")
        assert after[size] - before[size] == 3 * (100 + 28)
        assert after["earshot_flows",] == 1
        assert after["earshot_flow_capacity",] == 2 * (32767 - 10000 + 1)
        assert after["earshot_sessions",] == after["earshot_ufrags",] == 1
        assert after["earshot_transceivers", "attached"] == 1
        assert after["earshot_transceivers", "detached"] == 0
        assert after["earshot_stream_events_dropped_total",] == 0
        assert any(name == "earshot_build_info" for name, *_ in after)


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
