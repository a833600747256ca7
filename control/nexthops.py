# SPDX-License-Identifier: Apache-2.0
"""Next hops, kept fresh outside the packet path.

The program takes a hop's MACs from ``hops`` as it finds them. XDP enters a hop when a client
binds by a neighbour that is not there yet; `NextHops.hop_for` enters those towards
transceivers. From then on this module owns the entry: it asks the kernel to resolve and
confirm the neighbour (the kernel itself sees none of the traffic, and would forget it),
follows what rtnetlink(7) tells of neighbours, links and routes, and writes what changed: for
flows and backends alike, and without a packet from anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

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
from control.logs import event
from control.rerouting import Rerouter
from control.routes import Asked, Routes, Way
from control.ways import hops_in_use

log = logging.getLogger(__name__)

SCAN_SECONDS = 0.2  # how soon a hop that XDP entered is looked after
CONFIRM_SECONDS = 10.0  # the kernel's neighbours go stale after 15 to 45 s
RETRY_SECONDS = 1.0  # for what does not resolve
ROUTES_SECONDS = 60.0  # how often routes are asked for although the kernel has told of no change
UNUSED_SECONDS = 60.0  # after which a hop that nothing refers to is given up
QUARANTINE_SECONDS = 2.0  # in which a binding under way may still store it
RESOLVE_POLL_SECONDS = 0.05
RESOLVE_SECONDS = 3.0  # how long hop_for waits; the kernel gives up after three requests, 3 s

_NTF_USE = 0x01
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # reachable stale delay probe noarp permanent
_IFF_LOWER_UP = 0x10000
# Rules and nexthop objects, too, move routes: RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE, RTNLGRP_NEXTHOP.
_RULES = 1 << 7 | 1 << 18 | 1 << 31
_GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | _RULES
_ROUTES_MOVE = frozenset(
    f"RTM_{what}{kind}" for what in ("NEW", "DEL") for kind in ("ROUTE", "RULE", "NEXTHOP", "LINK")
)


def _key(way: Way) -> bytes:
    """As abi.HOP_KEY."""
    record = np.zeros(1, abi.HOP_KEY)
    record["neighbour"], record["ifindex"] = np.void(to_bytes(way.neighbour)), way.ifindex
    return record.tobytes()


class NextHops:
    """The hops of one datapath. An async context manager: its work ends with the block, and a
    failure of that work ends the block.
    """

    def __init__(self, datapath: Datapath, interfaces: Sequence[str]) -> None:
        self._datapath = datapath
        self._interfaces = frozenset(interfaces)
        self._links: dict[int, HostLink] = {}
        self._numbers: dict[Way, int] = {}
        self._lost: set[int] = (
            set()
        )  # hops that are filled, and not in the index: somebody has died over them
        self._unused_since: dict[int, float] = {}
        self._routes_changed = True  # before we came
        self._down: set[int] = set()  # links without a carrier
        self._came_up: set[int] = set()  # links whose neighbours may be others now
        self._rerouter = Rerouter(self, datapath)
        self._stack = contextlib.AsyncExitStack()

    def reconfigure(self, interfaces: Sequence[str]) -> None:
        """The program is attached to other links from now on."""
        self._interfaces = frozenset(interfaces)
        self._routes_changed = True

    @property
    def has_all_links(self) -> bool:
        """Whether none of the links that the program is attached to is down."""
        down = (self._links.get(index) for index in self._down)
        return not any(link is not None and link.name in self._interfaces for link in down)

    @property
    def have_macs(self) -> bool:
        """Whether there is none that would have packets dropped since its neighbour has not answered yet."""
        hops = self._datapath.hops
        return not np.any((hops["ifindex"] != 0) & (hops["resolved"] == HopState.UNRESOLVED))

    async def __aenter__(self) -> NextHops:
        async with contextlib.AsyncExitStack() as stack:
            self._netlink = await stack.enter_async_context(AsyncIPRoute())
            self._events = await stack.enter_async_context(AsyncIPRoute())
            await self._events.bind(_GROUPS)  # first listen, then read: nothing is missed in between
            self._routes = Routes()
            stack.callback(self._routes.close)
            async for message in await self._netlink.get_links():
                self._take_link(message)
            self._read_index()
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for work in (self._follow(), self._look_after()):
                stack.callback(group.create_task(work).cancel)
            stack.callback(self._rerouter.stop)
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
        way = self._route(address)
        number = self.known(way)
        return number if number is not None else await self.make_known(way)

    def known(self, way: Way) -> int | None:
        """The number of a hop that is resolved."""
        number = self._numbers.get(way)
        if number is None or self._datapath.hops["resolved"][number] != HopState.RESOLVED:
            return None
        return number

    async def make_known(self, way: Way) -> int:
        """The number of a hop, resolved. First answered, then entered: what nobody has takes up no hops.

        Raises:
            UnreachableError: nobody answers within RESOLVE_SECONDS, or there is no room.
        """
        await self._resolve(way)
        number = self._numbers.get(way) or self._enter(way)
        await self._read_neighbour(way)
        return number

    async def _resolve(self, way: Way) -> None:
        """Returns once the kernel knows the neighbour's MAC."""
        for attempt in range(int(RESOLVE_SECONDS / RESOLVE_POLL_SECONDS)):
            if any(_is_valid(message) for message in await self._kernel_knows(way)):
                return
            if attempt % 20 == 0:
                await self._solicit(way)
            await asyncio.sleep(RESOLVE_POLL_SECONDS)
        name = self._links[way.ifindex].name
        raise UnreachableError(f"{way.neighbour} on {name} does not answer")

    def _route(self, address: IPAddress) -> Way:
        (way,) = self._routes.ways([Asked(address)])
        if way is None:
            raise UnreachableError(f"{address}: no route, or not a unicast address of another host")
        if not self.is_ours(way):
            link = self._links.get(way.ifindex)
            leaves_by = link.name if link else f"link {way.ifindex}"
            raise UnreachableError(
                f"{address}: its route leaves by {leaves_by}, which is not among the interfaces"
            )
        return way

    def is_ours(self, way: Way) -> bool:
        """Whether it leaves by a link that the program is attached to."""
        link = self._links.get(way.ifindex)
        return link is not None and link.name in self._interfaces

    def _enter(self, way: Way) -> int:
        number = self._datapath.free_hops.pop()
        if number is None:
            raise UnreachableError(f"{way.neighbour}: no room for another next hop")
        link = self._links[way.ifindex]
        hop = np.zeros(1, abi.HOP)
        hop["ifindex"], hop["smac"], hop["mtu"] = link.ifindex, np.void(link.mac), min(link.mtu, 0xFFFF)
        self._datapath.hops[number : number + 1] = hop
        try:
            self._datapath.hop_index.put(_key(way), np.uint32(number).tobytes(), BPF_NOEXIST)
        except FileExistsError:  # XDP entered the same one meanwhile
            self._datapath.hops[number : number + 1] = np.zeros(1, abi.HOP)
            self._datapath.free_hops.push(number)
            self._read_index()
            return self._numbers[way]
        self._numbers[way] = number
        return number

    # ---- looking after all of them -------------------------------------------------------

    async def _look_after(self) -> None:
        loop = asyncio.get_running_loop()
        confirm_at = retry_at = routes_at = routes_not_before = 0.0
        while True:
            in_use = int(np.count_nonzero(self._datapath.hops["ifindex"]))
            if in_use != len(self._numbers) + len(self._lost):
                for way in self._read_index():
                    await self._read_neighbour(way)
                    await self._solicit(way)
            if self._came_up:
                up, self._came_up = self._came_up, set()
                for way in [way for way in self._numbers if way.ifindex in up]:
                    await self._solicit(way)
            news = self._routes_changed or self._rerouter.has_news
            if (news and loop.time() >= routes_not_before) or loop.time() >= routes_at:
                self._routes_changed = False
                started = loop.time()
                routes_at = started + ROUTES_SECONDS
                await self._rerouter.follow(self._routes)
                # Routes may move all the time: a fifth of ours is enough for them.
                routes_not_before = loop.time() + 4 * (loop.time() - started)
            if loop.time() >= retry_at:
                retry_at = loop.time() + RETRY_SECONDS
                states = self._datapath.hops["resolved"]
                for way, number in list(self._numbers.items()):
                    if states[number] != HopState.RESOLVED:
                        await self._solicit(way)
                self._routes_changed |= self._rerouter.has_silent
            if loop.time() >= confirm_at:
                confirm_at = loop.time() + CONFIRM_SECONDS
                for way in list(self._numbers):
                    await self._solicit(way)
                    await self._read_neighbour(way)
                await self._give_up_unused(loop.time())
            await asyncio.sleep(SCAN_SECONDS)

    async def _give_up_unused(self, now: float) -> None:
        """Takes back the numbers of hops that no flow and no backend refers to any more."""
        used = hops_in_use(self._datapath)
        unused = (set(self._numbers.values()) | self._lost) - used
        self._unused_since = {number: self._unused_since.get(number, now) for number in unused}
        leaving = {number for number, since in self._unused_since.items() if now - since >= UNUSED_SECONDS}
        ways = {number: way for way, number in self._numbers.items() if number in leaving}
        for way in ways.values():
            self._datapath.hop_index.delete(_key(way))
        if leaving:
            # CPUs remember what the index said last: from now on they ask it again.
            self._datapath.hops["taken_back"][0] += 1
            await asyncio.sleep(QUARANTINE_SECONDS)
        used = hops_in_use(self._datapath)
        for number in leaving:
            way_back = ways.get(number)
            if number in used:  # a binding had it in hand: back into the index, unless a new one is there
                if way_back is not None:
                    with contextlib.suppress(FileExistsError):
                        self._datapath.hop_index.put(_key(way_back), np.uint32(number).tobytes(), BPF_NOEXIST)
                continue
            if way_back is not None:
                del self._numbers[way_back]
            self._lost.discard(number)
            del self._unused_since[number]
            self._datapath.hops[number : number + 1] = np.zeros(1, abi.HOP)
            self._datapath.free_hops.push(number)

    def _read_index(self) -> list[Way]:
        """Reads the index; returns the neighbours that were not known."""
        keys, numbers = self._datapath.hop_index.read()
        new = []
        for key, number in zip(keys, numbers.tolist(), strict=True):
            way = Way(from_bytes(key["neighbour"].tobytes()), int(key["ifindex"]))
            if way not in self._numbers:
                self._numbers[way] = number
                new.append(way)
        # One that XDP is just entering looks so, too, and is found in the index the next time.
        filled = np.flatnonzero(self._datapath.hops["ifindex"]).tolist()
        self._lost = set(filled) - set(self._numbers.values())
        return new

    async def _solicit(self, way: Way) -> None:
        """Has the kernel resolve or confirm a neighbour, as if it had a packet for it."""
        try:
            await self._netlink.neigh(
                "replace",
                family=2 if way.neighbour.version == 4 else 10,
                dst=str(way.neighbour),
                ifindex=way.ifindex,
                flags=_NTF_USE,
                state=0,
            )
        except NetlinkError as error:
            event(log, logging.DEBUG, "solicit_failed", neighbour=way.neighbour, error=error)

    async def _kernel_knows(self, way: Way) -> list[Any]:
        try:
            return list(await self._netlink.neigh("get", dst=str(way.neighbour), ifindex=way.ifindex))
        except NetlinkError:
            return []  # nothing

    async def _read_neighbour(self, way: Way) -> None:
        for message in await self._kernel_knows(way):
            self._take_neighbour(message)

    # ---- what the kernel tells -----------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            # get() ends with each datagram of the kernel's.
            async for message in self._events.get():
                kind = message["event"]
                self._routes_changed |= kind in _ROUTES_MOVE
                if kind == "RTM_NEWNEIGH":
                    self._take_neighbour(message)
                elif kind == "RTM_NEWLINK":
                    self._take_link(message)

    def _take_neighbour(self, message: Any) -> None:
        destination, mac = message.get("dst"), message.get("lladdr")
        if destination is None or not _is_valid(message):
            return  # a neighbour that stopped answering keeps its last MAC: there is no better one
        number = self._numbers.get(Way(hostlinks.address(destination), message["ifindex"]))
        if number is not None:
            _store_word(
                self._datapath.hops, number, "dmac", bytes.fromhex(mac.replace(":", "")), HopState.RESOLVED
            )

    def _take_link(self, message: Any) -> None:
        link = hostlinks.from_netlink(message)
        if link is None:
            return
        if message["flags"] & _IFF_LOWER_UP:
            if link.ifindex in self._down:
                self._down.discard(link.ifindex)
                self._came_up.add(link.ifindex)
        else:
            self._down.add(link.ifindex)
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


def _store_word(hops: Any, number: int, field: str, mac: bytes, beside: int) -> None:
    """Writes a MAC and its neighbour field as the one aligned 64-bit store that abi.h asks for."""
    word = np.frombuffer(mac + np.uint16(beside).tobytes(), np.uint64)[0]
    offset = hops.dtype.fields[field][1]
    hops.view(np.uint64).reshape(len(hops), -1)[number, offset // 8] = word
