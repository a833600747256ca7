# SPDX-License-Identifier: Apache-2.0
"""The sockets that calls send and receive with: the one place to change for another way to share ports.

`MediaPorts` is what a call's ICE connection asks for its sockets; `PortPerCall` gives each call UDP
sockets of its own. Everything above sees `MediaProtocol` objects only.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple, Protocol

import aioice.ice

IPAddress = IPv4Address | IPv6Address

STUN_FIRST_BYTES = range(4)  # RFC 7983


class Endpoint(NamedTuple):
    """An address and a port."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


class Route(NamedTuple):
    """Where a call's media comes to, and the address of the relay that clients are told instead."""

    media_address: IPAddress
    vip: Endpoint


@dataclass
class Traffic:
    """UDP datagrams of all calls since the process started, and their payload bytes."""

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    malformed: int = 0


class MediaProtocol(aioice.ice.StunProtocol):  # type: ignore[misc]  # aioice is untyped to mypy
    """One call's view of one socket: tells STUN from media, and counts."""

    def __init__(self, connection: Any, route: Route, traffic: Traffic) -> None:
        super().__init__(connection)
        self.route = route
        self._traffic = traffic

    @property
    def endpoint(self) -> Endpoint:
        """Where it is bound: what the relay sends to."""
        return Endpoint(self.route.media_address, self.transport.get_extra_info("sockname")[1])

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._traffic.packets_in += 1
        self._traffic.bytes_in += len(data)
        if not data:
            return  # aiortc looks at the first byte without asking whether there is one
        if data[0] not in STUN_FIRST_BYTES:
            self.receiver.media_received(data, (addr[0], addr[1]))
            return
        try:
            super().datagram_received(data, addr)
        except (struct.error, IndexError):  # aioice's reading of attributes that are cut short
            self._traffic.malformed += 1

    async def send_data(self, data: bytes, addr: tuple[str, int]) -> None:
        self._send(data, addr)

    def send_stun(self, message: Any, addr: tuple[str, int]) -> None:
        self._send(bytes(message), addr)

    def _send(self, data: bytes, addr: tuple[str, int]) -> None:
        self._traffic.packets_out += 1
        self._traffic.bytes_out += len(data)
        self.transport.sendto(data, addr)


class MediaPorts(Protocol):
    """Gives calls their sockets."""

    async def open(self, connection: Any, route: Route) -> MediaProtocol:
        """A protocol on the route's media address that hands what it receives to `connection`.

        Raises `OSError` if there is no socket to be had.
        """


class PortPerCall:
    """A UDP socket, and so a port, for each call and address."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    async def open(self, connection: Any, route: Route) -> MediaProtocol:
        _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: MediaProtocol(connection, route, self._traffic),
            local_addr=(str(route.media_address), 0),
        )
        return protocol
