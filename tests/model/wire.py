# SPDX-License-Identifier: Apache-2.0
"""A frame taken apart: whose it is, and whether it is in order (sections 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from tests.model.verdict import Decided

IPAddress = IPv4Address | IPv6Address

ETHERNET_BYTES = 14
IPV4_BYTES = 20
IPV6_BYTES = 40
UDP_BYTES = 8

IPV4, IPV6, VLANS = 0x0800, 0x86DD, (0x8100, 0x88A8)
UDP = 17
# IPv6 extension headers (RFC 8200, 4; RFC 6275, 6.1; RFC 4302, 2).
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY = 0, 43, 44, 51, 60, 135
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY)
EXTENSIONS_MAX = 6

RESERVED6 = IPv6Network("::/32")  # with the IPv4-mapped addresses


@dataclass(frozen=True)
class Packet:
    """UDP over IP. Offsets are from the start of the frame."""

    version: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int  # 0: not known
    ip_bytes: int  # as the header tells
    ttl: int
    udp: int  # offset of the UDP header, where nothing is unusual
    unusual: str | None = None  # the reason to drop it, if it is ours


def parse(frame: bytes) -> Packet:
    """1.1 to 1.4.

    Raises:
        Decided: it is not UDP over IP.
    """
    if len(frame) < ETHERNET_BYTES:
        raise Decided("pass_not_ip")
    ethertype = number(frame, 12)
    if ethertype in VLANS:
        raise Decided("pass_vlan")
    if ethertype == IPV4:
        return _parse_ipv4(frame)
    if ethertype == IPV6:
        return _parse_ipv6(frame)
    raise Decided("pass_not_ip")


def _parse_ipv4(frame: bytes) -> Packet:
    """RFC 791, 3.1."""
    header = frame[ETHERNET_BYTES : ETHERNET_BYTES + IPV4_BYTES]
    if len(header) < IPV4_BYTES or header[0] >> 4 != 4:
        raise Decided("pass_not_ip")
    if header[9] != UDP:
        raise Decided("pass_not_udp")
    header_bytes = (header[0] & 0x0F) * 4
    if header_bytes < IPV4_BYTES:
        raise Decided("pass_not_ip")

    flags_and_offset = number(header, 6)
    offset, more = flags_and_offset & 0x1FFF, bool(flags_and_offset & 0x2000)
    options, fragment = header_bytes > IPV4_BYTES, bool(offset or more)
    udp = ETHERNET_BYTES + header_bytes
    ports_there = len(frame) >= udp + UDP_BYTES and not offset and not (fragment and options)
    unusual = None
    if fragment:
        unusual = "drop_fragment"
    elif options:
        unusual = "drop_ip_options"
    elif not ports_there:
        unusual = "drop_truncated"
    return Packet(
        version=4,
        source=IPv4Address(header[12:16]),
        destination=IPv4Address(header[16:20]),
        source_port=number(frame, udp) if ports_there else 0,
        destination_port=number(frame, udp + 2) if ports_there else 0,
        ip_bytes=number(header, 2),
        ttl=header[8],
        udp=udp,
        unusual=unusual,
    )


def _parse_ipv6(frame: bytes) -> Packet:
    """RFC 8200, 3 and 4."""
    header = frame[ETHERNET_BYTES : ETHERNET_BYTES + IPV6_BYTES]
    if len(header) < IPV6_BYTES or header[0] >> 4 != 6:
        raise Decided("pass_not_ip")
    source, destination = IPv6Address(header[8:24]), IPv6Address(header[24:40])
    if destination in RESERVED6:
        raise Decided("pass_not_ours")

    after = ETHERNET_BYTES + IPV6_BYTES
    if header[6] == UDP:
        udp, ports_there = after, len(frame) >= after + UDP_BYTES
        unusual = None if ports_there else "drop_truncated"
    else:
        udp, ports_there, unusual = _walk_extensions(frame, header[6])
    return Packet(
        version=6,
        source=source,
        destination=destination,
        source_port=number(frame, udp) if ports_there else 0,
        destination_port=number(frame, udp + 2) if ports_there else 0,
        ip_bytes=IPV6_BYTES + number(header, 4),
        ttl=header[7],
        udp=udp,
        unusual=unusual,
    )


def _walk_extensions(frame: bytes, following: int) -> tuple[int, bool, str]:
    """Where the UDP header ought to be, whether its ports are in the frame, and what is unusual."""
    at = ETHERNET_BYTES + IPV6_BYTES
    walked = 0
    while following in EXTENSIONS:
        if walked == EXTENSIONS_MAX:
            return at, False, "drop_ipv6_extension"
        if len(frame) < at + 8:
            return at, False, "drop_truncated"
        kind, following, length = following, frame[at], frame[at + 1]
        if kind == FRAGMENT:
            if following != UDP and following not in EXTENSIONS:
                raise Decided("pass_not_udp")
            first = number(frame, at + 2) >> 3 == 0
            at += 8
            return at, first and following == UDP and len(frame) >= at + 4, "drop_fragment"
        at += (length + 2) * 4 if kind == AUTHENTICATION else (length + 1) * 8
        walked += 1
    if following != UDP:
        raise Decided("pass_not_udp")
    return at, len(frame) >= at + 4, "drop_ipv6_extension"


def payload(frame: bytes, packet: Packet) -> bytes:
    """2.1 and 2.2: what UDP carries (RFC 768).

    Raises:
        Decided: lengths do not agree, there is nothing, or it may not go on.
    """
    if len(frame) < ETHERNET_BYTES + packet.ip_bytes:
        raise Decided("drop_truncated")
    udp_bytes = number(frame, packet.udp + 4)
    if udp_bytes < UDP_BYTES or packet.udp + udp_bytes != ETHERNET_BYTES + packet.ip_bytes:
        raise Decided("drop_bad_length")
    if udp_bytes == UDP_BYTES:
        raise Decided("drop_empty")
    if packet.ttl <= 1:
        raise Decided("drop_ttl")
    if packet.version == 6 and not number(frame, packet.udp + 6):
        raise Decided("drop_ipv6_no_checksum")  # RFC 8200, 8.1
    return frame[packet.udp + UDP_BYTES : packet.udp + udp_bytes]


def counted_bytes(frame: bytes) -> int:
    """What a packet is counted with: as its IP header tells, if there is one and it tells anything."""
    header = frame[ETHERNET_BYTES:]
    ethertype = number(frame, 12)
    if ethertype == IPV4 and len(header) >= IPV4_BYTES and header[0] >> 4 == 4:
        return number(header, 2) or len(frame)
    if ethertype == IPV6 and len(header) >= IPV6_BYTES and header[0] >> 4 == 6:
        return IPV6_BYTES + number(header, 4)
    return len(frame)


def number(data: bytes, at: int) -> int:
    """A 16-bit field."""
    return data[at] << 8 | data[at + 1]
