# SPDX-License-Identifier: Apache-2.0
"""Sessions of other relays' transceivers, entered here by the same registry and store as this relay's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from earshot.relay.v1 import relay_pb2 as relay

from control import routable
from control.addresses import Endpoint
from control.batches import HOP_SECONDS, HopResolver, clock, sliced
from control.directory.registration import Registered, read
from control.errors import UnreachableError
from control.flows import Clock
from control.model import Attachment, Owner, Session
from control.requests import Code, EndpointChecks, LocalAddresses, RequestError
from control.sessions import Registry
from control.turns import Turns
from fleet.key import FleetKey


class Wanted(NamedTuple):
    """A session to enter, or to remove where there is no registration; for the stream that says so."""

    attachment: Attachment
    session_id: str
    registration: bytes | None


class WantedPlace(NamedTuple):
    """A transceiver's place in the fleet; None: it has none."""

    attachment: Attachment
    place: relay.Routable | None


class Committer(Protocol):
    """What of control/store.py is needed here."""

    def commit(self, now: Clock) -> list[Session]: ...


class UnknownHopError(RequestError):
    """Where the media goes is known, and not yet how it gets there."""

    def __init__(self) -> None:
        super().__init__(Code.UNAVAILABLE, "the next hop is being looked for", "endpoints")


Hops = Mapping[Endpoint, int]
Failed = tuple[Wanted, RequestError]


class Entering:
    """Enters them, a slice at a time. What cannot be entered is handed back with the reason."""

    def __init__(
        self, registry: Registry, store: Committer, hops: HopResolver, local: LocalAddresses, turns: Turns
    ) -> None:
        self._registry = registry
        self._store = store
        self._hops = hops
        self._turns = turns
        self.reconfigure(local, {})

    def reconfigure(self, local: LocalAddresses, fleet_keys: Mapping[int, FleetKey]) -> None:
        """The relay has other addresses and keys from now on."""
        self._endpoints = EndpointChecks(local)
        self._fleet_keys = dict(fleet_keys)

    async def enter(self, wanted: Sequence[Wanted], reached: Hops | None = None) -> list[Failed]:
        """All in order; those are left out whose stream is no longer the one that counts.

        Waits for nobody but its turn: who is to send to an address that no session had before gets an
        UnknownHopError, unless its hop is in `reached`.
        """
        failed: list[Failed] = []
        for part in sliced(wanted):
            async with self._turns.slice():
                failed += self._enter_some(part, reached or {})
        return failed

    async def place(self, wanted: WantedPlace, reached: Hops | None = None) -> RequestError | None:
        """Gives a transceiver its place, or takes it back; why it cannot be, if so. Waits as `enter` does."""
        async with self._turns.slice():
            owner = self._registry.spoken_for(wanted.attachment)
            if owner is None:
                return None
            now = clock()
            try:
                if wanted.place is None:
                    self._registry.displace(owner, now.seconds)
                else:
                    endpoints = self._endpoints.check(wanted.place.endpoints)
                    hops = self._hops_of(endpoints, reached or {})
                    self._registry.place(owner, wanted.place.number, endpoints, hops, now.seconds)
            except RequestError as error:
                return error
            finally:
                self._store.commit(now)
        return None

    async def reach(self, wanted: Iterable[Wanted | WantedPlace]) -> dict[Endpoint, int]:
        """The hops towards all endpoints that are named there; those are missing that nobody reaches."""
        endpoints = {end for one in wanted for end in self._named(one)}
        found = await asyncio.gather(*(self._hop_for(end) for end in endpoints))
        return {end: hop for end, hop in zip(endpoints, found, strict=True) if hop is not None}

    def _named(self, wanted: Wanted | WantedPlace) -> list[Endpoint]:
        try:
            if isinstance(wanted, WantedPlace):
                return [] if wanted.place is None else list(self._check(wanted.place).values())
            if wanted.registration is None:
                return []
            return list(read(wanted.registration, self._endpoints).request.endpoints.values())
        except RequestError:
            return []  # said when it is entered

    def _check(self, place: relay.Routable) -> Mapping[str, Endpoint]:
        return self._endpoints.check(place.endpoints)

    async def _hop_for(self, endpoint: Endpoint) -> int | None:
        try:
            async with asyncio.timeout(HOP_SECONDS):
                return await self._hops.hop_for(endpoint.address)
        except (UnreachableError, TimeoutError):
            return None

    def _enter_some(self, wanted: Sequence[Wanted], reached: Hops) -> list[Failed]:
        failed: list[Failed] = []
        entered: dict[tuple[int, str], Wanted] = {}
        now = clock()
        for one in wanted:
            owner = self._registry.spoken_for(one.attachment)
            if owner is None:
                continue
            try:
                if one.registration is not None:
                    self._add(owner, read(one.registration, self._endpoints), reached, now)
                    entered[owner.number, one.session_id] = one
                elif one.session_id in owner.sessions:
                    self._registry.remove(owner, one.session_id, now.seconds)
            except RequestError as error:
                failed.append((one, error))
        for dropped in self._store.commit(now):
            key = dropped.owner, dropped.session_id
            if key in entered:
                message = "the map of sessions is full"
                failed.append((entered[key], RequestError(Code.RESOURCE_EXHAUSTED, message)))
        return failed

    def _add(self, owner: Owner, registered: Registered, reached: Hops, now: Clock) -> None:
        request, keys = registered
        if self._is_there(owner, registered):
            return
        hops = self._hops_of(request.endpoints, reached)
        number = routable.session_of(request.credentials, self._fleet_keys)
        self._registry.add(owner, request, keys, hops, now.seconds, number, is_kept=True)

    def _is_there(self, owner: Owner, registered: Registered) -> bool:
        """Whether the very same session is entered already."""
        request, keys = registered
        before = owner.sessions.get(request.session_id)
        return (
            before is not None
            and before.expires == 0
            and before.keys == tuple(keys)
            and before.ttl_seconds == request.ttl_seconds
            and before.fingerprint_optional == request.fingerprint_optional
            and before.rtp_clock_rate == request.rtp_clock_rate
            and set(self._registry.endpoints(before)) == set(request.endpoints.values())
        )

    def _hops_of(self, endpoints: Mapping[str, Endpoint], reached: Hops) -> dict[Endpoint, int]:
        """Of those that are not in use. Raises UnknownHopError."""
        new = [end for end in endpoints.values() if not self._registry.is_in_use(end)]
        if not all(end in reached for end in new):
            raise UnknownHopError
        return {end: reached[end] for end in new}
