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
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from earshot.relay.v1 import relay_pb2 as pb

from control.addresses import Endpoint, IPAddress, IPNetwork
from control.errors import UnreachableError
from control.flows import Clock
from control.hmac_keys import key_states
from control.logs import event
from control.model import Attachment, Owner, UfragKey
from control.requests import Code, LocalAddresses, RequestError, SessionRequest, check_session
from control.sessions import Registry
from control.store import Store

# Some 5 ms of work.
SLICE = 200
# A neighbour that is there answers within milliseconds; ARP gives up after three seconds.
HOP_SECONDS = 4.0

_NO_ROOM = RequestError(Code.RESOURCE_EXHAUSTED, "the map of sessions is full; it is gone", "credentials")

# What an operator can do something about; the rest is between a transceiver and its own mistakes.
_WORTH_A_LINE = frozenset({Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE})

_log = logging.getLogger(__name__)

_Wanted = SessionRequest | RequestError | None
_T = TypeVar("_T")


class HopResolver(Protocol):
    """What of the next hops is needed here."""

    async def hop_for(self, address: IPAddress) -> int: ...


class Speaker(NamedTuple):
    """A stream that speaks for a transceiver, and where the endpoints it names may lie (None: anywhere)."""

    attachment: Attachment
    prefixes: tuple[IPNetwork, ...] | None


def clock() -> Clock:
    """Now."""
    return Clock.at(time.monotonic_ns())


class Batches:
    """Carries out what transceivers want of their sessions."""

    def __init__(self, registry: Registry, store: Store, hops: HopResolver, local: LocalAddresses) -> None:
        self._registry = registry
        self._store = store
        self._hops = hops
        self._local = local

    def set_local(self, local: LocalAddresses) -> None:
        """The relay has other addresses from now on."""
        self._local = local

    async def carry_out(
        self, speaker: Speaker, operations: Sequence[pb.Operation]
    ) -> list[pb.OperationResult]:
        """All operations in order, each with a result of its own.

        Raises:
            RequestError: ABORTED, another stream has taken over; the rest is left undone.
        """
        wanted: list[_Wanted] = []
        for part in sliced(operations):
            self._registry.owner_of(speaker.attachment)
            wanted += [self._check(operation, speaker.prefixes) for operation in part]
            await asyncio.sleep(0)
        requests = [request for request in wanted if isinstance(request, SessionRequest)]
        hops = await self._resolve(requests)
        keys = iter(_keys_of(requests))
        results: list[pb.OperationResult] = []
        for pairs in sliced(list(zip(operations, wanted, strict=True))):
            await asyncio.sleep(0)
            owner = self._registry.owner_of(speaker.attachment)
            now = clock()
            done = []
            for operation, request in pairs:
                refusal = self._carry_out_one(owner, operation, request, hops, keys, now)
                done.append(_result(_session_id(operation), refusal))
            for dropped in self._store.commit(now):
                for result in done:
                    if result.session_id == dropped.session_id and result.code == Code.OK:
                        result.CopyFrom(_result(dropped.session_id, _NO_ROOM))
            results += done
        return results

    def _check(self, operation: pb.Operation, prefixes: Sequence[IPNetwork] | None) -> _Wanted:
        """The session to add, or why not; None if there is nothing to check."""
        match operation.WhichOneof("operation"):
            case "add":
                try:
                    return check_session(operation.add, self._local, prefixes)
                except RequestError as error:
                    return _without_frames(error)
            case None:
                return RequestError(Code.INVALID_ARGUMENT, "is empty", "operation")
        return None

    def _carry_out_one(
        self,
        owner: Owner,
        operation: pb.Operation,
        wanted: _Wanted,
        hops: dict[IPAddress, int | str],
        keys: Iterator[list[UfragKey]],
        now: Clock,
    ) -> RequestError | None:
        """Why it is refused, if it is. Takes the next of the keys for a session to add."""
        if isinstance(wanted, RequestError):
            return wanted
        try:
            if wanted is not None:
                request_keys = next(keys)
                self._registry.add(owner, wanted, request_keys, _hops_of(wanted, hops), now.seconds)
            elif operation.HasField("renew"):
                self._registry.renew(owner, operation.renew.session_id, now.seconds)
            else:
                self._registry.remove(owner, operation.remove.session_id, now.seconds)
        except RequestError as refusal:
            if refusal.code in _WORTH_A_LINE:
                event(
                    _log,
                    logging.WARNING,
                    "session_refused",
                    transceiver=owner.name,
                    session=_session_id(operation),
                    message=refusal,
                )
            return _without_frames(refusal)
        return None

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


def sliced(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Parts of a size that may be dealt with at once."""
    return (items[start : start + SLICE] for start in range(0, len(items), SLICE))


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


def _without_frames(error: RequestError) -> RequestError:
    """For keeping: with its frames, which lead to whoever keeps it, it would be cyclic garbage one day."""
    return error.with_traceback(None)


def _session_id(operation: pb.Operation) -> str:
    kind = operation.WhichOneof("operation")
    return getattr(operation, kind).session_id if kind else ""


def _result(session_id: str, error: RequestError | None) -> pb.OperationResult:
    if error is None:
        return pb.OperationResult(session_id=session_id)
    return pb.OperationResult(
        session_id=session_id, code=error.code, message=error.message, field=error.field
    )
