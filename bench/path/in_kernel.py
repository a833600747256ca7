# SPDX-License-Identifier: Apache-2.0
"""Candidates that forward in the kernel: none at all, a blind forwarder, Earshot, and nftables."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import numpy as np

from bench.driver import BUILD
from bench.path import plan
from bench.path.candidates import Case, Ready, ends
from bench.path.plan import Forms, Way
from bench.path.site import CLIENTS, TRANSCEIVERS, Site, build, ifindex, let_xdp_in, mac, route
from bench.path.sums import deltas, fold
from bench.tables import (
    BACKENDS,
    TO_BACKENDS,
    TO_CLIENTS,
    Shape,
    Table,
    addresses,
)
from control import libbpf
from tests.lab.netns import Lab

TTL_DELTA = 0xFFFE  # what one less adds, on a little-endian host


@contextmanager
def no_relay(lab: Lab, case: Case) -> Iterator[Ready]:
    """Generator, one link, and sink: what every other row contains, too."""
    site = build(lab, relayed=False)

    def forms(size: int) -> Forms:
        return plan.direct(case.family)

    with ends(site, forms, case) as (up, down):
        yield Ready(site, case, forms, up, down)


@contextmanager
def blind(lab: Lab, case: Case) -> Iterator[Ready]:
    """blind.bpf.c on both links."""
    site = build(lab)
    relay = site.relay
    assert relay is not None

    def forms(size: int) -> Forms:
        return plan.blind(case.family)

    due = forms(0)
    with ends(site, forms, case) as (up, down), libbpf.BpfObject(BUILD / "blind.bpf.o") as program:
        told = replace(due.up, due=(due.up.due[0], replace(due.up.due[1], address=case.backend)))
        settings = (
            _blind_way(told, kept=0, site=site, out=TRANSCEIVERS)
            + _blind_way(due.down, kept=1, site=site, out=CLIENTS)
            + struct.pack("=II", case.family == 6, ifindex(relay, CLIENTS))
        )
        program.set_rodata(settings)
        program.load()
        with _attached(site, program.program_fd("blind")):
            yield Ready(site, case, forms, up, down)


@contextmanager
def earshot(lab: Lab, case: Case) -> Iterator[Ready]:
    """The relay with a table just large enough, attached to both links."""
    with _earshot(lab, case, libbpf.XDP_FLAGS_DRV_MODE) as ready:
        yield ready


@contextmanager
def earshot_generic(lab: Lab, case: Case) -> Iterator[Ready]:
    """The same in generic mode: the kernel makes a socket buffer of each packet first."""
    with _earshot(lab, case, libbpf.XDP_FLAGS_SKB_MODE) as ready:
        yield ready


@contextmanager
def _earshot(lab: Lab, case: Case, mode: int) -> Iterator[Ready]:
    site = build(lab)
    if mode == libbpf.XDP_FLAGS_SKB_MODE:
        let_xdp_in(site)

    def forms(size: int) -> Forms:
        return plan.port_each(case.family)

    with ends(site, forms, case) as (up, down), closing(Table(Shape(case.family, 1, case.flows))) as table:
        table.fill()
        _let_sums_be_right(table, forms(0))
        _point_hops(table, site)
        if case.wrong:
            table.datapath.backends["addr"][1:] = addresses(case.backend, np.arange(BACKENDS))
        with _attached(site, table.program_fd, mode):
            yield Ready(site, case, forms, up, down)


@contextmanager
def nftables(lab: Lab, case: Case) -> Iterator[Ready]:
    """NAT by the kernel: each client's packets to the VIP get a transceiver and a relay port.

    Which is decided once for each flow; then conntrack knows. Checksums are not verified, as
    they would be by a NIC and not by the kernel.
    """
    site = build(lab)
    relay = route(site, case.family)
    relay.sysctl("net.ipv4.ip_forward", 1)
    relay.sysctl("net.ipv6.conf.all.forwarding", 1)
    relay.sysctl("net.netfilter.nf_conntrack_checksum", 0)
    for name in ("timeout", "timeout_stream"):
        relay.sysctl(f"net.netfilter.nf_conntrack_udp_{name}", 3600)  # no flow ends between two runs
    relay.nft(_rules(case))

    def forms(size: int) -> Forms:
        return plan.port_each(case.family)

    with ends(site, forms, case) as (up, down):
        ready = Ready(site, case, forms, up, down)
        with ready.sources(80) as (source, _):
            source.set(in_turn=True)
            source.send(case.flows)
        yield ready


def _blind_way(way: Way, kept: int, site: Site, out: str) -> bytes:
    """struct way of blind.bpf.c. kept: which end keeps its host part, source or destination."""
    relay = site.relay
    assert relay is not None
    far = site.clients if out == CLIENTS else site.transceivers
    to, other = way.due[kept].address, way.due[1 - kept]
    ip_delta, udp_delta = deltas(way, np.zeros(1, np.uint32))
    return (
        to.packed.ljust(16, b"\0")[:8]
        + other.address.packed.rjust(16, b"\0")
        + struct.pack("=I", to.packed[0])
        + struct.pack("!H", other.port)
        + struct.pack(
            "=HHxxI", int(fold(ip_delta + np.uint64(TTL_DELTA))[0]), int(udp_delta[0]), ifindex(relay, out)
        )
        + mac(far, relay.name)
        + mac(relay, out)
        + bytes(4)
    )


def _let_sums_be_right(table: Table, forms: Forms) -> None:
    """Table.fill enters deltas that are right for no packet."""
    records = table.shape.records()
    flows = table.datapath.flows
    flows["ip_delta"][records], flows["udp_delta"][records] = deltas(forms.up, records)


def _point_hops(table: Table, site: Site) -> None:
    relay = site.relay
    assert relay is not None
    hops = table.datapath.hops
    for number, host in ((TO_CLIENTS, site.clients), (TO_BACKENDS, site.transceivers)):
        hops["dmac"][number] = np.void(mac(host, relay.name))
        hops["smac"][number] = np.void(mac(relay, host.name))
        hops["ifindex"][number] = ifindex(relay, host.name)


@contextmanager
def _attached(site: Site, program_fd: int, mode: int = libbpf.XDP_FLAGS_DRV_MODE) -> Iterator[None]:
    relay = site.relay
    assert relay is not None
    with ExitStack() as stack, relay.inside():
        for name in (CLIENTS, TRANSCEIVERS):
            link = libbpf.create_xdp_link(program_fd, ifindex(relay, name), mode)
            stack.callback(os.close, link)
        yield


def _rules(case: Case) -> str:
    """The decisions as maps, which are asked for the first packet of a flow alone."""
    forms = plan.port_each(case.family)
    (clients, vip), (relay, backends) = forms.up.sent, forms.up.due
    backends = replace(backends, address=case.backend)
    ip = "ip" if case.family == 4 else "ip6"
    kind = "ipv4_addr" if case.family == 4 else "ipv6_addr"

    def entries(end: plan.End) -> str:
        pairs = ((clients.of(flow)[0], end.of(flow)) for flow in range(case.flows))
        return ", ".join(f"{client} : {address} . {port}" for client, (address, port) in pairs)

    return f"""
    table {ip} relay {{
        map transceivers {{ type {kind} : {kind} . inet_service; elements = {{ {entries(backends)} }} }}
        map ports {{ type {kind} : {kind} . inet_service; elements = {{ {entries(relay)} }} }}
        chain prerouting {{
            type nat hook prerouting priority dstnat;
            {ip} daddr {vip.address} udp dport {vip.port} dnat to {ip} saddr map @transceivers
        }}
        chain postrouting {{
            type nat hook postrouting priority srcnat;
            oifname {TRANSCEIVERS} meta l4proto udp snat to {ip} saddr map @ports
        }}
    }}
    """
