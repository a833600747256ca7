# SPDX-License-Identifier: Apache-2.0
"""What relays tell each other of flows, and what comes of it in the other's table; no store in between."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from control import abi, loader
from control.abi import FlowState, Reason
from control.addresses import IPAddress, parse_endpoint, to_bytes
from control.backends import Backend
from control.config import Config, PortRange
from control.flows import Clock
from control.loader import Loaded
from control.model import Owner, Session, UfragKey
from control.reaper import Reaper
from control.records import write_backends
from control.replication.activity import Activity
from control.replication.incoming import HOLD_SECONDS, Incoming
from control.replication.message import Kind, Message
from control.replication.outgoing import Outgoing
from control.sessions import Registry
from control.streams import Streams
from tests.lab.netns import Lab

pytestmark = [pytest.mark.root, pytest.mark.netns]

SPAN = 700  # a list of all has two parts
ADDRESSES = ip_address("10.20.0.1"), ip_address("10.20.0.2")
CLIENT, OTHER_CLIENT = ip_address("198.51.100.10"), ip_address("198.51.100.11")
BACKEND = parse_endpoint("10.20.0.99:5000")
QUARANTINE = 1.5


class Side:
    """One relay, without a daemon. Its clock is told, and goes on from the host's."""

    def __init__(self, loaded: Loaded, number: int, session: int) -> None:
        self.own, self.other = ADDRESSES[number], ADDRESSES[1 - number]
        self.datapath, self.entering = loaded.datapath, loaded.entering
        self.datapath.flows[:] = np.zeros(1, abi.FLOW)[0]
        self.datapath.index[:] = 0
        self.datapath.lay_out(self.datapath.layout)
        self.registry = Registry(max_sessions=10, max_backends=8, grace_seconds=30)
        self.session = session
        self.late = 0.0
        sessions = [self.made_session(session, "s1"), self.made_session(session + 1, "s2")]
        self.registry.restore([(0, "t")], [Backend(1, BACKEND)], sessions, [], 100, 0.0)
        write_backends(self.datapath.backends, [Backend(1, BACKEND, users=1)], {})
        self.reaper = Reaper(self.datapath, self.registry, Streams(), 60)
        self.outgoing = Outgoing(self.datapath, self.registry, f"relay-{number}", 1000 + number)
        self.incoming = Incoming(
            self.datapath, self.registry, self.entering, lambda n: self.reaper.end_elsewhere(n, self.now())
        )
        self.activity = Activity(self.datapath)

    @staticmethod
    def made_session(number: int, name: str) -> Session:
        return Session(number, name, 0, (UfragKey(f"ufrag-{number}", b""),), (1, 0), 0, 0)

    def now(self) -> Clock:
        return Clock.at(time.monotonic_ns() + int(self.late * 1e9))

    def bind(self, *ports: int, client: IPAddress = CLIENT, session: int = 0, ago: int = 0) -> None:
        """Flows of ours, of clients whose port is that of the relay."""
        numbers = np.array(ports, np.uint32)
        self.datapath.reserve(numbers)
        flows = np.zeros(len(ports), abi.FOREIGN)
        flows["client_addr"], flows["client_port"], flows["number"] = (
            np.void(to_bytes(client)),
            ports,
            numbers,
        )
        flows["session"], flows["backend"] = self.session + session, 1
        flows["second"] = int(self.now().seconds) - ago
        outcomes = self.entering.enter(flows)
        assert set(outcomes.tolist()) <= {Reason.FORWARD_BOUND, Reason.FORWARD_REBOUND}
        self.datapath.release(numbers)

    def end(self, *ports: int) -> None:
        self.reaper.end_elsewhere(np.array(ports, np.uint32), self.now())

    def rest(self) -> None:
        """Time goes by until what has ended is free."""
        self.late += QUARANTINE
        self.reaper.scan(self.now())

    def changes(self) -> list[Message]:
        return self.carried(self.outgoing.changes(self.now()))

    def list(self) -> list[Message]:
        return self.carried(self.outgoing.list(self.now()))

    @staticmethod
    def carried(messages: Iterable[Message]) -> list[Message]:
        return [Message.decode(message.encode()) for message in messages]

    def hear(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self.incoming.take(message, self.now())
        while self.incoming.work(self.now()):
            pass

    def live(self, address: IPAddress) -> list[int]:
        """The ports of an address that carry flows, counted from 0."""
        relay = self.datapath.relays.index(address)
        return [int(number) - relay * SPAN for number in self.datapath.flows_at(relay)]


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Loaded, Loaded]]:
    """In one host: the second one takes the link over from the first, which needs no packets here."""
    with Lab() as lab, ExitStack() as stack:
        relay, far = lab.host("relay", is_relay=True), lab.host("far")
        lab.link(relay, far, ["198.51.100.1/24"], name_a="uplink")
        with relay.inside():
            first = stack.enter_context(closing(loader.open_datapath(config(lab.pins / "a", 0))))
            for pin in (lab.pins / "a").glob("link_*"):
                pin.unlink()
            yield first, stack.enter_context(closing(loader.open_datapath(config(lab.pins / "b", 1))))


