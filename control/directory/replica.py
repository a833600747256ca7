# SPDX-License-Identifier: Apache-2.0
"""A transceiver's state as it stands in the directory, kept by who writes it and by who reads it.

Without I/O and without a clock. Of each session only a stamp is kept, which tells whether it has changed; the
exclusive or of all stamps tells whether two relays have the same, after each update. Stamps are secret: who
could write to Redis, and had old registrations, could not put a state together that has the same.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import blake2b

from earshot.directory.v1 import directory_pb2 as pb

from fleet.key import FleetKey

STAMP_BYTES = 8
_LABEL = b"earshot directory stamps"


class Stamper:
    """Makes stamps with a key that follows from the fleet's."""

    def __init__(self, key: FleetKey) -> None:
        self._key = hmac.digest(key.directory, _LABEL, "sha256")

    def stamp(self, registration: bytes) -> int:
        """64 bits of keyed BLAKE2b (RFC 7693)."""
        return int.from_bytes(blake2b(registration, digest_size=STAMP_BYTES, key=self._key).digest())


class Relation(Enum):
    """What an update is to the state that a reader has."""

    NEXT = auto()  # it follows
    WHOLE = auto()  # it begins anew
    OLD = auto()  # it is in there already
    STALE = auto()  # it is of an epoch that is over
    GAP = auto()  # something is missing in between


@dataclass(slots=True)
class Replica:
    """Where one transceiver's state stands; `total` is the exclusive or of its stamps."""

    name: str
    epoch: int = 0
    sequence: int = 0
    is_complete: bool = True
    stamps: dict[str, int] = field(default_factory=dict)
    total: int = 0

    @property
    def point(self) -> tuple[int, int]:
        return self.epoch, self.sequence

    def put(self, session_id: str, stamp: int) -> None:
        self.total ^= self.stamps.get(session_id, 0) ^ stamp
        self.stamps[session_id] = stamp

    def drop(self, session_id: str) -> None:
        self.total ^= self.stamps.pop(session_id, 0)

    def clear(self) -> None:
        self.stamps, self.total = {}, 0

    def relation(self, update: pb.Update) -> Relation:
        """What an update is to this state."""
        point = update.head.epoch, update.head.sequence
        if update.head.epoch < self.epoch:
            return Relation.STALE
        if point <= self.point:
            return Relation.OLD
        if update.whole:
            return Relation.WHOLE
        if update.HasField("base"):
            follows = self.is_complete and (update.base.epoch, update.base.sequence) == self.point
        else:
            follows = point == (self.epoch, self.sequence + 1)
        return Relation.NEXT if follows else Relation.GAP

    def move(self, head: pb.Head) -> None:
        """The state is at another point now."""
        self.epoch, self.sequence, self.is_complete = head.epoch, head.sequence, head.complete

    def agrees(self, head: pb.Head) -> bool:
        """Whether this is the state that a head tells of."""
        return len(self.stamps) == head.sessions and self.total == head.stamps

    def replace(self, head: pb.Head, stamps: dict[str, int]) -> None:
        """All of it is another."""
        self.move(head)
        self.stamps, self.total = stamps, total_of(stamps.values())


def total_of(stamps: Iterable[int]) -> int:
    """The exclusive or of stamps."""
    total = 0
    for stamp in stamps:
        total ^= stamp
    return total
