# SPDX-License-Identifier: Apache-2.0
"""Checks of the links that a configuration names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from control import xdp_modes
from control.check import ethtool, mtu, offloads, placement
from control.check.finding import Finding, Status, failed, ok, warning
from control.check.links import Link
from control.config import Config

_MTU_FOR_ALL = 1500  # up to which every driver with native XDP takes it
_NEVER_NATIVE = frozenset({"vlan", "bridge", "macvlan", "ipvlan", "dummy", "team", "vxlan", "geneve"})

Attach = Callable[[int], None]  # tries it on an ifindex; raises OSError


def findings(
    config: Config, links: Mapping[int, Link], ours: Mapping[int, int] | None, attach: Attach | None
) -> Iterator[Finding]:
    """All of them.

    Args:
        links: of the host, by ifindex.
        ours: program that earshotd has attached, by ifindex; None: it cannot be told.
        attach: None: do not try it.
    """
    by_name = {link.name: link for link in links.values()}
    found = [by_name[name] for name in config.interfaces if name in by_name]
    for name in config.interfaces:
        if name not in by_name:
            known = ", ".join(sorted(link.name for link in links.values() if link.is_ethernet)) or "none"
            yield failed(f"interface {name}", "does not exist", f"set interfaces to some of: {known}")
    features = {link.name: ethtool.features(link.name) for link in found}
    is_generic = config.xdp_mode == "generic" or any("generic" in link.programs for link in found)
    for link in found:
        driver = ethtool.driver(link.name)
        yield link_state(link, driver)
        if link.is_ethernet:
            yield from placement.findings(
                link, links, config.interfaces, features[link.name], config.xdp_mode
            )
            ours_here = None if ours is None else ours.get(link.ifindex, 0)
            joined = offloads.hardware(features[link.name])
            cure = native_cure(link, joined, ethtool.too_many_queues(link.name))
            on_link = xdp(link, ours_here, config.xdp_mode, attach, cure)
            is_generic |= config.xdp_mode == "auto" and on_link.status == Status.WARNING
            yield on_link
    for link in found:
        if link.kind == "veth":
            yield veth_peer(link, links.get(link.lower), is_native=not is_generic)
        lower = offloads.below(link, links)
        if is_generic:
            yield from (offloads.generic(one, ethtool.features(one.name)) for one in lower)
        elif link.kind != "bond":
            yield offloads.native(link, ethtool.driver(link.name), features[link.name])
        else:
            for one in lower:
                yield offloads.native(one, ethtool.driver(one.name), ethtool.features(one.name))
    if found:
        yield mtu.mtus(found, config.largest_packet)


def link_state(link: Link, driver: str) -> Finding:
    name = f"interface {link.name}"
    if not link.is_ethernet:
        return failed(name, "is not an Ethernet link", "name the Ethernet link below or above it")
    if not link.is_up:
        return failed(name, "is down", f"ip link set dev {link.name} up")
    if not link.has_carrier:
        return warning(name, "has no carrier", "look at the cable, or at the other end")
    return ok(name, f"up, driver {driver or 'unknown'}, MTU {link.mtu}")


def xdp(link: Link, our_program: int | None, mode: str, attach: Attach | None, cure: str) -> Finding:
    """Whether earshotd's program is attached, or could be.

    Args:
        mode: auto, native or generic.
        cure: what may help where native mode is refused (native_cure()).
    """
    name = f"xdp {link.name}"
    tried = "generic" if mode == "generic" else "native"
    if link.programs:
        return _attached(name, link, our_program, mode)
    if attach is None:
        return ok(name, f"nothing is attached; whether {tried} mode works was not tried")
    try:
        attach(link.ifindex)
    except OSError as error:
        found = f"cannot attach in {tried} mode: {error.strerror}"
        if mode == "auto" and xdp_modes.is_by_driver(error):
            found = f"{found}; all links get it in generic mode, which {xdp_modes.COST}"
            return warning(name, found, cure)
        return failed(name, found, "see capabilities" if tried == "generic" else cure)
    return ok(name, f"a program can be attached in {tried} mode")


def _attached(name: str, link: Link, our_program: int | None, wanted: str) -> Finding:
    mode, program = next(iter(link.programs.items()))
    found = f"XDP program (id {program}, {mode}) is attached"
    if our_program is None:
        return warning(name, f"an {found}, and whose cannot be told", "check with earshotd's privileges")
    if program != our_program:
        return failed(name, f"another {found}", xdp_modes.detach(link.name))
    if wanted not in ("auto", mode):
        return warning(name, f"earshotd's {found}, though xdp_mode is {wanted}", xdp_modes.ANEW)
    if mode == "generic" and wanted == "auto":
        cure = f"earshot check --no-attach says what is in the way; then {xdp_modes.ANEW}"
        return warning(name, f"earshotd's {found}: it {xdp_modes.COST}", cure)
    return ok(name, f"earshotd's {found}")


def native_cure(link: Link, joined: Mapping[str, str], fewer_queues: str) -> str:
    """What may make native mode work on a link whose driver has refused it.

    Args:
        joined: what the hardware does that native XDP cannot be beside (offloads.hardware()).
        fewer_queues: a command, where there are more than drivers may have beside those for XDP.
    """
    if link.kind in _NEVER_NATIVE:
        return (
            f"a {link.kind} has none: xdp_mode = 'generic' says that this is meant; for native, have the "
            "addresses on a link of hardware, to which frames come without a tag"
        )
    cures = [offloads.turn_off(link.name, joined.values())] if joined else []
    if link.mtu > _MTU_FOR_ALL:
        cures.append(f"ip link set dev {link.name} mtu {_MTU_FOR_ALL}")
    if fewer_queues:
        cures.append(fewer_queues)
    tries = f"{'; '.join(cures)}; dmesg may have the driver's words; or " if cures else ""
    return f"{tries}xdp_mode = 'generic', which needs nothing of the driver"


def veth_peer(link: Link, peer: Link | None, *, is_native: bool) -> Finding:
    """A veth's other end must be ready for what native XDP sends into it, and send no half of a checksum."""
    name = f"veth {link.name}"
    if peer is None:
        return warning(
            name,
            "its other end is in another network namespace",
            "over there: "
            + ("attach a native XDP program, even one that only passes, and " if is_native else "")
            + "ethtool -K IF tx off",
        )
    if is_native and "native" not in peer.programs:
        return warning(
            name,
            f"its other end, {peer.name}, has no native XDP program: what XDP sends into it is lost or late",
            f"attach one to {peer.name}, even one that only passes",
        )
    if ethtool.has_tx_checksum(peer.name):
        return warning(
            name,
            f"{peer.name} leaves checksums undone: they would be forwarded so",
            f"ethtool -K {peer.name} tx off",
        )
    return ok(name, f"its other end, {peer.name}, takes what XDP sends")