def config(pins: Path, number: int) -> Config:
    return Config(
        interfaces=("uplink",),
        vips=(parse_endpoint("203.0.113.1:3478"),),
        relay_addresses=(ADDRESSES[number],),
        group_relay_addresses=(ADDRESSES[1 - number],),
        relay_ports=PortRange(40000, 40000 + SPAN - 1),
        pin_path=pins,
        max_sessions=8,
        max_backends=8,
    )


@pytest.fixture
def sides(loaded: tuple[Loaded, Loaded]) -> tuple[Side, Side]:
    """Two relays that know the same sessions, by different numbers, and no flow."""
    return Side(loaded[0], 0, 7), Side(loaded[1], 1, 17)


def test_what_is_bound_and_ended_is_told(sides: tuple[Side, Side]) -> None:
    a, b = sides
    a.bind(3, 4)
    assert a.live(a.own) == [3, 4]
    b.hear(a.changes())
    assert b.live(a.own) == [3, 4]
    assert a.changes() == []
    flow = b.datapath.flows[b.datapath.layout.number(b.datapath.relays.index(a.own), 40003)]
    assert (flow["session"], flow["client_port"], flow["client_addr"].tobytes()) == (17, 3, to_bytes(CLIENT))
    a.end(3)
    b.hear(a.changes())
    assert b.live(a.own) == [4]
    # What a is told of its own flows by somebody else does not count.
    forged = Outgoing(b.datapath, b.registry, "relay-1", 5).other(Kind.LIST, [a.own])
    forged.is_first = forged.is_last = True
    a.hear([forged])
    assert a.live(a.own) == [4]


def test_a_port_that_is_used_again(sides: tuple[Side, Side]) -> None:
    """The record is resting yet when another flow of it is told of; or the other's end was missed."""
    a, b = sides
    a.bind(3)
    b.hear(a.changes())
    for misses in (False, True):
        a.end(3)
        if not misses:
            b.hear(a.changes())
        a.rest()
        a.bind(3, client=OTHER_CLIENT if not misses else CLIENT)
        news = a.changes()
        b.hear(news[-1:])
        if misses:
            assert [int(row["is_live"]) for row in news[0].rows] == [0, 1]
        assert b.live(a.own) == []
        assert b.incoming.waiting == 1
        b.rest()
        assert not b.incoming.work(b.now())
        assert b.live(a.own) == [3]
        assert b.incoming.waiting == 0


def test_a_flow_waits_for_its_session(sides: tuple[Side, Side]) -> None:
    """For a while: half a minute later nobody waits any more."""
    a, b = sides
    b.registry.remove(_owner(b), "s2", b.now().seconds)
    a.bind(3)
    a.bind(4, 5, session=1)
    b.hear(a.changes())
    assert (b.live(a.own), b.incoming.waiting) == ([3], 2)
    b.registry.restore([], [], [Side.made_session(21, "s2")], [], 100, 0.0)
    b.incoming.work(b.now())
    assert (b.live(a.own), b.incoming.waiting) == ([3, 4, 5], 0)
    b.registry.remove(_owner(b), "s2", b.now().seconds)
    a.bind(6, session=1)
    b.hear(a.changes())
    b.late += HOLD_SECONDS + 1
    b.incoming.work(b.now())
    assert (b.incoming.waiting, b.incoming.counts["given_up"]) == (0, 1)


def _owner(side: Side) -> Owner:
    found = side.registry.owner(0)
    assert found is not None
    return found


