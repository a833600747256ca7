# SPDX-License-Identifier: Apache-2.0
"""Checks of what a link does to packets before XDP sees them.

Names of features are the kernel's (net/ethtool/common.c); for some, `ethtool -K` has its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from control.check.finding import Finding, failed, ok, warning
from control.check.links import Link

# What the hardware joins to one large packet, and native XDP cannot be told of.
_JOINED_BY_HARDWARE = {"rx-lro": "lro", "rx-gro-hw": "rx-gro-hw"}
# By which the kernel joins datagrams, too, on their way from a link to one above it.
_JOINED_BY_KERNEL = ("rx-gro-list", "rx-udp-gro-forwarding")
_DRIVERS_THAT_SEE_TO_IT = frozenset({"virtio_net"})  # they turn it off while a program is attached
_ABOVE_ANOTHER = frozenset({"vlan", "macvlan", "ipvlan"})


def below(link: Link, links: Mapping[int, Link]) -> list[Link]:
    """The links from which another one gets its packets: a bond's or a bridge's ports, a VLAN's parent."""
    ports = [one for one in links.values() if one.master == link.ifindex]
    parent = links.get(link.lower) if link.kind in _ABOVE_ANOTHER else None
    return [*ports, parent] if parent else ports


def hardware(features: Collection[str]) -> dict[str, str]:
    """What stands in the way of native XDP, and its name for `ethtool -K`."""
    return {name: key for name, key in _JOINED_BY_HARDWARE.items() if name in features}


def turn_off(interface: str, keys: Collection[str]) -> str:
    return f"ethtool -K {interface} {' '.join(f'{key} off' for key in keys)}"


def native(link: Link, driver: str, features: Collection[str]) -> Finding:
    """Whether hardware leaves packets as they came, on a link where native XDP sees them.

    In generic mode that is no question: the kernel turns it off by itself (generic_xdp_install()).

    Args:
        features: those that are on.
    """
    joined = hardware(features)
    if joined and "native" not in link.programs and driver not in _DRIVERS_THAT_SEE_TO_IT:
        return warning(
            f"offloads {link.name}",
            f"{', '.join(joined)}: drivers refuse native XDP beside it, or turn it off without a word",
            turn_off(link.name, joined.values()),
        )
    return ok(f"offloads {link.name}", "none joins packets before native XDP sees them")


def generic(lower: Link, features: Collection[str]) -> Finding:
    """Whether the kernel leaves datagrams as they came, below a link that has the program in generic mode.

    On a link that has it itself, there is no GRO (netif_elide_gro()).
    """
    joined = [name for name in _JOINED_BY_KERNEL if name in features]
    if joined:
        return failed(
            f"offloads {lower.name}",
            f"{', '.join(joined)}: a call's datagrams come joined, and are too large to leave",
            turn_off(lower.name, joined),
        )
    return ok(f"offloads {lower.name}", "none joins datagrams before generic XDP sees them")
