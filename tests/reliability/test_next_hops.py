# SPDX-License-Identifier: Apache-2.0
"""Neighbours, routes and links change under calls, and nobody waits for a packet of a client to notice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.lab.calls import wait_for
from tests.lab.host import Host
from tests.lab.topology import Site
from tests.lab.traffic import DOWN, RATE, UP, Phase, link_index
from tests.reliability.stage import Record, Stage, assert_whole, set_up

pytestmark = [pytest.mark.root, pytest.mark.netns]

FLAP_SECONDS = 1.0
HEALED_WITHIN = int(RATE)  # packets of a stream: a second's
SECOND = {"client": ("198.51.102", "2001:db8:d:"), "transceiver": ("10.21.0", "fd00:21:")}


@pytest.fixture(scope="module")
def routed() -> Iterator[Stage]:
    """A relay with a second link to each side, which carries nothing yet."""
    with set_up("--interface=client2", "--interface=transceiver2", prepare=_second_links) as made:
        yield made


def _second_links(site: Site) -> None:
    for host in (site.client, site.transceiver):
        ip4, ip6 = SECOND[host.name]
        site.lab.link(
            host,
            site.relay,
            [f"{ip4}.10/24", f"{ip6}:10/64"],
            [f"{ip4}.1/24", f"{ip6}:1/64"],
            name_a="relay2",
            name_b=f"{host.name}2",
        )
        # A host tells its neighbours of a new MAC address.
        host.sysctl("net.ipv4.conf.all.arp_notify", 1)
        host.sysctl("net.ipv4.conf.relay.arp_notify", 1)
        host.sysctl("net.ipv6.conf.all.ndisc_notify", 1)
        host.sysctl("net.ipv6.conf.relay.ndisc_notify", 1)
    site.relay.sysctl("net.ipv6.conf.all.keep_addr_on_down", 1)


def assert_healed(phase: Phase, within: int = HEALED_WITHIN) -> None:
    """No stream lost more packets than that."""
    assert max(phase.lost.values(), default=0) <= within, phase


@pytest.mark.parametrize("side", ["client", "transceiver"])
def test_a_neighbour_has_another_mac_address(routed: Stage, side: str, record_property: Record) -> None:
    host, way, mac = (
        routed.lab.hosts[side],
        DOWN if side == "client" else UP,
        f"02:00:5e:00:00:{len(side):02x}",
    )
    with routed.attached():
        with routed.traffic.flowing(way) as phase:
            routed.traffic.wait_for_rounds(5)
            host.ip(f"link set dev relay address {mac}")
            routed.traffic.expect_mac(host, "relay")
            wait_for(
                lambda: _known_macs(routed.site.relay, side) == {mac}, "the kernel knows the new one", 15
            )
            routed.traffic.wait_for_rounds(HEALED_WITHIN)
        assert_healed(phase)
        with routed.flowing(record_property, way) as phase:
            routed.traffic.wait_for_rounds(10)
        assert_whole(phase, way)


def _known_macs(relay: Host, link: str) -> set[str]:
    """Those by which the neighbours on a link are known that are in use."""
    shown = json.loads(relay.run("ip", "-json", "neigh", "show", "dev", link))
    return {one["lladdr"] for one in shown if "lladdr" in one and not one["dst"].startswith("fe80:")}


@pytest.mark.parametrize("end", ["relay", "client"])
def test_a_link_flaps(routed: Stage, end: str, record_property: Record) -> None:
    """Whichever end goes down. The clients say nothing meanwhile, nor afterwards."""
    host, link = routed.lab.hosts[end], "client" if end == "relay" else "relay"
    with routed.attached():
        with routed.traffic.flowing(DOWN) as phase:
            routed.traffic.wait_for_rounds(5)
            host.ip(f"link set dev {link} down")
            time.sleep(FLAP_SECONDS)
            host.ip(f"link set dev {link} up")
            _restore_addresses(routed.site.client)
            routed.traffic.wait_for_rounds(HEALED_WITHIN)
        assert len(phase.lost) == len(routed.crowd.members)
        assert_healed(phase, int(RATE * FLAP_SECONDS) + HEALED_WITHIN)
        with routed.flowing(record_property, DOWN) as phase:
            routed.traffic.wait_for_rounds(10)
        assert_whole(phase, DOWN)


def _restore_addresses(client: Host) -> None:
    """As whoever manages the client's network does: IPv6 addresses went with the link."""
    client.ip(
        "address replace 2001:db8:c::10/64 dev relay nodad",
        "route replace default via 198.51.100.1",
        "route replace default via 2001:db8:c::1",
    )


@pytest.mark.parametrize("restarted", [False, True], ids=["", "after a restart of the daemon"])
@pytest.mark.parametrize("side", ["client", "transceiver"])
def test_a_route_moves_to_another_link(
    routed: Stage, side: str, restarted: bool, record_property: Record
) -> None:
    """And back. The old link still works: not one packet is lost, and it carries none in the end."""
    host, way = routed.lab.hosts[side], DOWN if side == "client" else UP
    addresses = routed.site.addresses
    ours = [getattr(addresses[family], side) for family in (4, 6)]
    ip4, ip6 = SECOND[side]
    routes = [f"{ours[0]}/32 via {ip4}.10", f"{ours[1]}/128 via {ip6}:10"]
    second = link_index(routed.site.relay, f"{side}2")
    if restarted:
        routed.end()
        routed.start("--interface=client2", "--interface=transceiver2")
    with (
        routed.attached(),
        routed.traffic.listening(host, "relay2"),
        routed.flowing(record_property, way) as phase,
    ):
        routed.traffic.wait_for_rounds(5)
        routed.site.relay.ip(*(f"route add {route}" for route in routes))
        wait_for(lambda: routed.links_used(side) == {second}, "all calls go by the other link", 15)
        routed.traffic.wait_for_rounds(10)
        routed.site.relay.ip(*(f"route del {route}" for route in routes))
        wait_for(lambda: second not in routed.links_used(side), "all calls are back", 15)
        routed.traffic.wait_for_rounds(5)
    assert_whole(phase, way)
