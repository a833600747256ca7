# SPDX-License-Identifier: Apache-2.0
"""Who there is in the differential test: sessions and clients, in the relay host of tests/bpf/world.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from control.addresses import Endpoint
from tests.bpf import world
from tests.bpf.world import V4, V6, Family
from tests.model.state import Session

CAPTURES = Path(__file__).parent.parent.parent / "data" / "captures"
CAPTURE_NAMES = ("aiortc", "chromium", "chromium_lite", "gstreamer", "werift")


def session(number: int, v4: int, v6: int, pwd: bytes | None, *, lax: bool = False) -> Session:
    backends = {family: backend for family, backend in ((4, v4), (6, v6)) if backend}
    return Session(number, backends, pwd, fingerprint_optional=lax)


LONGEST = b"u" * 32
# Two ufrags each of Alice and of Carol, who keeps her pwd to herself.
SESSIONS = {
    b"alice": session(7, 1, 2, b"the-pwd-of-alice-is-22b"),
    b"alice-again": session(7, 1, 2, b"another-pwd-after-a-restart"),
    b"bob": session(8, 3, 4, b"p" * 64),
    b"carol": session(20, 1, 2, None),
    b"carol-again": session(20, 1, 2, None),
    b"dave": session(21, 3, 4, None),
    b"lax": session(22, 1, 2, b"p" * 65, lax=True),
    b"lax-open": session(23, 1, 2, None, lax=True),
    LONGEST: session(9, 1, 2, b"p" * 256),
    b"x": session(10, 3, 4, b"one-letter-of-a-ufrag!"),
    b"only4": session(11, 1, 0, b"only-a-backend-of-ipv4"),
    b"only6": session(12, 0, 2, b"only-a-backend-of-ipv6"),
    b"unresolved": session(13, 5, 6, b"its-neighbour-is-not-known"),
    b"near": session(14, 7, 8, b"behind-the-clients-link"),
    b"absent-hop": session(15, 9, 10, b"its-hop-does-not-exist"),
    b"narrow": session(16, 11, 12, b"by-a-link-of-a-small-mtu"),
    b"absent-backend": session(17, world.ABSENT_BACKEND, world.ABSENT_BACKEND, b"its-backend-is-not-there"),
}
# Of calls that say themselves whose they are, made by the transceiver's own code: of each key and owner, also
# of ones that are not here; two ufrags of one session, and sessions of equal low bits, which share a budget.
ROUTABLES = [
    *(world.routable(key) for key in (*world.FLEET_KEYS.values(), world.FLEET_KEY_GONE)),
    *(world.routable(owner=owner) for owner in (*world.FLEET_OWNERS, world.FLEET_OWNER_GONE)),
    world.routable(nonce=2),
    *(world.routable(session=session) for session in (0, 12345 + (1 << 16), (1 << 31) - 1)),
]
# One of them is registered as well, and has the same number so.
REGISTERED = world.routable(session=777, nonce=3)
SESSIONS[REGISTERED.ufrag] = session(REGISTERED.session.number, 1, 2, REGISTERED.pwd)
ROUTABLES += [REGISTERED, world.routable(session=777, nonce=4)]
PWDS = {one.ufrag: one.pwd for one in ROUTABLES} | {
    ufrag: registered.pwd for ufrag, registered in SESSIONS.items() if registered.pwd
}
FAMILIES = {4: V4, 6: V6}


def _clients(family: Family, strange: Sequence[str]) -> list[Endpoint]:
    usual = [
        family.client,
        family.client._replace(port=family.client.port + 1),
        family.distant,
        family.quiet,
        family.unreachable,
        family.elsewhere,
        family.ruled,
    ]
    own = [family.vip.address, family.relay, family.own]
    inside = world.BACKEND_ENDPOINTS[family.backends.usual]
    edges = [family.client._replace(port=port) for port in (0, 1, 65535)]
    others = [Endpoint(ip_address(address), 50006) for address in strange]
    return [*usual, inside, *edges, *(Endpoint(address, 50007) for address in own), *others]


CLIENTS = {
    4: _clients(
        V4,
        [
            *("0.0.0.1", "1.0.0.0", "126.255.255.255", "127.0.0.1", "128.0.0.1", "223.255.255.255"),
            *("224.0.0.1", "255.255.255.255", "198.51.100.255", "10.77.9.9"),
        ],
    ),
    6: _clients(
        V6,
        ["::1", "::", "0:1::1", "ff02::1", "feff::1", "::ffff:198.51.100.10", "::ffff:10.20.0.1", "100::1"],
    ),
}
USUAL_CLIENTS = 3  # the first ones of each
LIKELY_CLIENTS = 14  # those that some relay may have bound, and our own addresses


@cache
def captured_sessions(name: str) -> dict[bytes, Session]:
    told = json.loads((CAPTURES / f"{name}.json").read_text())
    parts = [part for part in (told, told.get("restart")) if part]
    return {
        part["server_ufrag"].encode(): session(30, V4.backends.usual, 0, part["server_pwd"].encode())
        for part in parts
    }
