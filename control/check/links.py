# SPDX-License-Identifier: Apache-2.0
"""The host's links and their XDP programs, as the kernel tells of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyroute2 import IPRoute

from control import hostlinks
from control.addresses import IPAddress

_ARPHRD_ETHER = 1
_IFF_UP = 1


class Link(NamedTuple):
    """A link of the host. mtu: of an IP packet, in bytes.

    `lower` is the ifindex of what it stands on (a VLAN's parent, a veth's other end) where that is in this
    namespace, and `master` that of the bond, bridge or VRF whose port it is; else 0.
    """

    name: str
    ifindex: int
    is_ethernet: bool
    is_up: bool
    has_carrier: bool
    mtu: int
    kind: str  # of a virtual link: veth, bond, vlan; empty for hardware
    lower: int
    programs: dict[str, int]  # XDP programs by mode: native, generic, offloaded
    master: int = 0
    port_of: str = ""  # the kind of its master: bond, bridge, vrf
    bond_mode: int = 0  # linux/if_bonding.h: BOND_MODE_
    bond_policy: int = 0  # BOND_XMIT_POLICY_


def read() -> dict[int, Link]:
    """All links of this network namespace, by ifindex."""
    with IPRoute() as netlink:
        links = [_from_netlink(message) for message in netlink.get_links()]
    return {link.ifindex: link for link in links}


def addresses() -> dict[IPAddress, Link]:
    """All addresses that this host's own stack answers to, and the link that has each."""
    links = read()
    with IPRoute() as netlink:
        found = [
            (message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"), message["index"])
            for message in netlink.get_addr()
        ]
    return {hostlinks.address(text): links[index] for text, index in found if text and index in links}


def _from_netlink(message: Any) -> Link:
    attributes = dict(message["attrs"])
    details = dict(attributes["IFLA_LINKINFO"]["attrs"]) if "IFLA_LINKINFO" in attributes else {}
    bond = dict(details["IFLA_INFO_DATA"]["attrs"]) if details.get("IFLA_INFO_KIND") == "bond" else {}
    xdp = dict(attributes["IFLA_XDP"]["attrs"]) if "IFLA_XDP" in attributes else {}
    here = "IFLA_LINK_NETNSID" not in attributes
    return Link(
        name=attributes["IFLA_IFNAME"],
        ifindex=message["index"],
        is_ethernet=message["ifi_type"] == _ARPHRD_ETHER,
        is_up=bool(message["flags"] & _IFF_UP),
        has_carrier=bool(attributes.get("IFLA_CARRIER", 1)),
        mtu=attributes["IFLA_MTU"],
        kind=details.get("IFLA_INFO_KIND", ""),
        lower=attributes.get("IFLA_LINK", 0) if here else 0,
        programs={mode: xdp[name] for name, mode in hostlinks.XDP_MODES.items() if name in xdp},
        master=attributes.get("IFLA_MASTER", 0),
        port_of=details.get("IFLA_INFO_SLAVE_KIND", ""),
        bond_mode=bond.get("IFLA_BOND_MODE", 0),
        bond_policy=bond.get("IFLA_BOND_XMIT_HASH_POLICY", 0),
    )
