# SPDX-License-Identifier: Apache-2.0
"""Checks of how a link stands to others: ports of bonds and bridges, bonds, VLANs.

The program forwards by the kernel's routes, and these name the link that has the addresses. On any other one
it would see packets, and find no way out for the answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from control.check.finding import Finding, failed, ok, warning
from control.check.links import Link

TAG_HIDDEN = "rx-vlan-hw-parse"  # the feature by which a tag is taken out of a frame before XDP sees it
# drivers/net/bonding/bond_main.c: bond_xdp_check()
_BOND_MODES = (
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
)
_NATIVE_MODES = frozenset({"balance-rr", "active-backup", "balance-xor", "802.3ad"})
_HASHED_MODES = frozenset({"balance-xor", "802.3ad"})
_VLAN_AND_SOURCE = 5  # the xmit_hash_policy vlan+srcmac


def findings(
    link: Link, links: Mapping[int, Link], wanted: Collection[str], features: Collection[str], mode: str
) -> Iterator[Finding]:
    """All of them; none for a link that stands alone.

    Args:
        links: of the host, by ifindex.
        wanted: names of those that the configuration names.
        features: of the link, as ethtool calls them, that are on.
        mode: auto, native or generic.
    """
    if link.master:
        yield port(link, links.get(link.master))
    if link.kind == "bond":
        yield bond(link, mode)
    above = [one for one in links.values() if one.kind == "vlan" and one.lower == link.ifindex]
    if above and TAG_HIDDEN in features:
        yield vlans(link, above, wanted)


def port(link: Link, master: Link | None) -> Finding:
    """A link whose packets are another one's."""
    name = f"port {link.name}"
    upper = master.name if master else "a link of another network namespace"
    found = f"is a port of {upper} ({link.port_of or 'of unknown kind'})"
    if link.port_of == "vrf":
        return warning(
            name,
            f"{found}: the program asks the main table for routes, and not the VRF's",
            f"have those to clients and transceivers in the main table; or ip link set {link.name} nomaster",
        )
    instead = f"name {upper} in interfaces instead" if master else "take it out of interfaces"
    return failed(name, f"{found}: routes lead to {upper}, and what comes here finds no way out", instead)


def bond(link: Link, mode: str) -> Finding:
    """Whether a bond passes XDP on to its ports in native mode."""
    name = f"bond {link.name}"
    kind = _BOND_MODES[link.bond_mode] if link.bond_mode < len(_BOND_MODES) else f"mode {link.bond_mode}"
    if mode == "generic" or link.programs:
        return ok(name, kind)
    if kind not in _NATIVE_MODES:
        found = f"{kind} has no native XDP"
    elif kind in _HASHED_MODES and link.bond_policy == _VLAN_AND_SOURCE:
        found = f"{kind} with the xmit_hash_policy vlan+srcmac has no native XDP"
    else:
        return ok(name, f"{kind}, which has native XDP if all of its ports have")
    return warning(
        name,
        found,
        f"one of {', '.join(sorted(_NATIVE_MODES))}, by another policy; or xdp_mode = 'generic', slower",
    )


def vlans(link: Link, above: Collection[Link], wanted: Collection[str]) -> Finding:
    """VLANs on a link that takes tags off before the program sees a frame."""
    name = f"vlan {link.name}"
    names = ", ".join(sorted(one.name for one in above))
    found = f"takes the tags off before the program sees a frame, so that those of {names} look like its own"
    cure = f"ethtool -K {link.name} rxvlan off"
    if any(one.name in wanted for one in above):
        return failed(name, f"{found}, and would be forwarded by the wrong one of them", cure)
    return warning(name, found, f"{cure}: then they are left to the host (pass_vlan)")
