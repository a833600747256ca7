# SPDX-License-Identifier: Apache-2.0
"""Addresses of other relays that this host answers for: on its link, and announced there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from control.addresses import IPAddress
from control.logs import event
from control.replication.announce import AnnounceError, Announcer

PUT_NS = 1_000_000_000  # how often a taken address's lifetime begins anew
ANNOUNCEMENTS = 5  # an announcement may be lost

_log = logging.getLogger(__name__)


class Taken:
    """Of one relay.

    Attributes:
        links: of each address that this host answers for, the link's index.
        since: when it began to.
        takeovers: how often it has begun to.
        refused: addresses that cannot be taken here.
    """

    def __init__(
        self,
        announcer: Announcer,
        own: Callable[[], Collection[IPAddress]],
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.links: dict[IPAddress, int] = {}
        self.since: dict[IPAddress, int] = {}
        self.takeovers = 0
        self.refused: set[IPAddress] = set()
        self._announcer, self._own, self._now = announcer, own, now
        self._taking: IPAddress | None = None
        self._put_at: dict[IPAddress, int] = {}
        self._to_announce: dict[IPAddress, int] = {}

    def holds(self, address: IPAddress) -> bool:
        """Whether this host answers for an address, or is about to."""
        return address in self.links or address == self._taking

    async def take(self, address: IPAddress, begin_by: int | None = None) -> None:
        """Answers for an address from now on; again, to go on with it.

        `begin_by`: after that it is not put on the link, unless it is there: it may be somebody else's again.
        """
        now = self._now()
        if self._put_at.get(address, -PUT_NS) + PUT_NS > now or self._is_late(address, begin_by):
            return
        self._put_at[address] = now
        self._taking = address
        ifindex = None
        try:
            ifindex, name, mac = await self._announcer.link_of(self._own(), address.version)
            if self._is_late(address, begin_by):
                del self._put_at[address]
                return
            await self._announcer.put(address, ifindex)
            if address not in self.links:
                self._announcer.announce(address, name, mac)
        except AnnounceError as error:
            self.refused.add(address)
            if ifindex is not None:
                await self._announcer.drop(address, ifindex)
            self._forget(address)
            event(_log, logging.ERROR, "relay_address_not_taken", address=address, message=error)
            return
        finally:
            self._taking = None
        if address not in self.links:
            self.links[address], self.since[address] = ifindex, now
            self.takeovers += 1
            self._to_announce[address] = ANNOUNCEMENTS
            event(_log, logging.WARNING, "relay_address_taken", address=address, link=name)

    def _is_late(self, address: IPAddress, begin_by: int | None) -> bool:
        return begin_by is not None and address not in self.links and self._now() >= begin_by

    async def give_back(self, address: IPAddress) -> None:
        """Answers for it no longer, if it did."""
        self._put_at.pop(address, None)
        self._to_announce.pop(address, None)
        ifindex = self.links.get(address)
        if ifindex is not None:
            await self._announcer.drop(address, ifindex)
            self._forget(address)
            event(_log, logging.INFO, "relay_address_given_back", address=address)

    def _forget(self, address: IPAddress) -> None:
        self.links.pop(address, None)
        self.since.pop(address, None)

    def announce_soon(self, addresses: Collection[IPAddress]) -> None:
        """Addresses are here, and neighbours may think otherwise."""
        self._to_announce.update(dict.fromkeys(addresses, ANNOUNCEMENTS))

    async def announce(self) -> None:
        """Again, for what was taken or has come back lately. Raises AnnounceError."""
        for address, left in list(self._to_announce.items()):
            if left <= 1:
                del self._to_announce[address]
            else:
                self._to_announce[address] = left - 1
            _, name, mac = await self._announcer.link_of(self._own(), address.version)
            self._announcer.announce(address, name, mac)
