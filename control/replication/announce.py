# SPDX-License-Identifier: Apache-2.0
"""Another relay's address on a link of this host, and telling the neighbours so.

The kernel takes an address away by itself when its lifetime is over: a daemon that has died or is frozen
keeps none for longer than that.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from control.addresses import IPAddress
from control.errors import EarshotError

LIFE_SECONDS = 4  # of an address that is not renewed
_IFA_F_NODAD = 0x02
_BROADCAST = b"\xff" * 6
_ETH_P_ARP, _ETH_P_IP, _ETH_P_IPV6 = 0x0806, 0x0800, 0x86DD
_ALL_NODES, _ALL_NODES_MAC = IPv6Address("ff02::1"), bytes.fromhex("333300000001")
_NEIGHBOUR_ADVERTISEMENT, _OVERRIDE, _TARGET_LINK_LAYER = 136, 0x20000000, 2


class AnnounceError(EarshotError):
    """An address cannot be taken here."""


def gratuitous_arp(address: IPv4Address, mac: bytes) -> bytes:
    """The announcement of RFC 5227, 3: a request for one's own address."""
    body = struct.pack("!HHBBH", 1, _ETH_P_IP, 6, 4, 1)
    return (
        _BROADCAST
        + mac
        + _ETH_P_ARP.to_bytes(2, "big")
        + body
        + (mac + address.packed)
        + (bytes(6) + address.packed)
    )


def unsolicited_advertisement(address: IPv6Address, mac: bytes) -> bytes:
    """What RFC 4861, 7.2.6 sends to all nodes, to be believed over what they know."""
    option = struct.pack("!BB", _TARGET_LINK_LAYER, 1) + mac
    body = struct.pack("!I", _OVERRIDE) + address.packed + option
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!I3xB", 4 + len(body), 58)
    unsummed = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, 0) + body
    icmp = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, _checksum(pseudo + unsummed)) + body
    header = struct.pack("!IHBB", 6 << 28, len(icmp), 58, 255) + address.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + mac + _ETH_P_IPV6.to_bytes(2, "big") + header + icmp


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Announcer:
    """Addresses on the links where this relay has its own. An async context manager."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Announcer:
        self._netlink: Any = await self._stack.enter_async_context(AsyncIPRoute())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def link_of(self, own: Collection[IPAddress], version: int) -> tuple[int, str, bytes]:
        """Index, name and MAC of the link that has one of these addresses of that family.

        Raises:
            AnnounceError: none of them is on a link that has neighbours.
        """
        wanted = {str(address) for address in own if address.version == version}
        async for message in await self._netlink.get_addr(family=2 if version == 4 else 10):
            found = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
            if found is None or str(ip_address(found)) not in wanted:
                continue
            async for link in await self._netlink.get_links(message["index"]):
                mac = link.get("IFLA_ADDRESS")
                if mac and any(raw := bytes.fromhex(mac.replace(":", ""))):
                    return int(message["index"]), str(link.get("IFLA_IFNAME")), raw
        raise AnnounceError(f"no relay address of IPv{version} is on a link with neighbours")

    async def put(self, address: IPAddress, ifindex: int) -> None:
        """The address is this host's for LIFE_SECONDS; again, to have it for longer. Raises AnnounceError."""
        try:
            await self._netlink.addr(
                "replace",
                index=ifindex,
                family=2 if address.version == 4 else 10,
                address=str(address),
                prefixlen=address.max_prefixlen,
                flags=_IFA_F_NODAD if address.version == 6 else 0,
                preferred_lft=LIFE_SECONDS,
                valid_lft=LIFE_SECONDS,
            )
        except NetlinkError as error:
            raise AnnounceError(f"{address}: {error}") from error

    async def drop(self, address: IPAddress, ifindex: int) -> None:
        """The address is not this host's any more."""
        with contextlib.suppress(NetlinkError):
            await self._netlink.addr(
                "del", index=ifindex, address=str(address), prefixlen=address.max_prefixlen
            )

    @staticmethod
    def announce(address: IPAddress, name: str, mac: bytes) -> None:
        """Tells all neighbours on a link that the address is here. Raises AnnounceError."""
        if isinstance(address, IPv4Address):
            frame = gratuitous_arp(address, mac)
        else:
            frame = unsolicited_advertisement(address, mac)
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
                link.bind((name, 0))
                link.send(frame)
        except OSError as error:
            raise AnnounceError(f"{address}: cannot be announced on {name}: {error.strerror}") from error
