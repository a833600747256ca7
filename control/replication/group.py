# SPDX-License-Identifier: Apache-2.0
"""This relay among those of its group: tells of its flows, and hears of the others', over the directory.

One stream for all of a directory's relays; who it is about stands in each message. A relay that starts, or
could not tell something, tells all of it anew, as a list; who has missed something asks for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import NamedTuple

from control.addresses import IPAddress
from control.batches import clock
from control.datapath import Datapath
from control.directory.errors import AwayError, Refusal, Refusals
from control.directory.journal import Journal
from control.directory.link import Link
from control.directory.replays import Replays
from control.directory.seal import Sealer
from control.flows import Clock
from control.foreign import FlowEntering
from control.logs import event
from control.reaper import Reaper
from control.replication.activity import Activity
from control.replication.catching_up import CatchingUp
from control.replication.direct import Direct
from control.replication.incoming import Incoming
from control.replication.lease import Leases
from control.replication.message import Kind, Message, MessageError
from control.replication.outgoing import Outgoing
from control.sessions import Registry
from control.turns import Turns
from fleet.key import FleetKey

STREAM = "flows"
TELL_SECONDS = 0.1  # how often own flows are looked at
WORK_SECONDS = 0.1  # how often what waits is tried again
HELLO_SECONDS = 1.0
WANT_SECONDS = 2.0  # between asking for a list twice
RECALL_SECONDS = 1.0  # in which others answer what they know of our addresses
MACS_SECONDS = 3.0  # in which next hops of flows that have been entered answer, if they do
PRESENT_SECONDS = 6.0  # without a word of it, a relay does not keep its flows alive here
ACTIVE_PARTS = 4  # how often activity is told of within the time in which a flow becomes idle
ACTIVE_MOST = 5.0

_POSITION = struct.Struct(">QQ")  # run and sequence

_log = logging.getLogger(__name__)


class Heard(NamedTuple):
    """What was last heard of another relay's daemon."""

    run: int
    sequence: int  # up to which nothing is missing
    is_whole: bool  # a list has come to its end since something was missing
    addresses: tuple[IPAddress, ...]
    seconds: float


class Group:
    """The others, and what there is between them and this relay.

    Attributes:
        heard: of other relays, by their names.
        told: messages sent, by kind.
        incoming: flows of others.
        leases: of our addresses, where the group takes them over from each other.
        direct: the way to the others without the directory; likewise.
        is_recovered: whether our addresses have the flows that others know; until then they are not held.
        has_caught_up: whether the flows of others are known, too; until then packets should go to the others.
    """

    def __init__(
        self,
        name: str,
        datapath: Datapath,
        registry: Registry,
        reaper: Reaper,
        turns: Turns,
        entering: FlowEntering,
        link: Link,
        sealer: Sealer,
        have_macs: Callable[[], bool],
        idle_seconds: float,
    ) -> None:
        """`have_macs`: whether all next hops do (NextHops)."""
        self.heard: dict[str, Heard] = {}
        self.told = Counter[Kind]()
        self.leases: Leases | None = None
        self.direct: Direct | None = None
        self.link = link
        self._sealer = sealer
        self._refusals = Refusals()
        self._journal = Journal(link, sealer, self._refusals, STREAM)
        self._replays = Replays(self._journal, self._refusals)
        self._datapath = datapath
        self._turns = turns
        self._outgoing = Outgoing(datapath, registry, name, secrets.randbits(52))
        self.incoming = Incoming(
            datapath, registry, entering, lambda numbers: reaper.end_elsewhere(numbers, clock())
        )
        self._activity = Activity(datapath)
        self._have_macs = have_macs
        self._lacking_since: float | None = None
        self.is_recovered = asyncio.Event()
        self.has_caught_up = asyncio.Event()
        self._catching_up = CatchingUp(clock().seconds)
        self._listening = asyncio.Event()
        self._recalled_at: float | None = None
        self._askers: set[str] = set()
        self._recallers: list[tuple[IPAddress, ...]] = []
        self._must_list = True
        self._telling, self._sending = asyncio.Lock(), asyncio.Lock()
        self._acknowledged: dict[str, tuple[int, int]] = {}  # run and sequence of ours, by who has said so
        self._asked: dict[str, float] = {}
        self.set_idle_seconds(idle_seconds)

    def set_idle_seconds(self, seconds: float) -> None:
        self._active_seconds = min(ACTIVE_MOST, seconds / ACTIVE_PARTS)

    def set_keys(self, keys: Mapping[int, FleetKey]) -> None:
        """Other keys from now on; the first one seals."""
        self._sealer.set_keys(keys)

    def grow(self) -> None:
        """Addresses, and with them the table, may be others."""
        self._outgoing.grow()
        self.incoming.grow()
        self._activity.grow()
        self._must_list = True

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Its work goes on while the block runs; a failure of it ends the block."""
        async with asyncio.TaskGroup() as tasks:
            works = [
                tasks.create_task(work())
                for work in (self._recover, self._tell, self._listen, self._work, self._keep_alive)
            ]
            try:
                yield
            finally:
                for work in works:
                    work.cancel()

    # ---- telling --------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Where our addresses have no flow at all: they may have had, before the host was started anew."""
        if not self._datapath.foreign or self._own_flows():
            self.is_recovered.set()
            return
        await self._listening.wait()
        while self._recalled_at is None:
            try:
                await self._send(self._outgoing.other(Kind.RECALL))
                self._recalled_at = clock().seconds
            except AwayError:
                await self.link.pause()

    def _look_whether_recovered(self, now: Clock) -> None:
        """Others have had their time to answer, and what they said has been entered, or given up.

        Whose next hop has no MAC yet would lose its first packets.
        """
        if self._recalled_at is None or self.incoming.is_recalling or self.is_recovered.is_set():
            return
        if self._recalled_at + RECALL_SECONDS <= now.seconds and not self._awaits_macs(now):
            event(_log, logging.INFO, "own_flows_recalled", flows=self._own_flows())
            self.is_recovered.set()

    def _look_whether_caught_up(self, now: Clock) -> None:
        """Not whether the lease is held: without it calls that are there go on, here as anywhere."""
        if self.has_caught_up.is_set():
            return
        others = self.others(now)
        is_over = self._catching_up.is_over(
            now.seconds,
            is_listening=self._listening.is_set(),
            is_whole=all(self.heard[name].is_whole for name in others),
            waiting=self.incoming.wanted,
        )
        if is_over and (self.leases is None or self.is_recovered.is_set()) and not self._awaits_macs(now):
            event(_log, logging.INFO, "group_caught_up", relays=len(others))
            self.has_caught_up.set()

    def _awaits_macs(self, now: Clock) -> bool:
        """Whether next hops have yet to answer; not for long: one of them may be gone."""
        if self._have_macs():
            self._lacking_since = None
            return False
        if self._lacking_since is None:
            self._lacking_since = now.seconds
        return now.seconds - self._lacking_since < MACS_SECONDS

    def _own_flows(self) -> int:
        datapath = self._datapath
        return sum(len(datapath.flows_at(number)) for number in datapath.own_relays)

    async def _tell(self) -> None:
        said = 0.0
        await self.is_recovered.wait()
        while True:
            try:
                for addresses in self._recallers[:]:
                    for known in self._outgoing.known(addresses, clock()):
                        await self._send(known)
                    self._recallers.remove(addresses)
                if await self.tell():
                    said = clock().seconds
                elif clock().seconds - said >= HELLO_SECONDS:
                    await self._send(self._outgoing.other(Kind.HELLO))
                    said = clock().seconds
            except AwayError:
                await self.link.pause()
            await asyncio.sleep(TELL_SECONDS)

    async def tell(self) -> bool:
        """Sends what there is to be told; whether there was any. Raises AwayError: then a list comes next."""
        async with self._telling:
            return await self._tell_once()

    async def _tell_once(self) -> bool:
        if not self._datapath.foreign:
            return False  # nobody is there to be told
        async with self._turns.slice():
            now = clock()
            is_list, self._must_list = self._must_list, True  # until all of it is sent
            messages = list(self._outgoing.list(now) if is_list else self._outgoing.changes(now))
        for message in messages:
            await self._send(message)
        self._must_list = False
        return bool(messages)

    async def _send(self, message: Message) -> None:
        """One after the other: they are numbered under their seals, and one that comes late is refused."""
        async with self._sending:
            await self._journal.append(message.encode())
        self.told[message.kind] += 1

    # ---- hearing --------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(AwayError):
                begin = await self._journal.last()
                break
            await self.link.pause()
        self._listening.set()
        async for messages in self._journal.tail(begin):
            for one in messages:
                if one.instance == self._sealer.instance or not self._replays.is_new(one):
                    continue
                try:
                    message = Message.decode(one.payload)
                except MessageError as error:
                    self._refusals.add(Refusal.MALFORMED, f"{self._journal.key} {one.position}", error)
                    continue
                async with self._turns.slice():
                    self._hear(message, clock())
            await self._ask(clock())
            await self._acknowledge()

    def _hear(self, message: Message, now: Clock) -> None:
        if message.kind is Kind.WANT:
            if set(message.addresses) & set(self._outgoing.addresses):
                self._must_list = True
            return
        if message.kind is Kind.ACTIVE:
            is_one = len(message.addresses) == 1
            if not is_one or not self._activity.take(message.addresses[0], message.body, now):
                self.incoming.counts["strange"] += 1
            return
        if message.kind is Kind.KNOWN:
            if not self.is_recovered.is_set():
                self.incoming.take(message, now)
            return
        if message.kind is Kind.HEARD:
            if set(message.addresses) & set(self._outgoing.addresses) and len(message.body) == _POSITION.size:
                run, sequence = _POSITION.unpack(message.body)
                self._acknowledged[message.relay] = run, sequence
            return
        if not set(message.addresses) & set(self._datapath.foreign_relays.values()):
            return  # of another group
        if message.kind is Kind.RECALL:
            self._recallers.append(message.addresses)
            return
        if message.kind is Kind.ASK:
            self._askers.add(message.relay)
        heard, is_gapless = self._follows(self.heard.get(message.relay), message, now)
        self.heard[message.relay] = heard
        if message.kind is Kind.LIST and not message.is_first and not is_gapless:
            self.incoming.forget_list(message.addresses)
        if message.kind in (Kind.CHANGES, Kind.LIST):
            self.incoming.take(message, now)
            self.incoming.work(now)

    def _follows(self, before: Heard | None, message: Message, now: Clock) -> tuple[Heard, bool]:
        """What is known of its teller once a message has come, and whether that follows the one before."""
        is_new = before is None or before.run != message.run
        expected = 0 if before is None or is_new else before.sequence
        if message.kind in (Kind.HELLO, Kind.ASK):
            is_gapless = expected == message.sequence
        else:
            is_gapless = expected + 1 == message.sequence
        is_whole = not is_new and before is not None and before.is_whole and is_gapless
        if message.kind is Kind.LIST:
            is_whole = message.is_last and (is_gapless or message.is_first)
        if is_new:
            event(_log, logging.INFO, "group_relay_heard", relay=message.relay, run=message.run)
        heard = Heard(message.run, message.sequence, is_whole, message.addresses, now.seconds)
        return heard, is_gapless

    async def _ask(self, now: Clock) -> None:
        """For lists of those of whom something is missing, and for those from whom nothing has come."""
        if not self.link.is_up:
            return
        for relay, heard in self.heard.items():
            if heard.is_whole or self._asked.get(relay, 0.0) + WANT_SECONDS > now.seconds:
                continue
            self._asked[relay] = now.seconds
            with contextlib.suppress(AwayError):
                await self._send(self._outgoing.other(Kind.WANT, heard.addresses))

    async def _acknowledge(self) -> None:
        """To who has asked: that nothing of theirs is missing here, and nothing waits to be entered."""
        for relay in list(self._askers):
            heard = self.heard.get(relay)
            if heard is None or not heard.is_whole or self.incoming.waits_for(heard.addresses):
                continue
            self._askers.discard(relay)
            body = _POSITION.pack(heard.run, heard.sequence)
            with contextlib.suppress(AwayError):
                await self._send(self._outgoing.other(Kind.HEARD, heard.addresses, body))

    async def ask_who_knows(self) -> set[str]:
        """Tells what there is to be told, and asks; returns who said before that nothing of it is missing.

        Raises AwayError.
        """
        await self.tell()
        told = self._outgoing.position
        await self._send(self._outgoing.other(Kind.ASK))
        await asyncio.sleep(TELL_SECONDS)
        return {name for name, position in self._acknowledged.items() if position >= told}

    def others(self, now: Clock) -> set[str]:
        """The names of the relays that have been heard of just now."""
        return {name for name, one in self.heard.items() if one.seconds + PRESENT_SECONDS > now.seconds}

    # ---- in between -----------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(WORK_SECONDS)
            more = True
            while more:
                async with self._turns.slice():
                    more = self.incoming.work(clock())
                    self._look_whether_recovered(clock())
            self._look_whether_caught_up(clock())

    async def _keep_alive(self) -> None:
        """Flows whose packets pass elsewhere are alive, here and there."""
        while True:
            await asyncio.sleep(self._active_seconds)
            now = clock()
            async with self._turns.slice():
                moved = list(self._activity.moved())
                present = self.present(now)
                self._activity.keep(present, now)
                if not self.link.is_up:
                    self._activity.keep_elsewhere(now)
            with contextlib.suppress(AwayError):
                for address, bits in moved:
                    await self._send(self._outgoing.other(Kind.ACTIVE, [address], bits))

    def present(self, now: Clock) -> set[IPAddress]:
        """Foreign addresses whose relay has been heard of just now."""
        return {address for name in self.others(now) for address in self.heard[name].addresses}
