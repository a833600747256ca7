# SPDX-License-Identifier: Apache-2.0
"""What the maps hold, as plain objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from tests.model.budget import Budget
from tests.model.fib import Fib
from tests.model.wire import IPAddress


class Endpoint(NamedTuple):
    address: IPAddress
    port: int


class FlowKey(NamedTuple):
    """A client's 5-tuple: the VIP stands for three of the five."""

    client: Endpoint
    vip: int


class Life(Enum):
    FREE = "free"
    BINDING = "binding"
    LIVE = "live"
    SUPERSEDED = "superseded"
    DEAD = "dead"
    PROVISIONAL = "provisional"


class Resolved(Enum):
    """What is known of a hop's MAC."""

    NO = "no"
    YES = "yes"
    PROVISIONALLY = "provisionally"  # the way that its packets came


@dataclass
class Tally:
    packets: int = 0  # modulo 2^32
    bytes: int = 0

    def count(self, length: int) -> None:
        self.packets = (self.packets + 1) % 2**32
        self.bytes += length


@dataclass
class Record:
    """A flow, or none: one for each relay port."""

    life: Life = Life.FREE
    key: FlowKey | None = None
    backend: int = 0
    session: int = 0
    hop: int = 0
    up: Tally = field(default_factory=Tally)
    down: Tally = field(default_factory=Tally)
    transaction: bytes = b""  # of the last request, while PROVISIONAL
    second: int | None = 0  # of binding; None: of the packet, which says no time
    seen: bool = False  # the last packet that came set its clock


@dataclass(frozen=True)
class Session:
    number: int
    backends: dict[int, int]  # by family: 4, 6; absent: none
    pwd: bytes | None
    fingerprint_optional: bool = False


@dataclass(frozen=True)
class Backend:
    endpoint: Endpoint
    hop: int


@dataclass(frozen=True)
class Hop:
    link: str
    smac: bytes
    dmac: bytes
    mtu: int
    resolved: Resolved = Resolved.YES


@dataclass(frozen=True)
class Link:
    """One that the program is attached to."""

    mac: bytes
    mtu: int


@dataclass
class State:
    """Everything a packet can meet or change."""

    vips: list[Endpoint]
    relays: list[IPAddress]
    ports: range
    links: dict[str, Link]
    fib: Fib
    sessions: dict[bytes, Session]
    backends: dict[int, Backend]
    hops: dict[int, Hop]
    hops_max: int
    records: list[Record]
    entered: set[int] = field(default_factory=set)  # numbers of records, in the index
    is_full: bool = False  # the index has no slot left
    is_lease_over: bool = False  # of the relay addresses
    foreign: frozenset[int] = frozenset()  # the numbers of those that are other relays'
    is_locked: bool = False  # by others, all of the index, all the while
    hop_index: dict[tuple[IPAddress, str], int] = field(default_factory=dict)
    free_records: dict[int, deque[int]] = field(default_factory=lambda: {4: deque(), 6: deque()})
    free_hops: deque[int] = field(default_factory=deque)
    counters: dict[str, Tally] = field(default_factory=dict)
    source_budget: Budget = field(default_factory=Budget)
    session_budget: Budget = field(default_factory=Budget)
    binding_budget: Budget = field(default_factory=Budget)
    fleet_keys: dict[int, bytes] = field(default_factory=dict)  # 32 bytes each, by number
    fleet_owners: dict[int, dict[int, int]] = field(default_factory=dict)  # backends by family, by number
    exempt: list[IPv4Network | IPv6Network] = field(default_factory=list)
    # Which budget a source has: its own, or one that it shares with others.
    budget_of: Callable[[IPv4Network | IPv6Network], object] = lambda source: source
    clock: Callable[[], int] = lambda: 0  # nanoseconds

    def relay_endpoint(self, record: int) -> Endpoint:
        """The relay address and port that a record stands for."""
        relay, place = divmod(record, len(self.ports))
        return Endpoint(self.relays[relay], self.ports[place])

    def record_at(self, relay: IPAddress, port: int) -> int:
        return self.relays.index(relay) * len(self.ports) + self.ports.index(port)

    def is_own(self, address: IPAddress) -> bool:
        """Of a VIP or a relay address, also as an IPv4-mapped one."""
        address = (address.version == 6 and address.ipv4_mapped) or address
        return address in self.relays or any(vip.address == address for vip in self.vips)
