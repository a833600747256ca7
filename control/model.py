# SPDX-License-Identifier: Apache-2.0
"""What the registry keeps and what it tells: transceivers, their sessions, and changes to the maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from control.backends import Backend
from control.places import Place


class UfragKey(NamedTuple):
    """A server ufrag and its HMAC key states (inner, then outer, 40 bytes; empty without a pwd)."""

    ufrag: str
    states: bytes


class Session(NamedTuple):
    """A session as it stands in the map, under each of its ufrags.

    A tuple, since there may be half a million: a frozen dataclass takes twice as long to make.
    """

    number: int
    session_id: str
    owner: int
    keys: tuple[UfragKey, ...]
    backends: tuple[int, int]  # for IPv4, for IPv6 clients; NO_BACKEND where it has none
    ttl_seconds: int
    expires: int  # 0: never
    fingerprint_optional: bool = False
    rtp_clock_rate: int = 0  # Hz; 0: the usual one

    @property
    def ufrags(self) -> list[str]:
        return [key.ufrag for key in self.keys]


@dataclass(slots=True)
class Owner:
    """A transceiver. `stream` tells the stream that is open from those before it."""

    number: int
    name: str
    software: str = ""
    region: str = ""
    attached: bool = False
    since: float = 0.0
    stream: int = 0
    sessions: dict[str, Session] = field(default_factory=dict)
    ufrags: int = 0  # of all its sessions
    snapshot: set[str] | None = None  # ids named by an unfinished snapshot


class SessionName(NamedTuple):
    """How people and programs know a session."""

    transceiver: str
    session_id: str


class Attachment(NamedTuple):
    """The right of one stream to speak for a transceiver."""

    owner: int
    stream: int


class EndedSession(NamedTuple):
    """Flows of this session that go to one of these backends have to end."""

    session: Session
    backends: frozenset[int]


@dataclass(slots=True)
class Changes:
    """What the maps lack. The last word on each ufrag, backend and owner is the one that counts."""

    entries: dict[str, Session | None] = field(default_factory=dict)  # by ufrag; None: delete
    backends: dict[int, Backend] = field(default_factory=dict)
    # Next hops of backends, by their numbers; those not named here are left to who follows the routes.
    hops: dict[int, int] = field(default_factory=dict)
    owners: dict[int, Owner | None] = field(default_factory=dict)
    ended: list[EndedSession] = field(default_factory=list)
    places: dict[int, Place | None] = field(default_factory=dict)  # by number in the fleet
    # Sessions that are known by their ufrags alone go to these no more.
    left: set[int] = field(default_factory=set)
