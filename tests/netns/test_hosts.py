# SPDX-License-Identifier: Apache-2.0
"""Links that are not a NIC with native XDP: what works on them, what is refused, and what is said."""

from __future__ import annotations

import dataclasses
import json
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from pyroute2.ethtool.ioctl import IoctlEthtool

from control import hostlinks
from control.check import ethtool
from control.check.finding import Finding
from control.check.run import run
from control.errors import DatapathError
from tests.lab.calls import DTLS, RETRY_AFTER, RTP, Call, call, nothing_waits, payload, wait_for
from tests.lab.netns import Lab, stop
from tests.lab.relay_client import RelayClient
from tests.lab.services import endpoint, popen_relay, relay_target, start_relay
from tests.lab.topology import VIP_PORT, Site, two_armed
from tests.netns.command import config_of, load

pytestmark = [pytest.mark.root, pytest.mark.netns]

UDP_SEGMENT = 103  # linux/udp.h
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
    line = site.lab.log("earshotd").read_text().splitlines()[-1]
    assert "event=bad_configuration" in line or "event=failed" in line
    return line


def checked(site: Site, **settings: object) -> dict[str, Finding]:
    """What `earshot check` finds, by name."""
    config = dataclasses.replace(config_of(site), **settings)
    with site.relay.inside():
        return {finding.name: finding for finding in run(config, site.lab.pins, attach=True)}


def test_a_link_without_native_xdp(site: Site) -> None:
    goes_by_generic(on_a_bridge(site))


def goes_by_generic(site: Site) -> None:
    """All links get generic, since the first of them has nothing else; it is said; and calls go."""
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


def test_the_drivers_own_words(site: Site) -> None:
    """A veth's other end with frames that do not fit into a page."""
    ends = ((site.relay, site.client.name), (site.client, site.client_interface))
    for setting in ("xdpdrv off", "mtu 9000"):
        for host, name in ends:
            host.ip(f"link set dev {name} {setting}")
    finding = checked(site)["xdp client"]
    assert finding.status == "warning"
    assert "Peer MTU is too large to set XDP" in finding.found
    assert finding.cure.startswith("ip link set dev client mtu 1500; ")
    assert set(site.xdp_modes().values()) == {"none"}
    start_relay(site)
    assert "Peer MTU is too large to set XDP" in site.lab.log("earshotd").read_text()
    assert set(site.xdp_modes().values()) == {"generic"}
    calls_go(site)


def test_what_is_refused_on_a_bridge(site: Site) -> None:
    """Native mode; and its port, in any."""
    below, site = site, on_a_bridge(site)
    assert checked(site, xdp_mode="native")["xdp br0"].status == "failed"
    assert "br0: cannot attach in native mode" in refused(site, "--xdp-mode=native")
    found = checked(dataclasses.replace(site, interfaces=("client",)))
    finding = found["port client"]
    assert (finding.status, finding.cure) == ("failed", "name br0 in interfaces instead")
    # Nor is the link of the relay address among them.
    assert found["relay address 10.20.0.1"].cure.startswith("name transceiver in interfaces")
    assert found["vip 203.0.113.1"].status == "ok"
    said = refused(below)
    assert "field=interfaces" in said
    assert "name br0 in interfaces instead" in said
    for one in (site, below):
        assert set(one.xdp_modes().values()) == {"none"}


def test_a_link_that_would_need_another_mode_than_others_have(site: Site) -> None:
    """Those that have the program keep it, and their mode."""
    site.relay.ip("link add name br9 type bridge")
    config = dataclasses.replace(config_of(site), interfaces=(*site.interfaces, "br9"))
    with closing(load(site)) as loaded, site.relay.inside():
        links = hostlinks.find(config.interfaces)
        with pytest.raises(DatapathError, match=r"br9: cannot attach .*, which the other links have"):
            loaded.apply(config, links)
    assert site.xdp_modes() == dict.fromkeys(site.interfaces, "native")


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
    daemon = start_relay(site, "--largest-packet=1400")
    calls_go(site, largest=1400)
    site.relay.ip(f"link set dev {site.client.name} mtu 1300")
    daemon.send_signal(signal.SIGHUP)
    log = site.lab.log("earshotd")
    wait_for(lambda: "event=reload_refused field=interfaces" in log.read_text(), "the reload is refused", 30)


