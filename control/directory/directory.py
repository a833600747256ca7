# SPDX-License-Identifier: Apache-2.0
"""The directory as the relay has it: what happens here is told to others, and what they tell is entered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from earshot.directory.v1 import directory_pb2 as pb
from google.protobuf.message import DecodeError

from control.batches import clock
from control.directory.entering import Entering
from control.directory.errors import AwayError, Refusal, Refusals
from control.directory.homes import Home, Homes
from control.directory.identity import Identity
from control.directory.journal import Journal, Message
from control.directory.link import Link
from control.directory.members import BEAT_SECONDS, Members
from control.directory.mirrors import Mirror, Mirrors
from control.directory.presence import Presence
from control.directory.replays import Replays
from control.directory.replica import Stamper
from control.directory.seal import Sealer
from control.directory.store import KEPT_SECONDS, SessionStore
from control.directory.target import Target
from control.logs import event
from control.model import Owner
from control.sessions import Registry
from control.turns import Turns
from fleet.key import FleetKey

# Changes of so long a time are told together.
GATHER_SECONDS = 0.005
RETRY_SECONDS = 1.0
KEEP_SECONDS = KEPT_SECONDS / 24
LEAVE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Directory:
    """One relay's part in it.

    Attributes:
        link, journal, refusals, members, homes, mirrors, presence, identity: what it is made of.
    """

    def __init__(
        self,
        target: Target,
        keys: Mapping[int, FleetKey],
        name: str,
        registry: Registry,
        entering: Entering,
        turns: Turns,
        lost: Callable[[Owner], None],
    ) -> None:
        """`lost`: ends the stream of a transceiver that has attached to another relay.

        Raises:
            ConfigError: the password or the certificates cannot be read.
        """
        self.link = Link(target)
        self.sealer = Sealer(keys)
        self.refusals = Refusals()
        self.journal = Journal(self.link, self.sealer, self.refusals, "sessions")
        self._replays = Replays(self.journal, self.refusals)
        self.members = Members(self.sealer.instance)
        self.presence = Presence(self.link, name, self.sealer.instance)
        self.identity = Identity(self.link)
        self.is_draining: Callable[[], bool] = lambda: False
        self.is_joining: Callable[[], bool] = lambda: False
        self.region = ""  # of this relay, for operators
        self._registry = registry
        self._lost = lost
        self._keys = dict(keys)
        self._grace_seconds = self._silence_grace = 0.0
        self._version = version("earshot")  # which is read from disk
        store = SessionStore(self.link, self.sealer, self.journal)
        stamper = Stamper(self._sealing_key())
        self.homes = Homes(registry, store, stamper, self.sealer.instance)
        self.mirrors = Mirrors(
            registry, entering, store, stamper, self.refusals, turns, self.homes.by_name.__contains__
        )
        self._disputed: dict[str, int] = {}  # epochs that others should know of, until the next beat

    def reconfigure(
        self, name: str, keys: Mapping[int, FleetKey], grace: float, silence_grace: float
    ) -> None:
        """Another name, other keys and times from now on.

        A transceiver's sessions live for `grace` seconds after its stream has ended, and for `silence_grace`
        where that was not told, since its relay is silent.
        """
        self._grace_seconds, self._silence_grace = grace, silence_grace
        self.presence.name = name
        self._keys = dict(keys)
        if self.sealer.set_keys(keys):
            stamper = Stamper(self._sealing_key())
            self.homes.seal_anew(stamper)
            self.mirrors.stamper = stamper

    def _sealing_key(self) -> FleetKey:
        return self._keys[self.sealer.number]

    # ---- what happens at this relay -------------------------------------------------------

    def ids(self) -> list[str]:
        """What others may know of which directory this is; empty while this relay does not know it."""
        return self.identity.told(self._keys.values())

    def adopt(self) -> None:
        """Transceivers that a former daemon has left are kept until it is heard whose they are."""
        for owner in self._registry.owners():
            attachment = self._registry.attach(owner.name, owner.software, clock().seconds, owner.region)
            self.mirrors.adopt(owner, attachment, self.members.now)

    def attached(self, owner: Owner) -> None:
        """A transceiver's stream is open here."""
        if (home := self.homes.of(owner)) is not None:
            self.homes.touch(home)
            return
        was_missed = owner.name in self.mirrors.to_read
        unsettled = self.mirrors.unsettled(owner)
        mirror = self.mirrors.close(owner.name)
        lease = mirror.lease if mirror is not None and not was_missed else None
        self.homes.open(owner, mirror, lease, unsettled)

    def changed(self, owner: Owner) -> None:
        """Its stream has ended, or its place has changed."""
        if (home := self.homes.of(owner)) is not None:
            self.homes.touch(home)

    def heard(self, owner: Owner) -> None:
        """It has said what sessions it has, or which of them have changed."""
        if (home := self.homes.of(owner)) is not None:
            self.homes.heard(home)

    def leave_soon(self) -> None:
        """This relay is about to stop: streams that end from now on end for that, and are not told of.

        Their transceivers are those of a relay that is silent, then, until they attach to another one.
        """
        self.homes.is_leaving = True

    # ---- running --------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tells and hears, while the block runs."""
        async with asyncio.TaskGroup() as tasks:
            works = [
                tasks.create_task(work)
                for work in (
                    self._hear(),
                    self._tell(),
                    self._beat(),
                    self._read(),
                    self._retry(),
                    self._keep(),
                )
            ]
            try:
                yield
            finally:
                for work in works:
                    work.cancel()
        await self._leave()

    async def _leave(self) -> None:
        """What is left to say, if it can be said at once; the name is free."""
        with contextlib.suppress(AwayError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                while await self.homes.flush():
                    pass
        if self.link.is_up:
            await self.presence.leave()
        await self.link.close()

    async def _tell(self) -> None:
        homes = self.homes
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await homes.woken.wait()
            homes.woken.clear()
            await asyncio.sleep(GATHER_SECONDS)
            try:
                more = True
                while more:
                    more = await homes.flush()
            except AwayError:
                homes.woken.set()
                await self.link.pause()

    async def _read(self) -> None:
        """States that were missed."""
        mirrors = self.mirrors
        while True:
            await mirrors.missed.wait()
            mirrors.missed.clear()
            while mirrors.to_read:
                try:
                    await mirrors.read_next()
                except AwayError:
                    await self.link.pause()

    async def _retry(self) -> None:
        """Sessions that could not be entered."""
        mirrors = self.mirrors
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await mirrors.failed.wait()
            mirrors.failed.clear()
            await mirrors.retry()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            self.members.forget()
            self.mirrors.forget()
            with contextlib.suppress(AwayError):  # not urgent: there are many tries in KEPT_SECONDS
                await self.homes.keep()

    async def _beat(self) -> None:
        while True:
            try:
                now = time.monotonic()
                await self.identity.keep()
                await self.presence.keep(now)
                await self.homes.check()
                await self._say_beat(now)
            except AwayError:
                pass  # said by the link; the next beat is the next try
            self._look_for_silent()
            await asyncio.sleep(BEAT_SECONDS)

    async def _say_beat(self, now: float) -> None:
        beat = self.beat()
        beat.held.extend(self._held())
        self._disputed.clear()
        sealed = self.journal.seal(pb.Entry(beat=beat).SerializeToString())
        self.members.sent(self.sealer.sealed, now)
        await self.journal.put(sealed)

    def beat(self) -> pb.Beat:
        """What this relay says of itself."""
        return pb.Beat(
            relay=self.presence.name,
            sessions=self._registry.session_count(),
            version=self._version,
            key=self.sealer.number,
            keys=self._keys,
            pending=self.mirrors.pending,
            draining=self.is_draining(),
            joining=self.is_joining(),
            region=self.region,
        )

    def _held(self) -> list[pb.Held]:
        held = [
            pb.Held(
                transceiver=home.name,
                point=pb.Point(epoch=home.epoch, sequence=home.sequence),
                held=True,
                attached=home.owner.attached,
            )
            for home in self.homes.by_name.values()
            if home.lease is not None and self._registry.is_here(home.owner)
        ]
        for mirror in self.mirrors.by_name.values():
            is_vouched_for = mirror.silent_since is not None and not mirror.is_over and mirror.epoch > 0
            if is_vouched_for or mirror.is_damaged or mirror.name in self._disputed:
                silent = self.members.now - mirror.silent_since if mirror.silent_since is not None else 0
                held.append(
                    pb.Held(
                        transceiver=mirror.name,
                        point=pb.Point(epoch=mirror.epoch, sequence=mirror.sequence),
                        attached=is_vouched_for and mirror.owner is not None and mirror.owner.attached,
                        silent_seconds=int(silent),
                        damaged=mirror.is_damaged,
                    )
                )
        return held

    def _look_for_silent(self) -> None:
        """Transceivers whose relay is not heard are kept for a while; after that their grace begins.

        While nothing can be heard, nobody's grace ends: it would be told if they attached elsewhere.
        """
        members = self.members
        if members.is_deaf(time.monotonic()):
            for owner in self._registry.owners():
                self._registry.postpone(owner, clock().seconds)
            return
        for home in self.homes.by_name.values():
            if not self._registry.is_here(home.owner):
                self.homes.touch(home)
        for mirror in list(self.mirrors.by_name.values()):
            if mirror.owner is None or mirror.attachment is None:
                continue
            if not self._registry.is_here(mirror.owner):
                self.mirrors.finish(mirror)
                continue
            if mirror.silent_since is None:
                if members.is_silent(mirror.speaker):
                    mirror.silent_since = members.now
                    event(_log, logging.WARNING, "transceiver_unheld", transceiver=mirror.name)
                continue
            patience = max(0.0, self._silence_grace - self._grace_seconds)
            if mirror.owner.attached and members.now - mirror.silent_since >= patience:
                self._registry.detach(mirror.attachment, clock().seconds)

    # ---- hearing --------------------------------------------------------------------------

    async def _hear(self) -> None:
        async for messages in self.journal.tail():
            updates: list[tuple[bytes, pb.Update]] = []
            for message in messages:
                entry = self._entry(message)
                if entry is None:
                    continue
                for update in entry.updates:
                    if self._is_for_mirrors(update, message.instance):
                        updates.append((message.instance, update))
                if entry.HasField("beat"):
                    # What was said before it is to be known when it is compared.
                    await self.mirrors.take(updates)
                    updates = []
                    self._hear_beat(entry.beat, message)
            await self.mirrors.take(updates)

    def _entry(self, message: Message) -> pb.Entry | None:
        """A message of another's, or a beat of our own."""
        if not self._replays.is_new(message):
            return None
        if message.instance == self.sealer.instance:
            self.members.heard_self(message.counter, time.monotonic())
            return None
        try:
            return pb.Entry.FromString(message.payload)
        except DecodeError as error:
            self.refusals.add(Refusal.MALFORMED, f"{self.journal.key} {message.position}", error)
            return None

    def _is_for_mirrors(self, update: pb.Update, instance: bytes) -> bool:
        """Whether an update is of a transceiver that is not this relay's, or is not any more."""
        home = self.homes.by_name.get(update.transceiver)
        if home is None:
            return True
        if home.lease is None and home.challenged is None:
            # About to be claimed: what it would have gone on from may not be what stands there any more.
            if (update.head.epoch, update.head.sequence) > home.point:
                self.homes.rewrite(home, update.head.epoch)
            return False
        if update.head.epoch <= home.epoch:  # of before it attached here
            return False
        if (
            home.owner.attached and not update.head.attached
        ):  # whose stream has ended had not heard of this one
            self.homes.rewrite(home, update.head.epoch)
            return False
        self._lose(home, instance)
        return True

    def _lose(self, home: Home, instance: bytes) -> None:
        """A transceiver has attached to another relay, and its sessions are to be heard from there."""
        event(_log, logging.INFO, "transceiver_moved", transceiver=home.name, to=self.name_of(instance))
        in_step = not home.dirty and not home.is_whole and home.lease is not None
        self.homes.close(home)
        self._registry.hold(home.owner, clock().seconds)
        attachment = self._registry.attach(home.name, home.owner.software, clock().seconds, home.owner.region)
        mirror = self.mirrors.adopt(home.owner, attachment, self.members.now)
        mirror.silent_since, mirror.speaker = None, instance
        mirror.epoch, mirror.sequence = home.point
        mirror.stamps, mirror.total, mirror.is_complete = home.stamps, home.total, in_step
        mirror.place = pb.Head.FromString(home.said).place.SerializeToString()
        if not in_step:
            self.mirrors.miss(mirror.name)
        self._lost(home.owner)

    def _hear_beat(self, beat: pb.Beat, message: Message) -> None:
        self.members.heard(message.instance, beat)
        for held in beat.held:
            point = held.point.epoch, held.point.sequence
            home = self.homes.by_name.get(held.transceiver)
            if home is not None:
                self._compare(home, held, message.instance)
            elif held.held:
                self._follow(held, point, message.instance)
            elif held.attached:
                self._vouched(held, point)

    def _compare(self, home: Home, held: pb.Held, instance: bytes) -> None:
        """Another relay says something of a transceiver that is attached here."""
        if held.point.epoch > home.epoch:
            is_taken = held.held and (held.attached or not home.owner.attached)
            if is_taken and (home.lease is not None or home.challenged is not None):
                self._lose(home, instance)
                self.mirrors.miss(home.name)
            elif home.floor < held.point.epoch:
                self.homes.rewrite(home, held.point.epoch)
        elif held.damaged:
            self.homes.repair(home, time.monotonic())

    def _follow(self, held: pb.Held, point: tuple[int, int], instance: bytes) -> None:
        """A relay says that it speaks for a transceiver, and how far its state is."""
        mirror = self.mirrors.by_name.get(held.transceiver)
        if mirror is None:
            mirror = self.mirrors.miss(held.transceiver)
        elif held.point.epoch < mirror.epoch:
            self._disputed[held.transceiver] = mirror.epoch
            return
        elif (mirror.point < point and mirror.waiting is None) or (mirror.is_over and held.attached):
            self.mirrors.miss(held.transceiver)
        mirror.speaker, mirror.expected = instance, point
        if mirror.silent_since is not None:
            self._heard_again(mirror, held)

    def _heard_again(self, mirror: Mirror, held: pb.Held) -> None:
        mirror.silent_since = None
        if held.attached and mirror.attachment is not None:
            self._registry.resume(mirror.attachment, clock().seconds)

    def _vouched(self, held: pb.Held, point: tuple[int, int]) -> None:
        """Nobody speaks for a transceiver, and another relay keeps its sessions until somebody does."""
        mirror = self.mirrors.by_name.get(held.transceiver)
        if mirror is None:
            mirror = self.mirrors.miss(held.transceiver)
            mirror.silent_since = self.members.now - held.silent_seconds
        elif mirror.point < point and not mirror.is_over:
            self.mirrors.miss(held.transceiver)

    def name_of(self, instance: bytes) -> str:
        """The relay of a daemon, or the daemon's number where it was not heard."""
        member = self.members.by_instance.get(instance)
        return member.said.relay if member is not None else instance.hex()
