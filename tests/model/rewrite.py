# SPDX-License-Identifier: Apache-2.0
"""What a forwarded frame looks like (5.2): taken apart, changed, and put together anew."""

from __future__ import annotations

from tests.model.checksums import total, with_error
from tests.model.state import Endpoint, Hop
from tests.model.wire import ETHERNET_BYTES, IPV4_BYTES, UDP, Packet, number


def forwarded(frame: bytes, packet: Packet, source: Endpoint, destination: Endpoint, hop: Hop) -> bytes:
    """The frame from source to destination, by a hop. Its length and all it does not name stay."""
    end = ETHERNET_BYTES + packet.ip_bytes
    header, segment = frame[ETHERNET_BYTES : packet.udp], frame[packet.udp : end]
    new_header = (_ipv4 if packet.version == 4 else _ipv6)(header, source, destination)
    new_segment = _udp(header, segment, packet, source, destination)
    ethernet = hop.dmac + hop.smac + frame[12:ETHERNET_BYTES]
    return ethernet + new_header + new_segment + frame[end:]


def _ipv4(header: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    """RFC 791, 3.1."""
    before, protocol = header[:8], header[9:10]
    ttl = bytes([header[8] - 1])
    addresses = source.address.packed + destination.address.packed
    check = with_error(total(header), total(before + ttl + protocol + addresses))
    assert len(header) == IPV4_BYTES
    return before + ttl + protocol + check.to_bytes(2, "big") + addresses


def _ipv6(header: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    """RFC 8200, 3."""
    return header[:7] + bytes([header[7] - 1]) + source.address.packed + destination.address.packed


def _udp(header: bytes, segment: bytes, packet: Packet, source: Endpoint, destination: Endpoint) -> bytes:
    """RFC 768; over IPv6, RFC 8200, 8.1."""
    ports = source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")
    length, check, data = segment[4:6], number(segment, 6), segment[8:]
    if check:  # 0: there is none, and there will be none
        old = _pseudo_header(packet.source.packed + packet.destination.packed, segment)
        new = _pseudo_header(source.address.packed + destination.address.packed, segment)
        error = (old + total(segment)) % 0xFFFF
        check = with_error(error, new + total(ports + length + data)) or 0xFFFF
    return ports + length + check.to_bytes(2, "big") + data


def _pseudo_header(addresses: bytes, segment: bytes) -> int:
    return total(addresses) + len(segment) + UDP
