# SPDX-License-Identifier: Apache-2.0
"""Hypothesis' strategies: states to begin with, and packets in a row."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st

from control import abi
from tests.bpf import world
from tests.bpf.differential.acts import (
    LONG_AGO,
    Act,
    At,
    Ending,
    Entering,
    Fleet,
    Lease,
    Rest,
    Telling,
)
from tests.bpf.differential.people import (
    CAPTURE_NAMES,
    CLIENTS,
    FAMILIES,
    LIKELY_CLIENTS,
    LONGEST,
    ROUTABLES,
    SESSIONS,
    USUAL_CLIENTS,
    captured_sessions,
)
from tests.bpf.differential.starts import WHOLE_FLEET, Given, Room, Start
from tests.bpf.differential.steps import (
    FINGERPRINTS,
    INTEGRITIES,
    MEDIA,
    Answer,
    Captured,
    Media,
    Request,
    Step,
    transaction,
)
from tests.bpf.differential.twists import (
    Balanced,
    ComesBy,
    Cut,
    Damage,
    Elsewhere,
    Extensions,
    Field,
    Grow,
    Length,
    Protocol,
    Shrink,
    Tag,
    Twist,
    WrongChecksum,
)
from tests.model.state import Endpoint, FlowKey, Life, Record, Tally

T = TypeVar("T")

STEPS_MAX = 7


def often(usual: T, *others: T, times: int = 3) -> st.SearchStrategy[T]:
    """The usual one, in one case of several another."""
    return st.sampled_from([usual] * (times * len(others)) + list(others))


def weighted(*parts: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """One of several, each as often as it says: `one_of` takes what is named twice for the same."""
    return st.sampled_from([part for times, part in parts for _ in range(times)]).flatmap(lambda part: part)


families = st.sampled_from([4, 6])
usual_clients = st.sampled_from([0, 0, 0, *range(USUAL_CLIENTS)])
any_client = st.sampled_from(range(max(map(len, CLIENTS.values()))))
clients = weighted((4, usual_clients), (1, any_client))
attribute_kinds = st.sampled_from([0x0006, 0x0008, 0x8028, 0x0024, 0x802A, 0xC057, 0x0000, 0xFFFF])
attributes = st.lists(
    st.tuples(attribute_kinds, st.sampled_from([0, 1, 3, 4, 8, 19, 20, 21, 40])), max_size=3
).map(tuple)
# Beside USERNAME, MESSAGE-INTEGRITY and FINGERPRINT: up to 15 in all, and more.
many_attributes = st.integers(11, 14).map(lambda count: ((0x8022, 4),) * count)

everyday_ufrags = [
    *(b"alice", b"alice", b"alice-again", b"bob", b"narrow"),
    *(b"carol", b"carol-again", b"dave", b"unresolved"),
]
strange_ufrags = [b"", b"alic", b"alicea", b"ALICE", LONGEST + b"u", b"ali\0ce", b"u" * 31, b"\0"]
ufrags = weighted((2, st.sampled_from(everyday_ufrags)), (1, st.sampled_from(sorted(SESSIONS))))
strange_rests = st.sampled_from([b":", b"", b"no", b"\0:peer", b"::", b"peer:"])
long_rests = st.sampled_from([470, 506, 507, 511, 512]).map(lambda length: b":" + b"p" * length)


def flaw(name: str, values: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Another value in a field of a Request."""
    return values.map(lambda value: {name: value})


flaws = st.one_of(
    flaw("integrity", st.sampled_from(sorted(INTEGRITIES))),
    flaw("integrity", st.sampled_from(sorted(INTEGRITIES))),
    flaw("fingerprint", st.sampled_from(sorted(FINGERPRINTS))),
    flaw("fingerprint", st.sampled_from(sorted(FINGERPRINTS))),
    flaw("rest", strange_rests),
    flaw("rest", long_rests),
    flaw("ufrag", st.sampled_from(strange_ufrags)),
    flaw("ufrag", st.sampled_from([LONGEST, LONGEST + b"u"])),
    st.just({"ufrag": b"", "rest": b""}),
    flaw("kind", st.sampled_from([0x0101, 0x0111, 0x0011, 0x0003, 0x0200, 0x0000, 0x03FF])),
    flaw("before", attributes),
    flaw("after", attributes),
    flaw("after", many_attributes),
    flaw("between", attributes),
    flaw("length_off", st.sampled_from([-4, 4, -1, 1, 2])),
    flaw("cookie", st.sampled_from([0x2112A443, 0x2012A442, 0])),
    flaw("second_vip", st.just(True)),
)

