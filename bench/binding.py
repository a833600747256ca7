# SPDX-License-Identifier: Apache-2.0
"""Rows about Binding Requests: what it costs to let one in, and what to turn one away.

All of them are IPv4, from clients whose way back is looked up in a FIB with a default route; and
all budgets are kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from bench.driver import RTP, Stream
from bench.measure import Effort, Row, measure
from bench.tables import FLEET_KEY, FLEET_NUMBER, KEPT, PWD, UFRAG, Budget, Budgets, Shape, Table
from control import hostlinks
from control.abi import Reason
from control.hostlinks import HostLink
from tests.bpf import stun
from tests.lab.netns import Lab
from transceiver.routable import Mint

_REFILLS = 20
_LINK = "clients"
_GATEWAY, _GATEWAY_MAC = "198.51.100.254", "02:00:00:00:00:c2"


def request(ufrag: bytes, pwd: bytes) -> bytes:
    """As browsers send it: 104 bytes, the username first."""
    return stun.request(ufrag + b":peer", pwd, after=[(0xC057, bytes(4)), (stun.USE_CANDIDATE, b"")])


GOOD = request(UFRAG, PWD)
# Of a session that nobody has registered: its pwd is derived from the ufrag.
_ROUTABLE = Mint(FLEET_KEY, FLEET_NUMBER).credentials_of(1, 1)
ROUTABLE = request(_ROUTABLE[0].encode(), _ROUTABLE[1].encode())
UNKNOWN = request(b"mallory0", PWD)
FORGED = request(UFRAG, b"guessed")
DAMAGED = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
NOISE = random.Random(1).randbytes(len(RTP))


@dataclass(frozen=True)
class Rejected:
    """Packets of clients without a flow that the relay turns away.

    full: the table has flows of others in all of its records.
    """

    name: str
    stream: Stream
    reasons: tuple[Reason, ...]
    budgets: Budgets = KEPT
    full: bool = True


REJECTED = (
    Rejected("reject/unknown-ufrag", Stream(UNKNOWN, scattered=True), (Reason.DROP_UNKNOWN_UFRAG,)),
    Rejected("reject/bad-fingerprint", Stream(DAMAGED, scattered=True), (Reason.DROP_STUN_FINGERPRINT,)),
    Rejected("reject/bad-integrity", Stream(FORGED, scattered=True), (Reason.DROP_STUN_INTEGRITY,)),
    Rejected(
        "reject/random",
        Stream(NOISE, scattered=True, noise=True),
        (Reason.DROP_NOT_RTC, Reason.DROP_NO_FLOW, Reason.DROP_STUN_COOKIE),
    ),
    # A request that holds, from ever other addresses: the session's budget is as by default.
    Rejected(
        "reject/replay",
        Stream(GOOD, scattered=True),
        (Reason.FORWARD_BOUND, Reason.FORWARD_TO_TRANSCEIVER, Reason.DROP_SESSION_BUDGET),
        Budgets(session=Budget.of(16, seconds=60)),
        full=False,
    ),
    # A thousand sources that have spent what they had.
    Rejected(
        "reject/spent-source",
        Stream(UNKNOWN, strange=True),
        (Reason.DROP_UNKNOWN_UFRAG, Reason.DROP_SOURCE_BUDGET),
        Budgets(source=Budget.of(2, seconds=1000)),
    ),
)
NAMES = ("bind/good", "bind/routable", "bind/again", *(kind.name for kind in REJECTED))


@contextmanager
def host() -> Iterator[HostLink]:
    """The calling thread is in such a host meanwhile. Yields the link that clients are behind."""
    with Lab() as lab:
        relay, far = lab.host("relay", is_relay=True), lab.host("far")
        lab.link(relay, far, ["198.51.100.1/24"], name_a=_LINK)
        relay.ip(
            f"neighbour add {_GATEWAY} lladdr {_GATEWAY_MAC} dev {_LINK} nud permanent",
            f"route add default via {_GATEWAY}",
        )
        with relay.inside():
            hostlinks.let_lo_forward()
            yield hostlinks.find([_LINK])[0]


def rows(shapes: Sequence[Shape], wanted: Callable[[str], bool], effort: Effort) -> Iterator[Row]:
    """shapes: of the tables."""
    if not any(map(wanted, NAMES)):
        return
    with host() as clients:
        for shape in shapes:
            if wanted("bind/good"):
                yield _new_flows(clients, shape, effort, "bind/good", GOOD)
            if wanted("bind/routable"):
                yield _new_flows(clients, shape, effort, "bind/routable", ROUTABLE)
            if wanted("bind/again"):
                yield _again(clients, shape, effort)
        for kind in REJECTED:
            if wanted(kind.name):
                yield _rejected(clients, kind, shapes[0], effort)


def _new_flows(clients: HostLink, shape: Shape, effort: Effort, name: str, message: bytes) -> Row:
    """In a table that is a tenth full at first and at most nine tenths full at last.

    A small table is filled so often that as many packets are measured as elsewhere, or nearly. The
    first tenth is not timed: short runs would measure how cold the caches are.
    """
    count = min(effort.repeat, shape.flows * 8 // 10)
    rounds = effort.rounds * max(1, min(_REFILLS, effort.repeat // count))
    with closing(Table(shape)) as table:
        table.let_bind(clients)
        return measure(
            name,
            table,
            Stream(message, in_turn=True),
            (Reason.FORWARD_BOUND,),
            Effort(count, rounds, warm_up=shape.flows // 10),
            prepare=table.empty,
        )


def _again(clients: HostLink, shape: Shape, effort: Effort) -> Row:
    """Requests on flows that are there: each client's check of every few seconds."""
    with closing(Table(shape)) as table:
        table.let_bind(clients)
        table.fill(backends=1)
        return measure("bind/again", table, Stream(GOOD), (Reason.FORWARD_TO_TRANSCEIVER,), effort)


def _rejected(clients: HostLink, kind: Rejected, shape: Shape, effort: Effort) -> Row:
    with closing(Table(shape, kind.budgets)) as table:
        table.let_bind(clients)
        if kind.full:
            table.fill()
        return measure(kind.name, table, kind.stream, kind.reasons, effort)
