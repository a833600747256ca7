# SPDX-License-Identifier: Apache-2.0
"""Real sockets on real hosts, with the relay between them, in both kinds of site."""

from __future__ import annotations

import socket

import pytest

from tests.lab.calls import (
    DTLS,
    RTP,
    SOCKET_FAMILY,
    binding_request,
    binding_response,
    call,
    new_ufrag,
    nothing_waits,
    payload,
    wait_for,
)
from tests.lab.relay_client import Attachment, RelayClient
from tests.lab.topology import Site

pytestmark = [pytest.mark.root, pytest.mark.netns, pytest.mark.usefixtures("nothing_past_xdp")]

SECOND_CLIENT = {4: "198.51.100.11/24", 6: "2001:db8:c::11/64"}
UNKNOWN_NEIGHBOUR = {4: "198.51.100.12/24", 6: "2001:db8:c::12/64"}


class Counted:
    """What the relay has counted since this was made; packets that only pass left out."""

    def __init__(self, relay: RelayClient) -> None:
        self.relay = relay
        self.before = relay.counters()

    def __call__(self) -> dict[str, int]:
        now = self.relay.counters()
        moved = {reason: count - self.before[reason] for reason, count in now.items()}
        return {reason: count for reason, count in moved.items() if count and not reason.startswith("pass_")}

    def wait(self, reason: str, count: int = 1) -> None:
        wait_for(lambda: self().get(reason, 0) >= count, f"{count} of {reason}")


def test_the_program_is_attached_in_native_mode(site: Site) -> None:
    assert set(site.xdp_modes().values()) == {"native"}


def test_a_check_goes_there_and_its_answer_comes_from_the_vip(
    site: Site, attachment: Attachment, family: int
) -> None:
    with call(site, attachment, family) as made:
        address, port = made.bind()
        assert address == site.addresses[family].relay
        assert 10000 <= port <= 32767
        made.down(binding_response(binding_request(made.ufrag), made.peer))


def test_payloads_of_every_size_arrive_unchanged_both_ways(
    site: Site, attachment: Attachment, family: int
) -> None:
    with call(site, attachment, family) as made:
        made.bind()
        for size in range(1, 1201):
            for kind in (DTLS, RTP):
                made.up(payload(kind, size))
                made.down(payload(kind, size))


def test_an_unknown_ufrag_never_arrives(
    site: Site, relay: RelayClient, attachment: Attachment, family: int
) -> None:
    counted = Counted(relay)
    with call(site, attachment, family) as made:
        made.client.sendto(binding_request(new_ufrag()), made.vip)
        counted.wait("drop_unknown_ufrag")
        assert nothing_waits(made.transceiver)


def test_data_before_binding_never_arrives(
    site: Site, relay: RelayClient, attachment: Attachment, family: int
) -> None:
    counted = Counted(relay)
    with call(site, attachment, family) as made:
        made.client.sendto(payload(RTP, 100), made.vip)
        counted.wait("drop_no_flow")
        assert nothing_waits(made.transceiver)
        made.bind()
        made.up(payload(RTP, 100))


def test_only_the_transceiver_of_a_flow_reaches_its_client(
    site: Site, relay: RelayClient, attachment: Attachment, family: int
) -> None:
    counted = Counted(relay)
    with call(site, attachment, family) as one, call(site, attachment, family) as other:
        one.bind()
        other.bind()
        other.transceiver.sendto(payload(RTP, 100), one.peer)
        counted.wait("drop_wrong_backend")
        assert nothing_waits(one.client)
        one.down(payload(RTP, 100))


def test_a_removed_session_stops_at_once(
    site: Site, relay: RelayClient, attachment: Attachment, family: int
) -> None:
    with call(site, attachment, family) as made:
        made.bind()
        assert attachment.remove(made.session_id).code == 0
        counted = Counted(relay)
        made.client.sendto(payload(RTP, 100), made.vip)
        made.client.sendto(binding_request(made.ufrag), made.vip)
        counted.wait("drop_unknown_ufrag")
        assert sum(counted().values()) == 2
        assert nothing_waits(made.transceiver)


