# SPDX-License-Identifier: Apache-2.0
"""The two sites that a relay host stands in, as labs.

Two-armed: the relay host has a link to the clients and one to the transceivers.

    client -- (client) relay (transceiver) -- transceiver
      |                                            |
      +----------------- signalling ---------------+

One-armed: both sides are behind a router on the relay host's only link.

    client -- router -- transceiver
                |
              relay

In both, no two links share a subnet, the relay host does not forward, and the
VIPs stand on its loopback: nothing but the XDP program can carry a packet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.lab.host import Host
from tests.lab.netns import Lab

VIP_PORT = 3478
HTTP_PORT = 8080
INTERFACE = "uplink"  # the relay host's only link where it has one arm


@dataclass(frozen=True)
class Addresses:
    """Who has which address, in one family."""

    client: str
    vip: str
    relay: str  # what the transceiver sees
    transceiver: str


IPV4 = Addresses("198.51.100.10", "203.0.113.1", "10.20.0.1", "10.20.0.10")
IPV6 = Addresses("2001:db8:c::10", "2001:db8:f::1", "fd00:20::1", "fd00:20::10")
BY_FAMILY = {4: IPV4, 6: IPV6}

# HTTP between client and transceiver has a link of its own, since the relay host
# forwards none. No UDP may cross it, or media could go past the relay.
SIGNALLING_CLIENT = "192.0.2.1"
SIGNALLING_TRANSCEIVER = "192.0.2.2"


@dataclass(frozen=True)
class Site:
    """A lab with its hosts in place and nothing running yet."""

    lab: Lab
    client: Host
    relay: Host
    transceiver: Host
    client_interface: str  # the client host's link towards the relay
    interfaces: tuple[str, ...]  # links of the relay host that the program goes to
    addresses: dict[int, Addresses]

    def stack_packets(self) -> int:
        """UDP packets to a VIP's address that the relay host's own stack got to see."""
        return _counter(self.relay, "stack_packets")

    def signalling_udp_packets(self) -> int:
        """UDP packets that tried to reach the transceiver past the relay."""
        return _counter(self.transceiver, "signalling_udp")

    def xdp_modes(self) -> dict[str, str]:
        """How the program is attached to each link, as the kernel says."""
        names = {1: "native", 2: "generic", 3: "offloaded"}
        links = json.loads(self.relay.run("ip", "-json", "link", "show"))
        modes = {link["ifname"]: link.get("xdp", {}).get("mode") for link in links}
        return {name: names.get(modes[name], "none") for name in self.interfaces}


def two_armed(lab: Lab) -> Site:
    """The standard site, with a signalling link beside the relay."""
    client, relay, transceiver = lab.host("client"), lab.host("relay", is_relay=True), lab.host("transceiver")
    lab.link(
        client,
        relay,
        [f"{IPV4.client}/24", f"{IPV6.client}/64"],
        ["198.51.100.1/24", "2001:db8:c::1/64"],
    )
    lab.link(
        relay,
        transceiver,
        [f"{IPV4.relay}/24", f"{IPV6.relay}/64"],
        [f"{IPV4.transceiver}/24", f"{IPV6.transceiver}/64"],
    )
    _default_route(client, "198.51.100.1", "2001:db8:c::1")
    _make_relay(relay)
    join_for_signalling(lab, client, transceiver)
    return Site(lab, client, relay, transceiver, relay.name, (client.name, transceiver.name), BY_FAMILY)


def one_armed(lab: Lab) -> Site:
    """Client and transceiver behind one router; its link is the relay host's only one."""
    client, relay, transceiver = lab.host("client"), lab.host("relay", is_relay=True), lab.host("transceiver")
    router = lab.host("router")
    router.sysctl("net.ipv4.ip_forward", 1)
    router.sysctl("net.ipv6.conf.all.forwarding", 1)
    lab.link(
        client,
        router,
        [f"{IPV4.client}/24", f"{IPV6.client}/64"],
        ["198.51.100.1/24", "2001:db8:c::1/64"],
    )
    lab.link(
        transceiver,
        router,
        ["10.30.0.10/24", "fd00:30::10/64"],
        ["10.30.0.1/24", "fd00:30::1/64"],
    )
    lab.link(
        relay,
        router,
        [f"{IPV4.relay}/24", f"{IPV6.relay}/64"],
        ["10.20.0.254/24", "fd00:20::fe/64"],
        name_a=INTERFACE,
    )
    _default_route(client, "198.51.100.1", "2001:db8:c::1")
    _default_route(transceiver, "10.30.0.1", "fd00:30::1")
    _default_route(relay, "10.20.0.254", "fd00:20::fe")
    _make_relay(relay)
    router.ip(f"route add {IPV4.vip} via {IPV4.relay}", f"route add {IPV6.vip} via {IPV6.relay}")
    addresses = {
        4: Addresses(IPV4.client, IPV4.vip, IPV4.relay, "10.30.0.10"),
        6: Addresses(IPV6.client, IPV6.vip, IPV6.relay, "fd00:30::10"),
    }
    return Site(lab, client, relay, transceiver, router.name, (INTERFACE,), addresses)


def _default_route(host: Host, gateway4: str, gateway6: str) -> None:
    host.ip(f"route add default via {gateway4}", f"route add default via {gateway6}")


def _make_relay(relay: Host) -> None:
    relay.sysctl("net.ipv4.ip_forward", 0)
    relay.sysctl("net.ipv6.conf.all.forwarding", 0)
    relay.ip(f"address add {IPV4.vip}/32 dev lo", f"address add {IPV6.vip}/128 dev lo nodad")
    relay.nft(
        f"""table inet lab {{
            counter stack_packets {{ }}
            chain prerouting {{
                type filter hook prerouting priority raw;
                ip daddr {IPV4.vip} meta l4proto udp counter name stack_packets
                ip6 daddr {IPV6.vip} meta l4proto udp counter name stack_packets
            }}
        }}
        """
    )


def join_for_signalling(lab: Lab, client: Host, transceiver: Host) -> None:
    """A link for HTTP beside the relays, that no UDP crosses."""
    link = "signalling"
    lab.link(
        client,
        transceiver,
        [f"{SIGNALLING_CLIENT}/24"],
        [f"{SIGNALLING_TRANSCEIVER}/24"],
        name_a=link,
        name_b=link,
    )
    transceiver.nft(
        f"""table inet lab {{
            counter signalling_udp {{ }}
            chain input {{
                type filter hook input priority filter;
                iifname {link} meta l4proto udp counter name signalling_udp drop
            }}
            chain output {{
                type filter hook output priority filter;
                oifname {link} meta l4proto udp counter name signalling_udp drop
            }}
        }}
        """
    )
    # An ICE agent also tries the address of this link as its source, by whatever link:
    # one that the relay host has no route back to.
    client.nft(
        f"""table inet lab {{
            chain output {{
                type filter hook output priority filter;
                ip saddr {SIGNALLING_CLIENT} meta l4proto udp drop
            }}
        }}
        """
    )


def _counter(host: Host, name: str) -> int:
    listing = json.loads(host.run("nft", "-json", "list", "counter", "inet", "lab", name))
    return int(next(item["counter"]["packets"] for item in listing["nftables"] if "counter" in item))
