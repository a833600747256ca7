# SPDX-License-Identifier: Apache-2.0
"""Whose the relay addresses of a group are at the moment: leases in the directory, mirrored into the kernel.

Each relay holds its own, again and again. The kernel lets it bind new flows only until a time before
the lease's end, so also one that is frozen has stopped when another relay may take its addresses. Who takes
them answers for them on the link, forwards what it knows, and binds nothing at them. It gives them back when
their own relay asks.

While the directory does not answer, promises of the others are as good as a lease (promises.py). Who has
given one takes nothing before it is over, whatever the directory says then. Nor does who has not had the
directory's word all the while: it may have been started empty, or from an older copy, and not know of leases
that it has granted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from control.addresses import IPAddress
from control.datapath import Datapath
from control.directory.errors import AwayError
from control.directory.journal import PREFIX
from control.directory.link import Link
from control.directory.seal import Opened
from control.logs import event
from control.replication.announce import AnnounceError, Announcer
from control.replication.promises import PROMISE_MS, Promises
from control.replication.taken import Taken

LEASE_SECONDS = 0.7
# The kernel's clock may be a jiffy behind, and Redis's may be faster than ours.
SLACK_SECONDS = 0.1
RENEW_SECONDS = 0.1
UNSEEN_SECONDS = 10.0  # after which an address is taken that nobody has held since this daemon began
AWAY_NS = 250_000_000  # without an answer of the directory, after which the others are asked
LOOK_NS = 1_000_000_000  # how often it is looked, otherwise, whether they would answer
_FOREVER = 0
_SHUT = 1  # ns of CLOCK_MONOTONIC: long ago

# For each address: takes or keeps it if it is nobody else's, and asks for it otherwise. Returns who has each.
HOLD = """
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
# For each address of others: gives it to its own relay if that asks; keeps it if we answer for it
# (ARGV[4 + i] is 2) and nobody else has it; takes it if it is nobody's, we may (1), and what we wrote last is
# there still (ARGV[3], under the last key, for a lease's time). Returns who has each, and whether it was.
WATCH = """
local thread = KEYS[#KEYS]
local is_whole = redis.call('GET', thread) == ARGV[3]
redis.call('SET', thread, ARGV[4], 'PX', ARGV[2])
local holders = {}
for i = 1, #KEYS - 1 do
    local key, wish = KEYS[i], ARGV[4 + i]
    local holder, owner = redis.call('GET', key), redis.call('GET', key .. ':back')
    local is_free = not holder or holder == ARGV[1]
    if owner and is_free then
        redis.call('SET', key, owner, 'PX', ARGV[2])
        holder = owner
    elseif is_free and (wish == '2' or wish == '1' and is_whole) then
        redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
        holder = ARGV[1]
    elseif holder == ARGV[1] then
        redis.call('DEL', key)
        holder = false
    end
    holders[i] = holder or ''
end
holders[#KEYS] = is_whole and '1' or '0'
return holders
"""
LEAVE = """
for _, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return 0
"""

_log = logging.getLogger(__name__)


class Way(Protocol):
    """How a relay of the group is reached directly."""

    def send(self, address: IPAddress, payload: bytes) -> None: ...


