# SPDX-License-Identifier: Apache-2.0
"""The kernel's routes and neighbours as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from tests.model.wire import IPAddress

UNICAST = "unicast"


IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Route:
    prefix: IPNetwork
    link: str
    gateway: IPAddress | None = None  # None: on the link itself
    kind: str = UNICAST  # or local, broadcast, unreachable, ...
    metric: int = 0
    table: str = "main"


@dataclass(frozen=True)
class Rule:
    """Which table is asked for packets from here to there; None: any."""

    table: str
    source: IPNetwork | None = None
    destination: IPNetwork | None = None

    def fits(self, source: IPAddress, destination: IPAddress) -> bool:
        return all(
            wanted is None or (wanted.version == address.version and address in wanted)
            for wanted, address in ((self.source, source), (self.destination, destination))
        )


@dataclass
class Fib:
    routes: list[Route] = field(default_factory=list)
    rules: dict[int, list[Rule]] = field(default_factory=dict)  # by family, in order
    neighbours: dict[tuple[IPAddress, str], bytes] = field(default_factory=dict)  # MACs that are known

    def route(self, source: IPAddress, destination: IPAddress) -> Route | None:
        """For a packet that the host itself sends: of the first table that has one."""
        for rule in self.rules[destination.version]:
            found = self._best(rule.table, destination) if rule.fits(source, destination) else None
            if found:
                return found
        return None

    def _best(self, table: str, destination: IPAddress) -> Route | None:
        """The longest prefix wins, then the smaller metric."""
        fitting = [
            route
            for route in self.routes
            if route.table == table
            and route.prefix.version == destination.version
            and destination in route.prefix
        ]
        return max(fitting, key=lambda route: (route.prefix.prefixlen, -route.metric), default=None)
