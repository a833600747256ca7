# SPDX-License-Identifier: Apache-2.0
"""Operations on sessions: checked, their next hops and keys found, and stored, a slice at a time.

After each slice others get their turn: a batch of full size would hold them up for 30 ms. What a
slice changes is in the maps before that. In between, another stream may have taken the transceiver
over, which every slice looks for first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from earshot.relay.v1 import relay_pb2 as pb

from control import routable
from control.addresses import Endpoint, IPAddress, IPNetwork
from control.errors import UnreachableError
from control.flows import Clock
from control.hmac_keys import key_states
from control.logs import event
from control.model import Attachment, Owner, UfragKey
from control.requests import (
    Code,
    EndpointChecks,
    LocalAddresses,
    RequestError,
    SessionRequest,
    check_session,
)
from control.sessions import Registry
from control.store import Store
from control.turns import Turns
from fleet.key import FleetKey
from telemetry.tracing import NO_SPAN, Span, Tracing, step

# Some 3 ms of work.
SLICE = 200
# A neighbour that is there answers within milliseconds; ARP gives up after three seconds.
HOP_SECONDS = 4.0

_NO_ROOM = RequestError(Code.RESOURCE_EXHAUSTED, "the map of sessions is full; it is gone", "credentials")

# What an operator can do something about; the rest is between a transceiver and its own mistakes.
_WORTH_A_LINE = frozenset({Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE})

_log = logging.getLogger(__name__)

_Wanted = SessionRequest | RequestError | None
_Hops = dict[IPAddress, int | str]  # to each address the next hop, or why there is none
_T = TypeVar("_T")


class HopResolver(Protocol):
    """What of the next hops is needed here."""

    async def hop_for(self, address: IPAddress) -> int: ...


class Wish(NamedTuple):
    """One operation: to `add` a session, to `renew` or to `remove` one; `message` is None if it is empty."""

    kind: str | None
    message: pb.Session | pb.Renew | pb.Remove | None
    traceparent: str = ""

    @property
    def session_id(self) -> str:
        return self.message.session_id if self.message is not None else ""

    @classmethod
    def of(cls, operation: pb.Operation) -> Wish:
        kind = operation.WhichOneof("operation")
        return cls(kind, getattr(operation, kind) if kind else None, operation.traceparent)


class Speaker(NamedTuple):
    """A stream that speaks for a transceiver, and where the endpoints it names may lie (None: anywhere)."""

    attachment: Attachment
    prefixes: tuple[IPNetwork, ...] | None


def clock() -> Clock:
    """Now."""
    return Clock.at(time.monotonic_ns())


class Batches:
    """Carries out what transceivers want of their sessions.

    Attributes:
        outcomes: what became of operations, by kind of operation and name of the code.
    """

    def __init__(
        self,
        registry: Registry,
        store: Store,
        hops: HopResolver,
        local: LocalAddresses,
        turns: Turns,
        tracing: Tracing,
    ) -> None:
        self.outcomes = Counter[tuple[str, ...]]()
        self._turns = turns
        self._tracing = tracing
        self._registry = registry
        self._store = store
        self._hops = hops
        self._local = local
        self._fleet_keys: dict[int, FleetKey] = {}

    def set_local(self, local: LocalAddresses) -> None:
        """The relay has other addresses from now on."""
        self._local = local

    def set_fleet_keys(self, keys: Mapping[int, FleetKey]) -> None:
        """Ufrags that were made with these, by number, say which number their session has."""
        self._fleet_keys = dict(keys)

    async def place(self, speaker: Speaker, wanted: pb.Routable) -> None:
        """Gives a transceiver its place in the fleet. Raises RequestError."""
        try:
            endpoints = EndpointChecks(self._local, speaker.prefixes).check(wanted.endpoints)
            hops = _HopsOf(await self._resolve([endpoints])).of(endpoints)
        except RequestError as refusal:
            raise RequestError(refusal.code, refusal.message, f"hello.routable.{refusal.field}") from None
        async with self._turns.slice():
            now = clock()
            owner = self._registry.owner_of(speaker.attachment)
            self._registry.place(owner, wanted.number, endpoints, hops, now.seconds)
            self._store.commit(now)

    def displace(self, speaker: Speaker) -> None:
        """Takes a transceiver's place in the fleet back, where it has one."""
        now = clock()
        self._registry.displace(self._registry.owner_of(speaker.attachment), now.seconds)
        self._store.commit(now)

    async def carry_out(self, speaker: Speaker, wishes: Sequence[Wish]) -> list[pb.OperationResult]:
        """All operations in order, each with a result of its own.

        Raises:
            RequestError: ABORTED, another stream has taken over; the rest is left undone.
        """
        with ExitStack() as ended:
            spans = [ended.enter_context(span) for span in self._spans(wishes)]
            results = await self._carry_out(speaker, wishes, spans)
            for span, result in zip(spans, results, strict=False):  # no span at all where there are no traces
                span.end(Code(result.code).name if result.code else "")
        for wish, result in zip(wishes, results, strict=True):
            self.outcomes[wish.kind or "none", Code(result.code).name] += 1
        return results

    def _spans(self, wishes: Sequence[Wish]) -> Iterator[Span]:
        """One for each operation, if any belongs to a trace; none otherwise."""
        if not self._tracing.is_on or not any(wish.traceparent for wish in wishes):
            return
        for wish in wishes:
            if wish.traceparent:
                yield self._tracing.start(f"relay.{wish.kind or 'none'}", wish.traceparent)
            else:
                yield NO_SPAN

    async def _carry_out(
        self, speaker: Speaker, wishes: Sequence[Wish], spans: Sequence[Span]
    ) -> list[pb.OperationResult]:
        wanted: list[_Wanted] = []
        endpoints = EndpointChecks(self._local, speaker.prefixes)
        with step(spans, "relay.check"):
            for part in sliced(wishes):
                async with self._turns.slice():
                    self._registry.owner_of(speaker.attachment)
                    wanted += [_check(wish, endpoints) for wish in part]
        requests = [request for request in wanted if isinstance(request, SessionRequest)]
        with step(spans, "relay.next_hops"):
            hops = _HopsOf(await self._resolve([request.endpoints for request in requests]))
        with step(spans, "relay.keys"):
            async with self._turns.slice():
                keys = iter(_keys_of(requests))
        results: list[pb.OperationResult] = []
        with step(spans, "relay.maps"):
            for pairs in sliced(list(zip(wishes, wanted, strict=True))):
                async with self._turns.slice():
                    results += self._carry_out_some(speaker, pairs, hops, keys)
        return results

    def _carry_out_some(
        self,
        speaker: Speaker,
        pairs: Iterable[tuple[Wish, _Wanted]],
        hops: _HopsOf,
        keys: Iterator[list[UfragKey]],
    ) -> list[pb.OperationResult]:
        """One slice; what it changes is in the maps when it ends."""
        owner = self._registry.owner_of(speaker.attachment)
        now = clock()
        done = []
        for wish, request in pairs:
            refusal = self._carry_out_one(owner, wish, request, hops, keys, now)
            done.append(_result(wish.session_id, refusal))
        for dropped in self._store.commit(now):
            for result in done:
                if result.session_id == dropped.session_id and result.code == Code.OK:
                    result.CopyFrom(_result(dropped.session_id, _NO_ROOM))
        return done

    def _carry_out_one(
        self,
        owner: Owner,
        wish: Wish,
        wanted: _Wanted,
        hops: _HopsOf,
        keys: Iterator[list[UfragKey]],
        now: Clock,
    ) -> RequestError | None:
        """Why it is refused, if it is. Takes the next of the keys for a session to add."""
        if isinstance(wanted, RequestError):
            return wanted
        try:
            if wanted is not None:
                request_keys = next(keys)
                number = routable.session_of(wanted.credentials, self._fleet_keys)
                endpoints = hops.of(wanted.endpoints)
                self._registry.add(owner, wanted, request_keys, endpoints, now.seconds, number)
            elif wish.kind == "renew":
                self._registry.renew(owner, wish.session_id, now.seconds)
            else:
                self._registry.remove(owner, wish.session_id, now.seconds)
        except RequestError as refusal:
            if refusal.code in _WORTH_A_LINE:
                event(
                    _log,
                    logging.WARNING,
                    "session_refused",
                    transceiver=owner.name,
                    session=wish.session_id,
                    message=refusal,
                )
            return _without_frames(refusal)
        return None

    async def _resolve(self, endpoints: Iterable[Mapping[str, Endpoint]]) -> _Hops:
        """The next hop towards each address named, or why there is none; all looked for at once."""
        sets = {id(one): one for one in endpoints}.values()
        addresses = list({end.address for one in sets for end in one.values()})

        async def find(address: IPAddress) -> int | str:
            try:
                async with asyncio.timeout(HOP_SECONDS):
                    return await self._hops.hop_for(address)
            except UnreachableError as error:
                return str(error)
            except TimeoutError:
                return f"no next hop towards {address} was found within {HOP_SECONDS:g} s"

        return dict(zip(addresses, await asyncio.gather(*map(find, addresses)), strict=True))


