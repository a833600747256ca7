# SPDX-License-Identifier: Apache-2.0
"""Moves flows and backends to other next hops when the kernel's routes have moved.

A client is not waited for: that it is reached another way now is asked of the kernel, not learned from its
next packet. What is to be moved is read off the maps, so it does not matter when the daemon was started.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from control.datapath import Datapath
from control.errors import UnreachableError
from control.logs import event
from control.routes import Asked, Routes, Way
from control.ways import Clients, backends_in_use, move_backends

SLICE = 500  # clients asked for between two turns of others, some 3 ms of work
SAID_AT_MOST = 8  # addresses without a route that are logged at a time

log = logging.getLogger(__name__)


class Hops(Protocol):
    """What of the next hops is needed here (control/nexthops.py)."""

    def is_ours(self, way: Way) -> bool: ...
    def known(self, way: Way) -> int | None: ...
    async def make_known(self, way: Way) -> int: ...


class Rerouter:
    """Follows the routes of one datapath's flows and backends."""

    def __init__(self, hops: Hops, datapath: Datapath) -> None:
        self._hops = hops
        self._datapath = datapath
        self._resolving: dict[Way, asyncio.Task[None]] = {}
        self._wanted: set[Way] = set()  # ways that something would go, were they known
        self._resolved = False  # one that was wanted has become known
        self._silent: set[Way] = set()  # those whose neighbour does not answer
        self._unrouted: set[str] = set()  # addresses that nothing leads to, and of which that was said

    @property
    def has_news(self) -> bool:
        """Whether a neighbour that something waits for is known now: time to follow again."""
        return self._resolved

    @property
    def has_silent(self) -> bool:
        """Whether a neighbour that something waits for has not answered: worth another try."""
        return bool(self._silent)

    def stop(self) -> None:
        for task in self._resolving.values():
            task.cancel()

    async def follow(self, routes: Routes) -> None:
        """Moves what goes another way now. What has nowhere to go stays: the route may come back."""
        self._resolved = False
        self._wanted.clear()
        unrouted: set[str] = set()
        for asked, hop in backends_in_use(self._datapath):
            number = self._hop_now(asked, routes.ways([asked])[0], unrouted)
            if number is not None and number != hop:
                moved = move_backends(self._datapath, asked, number)
                event(log, logging.INFO, "next_hop_changed", towards=asked.destination, backends=moved)
        clients = Clients.read(self._datapath)
        moves: dict[int, int] = {}
        for start in range(0, len(clients.hops), SLICE):
            part = clients.asked(start, start + SLICE)
            for position, (asked, way) in enumerate(zip(part, routes.ways(part), strict=True), start):
                number = self._hop_now(asked, way, unrouted)
                if number is not None and number != clients.hops[position]:
                    moves[position] = number
            await asyncio.sleep(0)
        if moved := clients.move(self._datapath, moves):
            event(log, logging.INFO, "next_hop_changed", clients=len(moves), flows=moved)
        self._silent &= self._wanted
        for address in sorted(unrouted - self._unrouted)[:SAID_AT_MOST]:
            event(log, logging.WARNING, "no_route", address=address, sent_to="where it was reached last")
        self._unrouted = unrouted

    def _hop_now(self, asked: Asked, way: Way | None, unrouted: set[str]) -> int | None:
        """The hop of a way that can be gone; None, for now or for good, where there is none."""
        if way is None or not self._hops.is_ours(way):
            unrouted.add(str(asked.destination))
            return None
        number = self._hops.known(way)
        if number is None:
            self._wanted.add(way)
            if way not in self._resolving:
                self._resolving[way] = asyncio.create_task(self._resolve(way))
        return number

    async def _resolve(self, way: Way) -> None:
        try:
            await self._hops.make_known(way)
        except UnreachableError as error:
            if way not in self._silent:
                self._silent.add(way)
                event(log, logging.WARNING, "unreachable", error=error, sent_to="where it was reached last")
        else:
            self._silent.discard(way)
            self._resolved = True
        finally:
            del self._resolving[way]
