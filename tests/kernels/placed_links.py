# SPDX-License-Identifier: Apache-2.0
"""Calls on VLANs and bonds, which not every kernel has. For the emulated machine (scripts/kernel-test), whose
kernel is a distribution's: pytest collects it only where it is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from tests.lab.calls import RTP, Call, binding_request, call, nothing_waits, payload, wait_for
from tests.lab.netns import Lab
from tests.lab.relay_client import RelayClient
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import Site, two_armed
from tests.netns.test_hosts import GATEWAYS, calls_go, checked, moved_to, refused

pytestmark = [pytest.mark.root, pytest.mark.netns]

CLIENT = ("198.51.100.10/24", "2001:db8:c::10/64")
PATIENCE = 60.0  # seconds: an emulated machine is slow


@pytest.fixture
def site() -> Iterator[Site]:
    with Lab() as lab:
        yield two_armed(lab)


def client_moved_to(site: Site, link: str) -> None:
    """The client host's addresses and routes go by another of its links."""
    site.client.ip(f"address flush dev {site.client_interface}", f"link set {link} up")
    for own, gateway in zip(CLIENT, GATEWAYS, strict=True):
        nodad = " nodad" if ":" in own else ""
        site.client.ip(
            f"address add {own} dev {link}{nodad}", f"route replace default via {gateway.partition('/')[0]}"
        )


def on_a_vlan(site: Site) -> Site:
    """VLAN 5 of the link to the clients has the addresses, at both ends."""
    site.client.ip(f"link add link {site.client_interface} name vlan5 type vlan id 5")
    site.relay.ip(f"link add link {site.client.name} name vlan5 type vlan id 5")
    client_moved_to(site, "vlan5")
    return moved_to(site, "vlan5")


def on_a_bond(site: Site, kind: str) -> Site:
    """Two links each way make a bond, at both ends."""
    site.lab.link(site.relay, site.client, name_a="second", name_b="second")
    program = site.lab.dir / "pass.o"
    for host, ports in (
        (site.client, (site.client_interface, "second")),
        (site.relay, (site.client.name, "second")),
    ):
        host.ip(f"link add name bond0 type bond mode {kind} miimon 100")
        for port in ports:
            # No program may be on a link that becomes a port.
            host.ip(f"link set dev {port} xdpdrv off", f"link set dev {port} down")
            host.ip(f"link set dev {port} master bond0", f"link set dev {port} up")
    client_moved_to(site, "bond0")
    if kind != "broadcast":
        # Or what native XDP sends is not taken in.
        site.client.ip(f"link set dev bond0 xdpdrv object {program} section xdp")
    return moved_to(site, "bond0")


# ---- VLANs -------------------------------------------------------------------------------


def test_calls_on_a_vlan(site: Site) -> None:
    site = on_a_vlan(site)
    assert checked(site)["xdp vlan5"].cure.startswith("a vlan has none")
    start_relay(site)
    assert set(site.xdp_modes().values()) == {"generic"}
    calls_go(site)
    assert site.stack_packets() == 0


def test_frames_whose_tags_xdp_does_not_see(site: Site) -> None:
    """Attached below a VLAN: the tag stands beside the frame, and the route back is one that is not ours."""
    vlan = on_a_vlan(site)
    site = dataclasses.replace(vlan, interfaces=("client", "transceiver"))
    finding = checked(site)["vlan client"]
    assert finding.status == "warning"
    assert finding.cure.startswith("ethtool -K client rxvlan off")
    start_relay(site)
    assert set(site.xdp_modes().values()) == {"native"}
    with (
        RelayClient(relay_target(site)) as relay,
        relay.attach("transceiver") as attachment,
        call(site, attachment, 4) as made,
    ):
        made.client.sendto(binding_request(made.ufrag), made.vip)
        wait_for(lambda: relay.counters()["drop_unroutable"] > 0, "drop_unroutable", PATIENCE)
        assert nothing_waits(made.transceiver)
        # Inside the frame, as a NIC leaves it with rxvlan off: of a veth, the other end decides.
        site.client.run("ethtool", "-K", site.client_interface, "txvlan", "off")
        before = relay.counters()
        made.client.sendto(binding_request(made.ufrag), made.vip)
        wait_for(lambda: relay.counters()["pass_vlan"] > before["pass_vlan"], "pass_vlan", PATIENCE)
        wait_for(lambda: site.stack_packets() > 0, "the host's stack to have it", PATIENCE)


def test_a_vlan_and_what_is_below_it(site: Site) -> None:
    """Refused: the program could not tell a frame of the one from a frame of the other."""
    site = dataclasses.replace(on_a_vlan(site), interfaces=("vlan5", "client", "transceiver"))
    assert checked(site)["vlan client"].status == "failed"
    assert "field=interfaces" in refused(site)


# ---- bonds -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["active-backup", "balance-rr", "balance-xor", "802.3ad"])
def test_calls_on_a_bond(site: Site, kind: str) -> None:
    site = on_a_bond(site, kind)
    found = checked(site)
    assert found["bond bond0"].found.startswith(kind)
    assert found["xdp bond0"].status == "ok"
    start_relay(site)
    assert set(site.xdp_modes().values()) == {"native"}
    calls_go(site)
    assert site.stack_packets() == 0


def test_a_bond_loses_a_port(site: Site) -> None:
    site = on_a_bond(site, "active-backup")
    start_relay(site)
    with (
        RelayClient(relay_target(site)) as relay,
        relay.attach("transceiver") as attachment,
        call(site, attachment, 4) as made,
    ):
        made.bind(requests=8)
        made.down(payload(RTP, 160))
        for host, port in ((site.client, site.client_interface), (site.relay, site.client.name)):
            host.ip(f"link set dev {port} down")
        wait_for(lambda: goes_on(made), "packets by the other port", PATIENCE)


def goes_on(made: Call) -> bool:
    made.client.settimeout(0.5)
    made.transceiver.settimeout(0.5)
    try:
        made.up(payload(RTP, 160))
        made.down(payload(RTP, 160))
    except TimeoutError:
        return False
    return True


def test_a_bond_without_native_xdp(site: Site) -> None:
    site = on_a_bond(site, "broadcast")
    found = checked(site)
    assert found["bond bond0"].status == "warning"
    assert found["xdp bond0"].status == "warning"
    assert "No native XDP support for the current bonding mode" in found["xdp bond0"].found
    start_relay(site)
    assert set(site.xdp_modes().values()) == {"generic"}


def test_a_port_of_a_bond_is_refused(site: Site) -> None:
    site = dataclasses.replace(on_a_bond(site, "active-backup"), interfaces=("client", "transceiver"))
    assert checked(site)["port client"].cure == "name bond0 in interfaces instead"
    assert "name bond0 in interfaces instead" in refused(site)
