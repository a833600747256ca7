# SPDX-License-Identifier: Apache-2.0
"""Rows about what stands before the payload: what is not ours, and what is ours but broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from control.abi import Reason
from tests.bpf import world
from tests.bpf.case import RTP, Case, established, from_backend, from_client, request
from tests.bpf.packets import (
    ETHERNET_BYTES,
    IPV4_BYTES,
    IPV6_BYTES,
    MORE_FRAGMENTS,
    Datagram,
    with_extensions,
    with_protocol,
    with_vlan,
)
from tests.bpf.world import V4, V6, Family

TCP, ICMP, ICMPV6, ESP, NO_NEXT = 6, 1, 58, 50, 59
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY = 0, 43, 44, 51, 60, 135
# Each kind of header in its shortest form, and one twice as long.
SHORT = {kind: bytes(8) for kind in (HOP_BY_HOP, ROUTING, DESTINATION, MOBILITY)}
LONG = {kind: b"\0\x01" + bytes(14) for kind in SHORT}
AUTH = b"\0\x04" + bytes(22)  # its length counts words, less two
DEEPEST = 6  # headers that are looked behind


def rows() -> Iterator[Case]:
    for family in world.FAMILIES:
        yield from _not_ours(family)
        yield from _not_udp(family)
        yield from _lying_lengths(family)
        yield from _ttl(family)
    yield from _ipv4_options()
    yield from _ipv4_fragments()
    yield from _ipv6_extensions()
    yield from _ipv6_fragments()
    yield Case("v6 checksum 0", Reason.DROP_IPV6_NO_CHECKSUM, _unsummed(V6), arrange=(established(V6),))
    yield Case("arp", Reason.PASS_NOT_IP, bytes(12) + b"\x08\x06" + bytes(28))
    yield Case("a bare ethernet header", Reason.PASS_NOT_IP, bytes(12) + b"\x08\x00")


def _unsummed(family: Family) -> bytes:
    return replace(from_client(family), checksum=False).frame()


def _not_ours(family: Family) -> Iterator[Case]:
    name, good = f"v{family.version}", from_client(family)
    others = {
        "another port of the vip": replace(good, dport=53),
        "the vip's address and a relay port": replace(good, dport=world.PORTS.first),
        "the host's own address": replace(good, dst=family.own),
        "the host's own address and the vip's port": replace(good, dst=family.own, dport=family.vip.port),
        "a port below the relay's": replace(good, dst=family.relay, dport=world.PORTS.first - 1),
        "a port above the relay's": replace(good, dst=family.relay, dport=world.PORTS.last + 1),
        "the relay's address and the vip's port": replace(good, dst=family.relay),
        "port 0 of the vip": replace(good, dport=0),
        "a binding request to another port": replace(request(family), dport=3479),
        "a neighbour address of the vip": replace(good, dst=family.vip.address + 1),
        "a reply of a name server": replace(good, sport=53, dst=family.own, dport=41000),
        "to another host, ttl 1": replace(good, dst=family.distant.address, ttl=1),
        "to another port, checksum 0": replace(good, dport=53, checksum=False),
        "to another port, a lying udp length": replace(good, dport=53, udp_length=9),
    }
    for what, datagram in others.items():
        yield Case(f"{name} {what}", Reason.PASS_NOT_OURS, datagram.frame(), arrange=(established(family),))
    for tpid in (0x8100, 0x88A8):
        yield Case(f"{name} behind vlan tag {tpid:x}", Reason.PASS_VLAN, with_vlan(good.frame(), tpid))


def _not_udp(family: Family) -> Iterator[Case]:
    name, frame = f"v{family.version}", from_client(family).frame()
    for protocol in (TCP, ICMP if family is V4 else ICMPV6, ESP, NO_NEXT, 132, 136):
        yield Case(f"{name} protocol {protocol}", Reason.PASS_NOT_UDP, with_protocol(frame, protocol))
    other_version = bytearray(frame)
    other_version[ETHERNET_BYTES] ^= 0x20  # 4 <-> 6
    yield Case(f"{name} of the other version", Reason.PASS_NOT_IP, bytes(other_version))
    header = IPV4_BYTES if family is V4 else IPV6_BYTES
    cut = frame[: ETHERNET_BYTES + header - 1]
    yield Case(f"{name} header cut short", Reason.PASS_NOT_IP, cut)
    if family is V4:
        short = bytearray(frame)
        short[ETHERNET_BYTES] = 0x44
        yield Case(
            "v4 header length 16", Reason.PASS_NOT_IP, bytes(short), counted=len(frame) - ETHERNET_BYTES
        )


def _lying_lengths(family: Family) -> Iterator[Case]:
    name, live = f"v{family.version}", (established(family),)
    good = from_client(family)
    honest = 8 + len(good.payload)
    # What the IP header's length field leaves for UDP, and what it counts.
    base = IPV4_BYTES if family is V4 else 0
    for udp in (0, 7, 8, honest - 1, honest + 1, 65535):
        frame = replace(good, udp_length=udp).frame()
        yield Case(f"{name} udp length {udp}", Reason.DROP_BAD_LENGTH, frame, arrange=live)
    for less in (1, honest - 8, honest):
        frame = replace(good, ip_length=base + honest - less).frame()
        counted = good.ip_bytes - less
        yield Case(
            f"{name} ip length {less} less", Reason.DROP_BAD_LENGTH, frame, arrange=live, counted=counted
        )
    for more in (1, 100, 65000):
        frame = replace(good, ip_length=base + honest + more, udp_length=min(honest + more, 65535)).frame()
        counted = good.ip_bytes + more
        yield Case(
            f"{name} ip length {more} more", Reason.DROP_TRUNCATED, frame, arrange=live, counted=counted
        )
    for datagram, link, way in (
        (from_client(family, b""), world.CLIENTS, "up"),
        (from_backend(family, b""), world.BACKENDS, "down"),
    ):
        padded = replace(datagram, padding=b"\x80" * 18)
        counted = datagram.ip_bytes
        for what, empty in (("", datagram), (" but ethernet padding", padded)):
            yield Case(
                f"{name} {way} without payload{what}",
                Reason.DROP_EMPTY,
                empty.frame(),
                link=link,
                arrange=live,
                counted=counted,
            )


def _ttl(family: Family) -> Iterator[Case]:
    for ttl in (0, 1):
        for datagram, link, way in (
            (from_client(family), world.CLIENTS, "up"),
            (from_backend(family), world.BACKENDS, "down"),
        ):
            yield Case(
                f"v{family.version} {way} ttl {ttl}",
                Reason.DROP_TTL,
                replace(datagram, ttl=ttl).frame(),
                link=link,
                arrange=(established(family),),
            )


def _ipv4_options() -> Iterator[Case]:
    for words in (1, 2, 10):
        datagram = replace(from_client(V4), options=b"\x01" * 4 * words)
        frame = datagram.frame()
        live = (established(V4),)
        yield Case(f"v4 options of {words} words", Reason.DROP_IP_OPTIONS, frame, arrange=live)
        elsewhere = replace(datagram, dport=53).frame()
        yield Case(f"v4 options of {words} words to port 53", Reason.PASS_NOT_OURS, elsewhere)
        cut = frame[: ETHERNET_BYTES + IPV4_BYTES + 4 * words + 7]
        yield Case(
            f"v4 options of {words} words, udp header cut short",
            Reason.DROP_IP_OPTIONS,
            cut,
            arrange=live,
            counted=datagram.ip_bytes,
        )
    down = replace(from_backend(V4), options=b"\x94\x04\0\0")  # router alert
    yield Case("v4 options to a relay port", Reason.DROP_IP_OPTIONS, down.frame(), link=world.BACKENDS)


def _ipv4_fragments() -> Iterator[Case]:
    good = from_client(V4)
    kinds = {"first": MORE_FRAGMENTS, "middle": MORE_FRAGMENTS | 100, "last": 100, "don't": 0x4000 | 1}
    for what, bits in kinds.items():
        fragment = replace(good, fragment=bits)
        live = (established(V4),)
        yield Case(f"v4 {what} fragment", Reason.DROP_FRAGMENT, fragment.frame(), arrange=live)
        to_relay = replace(from_backend(V4), fragment=bits).frame()
        yield Case(f"v4 {what} fragment to a relay port", Reason.DROP_FRAGMENT, to_relay, link=world.BACKENDS)
        strange = replace(fragment, dst=V4.own).frame()
        yield Case(f"v4 {what} fragment to an address not ours", Reason.PASS_NOT_OURS, strange)
        tcp = with_protocol(fragment.frame(), TCP)
        yield Case(f"v4 {what} fragment of tcp", Reason.PASS_NOT_UDP, tcp)
    first = replace(good, fragment=MORE_FRAGMENTS, dport=53).frame()
    yield Case("v4 first fragment to port 53", Reason.PASS_NOT_OURS, first)
    optioned = replace(good, fragment=MORE_FRAGMENTS, options=b"\x01" * 4).frame()
    yield Case("v4 first fragment with options", Reason.DROP_FRAGMENT, optioned)
    cut = replace(good, fragment=MORE_FRAGMENTS).frame()[: ETHERNET_BYTES + IPV4_BYTES + 5]
    yield Case("v4 first fragment, udp header cut short", Reason.DROP_FRAGMENT, cut, counted=good.ip_bytes)


def _ipv6_extensions() -> Iterator[Case]:
    good, down = from_client(V6).frame(), from_backend(V6).frame()
    elsewhere, strange = replace(from_client(V6), dport=53), replace(from_client(V6), dst=V6.own)
    chains: dict[str, list[tuple[int, bytes]]] = {
        f"header {kind}{size}": [(kind, raw)]
        for size, headers in (("", SHORT), (" of 16 bytes", LONG))
        for kind, raw in headers.items()
    }
    chains["header 51"] = [(AUTHENTICATION, AUTH)]
    chains["four headers"] = [*SHORT.items()]
    chains["two with authentication"] = [(AUTHENTICATION, AUTH), (DESTINATION, bytes(8))]
    chains["as many headers as are looked behind"] = [(DESTINATION, bytes(8))] * DEEPEST
    for what, chain in chains.items():
        dropped = Reason.DROP_IPV6_EXTENSION
        yield Case(f"v6 {what}", dropped, with_extensions(good, chain), arrange=(established(V6),))
        yield Case(f"v6 {what} to a relay port", dropped, with_extensions(down, chain), link=world.BACKENDS)
        for other, frame in (("port 53", elsewhere.frame()), ("an address not ours", strange.frame())):
            yield Case(f"v6 {what} to {other}", Reason.PASS_NOT_OURS, with_extensions(frame, chain))
        for upper in (TCP, ICMPV6, NO_NEXT):
            behind = with_extensions(good, chain, upper)
            yield Case(f"v6 {what}, protocol {upper} behind", Reason.PASS_NOT_UDP, behind)
    too_long = [(DESTINATION, bytes(8))] * (DEEPEST + 1)
    yield Case("v6 too many headers", Reason.DROP_IPV6_EXTENSION, with_extensions(good, too_long))
    yield Case(
        "v6 too many headers to an address not ours",
        Reason.PASS_NOT_OURS,
        with_extensions(strange.frame(), too_long),
    )
    one = with_extensions(good, [(DESTINATION, bytes(8))])
    length = len(one) - ETHERNET_BYTES
    for size in range(8):
        cut = one[: ETHERNET_BYTES + IPV6_BYTES + size]
        yield Case(f"v6 extension cut to {size}", Reason.DROP_TRUNCATED, cut, counted=length)
    for size in range(4):
        cut = one[: ETHERNET_BYTES + IPV6_BYTES + 8 + size]
        yield Case(f"v6 ports cut to {size}", Reason.DROP_IPV6_EXTENSION, cut, counted=length)
    beyond = with_extensions(good, [(DESTINATION, b"\0\xff" + bytes(6))])
    yield Case("v6 extension longer than the packet", Reason.DROP_IPV6_EXTENSION, beyond)


def _ipv6_fragments() -> Iterator[Case]:
    good = from_client(V6).frame()
    to_relay, to_53 = from_backend(V6).frame(), replace(from_client(V6), dport=53).frame()
    strange = replace(from_client(V6), dst=V6.own).frame()
    kinds = {
        "atomic": bytes(8),
        "first": b"\0\0\0\x01" + bytes(4),
        "middle": b"\0\0\x01\x01" + bytes(4),
        "last": b"\0\0\0\x08" + bytes(4),
    }
    for what, raw in kinds.items():
        chain = [(FRAGMENT, raw)]
        fragment = with_extensions(good, chain)
        yield Case(f"v6 {what} fragment", Reason.DROP_FRAGMENT, fragment, arrange=(established(V6),))
        relay = with_extensions(to_relay, chain)
        yield Case(f"v6 {what} fragment to a relay port", Reason.DROP_FRAGMENT, relay, link=world.BACKENDS)
        elsewhere = with_extensions(strange, chain)
        yield Case(f"v6 {what} fragment to an address not ours", Reason.PASS_NOT_OURS, elsewhere)
        tcp = with_extensions(good, chain, TCP)
        yield Case(f"v6 {what} fragment of tcp", Reason.PASS_NOT_UDP, tcp)
        behind = with_extensions(good, [(DESTINATION, bytes(8)), *chain])
        yield Case(f"v6 {what} fragment behind options", Reason.DROP_FRAGMENT, behind)
        if what in ("atomic", "first"):
            port = with_extensions(to_53, chain)
            yield Case(f"v6 {what} fragment to port 53", Reason.PASS_NOT_OURS, port)
    cut = with_extensions(good, [(FRAGMENT, bytes(8))])
    for size in range(4):
        yield Case(
            f"v6 atomic fragment, ports cut to {size}",
            Reason.DROP_FRAGMENT,
            cut[: ETHERNET_BYTES + IPV6_BYTES + 8 + size],
            counted=len(cut) - ETHERNET_BYTES,
        )


def every_length() -> Iterator[Case]:
    """Good packets of both families, cut to each length that a frame can have."""
    for family in world.FAMILIES:
        header = IPV4_BYTES if family is V4 else IPV6_BYTES
        up: list[tuple[str, Datagram, str]] = [
            ("request", request(family), world.CLIENTS),
            ("rtp", from_client(family, RTP), world.CLIENTS),
            ("rtp down", from_backend(family, RTP), world.BACKENDS),
        ]
        for what, datagram, link in up:
            frame = datagram.frame()
            for size in range(ETHERNET_BYTES, len(frame)):
                whole = size >= ETHERNET_BYTES + header
                yield Case(
                    f"v{family.version} {what} cut to {size}",
                    Reason.DROP_TRUNCATED if whole else Reason.PASS_NOT_IP,
                    frame[:size],
                    link=link,
                    arrange=(established(family),),
                    counted=datagram.ip_bytes if whole else size,
                )
