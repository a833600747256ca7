# SPDX-License-Identifier: Apache-2.0
"""The kernel's routes and neighbours as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from tests.model.wire import IPAddress

UNICAST = "unicast"


@dataclass(frozen=True)
class Route:
    prefix: IPv4Network | IPv6Network
    link: str
    gateway: IPAddress | None = None  # None: on the link itself
    kind: str = UNICAST  # or local, broadcast, unreachable, ...
    metric: int = 0


@dataclass
class Fib:
    routes: list[Route] = field(default_factory=list)
    neighbours: dict[tuple[IPAddress, str], bytes] = field(default_factory=dict)  # MACs that are known

    def towards(self, address: IPAddress) -> Route | None:
        """The longest prefix wins, then the smaller metric."""
        fitting = [
            route
            for route in self.routes
            if route.prefix.version == address.version and address in route.prefix
        ]
        return max(fitting, key=lambda route: (route.prefix.prefixlen, -route.metric), default=None)
