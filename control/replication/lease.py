# SPDX-License-Identifier: Apache-2.0
"""Whose the relay addresses of a group are at the moment: leases in the directory, mirrored into the kernel.

Each relay holds its own, again and again. The kernel lets it bind new flows only until a time before
the lease's end, so also one that is frozen has stopped when another relay may take its addresses. Who takes
them answers for them on the link, forwards what it knows, and binds nothing at them. It gives them back when
their own relay asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable

from control.addresses import IPAddress
from control.batches import clock
from control.datapath import Datapath
from control.directory.errors import AwayError
from control.directory.journal import PREFIX
from control.directory.link import Link
from control.logs import event
from control.replication.announce import AnnounceError, Announcer

LEASE_SECONDS = 0.7
# The kernel's clock may be a jiffy behind, and Redis's may be faster than ours.
SLACK_SECONDS = 0.1
RENEW_SECONDS = 0.1
UNSEEN_SECONDS = 10.0  # after which an address is taken that nobody has held since this daemon began
PUT_SECONDS = 1.0  # how often a taken address's lifetime begins anew
ANNOUNCEMENTS = 5  # an announcement may be lost
_FOREVER = 0
_SHUT = 1  # ns of CLOCK_MONOTONIC: long ago

# For each address: takes or keeps it if it is nobody else's, and asks for it otherwise. Returns who has each.
_HOLD = """
local holders = {}
for i, key in ipairs(KEYS) do
    local holder = redis.call('GET', key)
    if not holder or holder == ARGV[1] then
        redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
        redis.call('DEL', key .. ':back')
        holder = ARGV[1]
    else
        redis.call('SET', key .. ':back', ARGV[1], 'PX', 5 * ARGV[2])
    end
    holders[i] = holder
end
return holders
"""
# For each address of others: gives it to its own relay if that asks, keeps it if we have it, takes it if it
# is nobody's and we may (ARGV[2 + i] is 1). Returns who has each.
_WATCH = """
local holders = {}
for i, key in ipairs(KEYS) do
    local holder, owner = redis.call('GET', key), redis.call('GET', key .. ':back')
    if owner and (not holder or holder == ARGV[1]) then
        redis.call('SET', key, owner, 'PX', ARGV[2])
        holder = owner
    elseif holder == ARGV[1] or (not holder and ARGV[2 + i] == '1') then
        redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
        holder = ARGV[1]
    end
    holders[i] = holder or ''
