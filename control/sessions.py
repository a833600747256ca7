# SPDX-License-Identifier: Apache-2.0
"""Who owns which sessions: the registry behind the gRPC service, without I/O and without a clock.

What a call changes in the kernel's maps is collected in `Changes`, which a thin shell
(control/store.py) takes and applies. Times are seconds of CLOCK_MONOTONIC, passed in.

Order that the shell keeps, so that a packet never meets half a session: backends are written
before a session names them; a removed session's ufrags go before its flows are ended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from control import abi
from control.addresses import Endpoint
from control.backends import NO_BACKEND, Backend, BackendTable
from control.model import Attachment, Changes, EndedSession, Owner, Session, SessionName, UfragKey
from control.places import Place, Places, is_derived
from control.requests import Code, RequestError, SessionRequest

# The flows of a backend's last user are ended at once, and what a packet in flight made of it at the
# next scan, a fifth of a second later; this leaves room for a late scan.
BACKEND_REST_SECONDS = 3.0
UNLIMITED = 1 << 32
_NUMBER_MAX = (1 << abi.SESSION_DERIVED_BIT) - 1  # beyond are those that follow from ufrags


class Registry:
    """Transceivers and their sessions."""

    def __init__(
        self,
        *,
        max_sessions: int,
        max_backends: int,
        grace_seconds: float,
        max_sessions_per_transceiver: int = UNLIMITED,
    ) -> None:
        """Both numbers of sessions count ufrags: each is an entry of the map."""
        self.draining = False  # no new sessions
        self.limit(max_sessions, max_sessions_per_transceiver, grace_seconds)
        self._changes = Changes()
        self._owners: dict[int, Owner] = {}
        self._owner_by_name: dict[str, Owner] = {}
        self._by_ufrag: dict[str, Session] = {}
        self._by_number: dict[int, Session] = {}
        self._last_number = self._last_stream = 0
        self._expiring: dict[int, set[int]] = {}  # session numbers by the second in which they expire
        self._backends = BackendTable(max_backends, BACKEND_REST_SECONDS, self._touch_backend)
        self._places = Places(self._touch_place)
        self._watched: dict[int, Callable[[str], None]] = {}

    def limit(self, max_sessions: int, max_sessions_per_transceiver: int, grace_seconds: float) -> None:
        """Other limits from now on. Who is over one keeps what is there."""
        self._max_sessions = max_sessions
        self._max_per_transceiver = max_sessions_per_transceiver
        self._grace_seconds = grace_seconds

    def restore(
        self,
        owners: Iterable[tuple[int, str]],
        backends: Iterable[Backend],
        sessions: Iterable[Session],
        places: Iterable[Place],
        last_number: int,
        now: float,
    ) -> None:
        """Takes up what a former daemon left in the maps; each transceiver is in grace from now on.

        Sessions and places that name an owner or a backend that does not exist are removed. `last_number`
        is the highest session number known to be in use, by a session or by what is left of a flow.
        """
        for number, name in owners:
            owner = Owner(number, name, since=now)
            self._owners[number] = self._owner_by_name[name] = owner
            self._changes.owners[number] = owner
        for backend in backends:
            self._backends.restore(backend, now)
        self._last_number = last_number
        known = self._backends.numbers() | {NO_BACKEND}
        used: list[int] = []
        for session in sessions:
            if session.owner in self._owners and any(session.backends) and known.issuperset(session.backends):
                used += session.backends
                self._enter(session)
            else:
                # The others are in the map as they are.
                self._changes.entries.update(dict.fromkeys(session.ufrags))
        for place in places:
            if place.owner in self._owners and known.issuperset(place.backends):
                used += place.backends
                self._places.restore(place)
            else:
                self._changes.places[place.number] = None
        for number, users in Counter(used).items():
            if number != NO_BACKEND:
                self._backends.acquire_number(number, users)

    # ---- transceivers ---------------------------------------------------------------------

    def attach(self, name: str, software: str, now: float, region: str = "") -> Attachment:
        """A stream begins to speak for a transceiver; one that did so before is replaced.

        Raises:
            RequestError: RESOURCE_EXHAUSTED if there are too many transceivers.
        """
        owner = self._owner_by_name.get(name)
        if owner is None:
            number = next((n for n in range(abi.OWNER_MAX) if n not in self._owners), None)
            if number is None:
                raise RequestError(Code.RESOURCE_EXHAUSTED, f"{abi.OWNER_MAX} transceivers are here already")
            owner = self._owners[number] = self._owner_by_name[name] = Owner(number, name)
        owner.software, owner.region = software, region
        # Never the same again: its number may have been another transceiver's, whose stream is remembered.
        self._last_stream += 1
        owner.stream = self._last_stream
        self._set_attached(owner, True, now)
        return Attachment(owner.number, owner.stream)

    def detach(self, attachment: Attachment, now: float) -> Owner | None:
        """The stream ended, and the grace period of its transceiver begins; None if it was replaced."""
        owner = self._current(attachment)
        if owner is not None:
            self._set_attached(owner, False, now)
        return owner

    def resume(self, attachment: Attachment, now: float) -> None:
        """The directory's stream speaks for its transceiver again, unless another one does."""
        owner = self.spoken_for(attachment)
        if owner is not None and not owner.attached:
            self._set_attached(owner, True, now)

    def end(self, attachment: Attachment, now: float) -> None:
        """The transceiver will not come back: its grace is over, unless another stream speaks for it."""
        owner = self.spoken_for(attachment)
        if owner is not None:
            self._set_attached(owner, False, now - self._grace_seconds)

    def postpone(self, owner: Owner, now: float) -> None:
        """A transceiver's grace, if it is in it, begins again: it may be attached where nobody can say so."""
        if not owner.attached and self.is_here(owner):
            self._set_attached(owner, False, now)

    def spoken_for(self, attachment: Attachment) -> Owner | None:
        """The transceiver that a stream speaks for, or was the last to speak for."""
        owner = self._owners.get(attachment.owner)
        return owner if owner and owner.stream == attachment.stream else None

    def owner_of(self, attachment: Attachment) -> Owner:
        """The transceiver that a stream speaks for.

        Raises:
            RequestError: ABORTED if another stream has replaced this one.
        """
        owner = self._current(attachment)
        if owner is None:
            raise RequestError(Code.ABORTED, "another stream of this name has taken over")
        return owner

    def _current(self, attachment: Attachment) -> Owner | None:
        owner = self._owners.get(attachment.owner)
        return owner if owner and owner.attached and owner.stream == attachment.stream else None

    def _set_attached(self, owner: Owner, attached: bool, now: float) -> None:
        owner.attached = attached
        owner.since = now
        owner.snapshot = None
        self._changes.owners[owner.number] = owner

    def watch(self, owner: Owner, changed: Callable[[str], None]) -> None:
        """From now on tells of each session of a transceiver that comes, changes or goes, by its id.

        Not of renewals, nor of what is there already.
        """
        self._watched[owner.number] = changed

    def unwatch(self, owner: Owner) -> None:
        """Nobody is told of a transceiver's sessions any more."""
        if self._owners.get(owner.number) is owner:
            self._watched.pop(owner.number, None)

    # ---- places in the fleet --------------------------------------------------------------

    def place(
        self,
        owner: Owner,
        number: int,
        endpoints: Mapping[str, Endpoint],
        hops: Mapping[Endpoint, int],
        now: float,
    ) -> None:
        """Sessions whose ufrags name this number go to a transceiver's endpoints from now on.

        Flows of such sessions that go elsewhere end.

        Raises:
            RequestError: INVALID_ARGUMENT, ALREADY_EXISTS, RESOURCE_EXHAUSTED; nothing has changed then.
        """
        self._places.check(number, owner.number)
        backends = self._acquire_backends(endpoints, hops, now)
        self._give_up(self._places.put(Place(number, owner.number, backends)), now)

    def displace(self, owner: Owner, now: float) -> None:
        """No session is a transceiver's by its ufrag alone any more."""
        self._give_up(self._places.remove(owner.number), now)

    def place_of(self, owner: Owner) -> tuple[int, list[Endpoint]] | None:
        """A transceiver's number in the fleet and its endpoints, if it has a place there."""
        place = self._places.of(owner.number)
        return None if place is None else (place.number, self._ends(place.backends))

    def _give_up(self, place: Place | None, now: float) -> None:
        if place is None:
            return
        for number in filter(None, place.backends):
            self._backends.release(number, now)
            if not self._places.serves(number):
                self._changes.left.add(number)

    # ---- sessions -------------------------------------------------------------------------

    def add(
        self,
        owner: Owner,
        wanted: SessionRequest,
        keys: Sequence[UfragKey],
        hops: Mapping[Endpoint, int],
        now: float,
        derived: int | None = None,
        *,
        is_kept: bool = False,
    ) -> None:
        """Adds a session, or replaces the one of that id, which keeps its number.

        Flows of a replaced session end if they go to an endpoint that it no longer has. `derived`: the number
        that follows from its ufrags, by which relays that were told nothing know it. `is_kept`: another relay
        has taken it, and will say when its time is over, or that it goes on.

        Raises:
            RequestError: ALREADY_EXISTS, RESOURCE_EXHAUSTED, UNAVAILABLE; nothing has changed then.
        """
        before = owner.sessions.get(wanted.session_id)
        if before is None and self.draining and not is_kept:
            raise RequestError(Code.UNAVAILABLE, "the relay is draining: it takes no new sessions")
        number = self._new_number(derived) if before is None else before.number
        for index, key in enumerate(keys):
            holder = self._by_ufrag.get(key.ufrag)
            if holder is not None and holder.number != number:
                raise RequestError(
                    Code.ALREADY_EXISTS, "belongs to another session", f"credentials[{index}].ufrag"
                )
        freed = 0 if before is None else len(before.keys)
        if owner.ufrags - freed + len(keys) > self._max_per_transceiver:
            raise RequestError(
                Code.RESOURCE_EXHAUSTED,
                f"a transceiver may have {self._max_per_transceiver} (max_sessions_per_transceiver)",
                "credentials",
            )
        if len(self._by_ufrag) - freed + len(keys) > self._max_sessions:
            raise RequestError(Code.RESOURCE_EXHAUSTED, "the session table is full", "credentials")
        backends = self._acquire_backends(wanted.endpoints, hops, now)
        if before is None and not is_derived(number):
            self._last_number = number
        expires = math.ceil(now + wanted.ttl_seconds) if wanted.ttl_seconds and not is_kept else 0
        after = Session(
            number,
            wanted.session_id,
            owner.number,
            tuple(keys),
            backends,
            wanted.ttl_seconds,
            expires,
            wanted.fingerprint_optional,
            wanted.rtp_clock_rate,
        )
        self._swap(before, after, now)
        if owner.snapshot is not None:
            # Newer than the snapshot, or part of it: either way it stays.
            owner.snapshot.add(wanted.session_id)

    def renew(self, owner: Owner, session_id: str, now: float) -> None:
        """Starts a session's time to live again. Raises RequestError: NOT_FOUND."""
        session = self._session(owner, session_id)
        if session.ttl_seconds:
            for number in filter(None, session.backends):
                self._backends.acquire_number(number)
            self._swap(session, session._replace(expires=math.ceil(now + session.ttl_seconds)), now)

    def hold(self, owner: Owner, now: float) -> None:
        """A transceiver's sessions do not expire by themselves any more: another relay says when they do."""
        for session in [one for one in owner.sessions.values() if one.expires]:
            for number in filter(None, session.backends):
                self._backends.acquire_number(number)
            self._swap(session, session._replace(expires=0), now)

    def remove(self, owner: Owner, session_id: str, now: float) -> None:
        """Ends a session and its flows. Raises RequestError: NOT_FOUND."""
        self._swap(self._session(owner, session_id), None, now)

    def drop(self, ufrags: Iterable[str], now: float) -> list[Session]:
        """Removes the sessions that hold one of these ufrags: the map has no room for all of theirs."""
        dropped = {session.number: session for session in map(self._by_ufrag.get, ufrags) if session}
        for session in dropped.values():
            self._swap(session, None, now)
        return list(dropped.values())

    def begin_snapshot(self, owner: Owner) -> None:
        """A part of a snapshot comes in; the first one of several starts it."""
        if owner.snapshot is None:
            owner.snapshot = set()

    def keep(self, owner: Owner, session_ids: Iterable[str]) -> None:
        """The unfinished snapshot names these sessions, even if one was refused: it stays as it was."""
        if owner.snapshot is not None:
            owner.snapshot.update(filter(owner.sessions.__contains__, session_ids))

    def end_snapshot(self, owner: Owner, now: float, limit: int = UNLIMITED) -> int:
        """The last part is in: removes sessions that none has named, and says how many.

        At most `limit`: as long as it is that many, there may be more.
        """
        named = owner.snapshot or set()
        unnamed = (session for session_id, session in owner.sessions.items() if session_id not in named)
        gone = list(islice(unnamed, limit))
        for session in gone:
            self._swap(session, None, now)
        if len(gone) < limit:
            owner.snapshot = None
        return len(gone)

    def sweep(self, now: float, limit: int = UNLIMITED) -> list[Session]:
        """Removes sessions that have expired, and transceivers whose grace is over, with theirs.

        At most `limit` sessions: as long as it is that many, there may be more.
        """
        due = (number for second in self._expiring if second <= now for number in self._expiring[second])
        ended = [self._by_number[number] for number in islice(due, limit)]
        for session in ended:
            self._swap(session, None, now)
        for owner in self.owners():
            if not owner.attached and owner.since + self._grace_seconds <= now:
                left = list(islice(owner.sessions.values(), limit - len(ended)))
                for session in left:
                    self._swap(session, None, now)
                ended.extend(left)
                if owner.sessions:
                    break
                self.displace(owner, now)
                del self._owners[owner.number], self._owner_by_name[owner.name]
                self._watched.pop(owner.number, None)
                self._changes.owners[owner.number] = None
        return ended

    # ---- reading --------------------------------------------------------------------------

    def take_changes(self) -> Changes:
        """What has changed since this was last called. The caller applies it before anything else happens."""
        changes, self._changes = self._changes, Changes()
        return changes

    def owners(self) -> tuple[Owner, ...]:
        """All transceivers, attached or in grace."""
        return tuple(self._owners.values())

    def owner(self, number: int) -> Owner | None:
        return self._owners.get(number)

    def owner_named(self, name: str) -> Owner | None:
        return self._owner_by_name.get(name)

    def is_here(self, owner: Owner) -> bool:
        """Whether a transceiver is still known, attached or in grace."""
        return self._owners.get(owner.number) is owner

    def is_in_use(self, endpoint: Endpoint) -> bool:
        """Whether a session names an endpoint, so that the way there is known and followed."""
        return self._backends.is_in_use(endpoint)

    def session(self, number: int) -> Session | None:
        """The session of a number."""
        return self._by_number.get(number)

    def session_named(self, transceiver: str, session_id: str) -> Session | None:
        owner = self._owner_by_name.get(transceiver)
        return None if owner is None else owner.sessions.get(session_id)

    def backend_at(self, endpoint: Endpoint) -> int | None:
        """The number of an endpoint that sessions go to."""
        return self._backends.number_at(endpoint)

    def endpoints(self, session: Session) -> list[Endpoint]:
        """Where a session's media goes."""
        return self._ends(session.backends)

    def _ends(self, backends: Iterable[int]) -> list[Endpoint]:
        return [self._backends[number].endpoint for number in backends if number != NO_BACKEND]

    def leads_on(self, number: int, backend: int) -> bool:
        """Whether flows of this session, by its number, may go to this backend."""
        session = self._by_number.get(number)
        if session is not None:
            return backend in session.backends
        return is_derived(number) and self._places.serves(backend)

    def name_of_flow(self, number: int, backend: int) -> SessionName:
        """How the session of a flow is shown; without an id where it is known by its ufrag alone."""
        if (session := self._by_number.get(number)) is not None:
            return self.name_of(session)
        owner = self._places.owner_at(backend) if is_derived(number) else None
        return SessionName(self._owners[owner].name if owner is not None else "", "")

    def name_of(self, session: Session) -> SessionName:
        """How a session is shown; also of one that has just been removed."""
        owner = self._owners.get(session.owner)
        return SessionName(owner.name if owner else "", session.session_id)

    def session_count(self) -> int:
        return len(self._by_number)

    def ufrag_count(self) -> int:
        """Entries of the map that are in use."""
        return len(self._by_ufrag)

    def backend_count(self) -> int:
        """Entries of the map that are in use or at rest."""
        return len(self._backends)

    # ---- inside ---------------------------------------------------------------------------

    def _session(self, owner: Owner, session_id: str) -> Session:
        session = owner.sessions.get(session_id)
        if session is None:
            raise RequestError(Code.NOT_FOUND, "there is no such session", "session_id")
        return session

    def _new_number(self, derived: int | None) -> int:
        """The one that follows from its ufrags, unless another session happens to have it, or the next.

        That one counts on, so that a number comes back only after 2^31 others; 0 is none.
        """
        if derived is not None and derived not in self._by_number:
            return derived
        number = self._last_number
        while True:
            number = 1 if number >= _NUMBER_MAX else number + 1
            if number not in self._by_number:
                return number

    def _acquire_backends(
        self, endpoints: Mapping[str, Endpoint], hops: Mapping[Endpoint, int], now: float
    ) -> tuple[int, int]:
        acquired = {4: NO_BACKEND, 6: NO_BACKEND}
        for path, endpoint in endpoints.items():
            number = self._backends.acquire(endpoint, now)
            if number == NO_BACKEND:
                for taken in filter(None, acquired.values()):
                    self._backends.release(taken, now)
                raise RequestError(Code.RESOURCE_EXHAUSTED, "the table of endpoints is full", path)
            acquired[endpoint.address.version] = number
            if endpoint in hops:  # others are in use, and whoever follows the routes knows their hops
                self._changes.hops[number] = hops[endpoint]
        return acquired[4], acquired[6]

    def _swap(self, before: Session | None, after: Session | None, now: float) -> None:
        """The one place where a session comes, changes or goes. `after` has its backends acquired."""
        one = after or before
        if one is not None and (told := self._watched.get(one.owner)) and _differ(before, after):
            told(one.session_id)
        if before is not None:
            for ufrag, _ in before.keys:
                del self._by_ufrag[ufrag]
                self._changes.entries[ufrag] = None
            self._owners[before.owner].ufrags -= len(before.keys)
            del self._by_number[before.number]
            if before.expires:
                self._expiring[before.expires].discard(before.number)
                if not self._expiring[before.expires]:
                    del self._expiring[before.expires]
            for number in filter(None, before.backends):
                self._backends.release(number, now)
            left = frozenset(filter(None, before.backends)) - frozenset(after.backends if after else ())
            if left:
                self._changes.ended.append(EndedSession(before, left))
        if after is not None:
            self._enter(after)
            for ufrag, _ in after.keys:
                self._changes.entries[ufrag] = after
        elif before is not None:
            del self._owners[before.owner].sessions[before.session_id]

    def _enter(self, session: Session) -> None:
        """Makes a session known, whose backends are acquired."""
        self._by_number[session.number] = session
        for ufrag, _ in session.keys:
            self._by_ufrag[ufrag] = session
        owner = self._owners[session.owner]
        owner.ufrags += len(session.keys)
        owner.sessions[session.session_id] = session
        if session.expires:
            self._expiring.setdefault(session.expires, set()).add(session.number)

    def _touch_place(self, number: int, place: Place | None) -> None:
        self._changes.places[number] = place

    def _touch_backend(self, backend: Backend) -> None:
        self._changes.backends[backend.number] = backend


def _differ(before: Session | None, after: Session | None) -> bool:
    """Whether a session is another one, and not only expires at another time."""
    if before is None or after is None:
        return True
    return before[3:6] != after[3:6] or before[7:] != after[7:]
