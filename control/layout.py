# SPDX-License-Identifier: Apache-2.0
"""How the flow table is laid out: sizes, numbers of records, and the key of its hash.

A layout is made with the maps and lives as long as they do: it is kept in layout_v1, and the program
has it among its constants. docs/flow-table.md has the picture.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from control import abi
from control.addresses import Endpoint, IPAddress
from control.libbpf import Array

# Of 14 slots: so few that even in a full table of a million no entry is left without a slot in its
# home and the next three buckets (their 56 slots have 24 entries on average, and never 57).
_RECORDS_A_BUCKET = 6
_BUCKETS_MIN = abi.SlotBit.TURNS + 1  # so that the buckets of one entry are different ones
_RELAY_RATIO_SHIFT = 40  # bpf/flow.h
FAMILIES = (4, 6)


def new_hash_key() -> tuple[int, ...]:
    """Nobody outside can tell which flows share a bucket."""
    return tuple(secrets.randbits(32) for _ in range(8))


@dataclass(frozen=True)
class Layout:
    """Records for each port of a range, on each of some relay addresses.

    Attributes:
        port_min, port_max: the range, both ends included.
        relays: how many relay addresses there are records for.
        hash_key: eight random words; two layouts without flows are equal without them.
    """

    port_min: int
    port_max: int
    relays: int
    hash_key: tuple[int, ...] = field(default_factory=new_hash_key, compare=False)

    @property
    def span(self) -> int:
        """Ports in the range."""
        return self.port_max - self.port_min + 1

    @property
    def records(self) -> int:
        return self.relays * self.span

    @property
    def buckets(self) -> int:
        """Of the index, so many that they are less than half full when all records are in use."""
        return max(_BUCKETS_MIN, -(-self.records // _RECORDS_A_BUCKET))

    @property
    def relay_ratio(self) -> int:
        """For the program: number * ratio >> 40 is number // span."""
        return -(-(1 << _RELAY_RATIO_SHIFT) // self.span)

    def number(self, relay: int, port: int) -> int:
        """The record of a port on the relay address of that index."""
        return relay * self.span + port - self.port_min

    def relay_and_port(self, number: int) -> tuple[int, int]:
        """The relay address's index, and the port, of a record."""
        relay, port = divmod(number, self.span)
        return relay, self.port_min + port

    def endpoint(self, number: int, relays: Sequence[IPAddress]) -> Endpoint:
        """The relay address and port of a record: what its transceiver sees."""
        relay, port = self.relay_and_port(number)
        return Endpoint(relays[relay], port)

    def sizes(self) -> dict[str, int]:
        """Entries of the maps whose sizes follow from the layout, by name."""
        places = self.records + len(FAMILIES)  # each ring has one more than it has numbers
        line = abi.FREE_LINE["numbers"].shape[0]
        return {
            "flows_v2": self.records,
            "flow_index_v2": self.buckets,
            "free_flows_v2": -(-places // line),
        }

    def record(self) -> Array:
        """One abi.LAYOUT."""
        record = np.zeros(1, abi.LAYOUT)
        record["port_min"], record["port_max"] = self.port_min, self.port_max
        record["span"], record["relays"], record["buckets"] = self.span, self.relays, self.buckets
        record["hash_key"] = self.hash_key
        return record

    @classmethod
    def of_record(cls, record: Array) -> Layout | None:
        """What layout_v1 holds; None: the maps are new."""
        one = record[0]
        if not one["span"]:
            return None
        key = tuple(int(word) for word in one["hash_key"])
        return cls(int(one["port_min"]), int(one["port_max"]), int(one["relays"]), key)
