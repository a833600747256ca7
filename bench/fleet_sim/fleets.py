# SPDX-License-Identifier: Apache-2.0
"""The fleets that are looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fleet:
    """How many of what there are, and what is shared between whom.

    A region has a directory of its own (one Redis). Inside a region relays form groups: those that hold each
    other's flow records and can take each other's addresses over. `routable`: ufrags say themselves whose
    they are, so the directory has transceivers in it and no sessions.
    """

    name: str
    what: str
    regions: int
    relays: int
    transceivers: int
    calls: int
    group: int
    routable: bool = False

    def __post_init__(self) -> None:
        if self.relays % self.regions or self.region_relays % self.group:
            raise ValueError(f"{self.name}: relays must divide evenly into regions, and into groups")

    @property
    def region_relays(self) -> int:
        return self.relays // self.regions

    @property
    def region_calls(self) -> int:
        return self.calls // self.regions

    @property
    def region_transceivers(self) -> float:
        return self.transceivers / self.regions

    @property
    def relay_calls(self) -> float:
        """Calls whose packets go through one relay."""
        return self.calls / self.relays

    @property
    def sharing(self) -> int:
        """Relays that are told of a region's sessions: all of its, or none."""
        return 0 if self.routable else self.region_relays


SMALL = Fleet("small", "what namespaces on one machine can hold", 1, 3, 4, 300, 3)
FLAT = Fleet("flat", "one directory, every flow known to every relay", 1, 100, 10_000, 10_000_000, 100)
REGIONS = Fleet(
    "regions", "ten regions with a directory each, groups of five", 10, 100, 10_000, 10_000_000, 5
)
ROUTABLE = Fleet(
    "routable", "one directory, of transceivers alone; groups of five", 1, 100, 10_000, 10_000_000, 5, True
)
DIRECTORY = Fleet("directory", "what bench/directory.py sets up: no flows", 1, 3, 12, 30_000, 1)
FLEETS = {fleet.name: fleet for fleet in (SMALL, FLAT, REGIONS, ROUTABLE, DIRECTORY)}
USUAL = (SMALL.name, FLAT.name, REGIONS.name, ROUTABLE.name)