plain_extensions = st.tuples(st.sampled_from([0, 43, 60, 135]), st.just(0), st.just(0))
near_zero = [0, 1, 0x0100, 0xFFFE, 0xFEFF]  # where a carry may be lost, in either order of bytes
twists: st.SearchStrategy[Twist] = st.one_of(
    st.builds(Field, st.just("ttl"), st.sampled_from([0, 1, 2, 255])),
    st.builds(Field, st.just("tos"), st.integers(0, 255)),
    st.builds(Field, st.just("flow_label"), st.integers(0, 0xFFFFF)),
    st.builds(Field, st.just("checksum"), st.just(0)),
    st.just(Field("checksum", 0)),
    st.builds(Field, st.just("options"), st.integers(1, 10).map(lambda words: bytes([1]) * 4 * words)),
    st.builds(Field, st.just("fragment"), st.sampled_from([0, 0x8000, 0x2000, 1, 0x1FFF, 0x2001])),
    st.builds(Field, st.just("padding"), st.binary(min_size=1, max_size=8)),
    st.builds(Field, st.just("dport"), st.just(0)),
    st.builds(Length, st.sampled_from(["ip_length", "udp_length"]), st.sampled_from([-8, -4, -1, 1, 4])),
    st.builds(Length, st.sampled_from(["ip_length", "udp_length"]), st.integers(-120, 20)),
    st.builds(Shrink, st.integers(1, 24)),
    st.builds(Grow, st.sampled_from([99, 100, 101, 1499, 1500, 1500, 1501])),
    st.builds(Grow, st.sampled_from([100, 1500])),
    st.builds(WrongChecksum, st.sampled_from(["ip", "udp"]), st.integers(1, 0xFFFF)),
    *(st.builds(Balanced, st.just(where), st.sampled_from(near_zero)) for where in ("ip", "ip", "udp")),
    st.builds(Tag, st.sampled_from([0x8100, 0x88A8, 0x9100])),
    st.builds(Protocol, st.sampled_from([0, 6, 1, 58, 59, 44, 51, 60])),
    st.builds(
        Extensions,
        st.lists(
            st.tuples(
                st.sampled_from([0, 43, 60, 135, 51, 44, 50]),
                st.sampled_from([0, 0, 1, 2, 255]),
                st.sampled_from([0, 1, 2, 8, 0xFFF8]),
            ),
            min_size=1,
            max_size=8,
        ).map(tuple),
        often(17, 6, 58, 59, 44, times=2),
    ),
    st.builds(Extensions, st.lists(plain_extensions, min_size=1, max_size=2).map(tuple)),
    st.builds(Cut, st.integers(-12, 60)),
    st.builds(Damage, st.integers(0, 99), st.integers(0, 255)),
    st.builds(Damage, st.integers(0, 1500), st.integers(0, 255)),
    st.builds(
        Elsewhere,
        st.sampled_from(
            [None, "203.0.113.2", "203.0.113.3", "10.20.0.1", "10.20.0.2", "fd00:20::1", "::1", "0:0:1::"]
        ),
        st.sampled_from([None, 3478, 443, 39999, 40000, 40019, 40020, 40031, 40032]),
    ),
    st.builds(ComesBy, st.sampled_from([world.CLIENTS, world.BACKENDS])),
)
few_twists: st.SearchStrategy[tuple[Twist, ...]] = weighted(
    (2, st.just(())), (2, twists.map(lambda one: (one,))), (1, st.tuples(twists, twists))
)

requests = st.builds(
    lambda made, changes: replace(made, **{name: value for one in changes for name, value in one.items()}),
    st.builds(Request, families, usual_clients, ufrags, transaction=st.integers(0, 2)),
    st.lists(flaws, max_size=2),
)
odd_requests = st.builds(Request, families, clients, ufrags, twists=few_twists)
strangers = st.builds(Request, families, any_client, st.sampled_from(everyday_ufrags))
routables = st.sampled_from([*ROUTABLES, ROUTABLES[0], ROUTABLES[1]])


