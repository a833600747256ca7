# SPDX-License-Identifier: Apache-2.0
"""The relay as its callers see it: requests checked, next hops found, sessions stored, flows ended.

Between two awaits everything here happens at once as far as the event loop's other tasks can tell:
the registry changes, and what changed is applied to the maps before anyone else is heard.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from earshot.relay.v1 import relay_pb2 as pb

from control.addresses import Endpoint, IPAddress
from control.config import Config
from control.datapath import Datapath
from control.errors import UnreachableError
from control.flows import Clock, endpoint_message
from control.hmac_keys import key_states
from control.logs import event
from control.model import Attachment, Owner, Session, UfragKey
from control.reaper import Reaper
from control.requests import Code, LocalAddresses, RequestError, SessionRequest, check_hello, check_session
from control.sessions import Registry
from control.store import Store
from control.streams import Outbox, Streams

MAX_BATCH = 1000
# A neighbour that is there answers within milliseconds; ARP gives up after three seconds.
HOP_SECONDS = 4.0

_log = logging.getLogger(__name__)


class HopResolver(Protocol):
    """What of the next hops is needed here."""

    async def hop_for(self, address: IPAddress) -> int: ...


def clock() -> Clock:
    """Now."""
    return Clock.at(time.monotonic_ns())


class Relay:
    """One relay host's sessions, and the maps that hold them."""

    def __init__(self, config: Config, datapath: Datapath, hops: HopResolver) -> None:
        """Takes up what a former daemon left in the maps."""
        self.datapath = datapath
        self.registry = Registry(
            max_sessions=config.max_sessions,
            max_backends=len(datapath.backends),
            grace_seconds=config.grace_seconds,
        )
        self.streams = Streams()
        self.reaper = Reaper(datapath, self.registry, self.streams, config.flow_idle_seconds)
        self.vips = config.vips
        self._config = config
        self._hops = hops
        self._local = LocalAddresses.of(config.vips, config.relay_addresses)
        self._store = Store(datapath, self.registry, self.reaper)
        self._store.restore(clock())

    # ---- transceivers ---------------------------------------------------------------------

    def attach(self, hello: pb.Hello) -> tuple[Attachment, Outbox]:
        """A stream begins to speak for a transceiver; its Welcome is the first message in the outbox.

        Raises:
            RequestError: a name that cannot be, or too many transceivers.
        """
        check_hello(hello)
        now = clock()
        attachment = self.registry.attach(hello.transceiver, hello.software[:200], now.seconds)
        self._store.commit(now)
        outbox = self.streams.open(attachment.owner)
        welcome = pb.Welcome(
            relay=self._config.name,
            vips=map(endpoint_message, self.vips),
            grace_seconds=self._config.grace_seconds,
            max_batch=MAX_BATCH,
            sessions=len(self.registry.owner_of(attachment).sessions),
        )
        outbox.offer(pb.AttachResponse(welcome=welcome))
        event(_log, logging.INFO, "attached", transceiver=hello.transceiver, sessions=welcome.sessions)
        return attachment, outbox

    def detach(self, attachment: Attachment, outbox: Outbox) -> None:
        """The stream has ended, for whatever reason."""
        now = clock()
        self.streams.remove(attachment.owner, outbox)
        if owner := self.registry.detach(attachment, now.seconds):
            event(_log, logging.INFO, "detached", transceiver=owner.name, sessions=len(owner.sessions))
        self._store.commit(now)

    async def handle(self, attachment: Attachment, request: pb.AttachRequest) -> pb.AttachResponse:
        """One request of a stream, and its answer.

        Raises:
            RequestError: for the stream as a whole; what concerns one session is in its result.
        """
        match request.WhichOneof("message"):
            case "snapshot":
                return pb.AttachResponse(snapshot_result=await self._snapshot(attachment, request.snapshot))
            case "batch":
                return pb.AttachResponse(batch_result=await self._batch(attachment, request.batch))
            case "hello":
                raise RequestError(Code.FAILED_PRECONDITION, "was sent already", "hello")
        raise RequestError(Code.INVALID_ARGUMENT, "is empty", "message")

    def sweep(self) -> list[Session]:
        """Ends sessions that have expired or whose transceiver has not come back; says which."""
        now = clock()
        ended = self.registry.sweep(now.seconds)
        self._store.commit(now)
        return ended

    # ---- sessions -------------------------------------------------------------------------

    async def _batch(self, attachment: Attachment, batch: pb.Batch) -> pb.BatchResult:
        _check_size(batch.operations, "batch.operations")
        results = await self._carry_out(attachment, batch.operations)
        return pb.BatchResult(batch_id=batch.batch_id, results=results)

    async def _snapshot(self, attachment: Attachment, snapshot: pb.Snapshot) -> pb.SnapshotResult:
        _check_size(snapshot.sessions, "snapshot.sessions")
        self.registry.begin_snapshot(self.registry.owner_of(attachment))
        results = await self._carry_out(attachment, [pb.Operation(add=one) for one in snapshot.sessions])
        owner = self.registry.owner_of(attachment)
        for session in snapshot.sessions:
            self.registry.keep(owner, session.session_id)
        removed = 0
        if snapshot.last:
            now = clock()
            removed = self.registry.end_snapshot(owner, now.seconds)
            self._store.commit(now)
        return pb.SnapshotResult(results=results, removed=removed)

    async def _carry_out(
        self, attachment: Attachment, operations: Sequence[pb.Operation]
    ) -> list[pb.OperationResult]:
        """All operations in order, each with a result of its own."""
        self.registry.owner_of(attachment)
        wanted = [self._check(operation) for operation in operations]
        requests = [request for request in wanted if isinstance(request, SessionRequest)]
        hops = await self._resolve(requests)
        keys = iter(_keys_of(requests))
        # Another stream may have taken over while the next hops were looked for.
        owner = self.registry.owner_of(attachment)
        now = clock()
        results = []
        for operation, request in zip(operations, wanted, strict=True):
            error: RequestError | None = None
            try:
                if isinstance(request, RequestError):
                    raise request
                if request is None:
                    self._renew_or_remove(owner, operation, now)
                else:
                    request_keys = next(keys)
                    self.registry.add(owner, request, request_keys, _hops_of(request, hops), now.seconds)
            except RequestError as refusal:
                error = refusal
            results.append(_result(_session_id(operation), error))
        for dropped in self._store.commit(now):
            for result in results:
                if result.session_id == dropped.session_id and result.code == Code.OK:
                    result.CopyFrom(_result(dropped.session_id, _NO_ROOM))
        return results

    def _check(self, operation: pb.Operation) -> SessionRequest | RequestError | None:
        """The session to add, or why not; None if there is nothing to check."""
        match operation.WhichOneof("operation"):
            case "add":
                try:
                    return check_session(operation.add, self._local)
                except RequestError as error:
                    return error
            case None:
                return RequestError(Code.INVALID_ARGUMENT, "is empty", "operation")
        return None

    def _renew_or_remove(self, owner: Owner, operation: pb.Operation, now: Clock) -> None:
        if operation.HasField("renew"):
            self.registry.renew(owner, operation.renew.session_id, now.seconds)
        else:
            self.registry.remove(owner, operation.remove.session_id, now.seconds)

    async def _resolve(self, requests: Iterable[SessionRequest]) -> dict[IPAddress, int | str]:
        """The next hop towards each address named, or why there is none; all looked for at once."""
        addresses = list({end.address for request in requests for end in request.endpoints.values()})

        async def find(address: IPAddress) -> int | str:
            try:
                async with asyncio.timeout(HOP_SECONDS):
                    return await self._hops.hop_for(address)
            except UnreachableError as error:
                return str(error)
            except TimeoutError:
                return f"no next hop towards {address} was found within {HOP_SECONDS:g} s"

        return dict(zip(addresses, await asyncio.gather(*map(find, addresses)), strict=True))