class Leases:
    """Of one relay.

    Attributes:
        is_held: whether all addresses of ours were ours when last asked.
        taken: addresses of others that this host answers for.
        promises: of the group's relays.
        way: to them; None: nobody is asked.
    """

    def __init__(
        self,
        datapath: Datapath,
        link: Link,
        instance: bytes,
        announcer: Announcer,
        is_fit: Callable[[], bool] = lambda: True,
        now: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`is_fit`: whether this host can forward at all. `now`: nanoseconds of CLOCK_MONOTONIC."""
        self._is_fit = is_fit
        self._now = now
        self.is_held = False
        self._datapath = datapath
        self._link = link
        self.way: Way | None = None
        self.taken = Taken(announcer, self._own_addresses, now)
        self.promises = Promises(
            instance,
            now(),
            self._own_addresses,
            lambda: list(datapath.foreign_relays.values()),
            self.taken.holds,
        )
        self._instance = instance.hex().encode()
        self._hold = link.redis.register_script(HOLD)
        self._watch = link.redis.register_script(WATCH)
        self._leave = link.redis.register_script(LEAVE)
        self._began = now()
        self._until = 0  # ns of CLOCK_MONOTONIC: our lease, as far as we may count on it
        self._answered = 0  # likewise: when what the directory has answered last was asked
        self._turns = 0  # of watching
        self._written = 0  # the last turn that the directory is known to have
        self._seen: set[IPAddress] = set()
        self.is_leaving = self.is_shut = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Holds leases while the block runs; new flows are bound for as long as these do."""
        self._datapath.lease["until"] = _SHUT
        async with asyncio.TaskGroup() as tasks:
            works = [tasks.create_task(work()) for work in (self._go_on, self._go_on_asking)]
            try:
                yield
            finally:
                for work in works:
                    work.cancel()

    async def _go_on(self) -> None:
        while True:
            try:
                if self._is_fit() and not self.is_leaving:
                    await self.hold()
                elif self.is_held:
                    await self.let_go()
                await self.watch()
            except AwayError:
                await self._keep()
            with contextlib.suppress(AnnounceError):
                await self.taken.announce()
            await asyncio.sleep(RENEW_SECONDS)

    # ---- our own ---------------------------------------------------------------------------

    def _own_addresses(self) -> list[IPAddress]:
        return list(self._datapath.own_relays.values())

    async def hold(self) -> None:
        """Once: takes or keeps the leases of our addresses. Raises AwayError."""
        asked = self._now()
        if self.is_held and asked >= self._until:
            # Others may have had them since, and given them back before we could ask.
            self.is_held = False
            event(_log, logging.WARNING, "relay_addresses_lease_expired")
        keys, lease = [key_of(address) for address in self._own_addresses()], int(LEASE_SECONDS * 1000)
        holders: list[bytes] = await self._link.call(
            lambda _: self._hold(keys=keys, args=[self._instance, lease]), LEASE_SECONDS
        )
        self._answered = asked
        others = {holder for holder in holders if holder != self._instance}
        if others:
            if self.is_held:
                event(
                    _log, logging.WARNING, "relay_addresses_lost", to=min(others).decode("ascii", "replace")
                )
            self._end()
            return
        # Counted from before it was asked for: the directory counts from later.
        self._extend(asked + int((LEASE_SECONDS - SLACK_SECONDS) * 1e9))

    def _extend(self, until: int) -> None:
        """Our addresses are ours until then, by whoever's word."""
        self._until = max(self._until, until)
        if not self.is_shut:
            self._datapath.lease["until"] = self._until
        if not self.is_held:
            self.is_held = True
            own = self._own_addresses()
            event(_log, logging.INFO, "relay_addresses_held", addresses=",".join(map(str, own)))
            self.taken.announce_soon(own)

    def _end(self) -> None:
        """They are not, whatever anybody has said before."""
        self.is_held, self._until = False, 0
        self._datapath.lease["until"] = _SHUT

    def shut(self) -> None:
        """Nothing new is bound from now on, though the leases are kept."""
        self.is_shut = True
        self._datapath.lease["until"] = _SHUT

    def stay(self) -> None:
        """As before shut(), or leave(): new flows are bound when the leases are ours."""
        self.is_shut = self.is_leaving = False

    async def others_have_ours(self) -> None:
        """Returns when others answer for all our addresses. Raises AwayError."""
        keys = [key_of(address) for address in self._own_addresses()]
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
        own = self._own_addresses()
        self._end()
        event(_log, logging.WARNING, "relay_addresses_let_go", addresses=",".join(map(str, own)))
        keys = [key_of(address) for address in own]
        await self._link.call(lambda _: self._leave(keys=keys, args=[self._instance]))

    # ---- while the directory is away -------------------------------------------------------

    async def _go_on_asking(self) -> None:
        looked = self._now() - LOOK_NS
        while True:
            now = self._now()
            if self._counts_on_promises(now):
                self._ask(PROMISE_MS, now)
            elif now - looked >= LOOK_NS and self._can_serve():
                looked = now
                self._ask(0, now)
            await asyncio.sleep(RENEW_SECONDS)

    def _ask(self, milliseconds: int, now: int) -> None:
        if self.way is not None:
            for address, question in self.promises.questions(milliseconds, now):
                self.way.send(address, question)

    def _counts_on_promises(self, now: int) -> bool:
        return now - self._answered >= AWAY_NS and self._can_serve()

    def _can_serve(self) -> bool:
        return self._is_fit() and not self.is_leaving and not self.is_shut

    def hear(self, opened: Opened) -> bytes | None:
        """What another relay has said directly, to what it is answered. Raises SealError."""
        now = self._now()
        answer = self.promises.hear(opened, now)
        until = self.promises.until(now)
        if until > max(self._until, now) and self._counts_on_promises(now):
            self._extend(until)
        return answer

    async def _keep(self) -> None:
        """What we have taken is still ours to answer for, unless its own relay is there again."""
        for address, since in list(self.taken.since.items()):
            if self.promises.asks(address, since, self._now()):
                await self.taken.give_back(address)
            else:
                await self.taken.take(address)

    # ---- the others' -----------------------------------------------------------------------

    async def watch(self) -> None:
        """Once: takes what is nobody's, keeps what we have taken, gives back what is asked for."""
        foreign = list(self._datapath.foreign_relays.values())
        if not foreign:
            return
        asked = self._now()
        wishes = [self._wish(address, asked) for address in foreign]
        self._turns += 1
        keys = [*map(key_of, foreign), f"{PREFIX}:watch:{self._instance.decode()}"]
        turns = [self._written, self._turns]
        args = [self._instance, int(LEASE_SECONDS * 1000), *turns, *wishes]
        *holders, is_whole = await self._link.call(lambda _: self._watch(keys=keys, args=args), LEASE_SECONDS)
        self._written = self._turns
        now = self._now()
        if is_whole != b"1":
            self.promises.bar_all(now)
        # One after the other, and each is a while under way to the link: half the lease is for that.
        begin_by = asked + int(LEASE_SECONDS / 2 * 1e9)
        for address, holder in zip(foreign, holders, strict=True):
            if holder == self._instance:
                if self.taken.holds(address) or not self._is_barred(address):
                    await self.taken.take(address, begin_by)
                continue
            if holder:
                self._seen.add(address)
            await self.taken.give_back(address)

    def _is_barred(self, address: IPAddress) -> bool:
        return self.promises.is_barred(address, self._now())

    def _wish(self, address: IPAddress, now: int) -> int:
        """What we want of an address that is nobody's: to keep it (2), to take it (1), or nothing.

        Who leaves takes none.
        """
        if self.taken.holds(address):
            return 2
        if self.is_leaving or not self.is_held or address in self.taken.refused or self._is_barred(address):
            return 0
        return int(address in self._seen or now - self._began >= int(UNSEEN_SECONDS * 1e9))


def unfence(datapath: Datapath) -> None:
    """New flows are bound without a lease."""
    datapath.lease["until"] = _FOREVER


def key_of(address: IPAddress | str) -> str:
    """Where the lease of an address is."""
    return f"{PREFIX}:address:{address}"
