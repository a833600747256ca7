# SPDX-License-Identifier: Apache-2.0
"""What happens between packets: the fleet changes, flows of other relays are entered, sessions end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from tests.bpf import world
from tests.bpf.differential.people import CLIENTS, FAMILIES, SESSIONS
from tests.model.daemon import Told
from tests.model.state import Endpoint, FlowKey, Life, State

LONG_AGO = 1000  # a second of binding
UNKNOWN_SESSION = 999


@dataclass(frozen=True)
class Fleet:
    """From here on the relay has these keys, 32 bytes each, and knows of these transceivers.

    Keys by number; of a transceiver, by number: its backends (IPv4, IPv6; 0: none).
    """

    keys: Mapping[int, bytes]
    owners: Mapping[int, tuple[int, int]]


class At(Enum):
    """Which record a flow of another relay is said to have."""

    THEIRS = "of the other relay"
    OURS = "of a relay address of ours"
    RING = "the next one of the ring"
    SAME = "that which its client has"
    ABSENT = "none that there is"


@dataclass(frozen=True)
class Telling:
    """A flow of another relay, told before it is known which flows there are."""

    family: int
    client: int
    ufrag: bytes  # whose it is; any that no session has: a session that is not known
    at: At = At.THEIRS
    pick: int = 0  # which of those
    later: int = 0  # than what its client has, in seconds
    vip: int | None = None  # another one than the family's
    has_second: bool = True

    def told(self, state: State) -> Told:
        client = Endpoint(*CLIENTS[self.family][self.client])
        vip = FAMILIES[self.family].vip_number if self.vip is None else self.vip
        flow = next(
            (
                number
                for number in sorted(state.entered)
                if state.records[number].life is Life.LIVE
                and state.records[number].key == FlowKey(client, vip)
            ),
            None,
        )
        bound = LONG_AGO if flow is None else state.records[flow].second or 0
        session = SESSIONS.get(self.ufrag)
        usual = FAMILIES[self.family].backends.usual
        return Told(
            client,
            vip,
            self._record(state, flow),
            session.number if session else UNKNOWN_SESSION,
            session.backends.get(self.family, world.ABSENT_BACKEND) if session else usual,
            max(1, bound + self.later) if self.has_second else 0,
        )

    def _record(self, state: State, flow: int | None) -> int:
        ring = state.free_records[self.family]
        if self.at is At.SAME and flow is not None:
            return flow
        if self.at is At.RING and ring:
            return ring[0]
        if self.at is At.ABSENT:
            return (len(state.records), world.ABSENT_RECORD, 2**20, 2**32 - 1)[self.pick % 4]
        addresses = world.OWN_RELAYS if self.at is At.OURS else tuple(world.FOREIGN_RELAYS.values())
        of_family = [one for one in addresses if one.version == self.family]
        return world.RELAYS.index(of_family[self.pick % len(of_family)]) * world.SPAN + 13 + self.pick


@dataclass(frozen=True)
class Entering:
    """The daemon enters flows of other relays, all in one run."""

    flows: tuple[Telling, ...]


@dataclass(frozen=True)
class Ending:
    """A session ends, and with it its flows."""

    ufrag: bytes


@dataclass(frozen=True)
class Rest:
    """A second goes by: what has ended is FREE."""


@dataclass(frozen=True)
class Lease:
    """That of the relay addresses runs out, or is there."""

    is_over: bool


Act = Fleet | Entering | Ending | Rest | Lease
