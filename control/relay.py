# SPDX-License-Identifier: Apache-2.0
"""The relay as its callers see it: transceivers come and go, and say what sessions they have.

Between two awaits everything here happens at once as far as the event loop's other tasks can tell:
the registry changes, and what changed is applied to the maps before anyone else is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Sequence

from earshot.relay.v1 import admin_pb2
from earshot.relay.v1 import relay_pb2 as pb

from control.access import Grant
from control.batches import SLICE, Batches, HopResolver, Speaker, Wish, clock
from control.config import Config
from control.datapath import Datapath
from control.directory import report
from control.directory.directory import Directory
from control.directory.entering import Entering
from control.drain import Drain
from control.flows import endpoint_message
from control.leaving import Leaving
from control.logs import event
from control.model import Owner
from control.occupancy import Table, measure
from control.port_states import Counts
from control.reaper import Reaper
from control.replication.group import Group
from control.requests import Code, LocalAddresses, RequestError, check_hello
from control.sessions import Registry
from control.store import Store
from control.streams import Outbox, Streams
from control.turns import Turns
from telemetry.tracing import Tracing

MAX_BATCH = 1000
# A sweep that comes later than this finds that the daemon had no turn, and that nobody could be heard.
STALL_SECONDS = 2.0
# So long a caller may wait for what the directory is, if this relay has just been started.
DIRECTORY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Relay:
    """One relay host's sessions, and the maps that hold them.

    Attributes:
        stalls: times that a sweep came late, because the daemon had no turn.
        group: the relays that forward each other's flows, if this one has joined any.
        directory: by which the relays of a region share their sessions, if they do.
    """

    def __init__(
        self, config: Config, datapath: Datapath, hops: HopResolver, tracing: Tracing | None = None
    ) -> None:
        """Takes up what a former daemon left in the maps."""
        self.tracing = tracing or Tracing()
        self.datapath = datapath
        self.registry = Registry(
            max_sessions=config.max_sessions,
            max_backends=len(datapath.backends),
            grace_seconds=config.grace_seconds,
            max_sessions_per_transceiver=config.max_sessions_per_transceiver,
        )
        self.streams = Streams()
        self.reaper = Reaper(datapath, self.registry, self.streams, config.flow_idle_seconds)
        self.vips = config.vips
        self.group: Group | None = None
        self.stalls = 0
        self.is_reachable = False  # whether gRPC is served
        self._config = config
        self._store = Store(datapath, self.registry, self.reaper)
        self.turns = Turns()
        self._batches = Batches(self.registry, self._store, hops, self._local(), self.turns, self.tracing)
        self._batches.set_fleet_keys(self.datapath.fleet_keys)
        self._entering = Entering(self.registry, self._store, hops, self._local(), self.turns)
        self._store.restore(clock)
        now = clock()
        self.leaving = Leaving(datapath, self.reaper, config.relay_address_drain_seconds, now)
        self._drain = Drain(config.pin_path)
        self.registry.draining = self._drain.since is not None
        self._swept = self._scanned = now.seconds
        # Nobody could renew anything before.
        self._patient_until = now.seconds + config.grace_seconds
        self.directory = self._make_directory()

    def _make_directory(self) -> Directory | None:
        target = self._config.directory_target
        if target is None:
            return None
        directory = Directory(
            target,
            self.datapath.fleet_keys,
            self._config.name,
            self.registry,
            self._entering,
            self.turns,
            self._lose,
        )
        directory.is_draining = lambda: self.draining_since is not None
        directory.is_joining = lambda: self.is_joining
        directory.adopt()
        self._tell_directory(directory)
        return directory

    def _tell_directory(self, directory: Directory) -> None:
        config = self._config
        directory.region = config.region
        self._entering.reconfigure(self._local(), self.datapath.fleet_keys)
        directory.reconfigure(
            config.name, self.datapath.fleet_keys, config.grace_seconds, config.directory_grace_seconds
        )

    def _lose(self, owner: Owner) -> None:
        """A transceiver has attached to another relay; what it says here does not count any more."""
        self.streams.close(
            owner.number, RequestError(Code.ABORTED, "attached to another relay of the region")
        )

    # ---- operators ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def region(self) -> str:
        """Where it is; empty if nobody has said."""
        return self._config.region

    @property
    def draining_since(self) -> int | None:
        """Since which second of CLOCK_MONOTONIC no new session is taken; None if they are."""
        return self._drain.since

    @property
    def unready(self) -> str:
        """Why whoever spreads clients' packets should leave this relay out; empty if it should not."""
        if not self.is_reachable:
            return "starting, or stopping"
        if self.draining_since is not None:
            return "draining"
        return "catching up with its group" if self.is_joining else ""

    @property
    def is_joining(self) -> bool:
        """Whether it does not know all flows of its group yet."""
        return self.group is not None and not self.group.has_caught_up.is_set()

    def fleet(self) -> admin_pb2.GetFleetResponse:
        """The relays that are heard, this one first, and their transceivers."""
        if self.directory is not None:
            return report.of(self.directory, self.registry)
        return report.alone(
            self.name, self.region, self.draining_since is not None, self.datapath.fleet_keys, self.registry
        )

    def own_sessions(self) -> int:
        """Those that were registered here, and not at another relay of the region."""
        if self.directory is None:
            return self.registry.session_count()
        return sum(len(home.owner.sessions) for home in list(self.directory.homes.by_name.values()))

    async def settled(self) -> None:
        """Returns once it is known what directory there is, or is not to be had within a moment."""
        if self.directory is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DIRECTORY_SECONDS):
                    await self.directory.identity.known.wait()

    @property
    def directory_ids(self) -> list[str]:
        """Of the directory that this relay shares its sessions by; empty without one."""
        return self.directory.ids() if self.directory is not None else []

    def drain(self, now: float) -> None:
        """No new sessions from now on; what is there lives on."""
        self._drain.begin(now)
        self.registry.draining = True
        self._tell_draining()
        event(_log, logging.INFO, "draining", sessions=self.own_sessions())

    def undrain(self) -> None:
        self._drain.end()
        self.registry.draining = False
        self._tell_draining()
        event(_log, logging.INFO, "undrained", sessions=self.registry.session_count())

    def _tell_draining(self) -> None:
        """Transceivers that know another relay of the directory may go there before they are refused."""
        draining = pb.AttachResponse(draining=pb.Draining(draining=self.registry.draining))
        for owner in self.registry.owners():
            self.streams.publish(owner.number, draining)

    def reconfigure(self, config: Config) -> None:
        """Takes over a configuration that the datapath has already."""
        known = self.datapath.vips
        gone = [known.index(vip) for vip in self.vips if vip not in config.vips]
        self._config = config
        self.vips = config.vips
        self.registry.limit(config.max_sessions, config.max_sessions_per_transceiver, config.grace_seconds)
        self.reaper.set_idle_seconds(config.flow_idle_seconds)
        self.reaper.grow()
        if self.group is not None:
            self.group.grow()
            self.group.set_keys(self.datapath.fleet_keys)
            self.group.set_idle_seconds(config.flow_idle_seconds)
        self._batches.set_local(self._local())
        self._batches.set_fleet_keys(self.datapath.fleet_keys)
        if self.directory is not None:
            self._tell_directory(self.directory)
        now = clock()
        if gone:
            self.reaper.end_vips(gone, now)
        self.leaving.reconfigure(config.relay_address_drain_seconds, now)

    def _local(self) -> LocalAddresses:
        return LocalAddresses.of(self.vips, self.datapath.present.values())

    # ---- transceivers ---------------------------------------------------------------------

    def attach(self, hello: pb.Hello, grant: Grant) -> tuple[Speaker, Outbox]:
        """A stream begins to speak for a transceiver; its Welcome is the first message in the outbox.

        Raises:
            RequestError: a name that cannot be or is not this caller's, or too many transceivers.
        """
        check_hello(hello)
        prefixes = grant.prefixes(hello.transceiver)
        if prefixes == ():
            event(_log, logging.WARNING, "attach_denied", caller=grant.caller, transceiver=hello.transceiver)
            raise RequestError(
                Code.PERMISSION_DENIED, f"{grant.caller} may not attach as that", "hello.transceiver"
            )
        now = clock()
        attachment = self.registry.attach(hello.transceiver, hello.software[:200], now.seconds, hello.region)
        self._store.commit(now)
        if self.directory is not None:
            self.directory.attached(self.registry.owner_of(attachment))
        outbox = self.streams.open(attachment.owner)
        welcome = pb.Welcome(
            relay=self._config.name,
            vips=map(endpoint_message, self.vips),
            grace_seconds=self._config.grace_seconds,
            max_batch=MAX_BATCH,
            sessions=len(self.registry.owner_of(attachment).sessions),
            region=self._config.region,
            directories=self.directory_ids,
            draining=self.registry.draining,
        )
        outbox.offer(pb.AttachResponse(welcome=welcome))
        event(
            _log,
            logging.INFO,
            "attached",
            transceiver=hello.transceiver,
            caller=grant.caller,
            sessions=welcome.sessions,
        )
        return Speaker(attachment, prefixes), outbox

    async def take_place(self, speaker: Speaker, hello: pb.Hello) -> None:
        """Sessions are the transceiver's by their ufrags alone from now on, or not any more.

        Raises:
            RequestError: the number is another's, or the endpoints cannot be.
        """
        if hello.HasField("routable"):
            if not self._config.fleet_keys:
                raise RequestError(Code.FAILED_PRECONDITION, "this relay has no fleet_keys", "hello.routable")
            await self._batches.place(speaker, hello.routable)
        else:
            self._batches.displace(speaker)
        if self.directory is not None:
            self.directory.changed(self.registry.owner_of(speaker.attachment))

    def detach(self, speaker: Speaker, outbox: Outbox) -> None:
        """The stream has ended, for whatever reason."""
        now = clock()
        self.streams.remove(speaker.attachment.owner, outbox)
        if owner := self.registry.detach(speaker.attachment, now.seconds):
            event(_log, logging.INFO, "detached", transceiver=owner.name, sessions=len(owner.sessions))
            if self.directory is not None:
                self.directory.changed(owner)
        self._store.commit(now)

    async def handle(self, speaker: Speaker, request: pb.AttachRequest) -> pb.AttachResponse:
        """One request of a stream, and its answer.

        Raises:
            RequestError: for the stream as a whole; what concerns one session is in its result.
        """
        match request.WhichOneof("message"):
            case "snapshot":
                snapshot = pb.AttachResponse(snapshot_result=await self._snapshot(speaker, request.snapshot))
                if request.snapshot.last:
                    self._tell_heard(speaker)
                return snapshot
            case "batch":
                batch = pb.AttachResponse(batch_result=await self._batch(speaker, request.batch))
                self._tell_heard(speaker)
                return batch
            case "hello":
                raise RequestError(Code.FAILED_PRECONDITION, "was sent already", "hello")
        raise RequestError(Code.INVALID_ARGUMENT, "is empty", "message")

    def _tell_heard(self, speaker: Speaker) -> None:
        if self.directory is not None:
            self.directory.heard(self.registry.owner_of(speaker.attachment))

    async def scan(self) -> None:
        """Looks at the whole flow table once: control/reaper.py."""
        steps = self.reaper.steps(clock)
        more = True
        while more:
            async with self.turns.slice():
                more = next(steps, self) is None
        self._scanned = clock().seconds

    async def sweep(self) -> int:
        """Ends sessions that have expired or whose transceiver has not come back; says how many.

        Called twice a second. When it was not, the daemon did not run, and who tried meanwhile to come
        back or to renew is given as long as that to be heard, though never longer than the grace period.
        """
        now = clock()
        late, self._swept = now.seconds - self._swept, now.seconds
        if late > STALL_SECONDS:
            self.stalls += 1
            event(_log, logging.WARNING, "stalled", seconds=round(late, 1))
            patience = min(late, self._config.grace_seconds)
            self._patient_until = max(self._patient_until, now.seconds + patience)
        if now.seconds < self._patient_until:
            return 0
        ended = 0
        while True:
            async with self.turns.slice():
                now = clock()
                part = len(self.registry.sweep(now.seconds, SLICE))
                self._store.commit(now)
            ended += part
            if part < SLICE:
                return ended

    def tables(self, ports: Counts | None = None) -> list[Table]:
        """How full everything is that can refuse something; `ports` for who has counted them already."""
        return measure(self.datapath, self.registry, self._config.max_sessions, ports)

    @property
    def outcomes(self) -> Counter[tuple[str, ...]]:
        """What became of operations on sessions, by kind of operation and name of the code."""
        return self._batches.outcomes

    def sweep_ages(self, now: float) -> dict[str, float]:
        """Seconds since the daemon last looked at everything, by what it looked at."""
        return {"flows": now - self._scanned, "sessions": now - self._swept}

    async def _batch(self, speaker: Speaker, batch: pb.Batch) -> pb.BatchResult:
        _check_size(batch.operations, "batch.operations")
        results = await self._batches.carry_out(speaker, [Wish.of(one) for one in batch.operations])
        return pb.BatchResult(batch_id=batch.batch_id, results=results)

    async def _snapshot(self, speaker: Speaker, snapshot: pb.Snapshot) -> pb.SnapshotResult:
        _check_size(snapshot.sessions, "snapshot.sessions")
        self.registry.begin_snapshot(self.registry.owner_of(speaker.attachment))
        wishes = [Wish("add", session) for session in snapshot.sessions]
        results = await self._batches.carry_out(speaker, wishes)
        owner = self.registry.owner_of(speaker.attachment)
        self.registry.keep(owner, [result.session_id for result in results])
        removed = await self._end_snapshot(speaker) if snapshot.last else 0
        return pb.SnapshotResult(results=results, removed=removed)

    async def _end_snapshot(self, speaker: Speaker) -> int:
        removed = 0
        while True:
            async with self.turns.slice():
                owner = self.registry.owner_of(speaker.attachment)
                now = clock()
                part = self.registry.end_snapshot(owner, now.seconds, SLICE)
                self._store.commit(now)
            removed += part
            if part < SLICE:
                return removed


def _check_size(entries: Sequence[object], field: str) -> None:
    if len(entries) > MAX_BATCH:
        raise RequestError(Code.INVALID_ARGUMENT, f"has {len(entries)} entries; at most {MAX_BATCH}", field)
