# SPDX-License-Identifier: Apache-2.0
"""What the control plane has to answer, in plain Python: transceivers, and what sessions they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from earshot.relay.v1 import relay_pb2 as pb

MAX_UFRAGS, MAX_UFRAGS_EACH = 6, 4
OK, NOT_FOUND, ALREADY_EXISTS, EXHAUSTED = 0, 5, 6, 8

Name = tuple[str, str]  # transceiver and session


@dataclass(frozen=True)
class Known:
    """A session as it was registered."""

    ufrags: frozenset[str]  # the maps keep no order, and it means nothing
    port: int
    limited: bool  # in its time to live


@dataclass
class Model:
    """The relay's sessions, by name. Nothing expires here: who lets time pass says what is gone."""

    sessions: dict[Name, Known] = field(default_factory=dict)

    def of(self, transceiver: str) -> dict[str, Known]:
        return {name[1]: known for name, known in self.sessions.items() if name[0] == transceiver}

    def carry_out(self, transceiver: str, operation: pb.Operation) -> int:
        """The code of its result."""
        if operation.HasField("add"):
            return self.add(transceiver, operation.add)
        if operation.HasField("renew"):
            return OK if (transceiver, operation.renew.session_id) in self.sessions else NOT_FOUND
        gone = self.sessions.pop((transceiver, operation.remove.session_id), None)
        return OK if gone else NOT_FOUND

    def add(self, transceiver: str, wanted: pb.Session) -> int:
        name = (transceiver, wanted.session_id)
        ufrags = frozenset(credential.ufrag for credential in wanted.credentials)
        others = {one: known for one, known in self.sessions.items() if one != name}
        taken = [ufrag for known in others.values() for ufrag in known.ufrags]
        if ufrags.intersection(taken):
            return ALREADY_EXISTS
        own = [ufrag for one, known in others.items() if one[0] == transceiver for ufrag in known.ufrags]
        if len(own) + len(ufrags) > MAX_UFRAGS_EACH or len(taken) + len(ufrags) > MAX_UFRAGS:
            return EXHAUSTED
        self.sessions[name] = Known(ufrags, wanted.endpoints[0].port, bool(wanted.ttl_seconds))
        return OK

    def snapshot(self, transceiver: str, sessions: Iterable[pb.Session]) -> tuple[list[int], int]:
        """The code for each, and how many others were removed."""
        wanted = list(sessions)
        codes = [self.add(transceiver, session) for session in wanted]
        named = {session.session_id for session in wanted}
        gone = [name for name in self.sessions if name[0] == transceiver and name[1] not in named]
        for name in gone:
            del self.sessions[name]
        return codes, len(gone)

    def users(self) -> Counter[int]:
        """How many sessions name each port."""
        return Counter(known.port for known in self.sessions.values())
