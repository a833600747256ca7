# SPDX-License-Identifier: Apache-2.0
"""What the daemon takes for the way to an address, beside what iproute2 says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from control.routes import Asked, Routes, Way
from tests.lab.host import Host, LabError
from tests.lab.netns import Lab

pytestmark = [pytest.mark.root, pytest.mark.netns]

ROUTES = (
    "route add 198.51.100.0/24 via 10.0.1.2",
    "route add 198.51.100.7/32 via 10.0.2.2",
    "route add 198.51.100.8/32 via inet6 fd00:1::2",
    "route add blackhole 198.51.100.9/32",
    "route add unreachable 198.51.100.10/32",
    "route add 198.51.101.0/24 dev b",
    "route add 2001:db8:1::/64 via fd00:1::2",
    "route add 2001:db8:2::/64 via fd00:2::2",
    "route add table 100 198.51.102.0/24 via 10.0.2.2",
    "route add 198.51.102.0/24 via 10.0.1.2",
    "rule add from 10.0.2.1 lookup 100",
)
DESTINATIONS = (
    *(f"198.51.100.{last}" for last in range(1, 12)),
    *("10.0.1.2", "10.0.2.9", "10.0.1.1", "127.0.0.1", "198.51.101.5", "192.0.2.1", "224.0.0.1"),
    *("2001:db8:1::5", "2001:db8:2::5", "2001:db8:3::5", "fd00:1::77", "::1"),
)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lab() as lab:
        here, a, b = lab.host("here"), lab.host("a"), lab.host("b")
        lab.link(here, a, ["10.0.1.1/24", "fd00:1::1/64"], ["10.0.1.2/24", "fd00:1::2/64"])
        lab.link(here, b, ["10.0.2.1/24", "fd00:2::1/64"], ["10.0.2.2/24", "fd00:2::2/64"])
        here.ip(*ROUTES)
        yield here


@pytest.fixture
def routes(host: Host) -> Iterator[Routes]:
    with host.inside():
        made = Routes()
    yield made
    made.close()


def told_by_iproute2(host: Host, *argv: str) -> Way | None:
    try:
        (route,) = json.loads(host.run("ip", "-json", "route", "get", *argv))
    except LabError:
        return None
    if route.get("type", "unicast") != "unicast":
        return None
    links = {link["ifname"]: link["ifindex"] for link in json.loads(host.run("ip", "-json", "link"))}
    gateway = route.get("gateway") or route.get("via", {}).get("host") or route["dst"]
    return Way(ip_address(gateway), links[route["dev"]])


def test_the_same_ways_as_iproute2(host: Host, routes: Routes) -> None:
    ways = routes.ways([Asked(ip_address(text)) for text in DESTINATIONS])
    assert ways == [told_by_iproute2(host, text) for text in DESTINATIONS]
    assert len(set(ways)) >= 8


def test_rules_for_a_source_hold_where_it_is_ours(host: Host, routes: Routes) -> None:
    client = ip_address("198.51.102.9")
    plain, ruled, strange = routes.ways(
        [Asked(client), Asked(client, ip_address("10.0.2.1")), Asked(client, ip_address("203.0.113.1"))]
    )
    assert plain == strange == told_by_iproute2(host, str(client))
    assert ruled == told_by_iproute2(host, str(client), "from", "10.0.2.1")
    assert ruled != plain


def test_more_than_fits_into_one_datagram(routes: Routes) -> None:
    ways = routes.ways([Asked(ip_address("198.51.100.0") + number % 7 + 1) for number in range(5000)])
    assert len(ways) == 5000
    assert len(set(ways)) == 2
