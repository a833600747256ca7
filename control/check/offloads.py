# SPDX-License-Identifier: Apache-2.0
"""Checks of what a link does to packets before XDP sees them.

Names of features are the kernel's (net/ethtool/common.c); for some, `ethtool -K` has its own.
"""

from __future__ import annotations

from collections.abc import Collection

from control.check.finding import Finding, failed, ok, warning
from control.check.links import Link

# What the hardware joins to one large packet, and native XDP cannot be told of.
_JOINED_BY_HARDWARE = {"rx-lro": "lro", "rx-gro-hw": "rx-gro-hw"}
# What the kernel joins before a program in generic mode sees it: datagrams, too.
_JOINED_BY_KERNEL = {"rx-gro-list": "rx-gro-list", "rx-udp-gro-forwarding": "rx-udp-gro-forwarding"}
_DRIVERS_THAT_SEE_TO_IT = frozenset({"virtio_net"})  # they turn it off while a program is attached


def hardware(features: Collection[str]) -> dict[str, str]:
    """What stands in the way of native XDP, and its name for `ethtool -K`."""
    return {name: key for name, key in _JOINED_BY_HARDWARE.items() if name in features}


def turn_off(interface: str, keys: Collection[str]) -> str:
    return f"ethtool -K {interface} {' '.join(f'{key} off' for key in keys)}"


def offloads(link: Link, driver: str, features: Collection[str], mode: str) -> Finding:
    """Whether packets come to the program as they came to the link.

    Args:
        features: those that are on.
        mode: native or generic: which the program has, or will have.
    """
    name = f"offloads {link.name}"
    if mode == "generic":
        # Generic XDP turns the hardware's joining off by itself (net/core/dev.c, generic_xdp_install()).
        joined = {feature: key for feature, key in _JOINED_BY_KERNEL.items() if feature in features}
        if joined:
            return failed(
                name,
                f"{', '.join(joined)}: a call's datagrams come joined to one, which is too large to leave",
                turn_off(link.name, joined.values()),
            )
        return ok(name, "none joins datagrams before generic XDP sees them")
    joined = hardware(features)
    if joined and "native" not in link.programs and driver not in _DRIVERS_THAT_SEE_TO_IT:
        return warning(
            name,
            f"{', '.join(joined)}: drivers refuse native XDP beside it, or turn it off without a word",
            turn_off(link.name, joined.values()),
        )
    return ok(name, "none joins packets before native XDP sees them")