def sliced(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Parts of a size that may be dealt with at once."""
    return (items[start : start + SLICE] for start in range(0, len(items), SLICE))


def _keys_of(requests: Sequence[SessionRequest]) -> list[list[UfragKey]]:
    """The key states of each request's credentials, all computed at once."""
    pwds = [credential.pwd for request in requests for credential in request.credentials if credential.pwd]
    inner, outer = key_states(pwds)
    rows = np.concatenate((inner, outer), axis=1)
    raw, size = rows.tobytes(), rows.shape[1] * rows.itemsize
    states = (raw[start : start + size] for start in range(0, len(raw), size))
    return [
        [UfragKey(one.ufrag, next(states) if one.pwd else b"") for one in request.credentials]
        for request in requests
    ]


class _HopsOf:
    """The next hops of endpoints, put together once for each set of them: see EndpointChecks."""

    def __init__(self, hops: _Hops) -> None:
        self._hops = hops
        self._of: dict[int, dict[Endpoint, int]] = {}

    def of(self, endpoints: Mapping[str, Endpoint]) -> dict[Endpoint, int]:
        """Raises RequestError: one of them cannot be reached."""
        found = self._of.get(id(endpoints))
        if found is not None:
            return found
        found = {}
        for field, endpoint in endpoints.items():
            hop = self._hops[endpoint.address]
            if isinstance(hop, str):
                # It may come up yet: a caller may well try again.
                raise RequestError(Code.UNAVAILABLE, hop, f"{field}.address")
            found[endpoint] = hop
        self._of[id(endpoints)] = found
        return found


def _without_frames(error: RequestError) -> RequestError:
    """For keeping: with its frames, which lead to whoever keeps it, it would be cyclic garbage one day."""
    return error.with_traceback(None)


def _check(wish: Wish, endpoints: EndpointChecks) -> _Wanted:
    """The session to add, or why not; None if there is nothing to check."""
    if isinstance(wish.message, pb.Session):
        try:
            return check_session(wish.message, endpoints)
        except RequestError as error:
            return _without_frames(error)
    if wish.message is None:
        return RequestError(Code.INVALID_ARGUMENT, "is empty", "operation")
    return None


def _result(session_id: str, error: RequestError | None) -> pb.OperationResult:
    if error is None:
        return pb.OperationResult(session_id=session_id)
    return pb.OperationResult(
        session_id=session_id, code=error.code, message=error.message, field=error.field
    )
