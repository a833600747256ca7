# SPDX-License-Identifier: Apache-2.0
"""The host's network links, and the one setting of the host that the program needs."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import IPRoute

from control.addresses import IPAddress
from control.errors import ConfigError, DatapathError

LO_FORWARDING = (
    Path("/proc/sys/net/ipv4/conf/lo/forwarding"),
    Path("/proc/sys/net/ipv6/conf/lo/forwarding"),
)

XDP_MODES = {
    "IFLA_XDP_DRV_PROG_ID": "native",
    "IFLA_XDP_SKB_PROG_ID": "generic",
    "IFLA_XDP_HW_PROG_ID": "offloaded",
}


class HostLink(NamedTuple):
    """A network link.

    mtu: of an IP packet, in bytes. xdp_mode: of the program that it has, native or generic, if it has one.
    """

    name: str
    ifindex: int
    mac: bytes
    mtu: int
    xdp_mode: str = ""


def find(names: Sequence[str]) -> list[HostLink]:
    """The links of these names.

    Raises:
        ConfigError: one does not exist, or is not an Ethernet link.
    """
    with IPRoute() as netlink:
        links = [from_netlink(message) for message in netlink.get_links()]
    by_name = {link.name: link for link in links if link}
    for position, name in enumerate(names):
        if name not in by_name:
            known = ", ".join(sorted(by_name)) or "none"
            raise ConfigError(
                f"interfaces[{position}]", f"no Ethernet link {name!r} on this host (there are: {known})"
            )
    return [by_name[name] for name in names]


def from_netlink(message: Any) -> HostLink | None:
    """The link that an RTM_NEWLINK message tells of; None where it is not Ethernet."""
    attributes = dict(message["attrs"])
    address = attributes.get("IFLA_ADDRESS")
    if message["ifi_type"] != 1 or address is None:  # ARPHRD_ETHER
        return None
    mac = bytes.fromhex(address.replace(":", ""))
    xdp = dict(attributes["IFLA_XDP"]["attrs"]) if "IFLA_XDP" in attributes else {}
    mode = next((mode for name, mode in XDP_MODES.items() if name in xdp), "")
    return HostLink(attributes["IFLA_IFNAME"], message["index"], mac, attributes["IFLA_MTU"], mode)


def let_lo_forward() -> None:
    """Turns forwarding on for the loopback link alone.

    bpf_fib_lookup() starts at a link and refuses one that does not forward (bpf/hop.h). The
    host does not become a router: no packet ever arrives by lo from outside.

    Raises:
        DatapathError: the setting cannot be written.
    """
    for path in LO_FORWARDING:
        try:
            if path.read_text().strip() != "1":
                path.write_text("1")
        except FileNotFoundError:
            continue  # a kernel without that family
        except OSError as error:
            setting = str(path).removeprefix("/proc/sys/").replace("/", ".")
            raise DatapathError(
                f"cannot set {setting}=1 ({error.strerror}): needs CAP_NET_ADMIN and a writable "
                "/proc/sys/net, or the setting made beforehand"
            ) from error


def address(text: str) -> IPAddress:
    """An address as netlink's libraries print it: IPv4-mapped ones come back as IPv4."""
    parsed = ip_address(text)
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed
