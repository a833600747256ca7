# SPDX-License-Identifier: Apache-2.0
"""The transceivers that are attached here, and what of them the directory has yet to be told.

What is to be told is not a log: it is the set of sessions that have changed, and what is said of each is what
it is when its turn comes. So it takes no more memory than there are sessions, however long Redis is away.

    claim      the lease is taken, with a higher epoch. Where this relay has the state as it stands in the
               directory, it goes on from there; otherwise the whole state is written anew
    changes    each write says what changed, and carries the lease on by one
    doubt      a write was not answered: the lease tells whether it was carried out
    waiting    a transceiver has attached whose state this relay does not have: that it has no sessions here
               does not mean that there are none. Nothing is written before it has said what there is
    challenge  a write was refused, since another relay has the lease: it will say so in a moment, under
               seal, and the transceiver is its; if it does not, the lease is taken again
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from earshot.directory.v1 import directory_pb2 as pb
from earshot.relay.v1 import relay_pb2 as relay

from control.directory.errors import AwayError
from control.directory.registration import Writer
from control.directory.replica import Replica, Stamper
from control.directory.store import Lease, Part, SessionStore
from control.logs import event
from control.model import Owner, Session
from control.sessions import Registry

# Sessions in one write: some 4 ms of work, and of Redis's.
MOST = 200
CHALLENGE_SECONDS = 2.0
# So long a transceiver may take from attaching to its first word of its sessions.
UNHEARD_SECONDS = 10.0
# A state that somebody else damages again and again is not written again and again.
DAMAGE_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Home(Replica):
    """A transceiver that is attached here, or in grace here.

    Attributes:
        dirty: ids of sessions that may differ from what the directory has.
        lease: as this relay wrote it last; None: not taken yet, or lost.
        base: the lease to go on from, if the state there is the one that this relay has.
        is_whole: the whole state has to be written; `has_begun`: and the first part of it is.
        floor: epochs up to it are others'.
        is_heard: the transceiver has said what sessions there are, or which of them have changed.
        since: when it was attached.
        said: what the directory has of the transceiver itself.
        challenged: when another relay was found to have the lease.
        rewritten: when the state was last written again because it was damaged.
    """

    owner: Owner = field(default_factory=lambda: Owner(0, ""))
    dirty: set[str] = field(default_factory=set)
    lease: Lease | None = None
    base: Lease | None = None
    is_whole: bool = False
    has_begun: bool = False
    floor: int = 0
    is_heard: bool = False
    since: float = field(default_factory=time.monotonic)
    said: bytes = b""
    challenged: float | None = None
    rewritten: float = -DAMAGE_SECONDS

    def waits(self, now: float) -> bool:
        """Whether nothing is to be said of it yet."""
        if not self.is_whole or self.has_begun or self.is_heard or not self.owner.attached:
            return False
        return now - self.since < UNHEARD_SECONDS


@dataclass(slots=True)
class _Plan:
    """One write of a home: what it says, and what is so when it is done."""

    home: Home
    part: Part
    ids: list[str]
    stamps: dict[str, int]
    said: bytes
    begins: bool


class Homes:
    """All of them, and the one who writes.

    Attributes:
        by_name: the homes.
        writes: how many there were; `written`: sessions that they told of.
        is_leaving: streams end because this relay stops, which says nothing of their transceivers.
    """

    def __init__(self, registry: Registry, store: SessionStore, stamper: Stamper, instance: bytes) -> None:
        self.by_name: dict[str, Home] = {}
        self.writes = self.written = 0
        self.is_leaving = False
        self.wall_clock = time.time
        self._registry = registry
        self._store = store
        self._stamper = stamper
        self._instance = instance.hex()
        self._messages = Writer(registry.endpoints)
        self._queue: dict[str, Home] = {}
        self._doubtful: list[_Plan] = []
        self._turn = asyncio.Lock()
        self.woken = asyncio.Event()

    @property
    def queued(self) -> int:
        """Sessions that the directory has yet to be told of."""
        return sum(len(home.dirty) for home in list(self._queue.values()))

    def of(self, owner: Owner) -> Home | None:
        """The home of a transceiver that is this one, and not another that has its name."""
        home = self.by_name.get(owner.name)
        return home if home is not None and home.owner is owner else None

    def open(self, owner: Owner, known: Replica | None, lease: Lease | None, dirty: set[str]) -> Home:
        """A transceiver has attached here.

        Args:
            known: its state as this relay has it from the directory, if it does.
            lease: that goes with it, if it is the state that stands there.
            dirty: sessions that are not here as they are there.
        """
        home = Home(owner.name, owner=owner, base=lease)
        if known is not None:
            home.floor = home.epoch = known.epoch
            home.sequence, home.stamps, home.total = known.sequence, known.stamps, known.total
        home.is_whole = lease is None
        home.dirty = dirty
        self.by_name[owner.name] = home
        self._registry.watch(owner, self._marking(home))
        self.touch(home)
        return home

    def close(self, home: Home) -> None:
        """It is another relay's now."""
        self._registry.unwatch(home.owner)
        self.by_name.pop(home.name, None)
        self._queue.pop(home.name, None)

    def heard(self, home: Home) -> None:
        """Its transceiver has said what sessions there are."""
        if not home.is_heard:
            home.is_heard = True
            self.touch(home)

    def touch(self, home: Home) -> None:
        """Something about it may have to be said."""
        self._queue[home.name] = home
        self.woken.set()

    def rewrite(self, home: Home, floor: int = 0) -> None:
        """Its whole state has to be written, in an epoch above `floor`."""
        home.floor = max(home.floor, home.epoch, floor)
        home.is_whole, home.has_begun, home.base, home.lease = True, False, None, None
        self.touch(home)

    def seal_anew(self, stamper: Stamper) -> None:
        """Another key seals from now on: what stands there is to be readable without the former one."""
        self._stamper = stamper
        for home in self.by_name.values():
            self.rewrite(home)

    def repair(self, home: Home, now: float) -> None:
        """What stands in the directory is said to be damaged."""
        if now - home.rewritten >= DAMAGE_SECONDS:
            home.rewritten = now
            event(_log, logging.WARNING, "directory_repaired", transceiver=home.name)
            self.rewrite(home)

    def _marking(self, home: Home) -> Callable[[str], None]:
        def mark(session_id: str) -> None:
            home.dirty.add(session_id)
            self._queue[home.name] = home
            self.woken.set()

        return mark

    # ---- writing --------------------------------------------------------------------------

    async def flush(self) -> bool:
        """Writes some of what there is to say; says whether there was anything.

        Raises:
            AwayError: it will be said, once Redis is back.
        """
        async with self._turn:
            await self._settle()
            plans = self._plans()
            if not plans:
                return False
            try:
                refused = await self._store.write([plan.part for plan in plans])
            except AwayError:
                self._doubtful = plans
                raise
            self.writes += 1
            for position, plan in enumerate(plans):
                if refused is None:
                    self._done(plan)
                else:
                    self._undo(plan)
                    if position in refused.leases:
                        self._refused(plan.home, refused.leases[position])
            return True

    async def check(self) -> None:
        """Whether the leases are still there as they were written. Raises AwayError."""
        async with self._turn:
            await self._settle()
            homes = [home for home in self.by_name.values() if home.lease is not None]
            if not homes:
                return
            leases = await self._store.leases([home.name for home in homes])
            for home, lease in zip(homes, leases, strict=True):
                if lease != home.lease:
                    self._refused(home, lease)

    async def keep(self) -> None:
        """Has what stands there not be forgotten for being old. Raises AwayError."""
        for name in list(self.by_name):
            await self._store.touch(name)

    async def _settle(self) -> None:
        """Whether writes that were not answered were carried out."""
        if not self._doubtful:
            return
        leases = await self._store.leases([plan.home.name for plan in self._doubtful])
        doubtful, self._doubtful = self._doubtful, []
        for plan, lease in zip(doubtful, leases, strict=True):
            if lease == plan.part.lease and not plan.part.update.gone:
                self._done(plan)
                continue
            self._undo(plan)
            expected = plan.part.expected
            if lease != expected and not (expected is None and lease.epoch < plan.part.lease.epoch):
                self._refused(plan.home, lease)

    def _plans(self) -> list[_Plan]:
        plans: list[_Plan] = []
        room, now = MOST, time.monotonic()
        for home in list(self._queue.values()):
            if home.challenged is not None and now - home.challenged < CHALLENGE_SECONDS:
                continue
            home.challenged = None
            if home.waits(now):
                continue
            plan = self._plan(home, room)
            if plan is None:
                self._queue.pop(home.name, None)
                continue
            plans.append(plan)
            room -= len(plan.ids)
            if room <= 0:
                break
        return plans

    def _plan(self, home: Home, room: int) -> _Plan | None:
        """The next write of a home; None: there is nothing to say."""
        if not self._registry.is_here(home.owner):
            return self._farewell(home)
        begins = home.is_whole and not home.has_begun
        if begins:
            home.clear()
            home.dirty = set(home.owner.sessions)
        said = self._said(home.owner)
        while True:
            ids = list(islice(home.dirty, room))
            home.dirty.difference_update(ids)
            update = pb.Update(transceiver=home.name, head=pb.Head.FromString(said), whole=begins)
            part = self._part(home, update)
            stamps = self._tell(home, part, ids)
            self._fill(home, update.head, part.lease, stamps, update.remove)
            is_last = home.is_whole and not home.dirty
            if update.add or update.remove or begins or is_last or said != home.said or home.lease is None:
                return _Plan(home, part, ids, stamps, said, begins)
            if not home.dirty:
                return None

    def _part(self, home: Home, update: pb.Update) -> Part:
        """The write that carries an update, with the leases before and after it."""
        if home.lease is not None:
            return Part(update, home.lease, Lease(home.epoch, home.sequence + 1, self._instance))
        # The clock only makes it likely that it is the highest where Redis has forgotten the others.
        epoch = max(home.floor, home.epoch, int(self.wall_clock() * 1000)) + 1
        if not update.whole and home.base is not None:
            update.base.epoch, update.base.sequence = home.base.epoch, home.base.sequence
        return Part(update, None if update.whole else home.base, Lease(epoch, 1, self._instance))

    def _farewell(self, home: Home) -> _Plan | None:
        """The transceiver has stayed away for too long."""
        if home.lease is None:
            self.by_name.pop(home.name, None)
            return None
        head = pb.Head(epoch=home.epoch, sequence=home.sequence + 1, complete=True)
        update = pb.Update(transceiver=home.name, head=head, gone=True)
        return _Plan(home, Part(update, home.lease, Lease(0, 0, "")), [], {}, b"", False)

    def _tell(self, home: Home, part: Part, ids: list[str]) -> dict[str, int]:
        """Fills a write with what these sessions are now; returns their stamps."""
        stamps: dict[str, int] = {}
        for session_id in ids:
            session: Session | None = home.owner.sessions.get(session_id)
            if session is None:
                if session_id in home.stamps:
                    part.update.remove.append(session_id)
                continue
            registration = self._messages.write(session)
            stamp = self._stamper.stamp(registration)
            if home.stamps.get(session_id) != stamp:
                stamps[session_id] = stamp
                part.add[session_id] = registration
                part.update.add.add(session_id=session_id, registration=registration)
        return stamps

    def _fill(
        self, home: Home, head: pb.Head, lease: Lease, stamps: dict[str, int], removed: Iterable[str]
    ) -> None:
        """What the head says of the state after this."""
        total, count = home.total, len(home.stamps)
        for session_id, stamp in stamps.items():
            before = home.stamps.get(session_id)
            total ^= stamp ^ (before or 0)
            count += before is None
        for session_id in removed:
            total ^= home.stamps[session_id]
            count -= 1
        head.epoch, head.sequence = lease.epoch, lease.sequence
        head.stamps, head.sessions = total, count
        head.complete = not home.is_whole or not home.dirty

    def _said(self, owner: Owner) -> bytes:
        """What is to be said of a transceiver itself, as a head without numbers."""
        attached = owner.attached or self.is_leaving
        head = pb.Head(attached=attached, software=owner.software, region=owner.region)
        if (place := self._registry.place_of(owner)) is not None:
            number, endpoints = place
            head.place.number = number
            head.place.endpoints.extend(
                relay.Endpoint(address=str(end.address), port=end.port) for end in endpoints
            )
        return head.SerializeToString(deterministic=True)

    # ---- what becomes of writes -----------------------------------------------------------

    def _done(self, plan: _Plan) -> None:
        home, update = plan.home, plan.part.update
        self.written += len(update.add) + len(update.remove)
        if self.by_name.get(home.name) is not home:
            return  # taken over while it was being written
        if update.gone:
            self.close(home)
            event(_log, logging.INFO, "transceiver_forgotten", transceiver=home.name)
            return
        if home.lease is None:
            how = "whole" if update.whole else "in_step"
            event(
                _log,
                logging.INFO,
                "transceiver_claimed",
                transceiver=home.name,
                epoch=update.head.epoch,
                state=how,
            )
        for session_id, stamp in plan.stamps.items():
            home.put(session_id, stamp)
        for session_id in update.remove:
            home.drop(session_id)
        home.move(update.head)
        home.lease, home.base, home.said = plan.part.lease, None, plan.said
        home.has_begun = home.is_whole and not update.head.complete
        home.is_whole = home.is_whole and not update.head.complete

    def _undo(self, plan: _Plan) -> None:
        plan.home.dirty.update(plan.ids)

    def _refused(self, home: Home, stored: Lease) -> None:
        """The lease is not the one that this relay has written."""
        if self.by_name.get(home.name) is not home:
            return
        is_others = stored.epoch > home.epoch and stored.instance != self._instance
        if home.lease is not None and is_others:
            home.challenged = time.monotonic()
        elif home.lease is not None:
            event(
                _log,
                logging.WARNING,
                "directory_behind",
                transceiver=home.name,
                epoch=home.epoch,
                found=stored.epoch,
            )
        self.rewrite(home, stored.epoch)
