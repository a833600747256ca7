# SPDX-License-Identifier: Apache-2.0
"""Sessions, transceivers and backends, to and from the records of the maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from control import abi
from control.addresses import Endpoint, IPAddress, from_bytes, to_bytes
from control.backends import Backend
from control.hmac_keys import STATE_WORDS
from control.model import Owner, Session, UfragKey
from control.places import Place

Records = NDArray[np.void]
_STATE_BYTES = 4 * STATE_WORDS
_Tuple = TypeVar("_Tuple", UfragKey, Session)


def ufrag_keys(ufrags: list[str]) -> Records:
    """Keys of sessions_v1."""
    keys = np.zeros(len(ufrags), abi.UFRAG_KEY)
    keys["ufrag"] = [ufrag.encode() for ufrag in ufrags]
    return keys


def session_records(entries: Mapping[str, Session]) -> tuple[Records, Records]:
    """Keys and values of sessions_v1. Column by column: far faster than record by record."""
    values = np.zeros(len(entries), abi.SESSION)
    sessions = entries.values()
    states = [
        session.keys[0].states if len(session.keys) == 1 else dict(session.keys)[ufrag]
        for ufrag, session in entries.items()
    ]
    values["number"] = [session.number for session in sessions]
    values["backend"] = np.array([session.backends for session in sessions], np.uint16).reshape(-1, 2)
    values["owner"] = [session.owner for session in sessions]
    values["flags"] = [
        (abi.SessionFlag.HAS_PWD if state else 0)
        | (abi.SessionFlag.FINGERPRINT_OPTIONAL if session.fingerprint_optional else 0)
        | session.rtp_clock_rate // abi.CLOCK_UNIT << abi.SESSION_CLOCK_SHIFT
        for session, state in zip(sessions, states, strict=True)
    ]
    values["expires"] = [session.expires for session in sessions]
    raw = b"".join(state or bytes(2 * _STATE_BYTES) for state in states)
    words = np.frombuffer(raw, np.uint32).reshape(-1, 2, STATE_WORDS)
    values["inner"], values["outer"] = words[:, 0], words[:, 1]
    values["id"] = [session.session_id.encode() for session in sessions]
    return ufrag_keys(list(entries)), values


def sessions_of(keys: Records, values: Records, now: float) -> list[Session]:
    """What sessions_v1 holds. The time to live is not kept there: it becomes what is left of it.

    Column by column, and tuples without their constructors in Python: there may be half a million.
    """
    order = np.argsort(values["number"], kind="stable")
    keys, values = keys[order], values[order]
    raw = np.concatenate((values["inner"], values["outer"]), axis=1).tobytes()
    ufrag_keys = _made(
        UfragKey,
        (_text(ufrag) for ufrag in keys["ufrag"].tolist()),
        (
            raw[start : start + 2 * _STATE_BYTES] if flags & abi.SessionFlag.HAS_PWD else b""
            for start, flags in zip(
                range(0, len(raw), 2 * _STATE_BYTES), values["flags"].tolist(), strict=True
            )
        ),
    )
    # A session has an entry for each of its ufrags, all alike but for the key states.
    numbers, first, counts = np.unique(values["number"], return_index=True, return_counts=True)
    keys_of: list[tuple[UfragKey, ...]] = list(zip(map(ufrag_keys.__getitem__, first.tolist()), strict=True))
    for position in np.flatnonzero(counts > 1).tolist():
        start = int(first[position])
        keys_of[position] = tuple(ufrag_keys[start : start + int(counts[position])])
    values = values[first]
    expires = values["expires"]
    left = np.maximum(1, (expires - now).astype(np.int64))
    return _made(
        Session,
        numbers.tolist(),
        (_text(session_id) for session_id in values["id"].tolist()),
        values["owner"].tolist(),
        keys_of,
        zip(*values["backend"].T.tolist(), strict=True),
        np.where(expires > 0, left, 0).tolist(),
        expires.tolist(),
        ((values["flags"] & abi.SessionFlag.FINGERPRINT_OPTIONAL) > 0).tolist(),
        ((values["flags"] >> np.uint16(abi.SESSION_CLOCK_SHIFT)).astype(np.uint32) * abi.CLOCK_UNIT).tolist(),
    )


def _made(kind: type[_Tuple], *columns: Iterable[Any]) -> list[_Tuple]:
    """Named tuples of columns, one for each of their fields."""
    return list(map(partial(tuple.__new__, kind), zip(*columns, strict=True)))


def owner_record(owner: Owner | None) -> Records:
    """One value of owners_v1; None: not used."""
    record = np.zeros(1, abi.OWNER)
    if owner is not None:
        record["name"] = owner.name.encode()
        record["attached"] = owner.attached
        record["since"] = int(owner.since)
    return record


def owners_of(records: Records) -> list[tuple[int, str]]:
    """Number and name of each transceiver in owners_v1."""
    return [(number, _text(name)) for number, name in enumerate(records["name"]) if name]


def vips_of(records: Records) -> list[Endpoint]:
    """What vips_v1 holds, in the order of their numbers."""
    return [endpoint_of(record) for record in records if record["port"]]


def relays_of(records: Records) -> list[IPAddress]:
    """What relays_v1 holds, in the order of their numbers."""
    return [from_bytes(bytes(record["addr"])) for record in records if any(bytes(record["addr"]))]


def backends_of(records: Records) -> list[Backend]:
    """What backends_v1 holds, without users: those follow from the sessions."""
    used = np.flatnonzero(records["port"])
    return [
        Backend(number, endpoint_of(records[number]), is_entered=True) for number in used.tolist() if number
    ]


def endpoint_of(record: np.void) -> Endpoint:
    """A VIP, or where a backend's media goes."""
    return Endpoint(from_bytes(bytes(record["addr"])), int(record["port"]))


def write_backends(records: Records, backends: Sequence[Backend], hops: Mapping[int, int]) -> None:
    """Into the live mapping, and only what differs: packets are reading it.

    `hops`: next hops by the backends' numbers; those of other backends are left alone.
    """
    for backend in backends:
        if not backend.is_entered:
            record: Any = records[backend.number]
            record["addr"] = np.void(to_bytes(backend.endpoint.address))
            record["port"] = backend.endpoint.port
            backend.is_entered = True
    records["hop"][list(hops)] = list(hops.values())
    records["users"][[backend.number for backend in backends]] = [backend.users for backend in backends]


def places_of(records: Records) -> list[Place]:
    """What fleet_owners_v1 holds."""
    used = np.flatnonzero(records["backend"].any(axis=1))
    owners, backends = records["owner"][used].tolist(), records["backend"][used].tolist()
    return [
        Place(number, owner, (four, six))
        for number, owner, (four, six) in zip(used.tolist(), owners, backends, strict=True)
    ]


def write_places(records: Records, places: Mapping[int, Place | None]) -> None:
    """Into the live mapping, by number in the fleet. Each is eight bytes, written at once: XDP reads them."""
    words = records.view(np.uint64)
    for number, place in places.items():
        record = np.zeros(1, abi.FLEET_OWNER)
        if place is not None:
            record["backend"], record["owner"] = place.backends, place.owner
        words[number] = record.view(np.uint64)[0]


def _text(raw: Any) -> str:
    return bytes(raw).decode("ascii", "replace")