@st.composite
def routable_requests(draw: st.DrawFn) -> Request:
    """Good ones; with something changed in the ufrag, another one's pwd, or any other flaw."""
    said = draw(routables)
    made = Request(draw(families), draw(usual_clients), said.ufrag, transaction=draw(st.integers(0, 2)))
    kind = draw(st.sampled_from(["good", "good", "good", "changed", "length", "pwd", "flaw"]))
    if kind == "changed":
        at = draw(st.integers(0, 15))
        other = draw(st.one_of(st.sampled_from(b"AZaz09+/"), st.sampled_from(b"-_=. \x80\xff")))
        return replace(made, ufrag=said.ufrag[:at] + bytes([other]) + said.ufrag[at + 1 :], pwd=said.pwd)
    if kind == "length":
        return replace(made, ufrag=(said.ufrag * 2)[: draw(st.sampled_from([15, 17, 32]))], pwd=said.pwd)
    if kind == "pwd":
        return replace(made, pwd=draw(routables).pwd)
    return replace(made, **draw(flaws)) if kind == "flaw" else made


# The fleet's keys change, and transceivers come, go and move.
ONE_KEY, OTHER_KEY = ({number: WHOLE_FLEET.keys[number]} for number in WHOLE_FLEET.keys)
fleets = st.builds(
    Fleet,
    st.sampled_from([WHOLE_FLEET.keys, ONE_KEY, OTHER_KEY, {}, {0: bytes(32)}, {**ONE_KEY, 7: bytes(32)}]),
    st.sampled_from([WHOLE_FLEET.owners, {}, {0: (3, 4), 701: (1, 2)}, {0: (0, 2), 65535: (0, 0)}]),
)
# Flows of other relays: good ones, and such as contradict what is there.
good_tellings = st.builds(
    Telling, families, usual_clients, st.sampled_from(everyday_ufrags), pick=st.integers(0, 2)
)
odd_tellings = st.builds(
    Telling,
    families,
    st.one_of(usual_clients, st.integers(0, LIKELY_CLIENTS - 1)),
    st.sampled_from([*everyday_ufrags, *sorted(SESSIONS), b"nobody's"]),
    often(*At, times=1),
    st.integers(0, 6),
    often(0, -100, -3, -2, -1, 1, 2, 3, 100, times=1),
    often(None, 2, 3, abi.VIP_MAX, times=6),
    often(True, False, times=12),
)
good_enterings = st.builds(Entering, st.lists(good_tellings, min_size=1, max_size=2).map(tuple))
odd_enterings = st.builds(Entering, st.lists(odd_tellings, min_size=1, max_size=4).map(tuple))
acts: st.SearchStrategy[Act] = weighted(
    (2, good_enterings),
    (4, odd_enterings),
    (2, st.builds(Ending, st.sampled_from(everyday_ufrags))),
    (1, st.just(Rest())),
    (1, st.builds(Lease, st.booleans())),
    (1, fleets),
)
# What makes flows, so that what follows meets some.
good_requests = st.builds(
    Request,
    families,
    usual_clients,
    st.sampled_from([*everyday_ufrags, *(one.ufrag for one in ROUTABLES[:2])]),
)
usual_openings: st.SearchStrategy[list[Step | Act]] = st.lists(
    weighted((3, good_requests), (1, good_enterings)), max_size=3
)
media = st.builds(Media, families, clients, st.sampled_from(sorted(MEDIA)), twists=few_twists)
answers = st.builds(
    Answer,
    families,
    st.integers(0, 3),
    weighted(
        (1, st.just("success")), (1, st.sampled_from(["success", "failure", "question", *sorted(MEDIA)]))
    ),
    weighted((2, st.none()), (1, st.integers(0, 11))),
    weighted((2, st.none()), (1, st.sampled_from(sorted(world.BACKEND_ENDPOINTS)))),
    often(0, 1, -1, times=6),
    twists=few_twists,
)


@st.composite
def visits(draw: st.DrawFn) -> list[Step | Act]:
    """The client of another relay's flow comes by, or its transceiver does."""
    told = draw(good_tellings)
    family, client = st.just(told.family), st.just(told.client)
    later = st.sampled_from([-3, -1, 0, 1, 3])
    following: st.SearchStrategy[Step | Act] = weighted(
        (2, st.builds(Media, family, client, st.sampled_from(sorted(MEDIA)))),
        (3, st.builds(Answer, family, st.integers(0, 1), st.sampled_from(["success", "rtp"]))),
        (3, st.builds(Request, family, client, st.sampled_from([*everyday_ufrags, b"carol", b"dave"]))),
        (1, later.map(lambda seconds: Entering((replace(told, pick=told.pick + 1, later=seconds),)))),
    )
    return [Entering((told,)), *draw(st.lists(following, min_size=1, max_size=4))]