end
return holders
"""
_LEAVE = """
for _, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return 0
"""

_log = logging.getLogger(__name__)


class Leases:
    """Of one relay.

    Attributes:
        is_held: whether all addresses of ours were ours when last asked.
        taken: addresses of others that this host answers for.
        takeovers: how often it has begun to.
    """

    def __init__(
        self,
        datapath: Datapath,
        link: Link,
        instance: bytes,
        announcer: Announcer,
        is_fit: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_fit`: whether this host can forward at all."""
        self._is_fit = is_fit
        self.is_held = False
        self.taken: dict[IPAddress, int] = {}  # on the link of that index
        self.takeovers = 0
        self._datapath = datapath
        self._link = link
        self._announcer = announcer
        self._instance = instance.hex().encode()
        self._hold = link.redis.register_script(_HOLD)
        self._watch = link.redis.register_script(_WATCH)
        self._leave = link.redis.register_script(_LEAVE)
        self._began = clock().seconds
        self._until = 0  # ns of CLOCK_MONOTONIC: our lease, as far as we may count on it
        self._seen: set[IPAddress] = set()
        self._refused: set[IPAddress] = set()  # that cannot be taken here: said once
        self._put_at: dict[IPAddress, float] = {}
        self._to_announce: dict[IPAddress, int] = {}
        self.is_leaving = self.is_shut = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds leases while the block runs; new flows are bound for as long as these do."""
        self._datapath.lease["until"] = _SHUT
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(self._go_on())
            try:
                yield
            finally:
                work.cancel()

    async def _go_on(self) -> None:
        while True:
            with contextlib.suppress(AwayError):
                if self._is_fit() and not self.is_leaving:
                    await self.hold()
                elif self.is_held:
                    await self.let_go()
                await self.watch()
            with contextlib.suppress(AnnounceError):
                await self._announce()
            await asyncio.sleep(RENEW_SECONDS)

    # ---- our own ---------------------------------------------------------------------------

    @property
    def own(self) -> list[IPAddress]:
        return list(self._datapath.own_relays.values())

    async def hold(self) -> None:
        """Once: takes or keeps the leases of our addresses. Raises AwayError."""
        asked = time.monotonic_ns()
        if self.is_held and asked >= self._until:
            # Others may have had them since, and given them back before we could ask.
            self.is_held = False
            event(_log, logging.WARNING, "relay_addresses_lease_expired")
        keys, lease = [_key(address) for address in self.own], int(LEASE_SECONDS * 1000)
        holders: list[bytes] = await self._link.call(
            lambda _: self._hold(keys=keys, args=[self._instance, lease]), LEASE_SECONDS
        )
        others = {holder for holder in holders if holder != self._instance}
        if others:
            if self.is_held:
                self._datapath.lease["until"] = _SHUT
                event(
                    _log, logging.WARNING, "relay_addresses_lost", to=min(others).decode("ascii", "replace")
                )
            self.is_held = False
            return
        # Counted from before it was asked for: the directory counts from later.
        self._until = asked + int((LEASE_SECONDS - SLACK_SECONDS) * 1e9)
        if not self.is_shut:
            self._datapath.lease["until"] = self._until
        if not self.is_held:
            self.is_held = True
            event(_log, logging.INFO, "relay_addresses_held", addresses=",".join(map(str, self.own)))
            self._to_announce.update(dict.fromkeys(self.own, ANNOUNCEMENTS))

    def shut(self) -> None:
        """Nothing new is bound from now on, though the leases are kept."""
        self.is_shut = True
        self._datapath.lease["until"] = _SHUT

    def stay(self) -> None:
        """As before shut(), or leave(): new flows are bound when the leases are ours."""
        self.is_shut = self.is_leaving = False

    async def others_have_ours(self) -> None:
        """Returns when others answer for all our addresses. Raises AwayError."""
        keys = [_key(address) for address in self.own]
        while True:
            holders: list[bytes | None] = await self._link.call(lambda redis: redis.mget(keys))
            if all(holders):
                return
            await asyncio.sleep(RENEW_SECONDS)

    async def leave(self) -> None:
        """For good: nothing is bound from now on, and others may take our addresses. Raises AwayError."""
        self.is_leaving = True
        await self.let_go()

    async def let_go(self) -> None:
        """The same, until we are fit again."""
        self.is_held = False
        self._datapath.lease["until"] = _SHUT
        event(_log, logging.WARNING, "relay_addresses_let_go", addresses=",".join(map(str, self.own)))
        keys = [_key(address) for address in self.own]
        await self._link.call(lambda _: self._leave(keys=keys, args=[self._instance]))

    # ---- the others' -----------------------------------------------------------------------

    async def watch(self) -> None:
        """Once: takes what is nobody's, keeps what we have taken, gives back what is asked for."""
        foreign = list(self._datapath.foreign_relays.values())
        if not foreign:
            return
        may_take = [self._may_take(address) for address in foreign]
        holders: list[bytes] = await self._link.call(
            lambda _: self._watch(
                keys=[_key(address) for address in foreign],
                args=[self._instance, int(LEASE_SECONDS * 1000), *map(int, may_take)],
            ),
            LEASE_SECONDS,
        )
        for address, holder in zip(foreign, holders, strict=True):
            if holder == self._instance:
                await self._take(address)
                continue
            if holder:
                self._seen.add(address)
            await self._give_back(address)

    def _may_take(self, address: IPAddress) -> bool:
        """Whether an address is to be taken if it is nobody's. Who leaves takes none."""
        if self.is_leaving or not self.is_held or address in self._refused:
            return False
        return address in self._seen or clock().seconds - self._began >= UNSEEN_SECONDS

    async def _take(self, address: IPAddress) -> None:
        now = clock().seconds
        if self._put_at.get(address, 0.0) + PUT_SECONDS > now:
            return
        self._put_at[address] = now
        try:
            ifindex, name, mac = await self._announcer.link_of(self.own, address.version)
            await self._announcer.put(address, ifindex)
            if address not in self.taken:
                self._announcer.announce(address, name, mac)
        except AnnounceError as error:
            self._refused.add(address)
            event(_log, logging.ERROR, "relay_address_not_taken", address=address, message=error)
            return
        if address not in self.taken:
            self.taken[address] = ifindex
            self.takeovers += 1
            self._to_announce[address] = ANNOUNCEMENTS
            event(_log, logging.WARNING, "relay_address_taken", address=address, link=name)

    async def _give_back(self, address: IPAddress) -> None:
        self._put_at.pop(address, None)
        ifindex = self.taken.pop(address, None)
        self._to_announce.pop(address, None)
        if ifindex is not None:
            await self._announcer.drop(address, ifindex)
            event(_log, logging.INFO, "relay_address_given_back", address=address)

    async def _announce(self) -> None:
        """Again, for what was taken or has come back lately."""
        for address, left in list(self._to_announce.items()):
            if left <= 1:
                del self._to_announce[address]
            else:
                self._to_announce[address] = left - 1
            _, name, mac = await self._announcer.link_of(self.own, address.version)
            self._announcer.announce(address, name, mac)


def unfence(datapath: Datapath) -> None:
    """New flows are bound without a lease."""
    datapath.lease["until"] = _FOREVER


def _key(address: IPAddress) -> str:
    return f"{PREFIX}:address:{address}"
