# SPDX-License-Identifier: Apache-2.0
"""Checks of the links that a configuration names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from control.check import ethtool
from control.check.finding import Finding, failed, ok, warning
from control.check.links import Link

Attach = Callable[[int], None]  # tries it on an ifindex; raises OSError


def findings(
    wanted: Sequence[str],
    links: Mapping[int, Link],
    ours: Mapping[int, int] | None,
    mode: str,
    attach: Attach | None,
) -> Iterator[Finding]:
    """All of them.

    Args:
        wanted: names of the links.
        links: of the host, by ifindex.
        ours: program that earshotd has attached, by ifindex; None: it cannot be told.
        mode: native or generic.
        attach: None: do not try it.
    """
    by_name = {link.name: link for link in links.values()}
    found = [by_name[name] for name in wanted if name in by_name]
    for name in wanted:
        if name not in by_name:
            known = ", ".join(sorted(link.name for link in links.values() if link.is_ethernet)) or "none"
            yield failed(f"interface {name}", "does not exist", f"set interfaces to some of: {known}")
    for link in found:
        yield link_state(link, ethtool.driver(link.name))
        if link.is_ethernet:
            yield xdp(link, None if ours is None else ours.get(link.ifindex, 0), mode, attach)
        if link.kind == "veth":
            yield veth_peer(link, links.get(link.peer))
    if len(found) > 1:
        yield same_mtu(found)


def link_state(link: Link, driver: str) -> Finding:
    name = f"interface {link.name}"
    if not link.is_ethernet:
        return failed(name, "is not an Ethernet link", "name the Ethernet link below or above it")
    if not link.is_up:
        return failed(name, "is down", f"ip link set dev {link.name} up")
    if not link.has_carrier:
        return warning(name, "has no carrier", "look at the cable, or at the other end")
    return ok(name, f"up, driver {driver or 'unknown'}, MTU {link.mtu}")


def xdp(link: Link, our_program: int | None, mode: str, attach: Attach | None) -> Finding:
    """Whether earshotd's program is attached, or could be."""
    name = f"xdp {link.name}"
    if link.programs:
        return _attached(name, link, our_program)
    if attach is None:
        return ok(name, f"nothing is attached; whether {mode} mode works was not tried")
    try:
        attach(link.ifindex)
    except OSError as error:
        found = f"cannot attach in {mode} mode: {os.strerror(error.errno or 0)}"
        return failed(name, found, _attach_cure(link, mode))
    return ok(name, f"a program can be attached in {mode} mode")


def _attached(name: str, link: Link, our_program: int | None) -> Finding:
    mode, program = next(iter(link.programs.items()))
    found = f"XDP program (id {program}, {mode}) is attached"
    if our_program is None:
        return warning(name, f"an {found}, and whose cannot be told", "check with earshotd's privileges")
    if program == our_program:
        return ok(name, f"earshotd's {found}")
    cure = (
        f"detach it (ip link set dev {link.name} xdp off; if that is busy, by whatever has attached it: "
        "another earshotd's by earshot datapath remove, with its --pin-path), or use another link"
    )
    return failed(name, f"another {found}", cure)


def _attach_cure(link: Link, mode: str) -> str:
    if mode == "generic":
        return "see capabilities"
    return f"set xdp_mode = 'generic', or try ethtool -K {link.name} lro off gro-hw off and an MTU of 1500"


def veth_peer(link: Link, peer: Link | None) -> Finding:
    """A veth's other end must be ready for what XDP sends into it."""
    name = f"veth {link.name}"
    if peer is None:
        return warning(
            name,
            "its other end is in another network namespace",
            "over there: attach a native XDP program, even one that only passes, and ethtool -K IF tx off",
        )
    if "native" not in peer.programs:
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


def same_mtu(links: Sequence[Link]) -> Finding:
    if len({link.mtu for link in links}) == 1:
        return ok("mtu", f"{links[0].mtu} on all links")
    found = ", ".join(f"{link.name} {link.mtu}" for link in links)
    return warning(
        "mtu", f"{found}: packets too large for the way out are dropped", "set the same MTU on all links"
    )
