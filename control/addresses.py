# SPDX-License-Identifier: Apache-2.0
"""IP addresses as the maps hold them: 16 big-endian bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_MAPPED = bytes(10) + b"\xff\xff"


class Endpoint(NamedTuple):
    """An address and a UDP port (host byte order)."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        return format_endpoint(self.address, self.port)


def to_bytes(address: IPAddress) -> bytes:
    """The 16 bytes of an address."""
    return _MAPPED + address.packed if address.version == 4 else address.packed


def from_bytes(raw: bytes) -> IPAddress:
    """The address of 16 bytes; an IPv4-mapped one comes back as IPv4."""
    if raw.startswith(_MAPPED):
        return IPv4Address(raw[12:])
    return IPv6Address(raw)


def parse_endpoint(text: str) -> Endpoint:
    """``192.0.2.1:3478`` or ``[2001:db8::1]:3478``.

    Raises:
        ValueError: it is neither, or the port is not 1 to 65535.
    """
    host, separator, port_text = text.rpartition(":")
    if not separator:
        raise ValueError(f"{text!r} has no port: expected ADDRESS:PORT or [ADDRESS]:PORT")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ip_address(host[1:-1] if bracketed else host)
    if bracketed != (address.version == 6):
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, an IPv4 address does not")
    if not (port_text.isascii() and port_text.isdecimal() and 1 <= int(port_text) <= 65535):
        raise ValueError(f"{text!r}: the port is not a number from 1 to 65535")
    return Endpoint(address, int(port_text))


def format_endpoint(address: IPAddress, port: int) -> str:
    """The inverse of parse_endpoint."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