_NO_ROOM = RequestError(Code.RESOURCE_EXHAUSTED, "the map of sessions is full; it is gone", "credentials")


def _check_size(entries: Sequence[object], field: str) -> None:
    if len(entries) > MAX_BATCH:
        raise RequestError(Code.INVALID_ARGUMENT, f"has {len(entries)} entries; at most {MAX_BATCH}", field)


def _keys_of(requests: Sequence[SessionRequest]) -> list[list[UfragKey]]:
    """The key states of each request's credentials, all computed at once."""
    pwds = [credential.pwd for request in requests for credential in request.credentials if credential.pwd]
    inner, outer = key_states(pwds)
    states = iter(np.concatenate((inner, outer), axis=1))
    return [
        [UfragKey(one.ufrag, next(states).tobytes() if one.pwd else b"") for one in request.credentials]
        for request in requests
    ]


def _hops_of(request: SessionRequest, hops: dict[IPAddress, int | str]) -> dict[Endpoint, int]:
    found = {}
    for field, endpoint in request.endpoints.items():
        hop = hops[endpoint.address]
        if isinstance(hop, str):
            # It may come up yet: a caller may well try again.
            raise RequestError(Code.UNAVAILABLE, hop, f"{field}.address")
        found[endpoint] = hop
    return found


def _session_id(operation: pb.Operation) -> str:
    kind = operation.WhichOneof("operation")
    return getattr(operation, kind).session_id if kind else ""


def _result(session_id: str, error: RequestError | None) -> pb.OperationResult:
    if error is None:
        return pb.OperationResult(session_id=session_id)
    return pb.OperationResult(
        session_id=session_id, code=error.code, message=error.message, field=error.field
    )
