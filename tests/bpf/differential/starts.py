# SPDX-License-Identifier: Apache-2.0
"""The states that cases begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from control.addresses import IPAddress
from tests.bpf import world
from tests.bpf.differential.acts import Fleet
from tests.model.state import Record, Session

WHOLE_FLEET = Fleet({number: key.secret for number, key in world.FLEET_KEYS.items()}, world.FLEET_OWNERS)


@dataclass(frozen=True)
class Given:
    """A flow that is there before the first packet."""

    number: int
    record: Record
    indexed: bool = True


class Room(Enum):
    """How many slots of the index are empty; those that are not lead nowhere."""

    MUCH = "all"
    # Only every fourth bucket is open, so that most flows are entered away from home; each has more slots
    # than a case has flows.
    LITTLE = "a quarter"
    NONE = "none"


@dataclass(frozen=True)
class Start:
    """The state in which packets begin to arrive, where it is not that of the world."""

    flows: Sequence[Given] = ()
    free4: Sequence[int] = world.V4.free
    free6: Sequence[int] = world.V6.free
    free_hops: Sequence[int] = world.FREE_HOPS
    sessions: Mapping[bytes, Session] = field(default_factory=dict)  # beside the usual ones
    tokens: Mapping[bytes, int] = field(default_factory=dict)  # left of sessions' budgets, by ufrag
    routable_tokens: Mapping[int, int] = field(default_factory=dict)  # and of routable ones, by number
    fleet: Fleet = WHOLE_FLEET
    spent_sources: Sequence[IPAddress] = ()
    is_cpu_spent: bool = False
    index: Room = Room.MUCH
    is_lease_over: bool = False  # else there is none
    is_locked: bool = False  # all of the index, by a CPU that never lets go
