# SPDX-License-Identifier: Apache-2.0
"""Links that are not a NIC with native XDP: what works on them, what is refused, and what is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from control.check.finding import Finding
from control.check.run import run
from tests.lab.calls import DTLS, RTP, call, payload
from tests.lab.netns import Lab, stop
from tests.lab.relay_client import RelayClient
from tests.lab.services import popen_relay, relay_target, start_relay
from tests.lab.topology import Site, two_armed
from tests.netns.command import config_of

pytestmark = [pytest.mark.root, pytest.mark.netns]

GATEWAYS = ("198.51.100.1/24", "2001:db8:c::1/64")  # the relay host's, towards clients


@pytest.fixture
def site() -> Iterator[Site]:
    with Lab() as lab:
        yield two_armed(lab)


def moved_to(site: Site, link: str) -> Site:
    """The site after another link of the relay host has got the addresses towards clients."""
    lines = [f"address flush dev {site.client.name}", f"link set {link} up"]
    nodad = {gateway: " nodad" if ":" in gateway else "" for gateway in GATEWAYS}
    site.relay.ip(*lines, *(f"address add {each} dev {link}{nodad[each]}" for each in GATEWAYS))
    return dataclasses.replace(site, interfaces=(link, site.transceiver.name))


def on_a_bridge(site: Site) -> Site:
    site.relay.ip("link add name br0 type bridge", f"link set {site.client.name} master br0")
    return moved_to(site, "br0")


def on_a_macvlan(site: Site) -> Site:
    # Or the link below it answers for its address, with a MAC of its own.
    site.relay.sysctl(f"net.ipv4.conf.{site.client.name}.arp_ignore", 1)
    site.relay.ip(f"link add name mac0 link {site.client.name} type macvlan mode bridge")
    return moved_to(site, "mac0")


def as_it_is(site: Site) -> Site:
    return site


def calls_go(site: Site, largest: int = 1500) -> None:
    """A call of each family, both ways."""
    with RelayClient(relay_target(site)) as relay, relay.attach("transceiver") as attachment:
        for family in site.addresses:
            with call(site, attachment, family) as made:
                made.bind(requests=4)  # the kernel may not know the neighbours yet
                headers = 48 if family == 6 else 28
                for size in (1, 160, 1200, largest - headers):
                    for kind in (DTLS, RTP):
                        made.up(payload(kind, size))
                        made.down(payload(kind, size))


def refused(site: Site, *flags: str) -> str:
    """What earshotd says when it does not start."""
    daemon = popen_relay(site, *flags)
    assert daemon.wait(60) in (1, 2)
    (line,) = (
        line
        for line in site.lab.log("earshotd").read_text().splitlines()
        if "event=bad_configuration" in line or "event=failed" in line
    )
    return line


def checked(site: Site, **settings: object) -> dict[str, Finding]:
    """What `earshot check` finds, by name."""
    config = dataclasses.replace(config_of(site), **settings)
    with site.relay.inside():
        return {finding.name: finding for finding in run(config, site.lab.pins, attach=True)}


@pytest.mark.parametrize("placed", [on_a_bridge, on_a_macvlan])
def test_a_link_without_native_xdp(site: Site, placed: object) -> None:
    """All links get generic; it is said; and calls go."""
    assert callable(placed)
    site = placed(site)
    link = site.interfaces[0]
    finding = checked(site)[f"xdp {link}"]
    assert finding.status == "warning"
    assert "all links get it in generic mode" in finding.found
    assert finding.cure.startswith("a ")
    daemon = start_relay(site)
    assert set(site.xdp_modes().values()) == {"generic"}
    log = site.lab.log("earshotd").read_text()
    assert f"event=xdp_generic link={link}" in log
    assert "xdp_mode=generic" in log
    calls_go(site)
    stop(daemon)
    # The next one finds them so, and says it again.
    start_relay(site)
    assert site.lab.log("earshotd").read_text().count("event=xdp_generic") == 2
    assert checked(site)[f"xdp {link}"].status == "warning"
    calls_go(site)


def test_native_alone_is_refused_there(site: Site) -> None:
    site = on_a_bridge(site)
    assert checked(site, xdp_mode="native")["xdp br0"].status == "failed"
    assert "br0: cannot attach in native mode" in refused(site, "--xdp-mode=native")
    assert set(site.xdp_modes().values()) == {"none"}


def test_generic_on_links_that_could_do_better(site: Site) -> None:
    daemon = start_relay(site, "--xdp-mode=generic")
    assert set(site.xdp_modes().values()) == {"generic"}
    calls_go(site)
    stop(daemon)
    start_relay(site, "--xdp-mode=native")
    assert set(site.xdp_modes().values()) == {"generic"}
    assert "event=xdp_mode_stays" in site.lab.log("earshotd").read_text()
    assert "though xdp_mode is native" in checked(site, xdp_mode="native")["xdp client"].found


def test_a_port_of_a_bridge_is_refused(site: Site) -> None:
    on_a_bridge(site)
    finding = checked(site)["port client"]
    assert (finding.status, finding.cure) == ("failed", "name br0 in interfaces instead")
    said = refused(site)
    assert "field=interfaces" in said
    assert "name br0 in interfaces instead" in said
    assert set(site.xdp_modes().values()) == {"none"}


def test_mtus_that_lose_packets_are_refused(site: Site) -> None:
    for name, host in ((site.client.name, site.relay), (site.client_interface, site.client)):
        host.ip(f"link set dev {name} mtu 1400")
    finding = checked(site)["mtu"]
    assert finding.status == "failed"
    assert "client 1400, transceiver 1500: a packet of 1401 to 1500 bytes" in finding.found
    said = refused(site)
    assert "field=interfaces" in said
    assert "ip link set dev client mtu 1500" in said
    assert "largest_packet = 1400" in said
    assert checked(site, largest_packet=1400)["mtu"].status == "ok"
    start_relay(site, "--largest-packet=1400")
    calls_go(site, largest=1400)


def test_offloads_that_join_datagrams(site: Site) -> None:
    """They matter to generic mode alone, which sees packets after them."""
    name = site.client.name
    site.relay.run("ethtool", "-K", name, "gro", "on", "rx-udp-gro-forwarding", "on")
    assert checked(site)[f"offloads {name}"].status == "ok"
    finding = checked(site, xdp_mode="generic")[f"offloads {name}"]
    assert finding.status == "failed"
    assert finding.cure == f"ethtool -K {name} rx-udp-gro-forwarding off"
    site.relay.run(*finding.cure.split())
    assert checked(site, xdp_mode="generic")[f"offloads {name}"].status == "ok"
