# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames as people give them and ask about them: from hex, made up for a 5-tuple, and in words."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from control.addresses import Endpoint, IPAddress

ETHERNET, IPV4_HEADER, IPV6_HEADER, UDP_HEADER = 14, 20, 40, 8
# What the kernel takes for a test run: a page less what it keeps around a packet.
LONGEST = 3520
_IPV4, _IPV6, _UDP = 0x0800, 0x86DD, 17
_MADE_UP_MACS = bytes.fromhex("020000000002020000000001")
_COOKIE = 0x2112A442
_BINDING_REQUEST = 0x0001
_USERNAME, _MESSAGE_INTEGRITY, _PRIORITY, _FINGERPRINT, _CONTROLLING = 0x0006, 0x0008, 0x0024, 0x8028, 0x802A
_FINGERPRINT_XOR = 0x5354554E

Sign = Callable[[bytes], bytes]


class FrameFault(ValueError):
    """What was given is no frame; the text says where it is wrong."""


class Packet(NamedTuple):
    """What of a frame can be told without judging it; None: it cannot."""

    source: Endpoint | None
    destination: Endpoint | None
    payload: bytes
    smac: bytes
    dmac: bytes


def from_hex(text: str) -> bytes:
    """Blanks, line ends and colons between the bytes are passed over.

    Raises:
        FrameFault: of a character that is no hex digit, its place.
    """
    digits = []
    line = column = 1
    for character in text:
        if character in "0123456789abcdefABCDEF":
            digits.append(character)
        elif not character.isspace() and character != ":":
            raise FrameFault(
                f"line {line}, character {column}: {character!r} is no hex digit (byte {len(digits) // 2})"
            )
        line, column = (line + 1, 1) if character == "\n" else (line, column + 1)
    if len(digits) % 2:
        raise FrameFault(f"the last byte, number {len(digits) // 2}, has one hex digit")
    return checked(bytes.fromhex("".join(digits)))


def checked(frame: bytes) -> bytes:
    """Raises FrameFault for what the kernel would not run a program on."""
    if len(frame) < ETHERNET:
        raise FrameFault(f"it ends after {len(frame)} bytes: an Ethernet header alone has {ETHERNET}")
    if len(frame) > LONGEST:
        raise FrameFault(f"it has {len(frame)} bytes: a test run takes {LONGEST} at the most")
    return frame


class Carried(NamedTuple):
    """What IP says of a frame: of whole ones, cut short, or damaged.

    Attributes:
        udp: what stands behind the IP header, the UDP header first; empty: it is not UDP, or has no header.
        is_later: a fragment but the first: what stands there is no header.
    """

    source: IPAddress
    destination: IPAddress
    udp: bytes
    is_later: bool


def carried(frame: bytes) -> Carried | None:
    """Of an Ethernet frame; None if it is not IP, or not as much of it as an IP header. Never raises."""
    ethertype, ip = int.from_bytes(frame[12:ETHERNET], "big"), frame[ETHERNET:]
    if ethertype == _IPV4 and len(ip) >= IPV4_HEADER:
        udp = ip[4 * (ip[0] & 0xF) :] if ip[9] == _UDP else b""
        is_later = bool(int.from_bytes(ip[6:8], "big") & 0x1FFF)
        found = Carried(IPv4Address(ip[12:16]), IPv4Address(ip[16:20]), udp, is_later)
    elif ethertype == _IPV6 and len(ip) >= IPV6_HEADER:
        udp = ip[IPV6_HEADER:] if ip[6] == _UDP else b""
        found = Carried(IPv6Address(ip[8:24]), IPv6Address(ip[24:40]), udp, False)
    else:
        return None
    return found if len(found.udp) >= UDP_HEADER else found._replace(udp=b"")


