# SPDX-License-Identifier: Apache-2.0
"""The hosts that a relay is measured between, and what all relays get alike.

    clients --(relay)----(clients)-- relay --(transceivers)----(relay)-- transceivers

Each link has as many queues as there are CPUs, and each CPU sends by its own (XPS). Clients and transceivers
are an XDP program each, so neighbours are entered by hand. Without a relay host, the two are joined directly.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

from bench.path.plan import BEHIND
from bench.path.traffic import Macs
from bench.tables import PLANS
from tests.lab.host import Host, run
from tests.lab.netns import Lab

CLIENTS, RELAY, TRANSCEIVERS = "clients", "relay", "transceivers"
_GATEWAY = {4: "169.254.0.1", 6: "fe80::1"}
_NETWORKS = {
    4: {CLIENTS: ["11.0.0.0/8"], TRANSCEIVERS: ["10.30.0.0/24", f"{BEHIND[4]}/8"]},
    6: {CLIENTS: ["2001:db8:c::/64"], TRANSCEIVERS: ["fd00:30::/64", f"{BEHIND[6]}/64"]},
}


@dataclass(frozen=True)
class Site:
    """Hosts and links in place. relay is None where there is none."""

    lab: Lab
    clients: Host
    transceivers: Host
    relay: Host | None

    def macs(self, host: Host) -> Macs:
        """Destination and source of what a host sends by its only link."""
        far = self.relay or (self.transceivers if host is self.clients else self.clients)
        return mac(far, host.name), mac(host, far.name)

    def out(self, host: Host) -> str:
        """The only link of a host that is not the relay."""
        return (self.relay or (self.transceivers if host is self.clients else self.clients)).name


def build(lab: Lab, *, relayed: bool = True) -> Site:
    clients, transceivers = lab.host(CLIENTS, is_relay=True), lab.host(TRANSCEIVERS, is_relay=True)
    if not relayed:
        lab.link(clients, transceivers)
        _set_queues(clients, TRANSCEIVERS)
        _set_queues(transceivers, CLIENTS)
        return Site(lab, clients, transceivers, None)
    relay = lab.host(RELAY, is_relay=True)
    for host in (clients, transceivers):
        lab.link(host, relay)
        _set_queues(host, RELAY)
        _set_queues(relay, host.name)
    return Site(lab, clients, transceivers, relay)


def let_xdp_in(site: Site) -> None:
    """GRO on the relay's links: those without a native program take in what XDP sends by that alone."""
    assert site.relay is not None
    for host in (site.clients, site.transceivers):
        site.relay.run("ethtool", "-K", host.name, "gro", "on")


def route(site: Site, family: int) -> Host:
    """What a relay needs whose packets the kernel routes; returns the relay's host.

    Neighbours, routes and addresses; and GRO on its links, without which XDP cannot send into them.
    """
    relay = site.relay
    assert relay is not None
    plan = PLANS[family]
    relay.ip(f"address add {plan.vip} dev lo", f"address add {plan.relay} dev lo")
    let_xdp_in(site)
    for host in (site.clients, site.transceivers):
        gateway = _GATEWAY[family]
        relay.ip(
            f"neighbour add {gateway} lladdr {_text(mac(host, RELAY))} dev {host.name} nud permanent",
            *(
                f"route add {net} via {gateway} dev {host.name} onlink"
                for net in _NETWORKS[family][host.name]
            ),
        )
        relay.sysctl(f"net.ipv4.conf.{host.name}.rp_filter", 0)
    relay.sysctl("net.ipv4.conf.all.rp_filter", 0)
    return relay


def let_clients_talk(site: Site, family: int) -> None:
    """Sockets of the clients' host may have any client's address, and reach the VIP."""
    network, gateway = _NETWORKS[family][CLIENTS][0], _GATEWAY[family]
    assert site.relay is not None
    site.clients.sysctl("net.ipv6.ip_nonlocal_bind", 1)
    site.clients.ip(
        f"route add local {network} dev lo",
        f"neighbour add {gateway} lladdr {_text(mac(site.relay, CLIENTS))} dev {RELAY} nud permanent",
        f"route add {PLANS[family].vip} via {gateway} dev {RELAY} onlink",
    )


def mac(host: Host, interface: str) -> bytes:
    shown = json.loads(host.run("ip", "-json", "link", "show", "dev", interface))
    return bytes.fromhex(shown[0]["address"].replace(":", ""))


def ifindex(host: Host, interface: str) -> int:
    with host.inside():
        return socket.if_nametoindex(interface)


def _set_queues(host: Host, interface: str) -> None:
    """A pair of queues for each CPU, by which that CPU sends."""
    cpus = os.cpu_count() or 1
    host.run("ethtool", "-L", interface, "rx", str(cpus), "tx", str(cpus))
    masks = "; ".join(
        f"echo {1 << cpu:x} >/sys/class/net/{interface}/queues/tx-{cpu}/xps_cpus" for cpu in range(cpus)
    )
    # Not nsenter: /sys shows the links of the namespace that it was mounted in.
    run(["ip", "netns", "exec", host.path.name, "sh", "-ec", masks])


def _text(address: bytes) -> str:
    return address.hex(":")
