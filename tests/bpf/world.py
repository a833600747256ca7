# SPDX-License-Identifier: Apache-2.0
"""The relay host that packets meet in these tests: who has which address, hop, backend, session.

Numbers are those of the maps. Both families have the same world; what differs is in `Family`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from control.addresses import Endpoint, IPAddress
from control.config import PortRange
from transceiver.routable import Mint, NumberedKey

PORTS = PortRange(40000, 40019)  # not a power of two
SPAN = 20  # ports in it: records of a relay address

# Links of the relay host. The program is attached to the first two.
CLIENTS, BACKENDS, ELSEWHERE = "clients", "backends", "elsewhere"
LINK_MACS = {
    CLIENTS: bytes.fromhex("020000000001"),
    BACKENDS: bytes.fromhex("020000000002"),
    ELSEWHERE: bytes.fromhex("020000000003"),
}
CLIENT_MAC = bytes.fromhex("0200000000c1")
GATEWAY_MAC = bytes.fromhex("0200000000c2")
OTHER_GATEWAY_MAC = bytes.fromhex("0200000000c4")
QUIET_MAC = bytes.fromhex("0200000000c3")  # of a neighbour that the kernel has not met
BACKEND_MAC = bytes.fromhex("0200000000b1")
MTU = 1500

# Hops that stand ready; XDP takes others off the free list.
TO_BACKEND, TO_CLIENT, UNRESOLVED, TO_NEAR_BACKEND, NARROW, ABSENT_HOP = 1, 2, 3, 4, 5, 16384
NARROW_MTU = 100
FREE_HOPS = (20, 21, 22)

ALICE_SESSION, BOB_SESSION = 7, 8
PWD = b"a-password-of-22-bytes"
ALICE, ALICE_AGAIN, BOB = b"alice000", b"alice111", b"bob00000"
LONGEST = b"u" * 32
LENIENT = b"lenient0"  # its clients may leave FINGERPRINT out
# Their transceivers keep the pwd to themselves. Carol's session has two ufrags.
CAROL, CAROL_AGAIN, DAVE, LENIENT_CAROL = b"carol000", b"carol111", b"dave0000", b"carol222"
ABSENT_BACKEND = 60000


@dataclass(frozen=True)
class Backends:
    """Numbers of the backends of one family."""

    usual: int
    other: int
    unresolved: int  # its neighbour is not known
    near: int  # behind the clients' link
    absent_hop: int
    narrow: int  # behind a link with a small MTU


@dataclass(frozen=True)
class Family:
    """One family's addresses and records."""

    version: int
    vip: Endpoint
    vip_number: int
    own: IPAddress  # the relay host's own, neither a VIP nor a relay address
    relay: IPAddress
    relay_number: int
    client: Endpoint  # its neighbour entry is there
    gateway: IPAddress
    distant: Endpoint  # behind the gateway
    ruled: Endpoint  # behind another gateway, for packets from the VIP alone
    other_gateway: IPAddress
    quiet: Endpoint  # on the clients' link, without a neighbour entry
    unreachable: Endpoint  # its route says so
    elsewhere: Endpoint  # by the link that the program is not attached to
    backends: Backends
    live: int  # the record that `established` fills
    free: tuple[int, ...]  # records on the free list, in order

    @property
    def index(self) -> int:
        """Of session.backend."""
        return 0 if self.version == 4 else 1

    @property
    def overhead(self) -> int:
        """Bytes of the IP and UDP headers."""
        return 28 if self.version == 4 else 48

    def relay_port(self, record: int) -> int:
        return PORTS.first + record % SPAN


