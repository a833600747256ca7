# SPDX-License-Identifier: Apache-2.0
"""Frames made and taken apart in plain Python.

Shares nothing with the program under test: every checksum is the full sum of RFC 1071, over
all of its words, where the program adjusts (RFC 1624).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address

ETHERNET_BYTES = 14
IPV4_BYTES = 20
IPV6_BYTES = 40
UDP_BYTES = 8
UDP = 17

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram in an Ethernet frame. Fields of one family are ignored in the other.

    udp_length and ip_length are for packets that lie; None is the truth.
    """

    src: IPAddress
    dst: IPAddress
    sport: int
    dport: int
    payload: bytes
    smac: bytes = bytes(6)
    dmac: bytes = bytes(6)
    ttl: int = 64
    tos: int = 0
    ident: int = 0x1234
    fragment: int = DONT_FRAGMENT  # flags and offset
    options: bytes = b""
    flow_label: int = 0
    checksum: bool = True  # False: the UDP checksum field is 0
    udp_length: int | None = None
    ip_length: int | None = None  # the field: of all in IPv4, of the payload in IPv6
    padding: bytes = b""  # after the IP packet

    @property
    def ip_bytes(self) -> int:
        """Length of the IP packet."""
        header = IPV4_BYTES + len(self.options) if self.src.version == 4 else IPV6_BYTES
        return header + UDP_BYTES + len(self.payload)

    def udp(self) -> bytes:
        """The UDP header and the payload."""
        length = UDP_BYTES + len(self.payload) if self.udp_length is None else self.udp_length
        ports = struct.pack("!HHH", self.sport, self.dport, length)
        check = 0
        if self.checksum:
            check = udp_checksum(self.src, self.dst, ports + bytes(2) + self.payload)
        return ports + struct.pack("!H", check) + self.payload

    def frame(self) -> bytes:
        body = self.udp()
        if self.src.version == 4:
            ethertype, header = 0x0800, self._ipv4_header(len(body))
        else:
            ethertype, header = 0x86DD, self._ipv6_header(len(body))
        ethernet = self.dmac + self.smac + struct.pack("!H", ethertype)
        return ethernet + header + body + self.padding

    def _ipv4_header(self, body: int) -> bytes:
        size = IPV4_BYTES + len(self.options)
        total = size + body if self.ip_length is None else self.ip_length
        first = struct.pack(
            "!BBHHHBB", 0x40 | size // 4, self.tos, total, self.ident, self.fragment, self.ttl, UDP
        )
        rest = self.src.packed + self.dst.packed + self.options
        return first + struct.pack("!H", checksum(first + bytes(2) + rest)) + rest

    def _ipv6_header(self, body: int) -> bytes:
        length = body if self.ip_length is None else self.ip_length
        word = 6 << 28 | self.tos << 20 | self.flow_label
        return struct.pack("!IHBB", word, length, UDP, self.ttl) + self.src.packed + self.dst.packed


def checksum(data: bytes) -> int:
    """The Internet checksum: complement of the one's complement sum of all 16-bit words."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_checksum(src: IPAddress, dst: IPAddress, segment: bytes) -> int:
    """Of a segment whose checksum field is 0 (RFC 768; RFC 8200, 8.1). Never 0: that means none."""
    pseudo = src.packed + dst.packed + struct.pack("!II", len(segment), UDP)
    return checksum(pseudo + segment) or 0xFFFF


def parse(frame: bytes) -> Datagram:
    """The inverse of Datagram.frame(), for frames without options or extension headers.

    Raises:
        ValueError: a checksum or a length does not hold.
    """
    dmac, smac, ethertype = struct.unpack_from("!6s6sH", frame)
    packet = frame[ETHERNET_BYTES:]
    if ethertype == 0x0800:
        tos, length, ident, fragment, ttl, protocol = struct.unpack_from("!xBHHHBB", packet)
        header = IPV4_BYTES
        src: IPAddress = IPv4Address(packet[12:16])
        dst: IPAddress = IPv4Address(packet[16:20])
        if packet[0] != 0x45 or checksum(packet[:header]):
            raise ValueError("the IPv4 header or its checksum does not hold")
        label = 0
    elif ethertype == 0x86DD:
        word, length, protocol, ttl = struct.unpack_from("!IHBB", packet)
        header = IPV6_BYTES
        length += header
        src, dst = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        tos, label, ident, fragment = word >> 20 & 0xFF, word & 0xFFFFF, 0, 0
    else:
        raise ValueError("not an IP packet")
    segment, padding = packet[header:length], packet[length:]
    sport, dport, udp_length, check = struct.unpack_from("!HHHH", segment)
    if protocol != UDP or udp_length != len(segment) or header + udp_length != length:
        raise ValueError("the lengths do not agree")
    if check and check != udp_checksum(src, dst, segment[:6] + bytes(2) + segment[8:]):
        raise ValueError("the UDP checksum does not hold")
    if not check and src.version == 6:
        raise ValueError("UDP over IPv6 without a checksum")
    return Datagram(
        src,
        dst,
        sport,
        dport,
        segment[UDP_BYTES:],
        smac=smac,
        dmac=dmac,
        ttl=ttl,
        tos=tos,
        ident=ident,
        fragment=fragment,
        flow_label=label,
        checksum=bool(check),
        padding=padding,
    )


def with_vlan(frame: bytes, tpid: int = 0x8100) -> bytes:
    """The frame with an 802.1Q (or 802.1ad) tag."""
    return frame[:12] + struct.pack("!HH", tpid, 42) + frame[12:]


def with_protocol(frame: bytes, protocol: int) -> bytes:
    """The frame with another protocol in its IP header, checksum made good."""
    packet = bytearray(frame)
    if packet[12:14] == b"\x86\xdd":
        packet[ETHERNET_BYTES + 6] = protocol
    else:
        packet[ETHERNET_BYTES + 9] = protocol
        packet[ETHERNET_BYTES + 10 : ETHERNET_BYTES + 12] = bytes(2)
        header = packet[ETHERNET_BYTES : ETHERNET_BYTES + IPV4_BYTES]
        struct.pack_into("!H", packet, ETHERNET_BYTES + 10, checksum(bytes(header)))
    return bytes(packet)


def with_extensions(frame: bytes, chain: Sequence[tuple[int, bytes]], upper: int = UDP) -> bytes:
    """An IPv6 frame with extension headers (RFC 8200, 4): pairs of a header's number and its bytes.

    Each header's first byte, the number of what follows it, is filled in.
    """
    numbers = [number for number, _ in chain] + [upper]
    headers = b"".join(
        bytes([following]) + raw[1:] for (_, raw), following in zip(chain, numbers[1:], strict=True)
    )
    fixed = bytearray(frame[: ETHERNET_BYTES + IPV6_BYTES])
    body = headers + frame[ETHERNET_BYTES + IPV6_BYTES :]
    struct.pack_into("!HB", fixed, ETHERNET_BYTES + 4, len(body), numbers[0])
    return bytes(fixed) + body