def test_a_list_says_it_all(sides: tuple[Side, Side]) -> None:
    """What it does not name is no more; but not where a part of it is missing."""
    a, b = sides
    a.bind(*range(600))
    whole = a.list()
    assert [(one.is_first, one.is_last) for one in whole] == [(True, False), (False, True)]
    b.hear(whole)
    assert b.live(a.own) == list(range(600))
    a.end(*range(10))
    changed = a.list()
    b.hear(changed[:1])
    b.incoming.forget_list(changed[1].addresses)  # as the group does where the numbers have a gap
    b.hear(changed[1:])
    assert b.live(a.own) == list(range(600))
    b.hear(a.list())
    assert b.live(a.own) == list(range(10, 600))
    # A list of nothing, too.
    a.end(*range(10, 600))
    b.hear(a.list())
    assert b.live(a.own) == []


def test_both_have_bound_a_client(sides: tuple[Side, Side]) -> None:
    """At the same time, and long after one another: both come to the same one flow."""
    a, b = sides
    for port, ago, winner in ((3, 0, b), (4, 60, a), (5, 1, b)):
        a.bind(port)
        b.bind(port, ago=ago)
        from_a, from_b = a.changes(), b.changes()
        b.hear(from_a)
        a.hear(from_b)
        for side in (a, b):
            side.reaper.scan(side.now())
        b.hear(a.changes())
        a.hear(b.changes())
        for side in (a, b):
            assert (side.live(winner.own), side.live(winner.other)) == ([port], []), (ago, side.own)
        winner.end(port)
        b.hear(a.changes())
        a.hear(b.changes())
        for side in (a, b):
            assert (side.live(a.own), side.live(b.own)) == ([], [])


def test_packets_elsewhere_keep_a_flow_alive(sides: tuple[Side, Side]) -> None:
    a, b = sides
    a.bind(3, 4)
    b.hear(a.changes())
    relay = b.datapath.relays.index(a.own)
    assert list(b.activity.moved()) == []
    b.datapath.flows["up_packets"][relay * SPAN + 3] += 1
    ((address, bits),) = b.activity.moved()
    assert list(b.activity.moved()) == []
    a.late = b.late = 61.0
    assert a.activity.take(address, bits, a.now())
    b.activity.keep({a.own}, b.now())
    for side, left in ((a, [3]), (b, [3, 4])):
        side.reaper.scan(side.now())
        assert side.live(a.own) == left
    b.hear(a.changes())
    assert b.live(a.own) == [3]
    # What cannot be so is refused; and without its relay, a foreign flow is idle as any other.
    assert not a.activity.take(ip_address("10.20.0.3"), bits, a.now())
    assert not a.activity.take(address, bits[:-1], a.now())
    a.late = b.late = 123.0
    b.reaper.scan(b.now())
    assert b.live(a.own) == []
    # While nobody can be heard, ours that had packets elsewhere are kept.
    a.activity.keep_elsewhere(a.now())
    a.reaper.scan(a.now())
    assert a.live(a.own) == [3]


def test_a_relay_that_has_lost_its_flows(sides: tuple[Side, Side]) -> None:
    """Others tell it of them. Until they are entered, or given up, nobody else gets their ports."""
    a, b = sides
    a.bind(3, 4)
    a.bind(5, session=1)
    b.hear(a.changes())
    a.reaper.end_elsewhere(np.array([3, 4, 5], np.uint32), a.now())
    a.rest()
    assert a.live(a.own) == []
    a.registry.remove(_owner(a), "s2", a.now().seconds)
    known = b.carried(b.outgoing.known({a.own}, b.now()))
    a.hear(known)
    assert (a.live(a.own), a.incoming.is_recalling) == ([3, 4], True)
    ring = set(a.datapath.free.waiting(4).tolist())
    assert not ring & {3, 4, 5}
    assert not len(a.datapath.lost())
    a.late += HOLD_SECONDS + 1
    a.incoming.work(a.now())
    assert not a.incoming.is_recalling
    assert set(a.datapath.free.waiting(4).tolist()) == ring | {5}
    # The others have them as they were: the list that comes now ends none of them.
    counted = b.incoming.counts["ended"]
    b.hear(a.list())
    assert b.live(a.own) == [3, 4]
    assert b.incoming.counts["ended"] == counted + 1
    assert b.datapath.states()[b.datapath.relays.index(a.own) * SPAN + 5] == FlowState.DEAD
