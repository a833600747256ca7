# SPDX-License-Identifier: Apache-2.0
"""Next hops, kept fresh outside the packet path.

The program takes a hop's MACs from ``hops`` as it finds them. XDP enters a hop when a client
binds by a neighbour that is not there yet; `NextHops.hop_for` enters those towards
transceivers. From then on this module owns the entry: it asks the kernel to resolve and
confirm the neighbour (the kernel itself sees none of the traffic, and would forget it),
follows what rtnetlink(7) tells of neighbours, links and routes, and writes what changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE, RTMGRP_LINK, RTMGRP_NEIGH

from control import abi, hostlinks
from control.abi import HopState
from control.addresses import IPAddress, from_bytes, to_bytes
from control.datapath import Datapath
from control.errors import UnreachableError
from control.hostlinks import HostLink
from control.libbpf import BPF_NOEXIST
from control.sweep import STATE_MASK, STRETCH

log = logging.getLogger(__name__)

SCAN_SECONDS = 0.2  # how soon a hop that XDP entered is looked after
CONFIRM_SECONDS = 10.0  # the kernel's neighbours go stale after 15 to 45 s
RETRY_SECONDS = 1.0  # for what does not resolve
UNUSED_SECONDS = 60.0  # after which a hop that nothing refers to is given up
QUARANTINE_SECONDS = 2.0  # in which a binding under way may still store it
RESOLVE_POLL_SECONDS = 0.05
RESOLVE_SECONDS = 3.0  # how long hop_for waits; the kernel gives up after three requests, 3 s

_NTF_USE = 0x01
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # reachable stale delay probe noarp permanent
_RTN_UNICAST = 1
_GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE


class Neighbour(NamedTuple):
    """Who is asked for a MAC, and on which link."""

    address: IPAddress
    ifindex: int

    def key(self) -> bytes:
        """As abi.HOP_KEY."""
        record = np.zeros(1, abi.HOP_KEY)
        record["neighbour"], record["ifindex"] = np.void(to_bytes(self.address)), self.ifindex
        return record.tobytes()


class NextHops:
    """The hops of one datapath. An async context manager: its work ends with the block, and a
    failure of that work ends the block.
    """

    def __init__(self, datapath: Datapath, interfaces: Sequence[str]) -> None:
        self._datapath = datapath
        self._interfaces = frozenset(interfaces)
        self._links: dict[int, HostLink] = {}
        self._numbers: dict[Neighbour, int] = {}
        self._towards: dict[IPAddress, int] = {}  # hops of transceivers, by their addresses
        self._unused_since: dict[Neighbour, float] = {}
        self._routes_changed = False
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> NextHops:
        async with contextlib.AsyncExitStack() as stack:
            self._netlink = await stack.enter_async_context(AsyncIPRoute())
            self._events = await stack.enter_async_context(AsyncIPRoute())
            await self._events.bind(_GROUPS)  # first listen, then read: nothing is missed in between
            async for message in await self._netlink.get_links():
                self._take_link(message)
            self._read_index()
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for work in (self._follow(), self._look_after()):
                stack.callback(group.create_task(work).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # ---- towards transceivers ------------------------------------------------------------

    async def hop_for(self, address: IPAddress) -> int:
        """The number of the hop towards an address, resolved.

        Raises:
            UnreachableError: no route, a route by a link that the program is not attached to,
                or nobody who answers within RESOLVE_SECONDS.
        """
        neighbour = await self._route(address)
        number = self._numbers.get(neighbour)
        if number is None or self._datapath.hops["resolved"][number] != HopState.RESOLVED:
            # First answered, then entered: addresses that nobody has take up no hops.
            await self._resolve(neighbour)
            number = self._numbers.get(neighbour) or self._enter(neighbour)
            await self._read_neighbour(neighbour)
        self._towards[address] = number
        return number

    async def _resolve(self, neighbour: Neighbour) -> None:
        """Returns once the kernel knows the neighbour's MAC."""
        for attempt in range(int(RESOLVE_SECONDS / RESOLVE_POLL_SECONDS)):
            if any(_is_valid(message) for message in await self._kernel_knows(neighbour)):
                return
            if attempt % 20 == 0:
                await self._solicit(neighbour)
            await asyncio.sleep(RESOLVE_POLL_SECONDS)
        name = self._links[neighbour.ifindex].name
        raise UnreachableError(f"{neighbour.address} on {name} does not answer")

    async def _route(self, address: IPAddress) -> Neighbour:
        try:
            routes = list(await self._netlink.route("get", dst=str(address)))
        except NetlinkError as error:
            raise UnreachableError(f"{address}: no route ({error.args[-1]})") from error
        if not routes or routes[0]["type"] != _RTN_UNICAST:
            raise UnreachableError(f"{address}: not a unicast address of another host")
        ifindex = routes[0].get("oif")
        link = self._links.get(ifindex)
        if link is None or link.name not in self._interfaces:
            leaves_by = link.name if link else f"link {ifindex}"
            raise UnreachableError(
                f"{address}: its route leaves by {leaves_by}, which is not among the interfaces"
            )
        via = routes[0].get("via")
        gateway = routes[0].get("gateway") or (via and via["addr"]) or str(address)
        return Neighbour(hostlinks.address(gateway), ifindex)

    def _enter(self, neighbour: Neighbour) -> int:
        number = self._datapath.free_hops.pop()
        if number is None:
            raise UnreachableError(f"{neighbour.address}: no room for another next hop")
        link = self._links[neighbour.ifindex]
        hop = np.zeros(1, abi.HOP)
        hop["ifindex"], hop["smac"], hop["mtu"] = link.ifindex, np.void(link.mac), min(link.mtu, 0xFFFF)
        self._datapath.hops[number : number + 1] = hop
        try:
            self._datapath.hop_index.put(neighbour.key(), np.uint32(number).tobytes(), BPF_NOEXIST)
        except FileExistsError:  # XDP entered the same one meanwhile
            self._datapath.hops[number : number + 1] = np.zeros(1, abi.HOP)
            self._datapath.free_hops.push(number)
            self._read_index()
            return self._numbers[neighbour]
        self._numbers[neighbour] = number
        return number

    # ---- looking after all of them -------------------------------------------------------

    async def _look_after(self) -> None:
        loop = asyncio.get_running_loop()
        confirm_at = retry_at = 0.0
        while True:
            in_use = int(np.count_nonzero(self._datapath.hops["ifindex"]))
            if in_use != len(self._numbers):
                for neighbour in self._read_index():
                    await self._read_neighbour(neighbour)
                    await self._solicit(neighbour)
            if self._routes_changed:
                self._routes_changed = False
                await self._follow_routes()
            if loop.time() >= retry_at:
                retry_at = loop.time() + RETRY_SECONDS
                states = self._datapath.hops["resolved"]
                for neighbour, number in list(self._numbers.items()):
                    if states[number] != HopState.RESOLVED:
                        await self._solicit(neighbour)
            if loop.time() >= confirm_at:
                confirm_at = loop.time() + CONFIRM_SECONDS
                for neighbour in list(self._numbers):
                    await self._solicit(neighbour)
                    await self._read_neighbour(neighbour)
                await self._give_up_unused(loop.time())
            await asyncio.sleep(SCAN_SECONDS)

    async def _give_up_unused(self, now: float) -> None:
        """Takes back the numbers of hops that no flow and no backend refers to any more."""
        used = hops_in_use(self._datapath)
        unused = {neighbour for neighbour, number in self._numbers.items() if number not in used}
        self._unused_since = {neighbour: self._unused_since.get(neighbour, now) for neighbour in unused}
        leaving = [n for n, since in self._unused_since.items() if now - since >= UNUSED_SECONDS]
        for neighbour in leaving:
            self._datapath.hop_index.delete(neighbour.key())
        if leaving:
            # CPUs remember what the index said last: from now on they ask it again.
            self._datapath.hops["taken_back"][0] += 1
            await asyncio.sleep(QUARANTINE_SECONDS)
        used = hops_in_use(self._datapath)
        for neighbour in leaving:
            number = self._numbers[neighbour]
            if number in used:  # a binding had it in hand: back into the index, unless a new one is there
                with contextlib.suppress(FileExistsError):
                    self._datapath.hop_index.put(neighbour.key(), np.uint32(number).tobytes(), BPF_NOEXIST)
                continue
            del self._numbers[neighbour], self._unused_since[neighbour]
            self._towards = {to: hop for to, hop in self._towards.items() if hop != number}
            self._datapath.hops[number : number + 1] = np.zeros(1, abi.HOP)
            self._datapath.free_hops.push(number)

    def _read_index(self) -> list[Neighbour]:
        """Reads the index; returns the neighbours that were not known."""
        keys, numbers = self._datapath.hop_index.read()
        new = []
        for key, number in zip(keys, numbers.tolist(), strict=True):
            neighbour = Neighbour(from_bytes(key["neighbour"].tobytes()), int(key["ifindex"]))
            if neighbour not in self._numbers:
                self._numbers[neighbour] = number
                new.append(neighbour)
        return new

    async def _solicit(self, neighbour: Neighbour) -> None:
        """Has the kernel resolve or confirm a neighbour, as if it had a packet for it."""
        try:
            await self._netlink.neigh(
                "replace",
                family=2 if neighbour.address.version == 4 else 10,
                dst=str(neighbour.address),
                ifindex=neighbour.ifindex,
                flags=_NTF_USE,
                state=0,
            )
        except NetlinkError as error:
            log.debug("event=solicit_failed neighbour=%s error=%s", neighbour.address, error)

    async def _kernel_knows(self, neighbour: Neighbour) -> list[Any]:
        try:
            return list(
                await self._netlink.neigh("get", dst=str(neighbour.address), ifindex=neighbour.ifindex)
            )
        except NetlinkError:
            return []  # nothing

    async def _read_neighbour(self, neighbour: Neighbour) -> None:
        for message in await self._kernel_knows(neighbour):
            self._take_neighbour(message)

    async def _follow_routes(self) -> None:
        for address, old in list(self._towards.items()):
            try:
                number = await self.hop_for(address)
            except UnreachableError as error:
                # The way that worked is better than none: the route may come back.
                log.warning("event=transceiver_unreachable error=%s", error)
                continue
            if number != old:
                addresses = self._datapath.backends["addr"]
                towards = np.flatnonzero(addresses == np.void(to_bytes(address)))
                self._datapath.backends["hop"][towards] = number
                log.info("event=next_hop_changed towards=%s backends=%d", address, len(towards))

    # ---- what the kernel tells -----------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            # get() ends with each datagram of the kernel's.
            async for message in self._events.get():
                event = message["event"]
                if event == "RTM_NEWNEIGH":
                    self._take_neighbour(message)
                elif event == "RTM_NEWLINK":
                    self._take_link(message)
                elif event in ("RTM_NEWROUTE", "RTM_DELROUTE"):
                    self._routes_changed = True

    def _take_neighbour(self, message: Any) -> None:
        destination, mac = message.get("dst"), message.get("lladdr")
        if destination is None or not _is_valid(message):
            return  # a neighbour that stopped answering keeps its last MAC: there is no better one
        neighbour = Neighbour(hostlinks.address(destination), message["ifindex"])
        number = self._numbers.get(neighbour)
        if number is not None:
            _store_word(
                self._datapath.hops, number, "dmac", bytes.fromhex(mac.replace(":", "")), HopState.RESOLVED
            )

    def _take_link(self, message: Any) -> None:
        link = hostlinks.from_netlink(message)
        if link is None:
            return
        before = self._links.get(link.ifindex)
        self._links[link.ifindex] = link
        if link.name not in self._interfaces or before == link:
            return
        info = np.zeros(1, abi.LINK_INFO)
        info["mac"], info["mtu"] = np.void(link.mac), min(link.mtu, 0xFFFF)
        self._datapath.links.put(np.uint32(link.ifindex).tobytes(), info.tobytes())
        for number in np.flatnonzero(self._datapath.hops["ifindex"] == link.ifindex):
            _store_word(self._datapath.hops, int(number), "smac", link.mac, min(link.mtu, 0xFFFF))


def _is_valid(message: Any) -> bool:
    """Whether an RTM_NEWNEIGH message has a MAC to send to."""
    return message.get("lladdr") is not None and bool(message["state"] & _NUD_VALID)


def hops_in_use(datapath: Datapath) -> frozenset[int]:
    """The numbers of hops that a flow or a registered backend refers to."""
    used = np.zeros(1 << 16, np.bool_)  # by any 16-bit number
    for start in range(0, len(datapath.flows), STRETCH):
        flows = datapath.flows[start : start + STRETCH]
        used[flows["client_hop"][(flows["state"] & STATE_MASK) != abi.FlowState.FREE]] = True
    used[datapath.backends["hop"][datapath.backends["users"] > 0]] = True
    return frozenset(np.flatnonzero(used).tolist())


def _store_word(hops: Any, number: int, field: str, mac: bytes, beside: int) -> None:
    """Writes a MAC and its neighbour field as the one aligned 64-bit store that abi.h asks for."""
    word = np.frombuffer(mac + np.uint16(beside).tobytes(), np.uint64)[0]
    offset = hops.dtype.fields[field][1]
    hops.view(np.uint64).reshape(len(hops), -1)[number, offset // 8] = word