def test_two_clients_with_the_same_port_do_not_mix(site: Site, attachment: Attachment, family: int) -> None:
    second = add_address(site, SECOND_CLIENT[family])
    port = 40000
    with (
        call(site, attachment, family, (site.addresses[family].client, port)) as one,
        call(site, attachment, family, (second, port)) as other,
    ):
        assert one.bind() != other.bind()
        for _ in range(10):
            for made in (one, other):
                made.up(payload(RTP, 160))
                made.down(payload(RTP, 160))
        assert nothing_waits(one.client)
        assert nothing_waits(other.client)


def test_an_unresolved_neighbour_costs_one_request_at_most(
    site: Site, attachment: Attachment, family: int
) -> None:
    address = add_address(site, UNKNOWN_NEIGHBOUR[family])
    site.relay.ip("neighbour flush all")
    with call(site, attachment, family, (address, 0)) as made:
        made.bind(requests=2)
        for _ in range(10):
            made.up(payload(RTP, 160))
            made.down(payload(RTP, 160))


def test_counters_match_exactly_what_was_sent(
    site: Site, relay: RelayClient, attachment: Attachment, family: int
) -> None:
    counted = Counted(relay)
    with call(site, attachment, family) as made:
        made.client.sendto(payload(RTP, 20), made.vip)
        made.client.sendto(binding_request(new_ufrag()), made.vip)
        made.client.sendto(payload(77, 20), made.vip)
        made.client.sendto(b"", made.vip)
        made.bind()
        for _ in range(7):
            made.up(payload(RTP, 160))
        for _ in range(5):
            made.down(payload(DTLS, 160))
        assert counted() == {
            "drop_no_flow": 1,
            "drop_unknown_ufrag": 1,
            "drop_not_rtc": 1,
            "drop_empty": 1,
            "forward_bound": 1,
            "forward_to_transceiver": 7,
            "forward_to_client": 5,
        }
        (flow,) = relay.flows(made.session_id)
        assert (flow.relay.address, flow.relay.port) == made.peer
        assert flow.client.port == made.client.getsockname()[1]
        assert (flow.to_transceiver_packets, flow.to_client_packets) == (8, 5)


def test_the_relay_host_stays_reachable_by_tcp(site: Site, family: int) -> None:
    kind = SOCKET_FAMILY[family]
    addresses = site.addresses[family]
    for host, address in ((site.client, addresses.vip), (site.transceiver, addresses.relay)):
        with (
            site.relay.socket(kind, socket.SOCK_STREAM) as server,
            host.socket(kind, socket.SOCK_STREAM) as client,
        ):
            server.bind((address, 22))
            server.listen()
            client.connect((address, 22))
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"x" * 5000)
                assert accepted.recv(5000, socket.MSG_WAITALL) == b"x" * 5000
                accepted.sendall(b"y" * 5000)
                assert client.recv(5000, socket.MSG_WAITALL) == b"y" * 5000


def test_the_relay_host_can_ask_a_name_server(site: Site, family: int) -> None:
    kind = SOCKET_FAMILY[family]
    addresses = site.addresses[family]
    with site.transceiver.socket(kind) as server, site.relay.socket(kind) as resolver:
        server.bind((addresses.transceiver, 53))
        # Ephemeral ports of a relay host must lie outside the relay's port range.
        resolver.bind((addresses.relay, 40053))
        resolver.sendto(b"\x12\x34question", (addresses.transceiver, 53))
        question, source = server.recvfrom(100)
        server.sendto(b"\x12\x34answer", source)
        assert question == b"\x12\x34question"
        assert resolver.recvfrom(100)[0] == b"\x12\x34answer"


def add_address(site: Site, address: str) -> str:
    """Gives the client host one more address, once; returns it without its length."""
    site.client.ip(f"address replace {address} dev {site.client_interface} nodad")
    return address.partition("/")[0]