def test_offloads_that_join_datagrams(site: Site) -> None:
    """On a link below one in generic mode; not on one that has the program itself."""
    name = site.client.name
    bridged = on_a_bridge(site)
    site.relay.run("ethtool", "-K", name, "gro", "on", "rx-udp-gro-forwarding", "on")
    finding = checked(bridged)[f"offloads {name}"]
    assert finding.status == "failed"
    assert finding.cure == f"ethtool -K {name} rx-udp-gro-forwarding off"
    start_relay(bridged)
    burst = b"".join(payload(RTP, 1000) for _ in range(10))
    with (
        RelayClient(relay_target(site)) as relay,
        relay.attach("transceiver") as attachment,
        call(site, attachment, 4) as made,
    ):
        made.bind(requests=4)
        # The kernel makes ten datagrams of it, which come all at once.
        made.client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        made.client.sendto(burst, made.vip)
        wait_for(lambda: relay.counters()["drop_too_big"] > 0, "drop_too_big")
        site.relay.run(*finding.cure.split())
        assert checked(bridged)[f"offloads {name}"].status == "ok"
        while not nothing_waits(made.transceiver):
            made.transceiver.recv(2000)
        made.client.sendto(burst, made.vip)
        assert b"".join(made.transceiver.recv(2000) for _ in range(10)) == burst


# ---- several NICs and VIPs ---------------------------------------------------------------

SECOND_VIP = {4: "203.0.113.2", 6: "2001:db8:f::2"}
SECOND_NET = {4: ("198.51.101.10", "198.51.101.1"), 6: ("2001:db8:c2::10", "2001:db8:c2::1")}  # client, relay


def test_in_by_one_nic_and_out_by_another(site: Site) -> None:
    """Three links and four VIPs: what comes by the second link is answered by the first, as routes say."""
    length = {4: 24, 6: 64}
    site.lab.link(
        site.client,
        site.relay,
        [f"{client}/{length[family]}" for family, (client, _) in SECOND_NET.items()],
        [f"{relay}/{length[family]}" for family, (_, relay) in SECOND_NET.items()],
        name_a="second",
        name_b="second",
    )
    for setting in ("all", "default", "second", site.client_interface):
        site.client.sysctl(f"net.ipv4.conf.{setting}.rp_filter", 0)
    for family, vip in SECOND_VIP.items():
        site.relay.ip(f"address add {vip}/{32 if family == 4 else 128} dev lo")
        # With its own address as the source, which the relay reaches by the first link.
        source = site.addresses[family].client
        site.client.ip(f"route add {vip} via {SECOND_NET[family][1]} dev second src {source}")
    second = dataclasses.replace(
        site,
        interfaces=(*site.interfaces, "second"),
        addresses={
            family: dataclasses.replace(addresses, vip=SECOND_VIP[family])
            for family, addresses in site.addresses.items()
        },
    )
    start_relay(second, *(f"--vip={endpoint(one.vip, VIP_PORT)}" for one in site.addresses.values()))
    assert set(second.xdp_modes().values()) == {"native"}
    with second.client.inside():
        first_index = socket.if_nametoindex(site.client_interface)
    with RelayClient(relay_target(site)) as relay, relay.attach("transceiver") as attachment:
        for family in second.addresses:
            with call(second, attachment, family) as made:
                level, option = (socket.IPPROTO_IP, 8) if family == 4 else (socket.IPPROTO_IPV6, 49)
                made.client.setsockopt(level, option, 1)  # IP_PKTINFO, IPV6_RECVPKTINFO
                made.bind(requests=4)
                before = received(second, "second")
                made.up(payload(RTP, 160))
                assert received(second, "second") > before
                # Nobody has asked for the neighbour on the other link yet.
                wait_for(lambda made=made: answered(made), "an answer by the first link")
                data, ((_, _, info),), _, source = made.client.recvmsg(100, 100)
                assert (data, source[:2]) == (b"\x80down", made.vip)
                # struct in_pktinfo begins with the index, struct in6_pktinfo ends with it.
                assert int.from_bytes(info[:4] if family == 4 else info[16:20], sys.byteorder) == first_index
    calls_go(site)


def answered(made: Call) -> bool:
    """Sends a packet down; whether one has arrived."""
    made.transceiver.sendto(b"\x80down", made.peer)
    return bool(select.select([made.client], [], [], RETRY_AFTER)[0])


def received(site: Site, link: str) -> int:
    """Packets that a link of the relay host has received."""
    shown = json.loads(site.relay.run("ip", "-s", "-json", "link", "show", "dev", link))
    return int(shown[0]["stats64"]["rx"]["packets"])


def test_queues(site: Site) -> None:
    """A veth of more than one CPU has room for more; it is told how to have half, once it has them all."""
    name = site.client.name
    with site.relay.inside(), closing(IoctlEthtool(name)) as asked:
        assert ethtool.too_many_queues("lo") == ""
        most = int(asked.get_channels()["max_rx"])
        assert most > 1
        site.relay.run("ethtool", "-L", name, "rx", str(most), "tx", "1")
        assert ethtool.too_many_queues(name) == f"ethtool -L {name} rx {most // 2}"
        site.relay.run(*ethtool.too_many_queues(name).split())
        assert ethtool.too_many_queues(name) == ""