def read(frame: bytes) -> Packet:
    """What stands in a frame where UDP over IP without options has it."""
    dmac, smac, found = frame[:6], frame[6:12], carried(frame)
    if found is None:
        return Packet(None, None, b"", smac, dmac)
    if not found.udp:
        return Packet(Endpoint(found.source, 0), Endpoint(found.destination, 0), b"", smac, dmac)
    sport, dport, length = struct.unpack_from("!HHH", found.udp)
    payload = found.udp[UDP_HEADER : max(UDP_HEADER, length)]
    return Packet(Endpoint(found.source, sport), Endpoint(found.destination, dport), payload, smac, dmac)


def class_of(payload: bytes) -> str:
    """What a payload is by its first bytes (RFC 7983, RFC 8489)."""
    if not payload:
        return "empty"
    first = payload[0]
    if first <= 3:
        kind = int.from_bytes(payload[:2], "big") if len(payload) >= 20 else None
        names = {_BINDING_REQUEST: "request", 0x0101: "success response", 0x0111: "error response"}
        return "STUN" if kind is None else f"STUN {names.get(kind, f'message 0x{kind:04x}')}"
    if 20 <= first <= 63:
        return "DTLS"
    return "RTP or RTCP" if 128 <= first <= 191 else "no media"


def is_request(payload: bytes) -> bool:
    """Whether it is a STUN Binding Request."""
    return len(payload) >= 20 and payload[:2] == _BINDING_REQUEST.to_bytes(2, "big")


# ---- made up -----------------------------------------------------------------------------


def rtp(size: int = 160) -> bytes:
    """A packet of Opus' usual payload type."""
    return struct.pack("!BBHII", 0x80, 111, 1, 960, 0x0EA25407) + bytes(size)


def dtls() -> bytes:
    """The beginning of a handshake record (RFC 6347, 4.1)."""
    return struct.pack("!BHHIHH", 22, 0xFEFD, 0, 0, 1, 16) + bytes(16)


def binding_request(ufrag: str, sign: Sign | None) -> bytes:
    """As a client's agent asks (RFC 8445, 7.1). `sign`: makes the HMAC; None: nobody knows the pwd."""
    attributes = _attribute(_USERNAME, f"{ufrag}:why".encode()) + _attribute(_PRIORITY, bytes(4))
    attributes += _attribute(_CONTROLLING, bytes(8))
    transaction = b"earshot why?"

    def message(length: int) -> bytes:
        return struct.pack("!HHI", _BINDING_REQUEST, length, _COOKIE) + transaction + attributes

    if sign is not None:
        attributes += _attribute(_MESSAGE_INTEGRITY, sign(message(len(attributes) + 24)))
    crc = zlib.crc32(message(len(attributes) + 8)) ^ _FINGERPRINT_XOR
    attributes += _attribute(_FINGERPRINT, crc.to_bytes(4, "big"))
    return message(len(attributes))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def datagram(source: Endpoint, destination: Endpoint, payload: bytes) -> bytes:
    """A frame with checksums that are right. Raises FrameFault: the addresses are of two families."""
    if source.address.version != destination.address.version:
        raise FrameFault(f"{source} and {destination} are not of one family")
    length = UDP_HEADER + len(payload)
    udp = struct.pack("!HHHH", source.port, destination.port, length, 0) + payload
    addresses = source.address.packed + destination.address.packed
    check = _checksum(addresses + struct.pack("!II", length, _UDP) + udp) or 0xFFFF
    udp = udp[:6] + check.to_bytes(2, "big") + udp[8:]
    if source.address.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, IPV4_HEADER + length, 1, 0x4000, 64, _UDP, 0) + addresses
        head = head[:10] + _checksum(head).to_bytes(2, "big") + head[12:]
        return _MADE_UP_MACS + _IPV4.to_bytes(2, "big") + head + udp
    head = struct.pack("!IHBB", 6 << 28, length, _UDP, 64) + addresses
    return _MADE_UP_MACS + _IPV6.to_bytes(2, "big") + head + udp


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