def relay_of(record: int) -> IPAddress:
    """The relay address of a record."""
    return RELAYS[record // SPAN]


def _endpoint(address: str, port: int) -> Endpoint:
    return Endpoint(ip_address(address), port)


V4 = Family(
    version=4,
    vip=_endpoint("203.0.113.1", 3478),
    vip_number=0,
    own=ip_address("198.51.100.1"),
    relay=ip_address("10.20.0.1"),
    relay_number=0,
    client=_endpoint("198.51.100.10", 50001),
    gateway=ip_address("198.51.100.254"),
    distant=_endpoint("192.0.2.77", 50002),
    ruled=_endpoint("192.0.2.99", 50006),
    other_gateway=ip_address("198.51.100.253"),
    quiet=_endpoint("198.51.100.66", 50003),
    unreachable=_endpoint("198.18.0.1", 50004),
    elsewhere=_endpoint("198.19.0.9", 50005),
    backends=Backends(usual=1, other=3, unresolved=5, near=7, absent_hop=9, narrow=11),
    live=9,
    free=(3, 42, 7),  # 42 is on the second relay address
)
V6 = Family(
    version=6,
    vip=_endpoint("2001:db8:f::1", 3478),
    vip_number=1,
    own=ip_address("2001:db8:c::1"),
    relay=ip_address("fd00:20::1"),
    relay_number=1,
    client=_endpoint("2001:db8:c::10", 50001),
    gateway=ip_address("2001:db8:c::fe"),
    distant=_endpoint("2001:db8:77::77", 50002),
    ruled=_endpoint("2001:db8:99::99", 50006),
    other_gateway=ip_address("2001:db8:c::fd"),
    quiet=_endpoint("2001:db8:c::66", 50003),
    unreachable=_endpoint("2001:db8:dead::1", 50004),
    elsewhere=_endpoint("2001:db8:e::9", 50005),
    backends=Backends(usual=2, other=4, unresolved=6, near=8, absent_hop=10, narrow=12),
    live=29,
    free=(23, 24, 25),
)
FAMILIES = (V4, V6)


def next_door(address: IPAddress) -> IPAddress:
    """A source beside another that has a budget of its own: the next address, or the next /64."""
    return ip_address(int(address) ^ (1 if address.version == 4 else 1 << 64))


# Sources that have budgets of their own, as far as rows look at more than one.
SOURCES = tuple(
    address
    for family in FAMILIES
    for address in (
        *(family.client.address, family.distant.address, family.quiet.address, family.ruled.address),
        *(family.unreachable.address, family.elsewhere.address, next_door(family.client.address)),
    )
    if address != V6.quiet.address  # of the client's /64
)

SECOND_VIP = _endpoint("203.0.113.2", 443)
SECOND_RELAY = ip_address("10.20.0.2")
CAPTURED_VIP = _endpoint("10.77.9.9", 3478)  # of the captured calls
VIPS = (V4.vip, V6.vip, SECOND_VIP, CAPTURED_VIP)
OWN_RELAYS = (V4.relay, V6.relay, SECOND_RELAY)
# Of the group's other relays, by family. Higher than ours as numbers, but not as little-endian words.
FOREIGN_RELAYS = {4: ip_address("10.20.1.1"), 6: ip_address("fd00:20::100")}
RELAYS = (*OWN_RELAYS, *FOREIGN_RELAYS.values())
RECORDS = SPAN * len(RELAYS)
ABSENT_RECORD = 5000

BACKEND_ENDPOINTS = {
    1: _endpoint("10.20.0.10", 5000),
    2: _endpoint("fd00:20::10", 5000),
    3: _endpoint("10.20.0.30", 5003),
    4: _endpoint("fd00:20::30", 5003),
    5: _endpoint("10.20.0.50", 5005),
    6: _endpoint("fd00:20::50", 5005),
    7: _endpoint("198.51.100.70", 5007),
    8: _endpoint("2001:db8:c::70", 5007),
    9: _endpoint("10.20.0.90", 5009),
    10: _endpoint("fd00:20::90", 5009),
    11: _endpoint("10.20.0.110", 5011),
    12: _endpoint("fd00:20::110", 5011),
}
_HOPS = (TO_BACKEND, TO_BACKEND, UNRESOLVED, TO_NEAR_BACKEND, ABSENT_HOP, NARROW)
BACKEND_HOPS = {number: _HOPS[(number - 1) // 2] for number in BACKEND_ENDPOINTS}


class Session(NamedTuple):
    """What a server ufrag stands for."""

    number: int
    backends: tuple[int, int]  # for IPv4, for IPv6
    pwd: bytes | None = PWD
    fingerprint_optional: bool = False


SESSIONS = {
    ALICE: Session(ALICE_SESSION, (1, 2)),
    ALICE_AGAIN: Session(ALICE_SESSION, (1, 2), b"the-pwd-after-an-ice-restart"),
    BOB: Session(BOB_SESSION, (3, 4), b"the-pwd-of-another-session"),
    LONGEST: Session(9, (1, 2)),
    b"unresolved": Session(10, (5, 6)),
    b"near": Session(11, (7, 8)),
    b"absenthop": Session(12, (9, 10)),
    b"narrow": Session(13, (11, 12)),
    b"onlyv4": Session(14, (1, 0)),
    b"onlyv6": Session(15, (0, 2)),
    b"absentbackend": Session(16, (ABSENT_BACKEND, ABSENT_BACKEND)),
    LENIENT: Session(17, (1, 2), fingerprint_optional=True),
    # HMAC hashes a key of more than a block of 64 bytes first; 256 is the longest ice-pwd (RFC 8839, 5.4).
    **{
        b"pwdof%d" % size: Session(size, (1, 2), (b"0123456789+/abcdefgh" * 13)[:size])
        for size in (22, 63, 64, 65, 256)
    },
    CAROL: Session(100, (1, 2), None),
    CAROL_AGAIN: Session(100, (1, 2), None),
    DAVE: Session(101, (3, 4), None),
    LENIENT_CAROL: Session(102, (1, 2), None, fingerprint_optional=True),
}

# Sessions that nobody has registered: their ufrags say it all.
FLEET_KEYS = {0: NumberedKey(0, bytes(range(32))), 15: NumberedKey(15, b"another key, of 32 bytes exactly")}
FLEET_KEY_GONE = NumberedKey(7, bytes(32))  # one that the relay does not hold, or not any more
FLEET_OWNERS = {0: (1, 2), 65535: (3, 4), 700: (1, 0)}
FLEET_OWNER_GONE = 701


class Routable(NamedTuple):
    ufrag: bytes
    pwd: bytes
    session: Session


def routable(
    key: NumberedKey = FLEET_KEYS[0], owner: int = 0, session: int = 12345, nonce: int = 1
) -> Routable:
    """As a transceiver of that number makes it."""
    ufrag, pwd = Mint(key, owner).credentials_of(session, nonce)
    stands_for = Session(1 << 31 | session, FLEET_OWNERS.get(owner, (0, 0)), pwd.encode())
    return Routable(ufrag.encode(), pwd.encode(), stands_for)


# Budgets, as configured, and what each takes for a token, in ns.
SOURCE_REQUESTS_PER_SECOND, BINDINGS_PER_SECOND = 1000, 100_000
FLOWS_PER_SESSION, FLOW_IDLE_SECONDS = 16, 3600
SOURCE_INTERVAL, BINDING_INTERVAL, SESSION_INTERVAL = 1_000_000, 10_000, 225_000_000_000
SOURCE_EXEMPT = (ip_network("192.0.2.0/24"), ip_network("2001:db8:77::/48"))  # of the distant clients