steps: st.SearchStrategy[Step | Act] = weighted(
    (6, requests),
    (3, odd_requests),
    (1, strangers),
    (3, media),
    (3, answers),
    (2, routable_requests()),
    (3, acts),
)


@st.composite
def records(draw: st.DrawFn, family: int) -> Record:
    """A flow as XDP may have left it, or the daemon."""
    life = draw(
        st.sampled_from([Life.LIVE, Life.LIVE, Life.PROVISIONAL, Life.DEAD, Life.SUPERSEDED, Life.BINDING])
    )
    session = SESSIONS[
        draw(st.sampled_from([b"alice", b"bob", b"carol", b"dave", b"near", b"narrow", b"absent-hop"]))
    ]
    client = CLIENTS[family][draw(usual_clients)]
    vip = world.VIPS.index(FAMILIES[family].vip)
    provisional = life is Life.PROVISIONAL
    counts = st.sampled_from([0, 1, 30, 31, 32, 33] if provisional else [0, 5, 32, 2**32 - 1])
    return Record(
        life,
        FlowKey(Endpoint(*client), vip),
        session.backends[family],
        session.number,
        draw(often(world.TO_CLIENT, world.UNRESOLVED, world.NARROW, world.ABSENT_HOP)),
        Tally(draw(counts), draw(st.sampled_from([0, 5000]))),
        Tally(draw(counts), 0 if provisional else draw(st.sampled_from([0, 5000]))),
        transaction(draw(st.integers(0, 2))) if provisional else b"",
        draw(often(LONG_AGO, LONG_AGO - 1, LONG_AGO + 1, times=1)),
    )


# Budgets that are nearly spent, or are.
tokens = often(
    {}, {b"alice": 0, b"carol": 0}, {b"alice": 1, b"bob": 1}, {b"carol": 0}, {b"carol": 1}, times=2
)
routable_tokens = often({}, {ROUTABLES[0].session.number: 0}, {ROUTABLES[0].session.number: 1}, times=4)
spent_sources = often(
    (), *((FAMILIES[family].client.address, FAMILIES[family].distant.address) for family in (4, 6)), times=6
)


@st.composite
def starts(draw: st.DrawFn) -> Start:
    """Mostly the world as it is; else flows, and queues that are short, empty or wrong."""
    flows: dict[int, Given] = {}
    for number in draw(st.lists(st.integers(0, 5), max_size=3, unique=True)):
        family = 4 if number < 3 else 6
        # Of numbers that are not in the queues, and of one that is.
        place = {0: 9, 1: 42, 2: 19, 3: 29, 4: 24, 5: 39}[number]
        record = draw(records(family))
        others = [one.record for one in flows.values() if one.indexed]
        indexed = draw(often(True, False)) and not any(_same(record, other) for other in others)
        flows[place] = Given(place, record, indexed)
    return Start(
        tuple(flows.values()),
        draw(often(world.V4.free, (), (3,), (9, 3), (42, 42, 3), (59, world.RECORDS), times=4)),
        draw(often(world.V6.free, (), (23,), (29, 23), (24, 24, 23), times=4)),
        draw(often(world.FREE_HOPS, (), (20,), (16383,), times=4)),
        tokens=draw(tokens),
        routable_tokens=draw(routable_tokens),
        fleet=draw(weighted((6, st.just(WHOLE_FLEET)), (1, fleets))),
        spent_sources=draw(spent_sources),
        is_cpu_spent=draw(often(False, True, times=12)),
        index=draw(often(Room.MUCH, Room.LITTLE, Room.LITTLE, Room.NONE, times=3)),
        is_lease_over=draw(often(False, True, times=16)),
        is_locked=draw(often(False, True, times=16)),
    )


def _same(one: Record, other: Record) -> bool:
    """Whether two records cannot both be entered: a search for one might find the other."""
    if (one.life, one.key) != (other.life, other.key):
        return False
    target = (one.session, one.backend) == (other.session, other.backend)
    return one.life is Life.LIVE or (one.life is Life.PROVISIONAL and target)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Start, list[Step | Act]]:
    start = draw(starts())
    name = draw(st.sampled_from([*CAPTURE_NAMES, *[None] * 10]))
    if name is None:
        opening = draw(weighted((3, usual_openings), (1, visits())))
        return start, [*opening, *draw(st.lists(steps, min_size=1, max_size=STEPS_MAX))]
    start = replace(start, sessions=captured_sessions(name))
    packets = st.builds(Captured, st.just(name), st.integers(0, 199), twists=few_twists)
    return start, draw(st.lists(packets, min_size=1, max_size=STEPS_MAX))
