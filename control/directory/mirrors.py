# SPDX-License-Identifier: Apache-2.0
"""The transceivers that are attached to other relays: their sessions are entered here as they change there.

An update that follows on what is here is entered. Where something is missing, or is not as it should be, the
whole state is read from Redis and what differs is entered: of a transceiver that is new here, after a gap,
and when stamps disagree. Updates that come meanwhile wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from earshot.directory.v1 import directory_pb2 as pb
from earshot.relay.v1 import relay_pb2 as relay

from control.batches import SLICE, clock
from control.directory.entering import Entering, Wanted, WantedPlace
from control.directory.errors import AwayError, Refusal, Refusals, SealError
from control.directory.replica import Relation, Replica, Stamper, total_of
from control.directory.store import HEAD, Lease, SessionStore
from control.logs import event
from control.model import Attachment, Owner
from control.requests import RequestError
from control.sessions import Registry
from control.turns import Turns

# Sessions that could not be entered are tried again, so many at a time.
RETRIED = 1000

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Mirror(Replica):
    """A transceiver that another relay speaks for, or nobody at the moment.

    Attributes:
        owner, attachment: in the registry; None before there is anything to enter.
        writer: the daemon that has written the state to where it is.
        speaker: the daemon that was the last to say that it speaks for it.
        silent_since: when nobody did any more, in seconds by the directory's clock (`Members`).
        place: in the fleet, as it is said (empty: none; None: not known); `place_waits`: to be entered.
        pending: registrations that could not be entered, by session.
        former: stamps of before, while the whole state is told anew.
        waiting: updates that came while the state is being read; None: it is not.
        is_damaged: what stands in Redis cannot be believed.
        expected: how far the relay that speaks for it says that the state in Redis is.
        is_over: its grace has ended; only the epoch is remembered. `is_forgotten`: and not much longer.
    """

    owner: Owner | None = None
    attachment: Attachment | None = None
    writer: bytes = b""
    speaker: bytes = b""
    silent_since: float | None = None
    place: bytes | None = None
    place_waits: bool = False
    pending: dict[str, bytes] = field(default_factory=dict)
    former: dict[str, int] | None = None
    waiting: list[tuple[bytes, pb.Update]] | None = None
    is_damaged: bool = False
    expected: tuple[int, int] = (0, 0)
    is_over: bool = False
    is_forgotten: bool = False

    @property
    def lease(self) -> Lease | None:
        """That which stands there, if what is here is the same as what is there."""
        in_step = self.epoch and self.is_complete and self.former is None and self.waiting is None
        return Lease(*self.point, self.writer.hex()) if in_step and not self.is_over else None


class Mirrors:
    """All of them, and what is entered for them.

    Attributes:
        by_name: the mirrors, some of them over.
        entered: changes of sessions that were told; `read`: whole states.
    """

    def __init__(
        self,
        registry: Registry,
        entering: Entering,
        store: SessionStore,
        stamper: Stamper,
        refusals: Refusals,
        turns: Turns,
        is_here: Callable[[str], bool],
    ) -> None:
        """`is_here`: whether a transceiver is attached to this relay, by its name."""
        self._is_here = is_here
        self.by_name: dict[str, Mirror] = {}
        self.entered = self.read = 0
        self._registry = registry
        self._entering = entering
        self._store = store
        self.stamper = stamper
        self._refusals = refusals
        self._turns = turns
        self.to_read: dict[str, Mirror] = {}  # in the order in which they were missed
        self.missed = asyncio.Event()  # there is something to read
        self.failed = asyncio.Event()  # there is something to try again
        self._under_way: list[list[Wanted]] = []

    @property
    def pending(self) -> int:
        """Sessions that could not be entered yet."""
        return sum(len(mirror.pending) for mirror in list(self.by_name.values()))

    def adopt(self, owner: Owner, attachment: Attachment, now: float) -> Mirror:
        """A transceiver of which the registry knows, and the directory has not said anything yet."""
        mirror = Mirror(owner.name, owner=owner, attachment=attachment, silent_since=now)
        self.by_name[owner.name] = mirror
        return mirror

    def close(self, name: str) -> Mirror | None:
        """It has attached here; what was known of it is handed back."""
        self.to_read.pop(name, None)
        return self.by_name.pop(name, None)

    def miss(self, name: str) -> Mirror:
        """The whole state of a transceiver is needed."""
        mirror = self.by_name.get(name)
        if mirror is None:
            mirror = self.by_name[name] = Mirror(name)
        self.to_read[name] = mirror
        self.missed.set()
        return mirror

    def unsettled(self, owner: Owner) -> set[str]:
        """Sessions of a transceiver that may not be here as they are in the directory."""
        mirror = self.by_name.get(owner.name)
        if mirror is None or mirror.owner is not owner:
            return set()
        under_way = {
            one.session_id for part in self._under_way for one in part if one.attachment == mirror.attachment
        }
        return under_way | set(mirror.pending) | (mirror.stamps.keys() ^ owner.sessions.keys())

    # ---- updates --------------------------------------------------------------------------

    async def take(self, updates: Iterable[tuple[bytes, pb.Update]]) -> None:
        """Enters what follows on what is here; of the rest, the state is to be read."""
        wanted: list[Wanted] = []
        for writer, update in updates:
            if self._is_here(update.transceiver):
                continue
            mirror = self.by_name.get(update.transceiver) or Mirror(update.transceiver)
            self.by_name.setdefault(update.transceiver, mirror)
            if mirror.waiting is not None:
                mirror.waiting.append((writer, update))
            else:
                wanted += self._step(mirror, update, writer)
        await self._enter(wanted)

    def _step(self, mirror: Mirror, update: pb.Update, writer: bytes) -> list[Wanted]:
        """What one update changes here."""
        relation = mirror.relation(update)
        if relation in {Relation.STALE, Relation.OLD}:  # as when the state that was read is newer
            return []
        if update.gone:
            self._forget(mirror, update.head)
            return []
        if relation is Relation.GAP or not self._attach(mirror, update.head):
            self.miss(mirror.name)
            return []
        if relation is Relation.WHOLE:
            mirror.former, mirror.is_damaged = mirror.stamps, False
            mirror.clear()
        wanted = self._changes(mirror, update)
        mirror.move(update.head)
        mirror.writer = mirror.speaker = writer
        mirror.silent_since = None
        if mirror.is_complete:
            wanted += self._complete(mirror)
            if not mirror.agrees(update.head):
                self._differ(mirror, "after an update")
        self._follow(mirror, update.head)
        return wanted

    def _changes(self, mirror: Mirror, update: pb.Update) -> list[Wanted]:
        attachment = mirror.attachment
        assert attachment is not None  # _attach
        wanted: list[Wanted] = []
        former = mirror.stamps if mirror.former is None else mirror.former
        for one in update.add:
            stamp = self.stamper.stamp(one.registration)
            is_there = former.get(one.session_id) == stamp and one.session_id not in mirror.pending
            mirror.put(one.session_id, stamp)
            if not is_there:
                mirror.pending.pop(one.session_id, None)
                wanted.append(Wanted(attachment, one.session_id, one.registration))
        for session_id in update.remove:
            mirror.drop(session_id)
            mirror.pending.pop(session_id, None)
            wanted.append(Wanted(attachment, session_id, None))
        return wanted

    def _complete(self, mirror: Mirror) -> list[Wanted]:
        """After a whole state: what it did not name is to go."""
        if mirror.former is None or mirror.owner is None or mirror.attachment is None:
            return []
        mirror.former = None
        return self._unnamed(mirror, mirror.owner, mirror.attachment)

    def _unnamed(self, mirror: Mirror, owner: Owner, attachment: Attachment) -> list[Wanted]:
        gone = [session_id for session_id in owner.sessions if session_id not in mirror.stamps]
        for session_id in [one for one in mirror.pending if one not in mirror.stamps]:
            del mirror.pending[session_id]
        return [Wanted(attachment, session_id, None) for session_id in gone]

    async def _enter(self, wanted: list[Wanted]) -> None:
        if not wanted:
            return
        self.entered += len(wanted)
        self._under_way.append(wanted)
        try:
            failed = await self._entering.enter(wanted)
        finally:
            self._under_way.remove(wanted)
        for one, error in failed:
            self._fail(one, error)

    def _fail(self, wanted: Wanted, error: RequestError) -> None:
        mirror = self._mirror_of(wanted)
        if mirror is None or wanted.registration is None:
            return
        if self.stamper.stamp(wanted.registration) == mirror.stamps.get(wanted.session_id):
            mirror.pending[wanted.session_id] = wanted.registration
            self.failed.set()
            event(
                _log,
                logging.DEBUG,
                "session_waits",
                transceiver=mirror.name,
                session=wanted.session_id,
                message=error,
            )

    # ---- transceivers ---------------------------------------------------------------------

    def _attach(self, mirror: Mirror, head: pb.Head) -> bool:
        """Has the registry know the transceiver; False: it has no room, or knows it as attached here."""
        if self.by_name.get(mirror.name) is not mirror or self._is_here(mirror.name):
            return False
        owner = mirror.owner
        if owner is not None and self._registry.is_here(owner) and not mirror.is_over:
            return True
        now = clock().seconds
        try:
            mirror.attachment = self._registry.attach(mirror.name, head.software, now, head.region)
        except RequestError as error:
            event(_log, logging.WARNING, "transceiver_not_entered", transceiver=mirror.name, message=error)
            return False
        mirror.owner = self._registry.owner_of(mirror.attachment)
        mirror.place, mirror.is_over, mirror.is_forgotten = None, False, False
        return True

    def _follow(self, mirror: Mirror, head: pb.Head) -> None:
        """What is said of the transceiver itself: whether its stream is open, and its place."""
        if mirror.owner is None or mirror.attachment is None:
            return
        if head.attached:
            self._registry.resume(mirror.attachment, clock().seconds)
        elif mirror.owner.attached:
            self._registry.detach(mirror.attachment, clock().seconds)
        place = head.place.SerializeToString() if head.HasField("place") else b""
        if place != mirror.place:
            mirror.place, mirror.place_waits = place, True
            self.failed.set()

    def _forget(self, mirror: Mirror, head: pb.Head) -> None:
        if mirror.attachment is not None:
            self._registry.end(mirror.attachment, clock().seconds)
        mirror.move(head)
        self.finish(mirror)

    def finish(self, mirror: Mirror) -> None:
        """Its grace is over; it is remembered for a while so that nobody takes it for a new one."""
        mirror.clear()
        mirror.pending.clear()
        mirror.former, mirror.owner, mirror.attachment = None, None, None
        mirror.is_over = True
        self.to_read.pop(mirror.name, None)

    def forget(self) -> None:
        """Gives up those of which nothing was heard since this was last called."""
        for name, mirror in list(self.by_name.items()):
            if mirror.owner is None and mirror.waiting is None and name not in self.to_read:
                if mirror.is_forgotten:
                    del self.by_name[name]
                mirror.is_forgotten = True

    def _differ(self, mirror: Mirror, when: str) -> None:
        self._refusals.add(Refusal.DIFFERS, mirror.name, f"{when}: its stamps are others")
        self.miss(mirror.name)

    # ---- whole states ---------------------------------------------------------------------

    async def read_next(self) -> None:
        """Reads the state that was missed first. Raises AwayError: it is still to be read."""
        name, mirror = next(iter(self.to_read.items()))
        del self.to_read[name]
        mirror.waiting = []
        try:
            await self._read(mirror)
        except AwayError:
            if self.by_name.get(name) is mirror:
                self.to_read[name] = mirror
            raise
        finally:
            # What still waits here is missed when the relay that speaks for it says how far it is.
            mirror.waiting = None

    async def _read(self, mirror: Mirror) -> None:
        fields = await self._store.fields(mirror.name)
        try:
            state = await self._open(mirror, fields)
        except SealError as error:
            self._refusals.add(error.why, f"state of {mirror.name}", error)
            mirror.is_damaged = error.why not in {Refusal.KEY, Refusal.VERSION}  # those are this relay's lack
            return
        if state is None:
            return
        head, writer, registrations = state
        mirror.is_damaged = False
        if not self._attach(mirror, head):
            return
        await self._enter(self._difference(mirror, head, registrations))
        mirror.writer = writer
        self.read += 1
        self._follow(mirror, head)
        await self._catch_up(mirror)

    async def _catch_up(self, mirror: Mirror) -> None:
        """What came while the state was read."""
        while mirror.waiting:
            updates, wanted = list(mirror.waiting), list[Wanted]()
            mirror.waiting.clear()
            for writer, update in updates:
                wanted += self._step(mirror, update, writer)
            await self._enter(wanted)

    async def _open(
        self, mirror: Mirror, fields: dict[bytes, bytes]
    ) -> tuple[pb.Head, bytes, dict[str, bytes]] | None:
        """A state that is complete and not older than what is here; None: there is none such.

        Raises:
            SealError: it is not what a relay has written.
        """
        sealed = fields.pop(HEAD, None)
        if sealed is None:
            return None
        head, writer = self._store.head(mirror.name, sealed)
        if not head.complete or (head.epoch, head.sequence) < mirror.point:
            return None
        if (head.epoch, head.sequence) < mirror.expected:
            raise SealError(Refusal.DIFFERS, "is older than its relay says")
        registrations: dict[str, bytes] = {}
        items = list(fields.items())
        for start in range(0, len(items), SLICE):
            async with self._turns.slice():
                for key, value in items[start : start + SLICE]:
                    session_id = key.decode("utf-8", "replace")
                    registrations[session_id] = self._store.open(mirror.name, session_id, value)
        total = total_of(map(self.stamper.stamp, registrations.values()))
        if total != head.stamps or len(registrations) != head.sessions:
            raise SealError(Refusal.DIFFERS, "holds other sessions than its relay has written")
        return head, writer, registrations

    def _difference(self, mirror: Mirror, head: pb.Head, registrations: dict[str, bytes]) -> list[Wanted]:
        """What has to change here for a state that was read."""
        assert mirror.owner is not None  # _attach
        assert mirror.attachment is not None
        before = mirror.stamps
        stamps = {one: self.stamper.stamp(registration) for one, registration in registrations.items()}
        mirror.former = None
        mirror.replace(head, stamps)
        wanted = self._unnamed(mirror, mirror.owner, mirror.attachment)
        for session_id, registration in registrations.items():
            if before.get(session_id) != stamps[session_id] or session_id in mirror.pending:
                mirror.pending.pop(session_id, None)
                wanted.append(Wanted(mirror.attachment, session_id, registration))
        return wanted

    # ---- what waits -----------------------------------------------------------------------

    async def retry(self) -> None:
        """Tries again to enter what could not be, now that there is time to look for next hops."""
        wanted: list[Wanted] = []
        places: list[tuple[Mirror, WantedPlace]] = []
        mirrors = list(self.by_name.values())
        random.shuffle(mirrors)  # those that cannot be helped are not to hold up others
        for mirror in mirrors:
            if mirror.attachment is None or mirror.waiting is not None:
                continue
            for session_id, registration in mirror.pending.items():
                wanted.append(Wanted(mirror.attachment, session_id, registration))
            if mirror.place_waits:
                place = relay.Routable.FromString(mirror.place) if mirror.place else None
                places.append((mirror, WantedPlace(mirror.attachment, place)))
            if len(wanted) >= RETRIED:
                break
        reached = await self._entering.reach([*wanted, *(place for _, place in places)])
        # What has been told meanwhile is newer.
        still = [one for one in wanted if self._waits(one)]
        failed = await self._entering.enter(still, reached)
        missed = {(one.attachment, one.session_id) for one, _ in failed}
        for one in still:
            self._tried(one, (one.attachment, one.session_id) in missed)
        for mirror, wanted_place in places:
            error = await self._entering.place(wanted_place, reached)
            if error is None and mirror.attachment == wanted_place.attachment:
                mirror.place_waits = False

    def _waits(self, wanted: Wanted) -> bool:
        mirror = self._mirror_of(wanted)
        return mirror is not None and mirror.pending.get(wanted.session_id) == wanted.registration

    def _tried(self, wanted: Wanted, has_failed: bool) -> None:
        """It is entered now, or is the last one to be tried again."""
        mirror = self._mirror_of(wanted)
        if mirror is not None and mirror.pending.get(wanted.session_id) == wanted.registration:
            registration = mirror.pending.pop(wanted.session_id)
            if has_failed:
                mirror.pending[wanted.session_id] = registration

    def _mirror_of(self, wanted: Wanted) -> Mirror | None:
        owner = self._registry.spoken_for(wanted.attachment)
        mirror = None if owner is None else self.by_name.get(owner.name)
        return mirror if mirror is not None and mirror.owner is owner else None
