# SPDX-License-Identifier: Apache-2.0
"""The host's links and their XDP programs, as the kernel tells of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyroute2 import IPRoute

from control import hostlinks
from control.addresses import IPAddress

_ARPHRD_ETHER = 1
_IFF_UP = 1
_MODES = {
    "IFLA_XDP_DRV_PROG_ID": "native",
    "IFLA_XDP_SKB_PROG_ID": "generic",
    "IFLA_XDP_HW_PROG_ID": "offloaded",
}


class Link(NamedTuple):
    """A link of the host. mtu: of an IP packet, in bytes."""

    name: str
    ifindex: int
    is_ethernet: bool
    is_up: bool
    has_carrier: bool
    mtu: int
    kind: str  # of a virtual link: veth, bond, vlan; empty for hardware
    peer: int  # ifindex of a veth's other end if that is in this namespace, else 0
    programs: dict[str, int]  # XDP programs by mode: native, generic, offloaded


def read() -> dict[int, Link]:
    """All links of this network namespace, by ifindex."""
    with IPRoute() as netlink:
        links = [_from_netlink(message) for message in netlink.get_links()]
    return {link.ifindex: link for link in links}


def addresses() -> set[IPAddress]:
    """All addresses that this host's own stack answers to."""
    with IPRoute() as netlink:
        found = [
            message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS") for message in netlink.get_addr()
        ]
    return {hostlinks.address(text) for text in found if text}


def _from_netlink(message: Any) -> Link:
    attributes = dict(message["attrs"])
    details = dict(attributes["IFLA_LINKINFO"]["attrs"]) if "IFLA_LINKINFO" in attributes else {}
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
        peer=attributes.get("IFLA_LINK", 0) if here else 0,
        programs={mode: xdp[name] for name, mode in _MODES.items() if name in xdp},
    )
