# SPDX-License-Identifier: Apache-2.0
"""Scans in steps, while sessions come and go between them."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from earshot.relay.v1 import relay_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control import abi, flows, reaper, sweep
from control.abi import FlowState
from control.addresses import Endpoint, to_bytes
from control.flows import Clock, Numbers
from control.model import UfragKey
from control.reaper import Reaper
from control.requests import SessionRequest
from control.sessions import Registry
from control.streams import MAX_EVENTS, Outbox, Streams
from control.sweep import Limits, look

RECORDS = 48
END = Endpoint(ip_address("10.0.0.9"), 4000)
TICKS = 1 << 32


class Table:
    """A flow table without a program: the test binds, and no queue loses what is freed."""

    def __init__(self) -> None:
        self.flows = np.zeros(RECORDS, abi.FLOW)
        self.backends = np.zeros(8, abi.BACKEND)
        self.vips: Sequence[Endpoint] = [Endpoint(ip_address("203.0.113.1"), 3478)]

    def relay_endpoint(self, number: int) -> Endpoint:
        return Endpoint(ip_address("10.0.0.1"), 10000 + number)

    def bind(self, number: int, session: int, now: Clock, kind: FlowState = FlowState.LIVE) -> None:
        record: Any = self.flows[number]
        assert record["state"] == FlowState.FREE
        record["session"], record["backend"], record["last_seen"] = session, 1, now.ticks
        record["client_addr"] = np.void(to_bytes(ip_address("198.51.100.7")))
        record["state"] = int(now.seconds) << abi.FLOW_STATE_BITS | kind

    def kind(self, number: int) -> FlowState:
        return FlowState(int(self.flows["state"][number]) & int(sweep.STATE_MASK))

    def end_flows(self, numbers: Numbers) -> None:
        kinds = [self.kind(number) for number in numbers.tolist()]
        assert not {FlowState.FREE, FlowState.DEAD} & set(kinds), "ended twice"
        self.flows["state"][numbers] &= ~sweep.STATE_MASK
        self.flows["state"][numbers] |= np.uint32(FlowState.DEAD)

    def free_flows(self, numbers: Numbers) -> None:
        assert [self.kind(number) for number in numbers.tolist()] == [FlowState.DEAD] * len(numbers)
        self.flows[numbers] = np.zeros(1, abi.FLOW)[0]

    def repair_index(self) -> None:
        pass

    def lost(self) -> Numbers:
        return np.zeros(0, np.uint32)

    def give_back(self, numbers: Numbers) -> None:
        assert not len(numbers)


class World:
    """A reaper, a transceiver that listens, and time."""

    def __init__(self) -> None:
        self.table, self.streams = Table(), Streams()
        self.registry = Registry(max_sessions=100, max_backends=8, grace_seconds=30)
        self.owner = self.registry.owner_of(self.registry.attach("t", "", 0))
        self.reaper = Reaper(self.table, self.registry, self.streams, idle_seconds=60)
        self.seconds = 100.0

    def now(self) -> Clock:
        return Clock.at(int(self.seconds * 1e9))

    def add(self, name: str) -> int:
        wanted = SessionRequest(name, (), {"endpoints[0]": END}, 0)
        self.registry.add(self.owner, wanted, [UfragKey(name, b"")], {END: 1}, self.seconds)
        self.registry.take_changes()
        return self.owner.sessions[name].number

    def remove(self, name: str) -> None:
        self.registry.remove(self.owner, name, self.seconds)
        self.reaper.end_sessions(self.registry.take_changes().ended, self.now())

    def scan(self) -> None:
        self.seconds += 1.5
        self.reaper.scan(self.now())


def events(outbox: Outbox) -> list[tuple[str, str, int]]:
    """What waits for a stream: kind, session and record of each."""
    found = []
    for message, _ in outbox._messages:
        kind = str(message.WhichOneof("message"))
        flow = getattr(message, kind).flow
        found.append((kind, flow.session_id, flow.flow_id & 0xFFFFFFFF))
    return found


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in ((sweep, "STRETCH", 16), (reaper, "STRETCH", 16), (reaper, "PART", 3)):
        monkeypatch.setattr(module, name, size)


@pytest.mark.usefixtures("small_steps")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
async def test_whatever_happens_between_steps(data: st.DataObject) -> None:
    """Every flow of a session that is there lives, all others end, and none is ended or freed twice."""
    world = World()
    outbox = world.streams.open(world.owner.number)
    numbers = {name: world.add(name) for name in ("a", "b", "c", "d")}
    for number in range(RECORDS):
        session = data.draw(st.sampled_from([*numbers.values(), 999, 0]))
        if session:
            kind = data.draw(st.sampled_from([FlowState.LIVE, FlowState.LIVE, FlowState.PROVISIONAL]))
            world.table.bind(number, session, world.now(), kind)
    for _ in range(2):
        for _ in world.reaper.steps(world.now):
            match data.draw(st.sampled_from(["remove", "confirm", "supersede", *["nothing"] * 6])):
                case "remove" if world.owner.sessions:
                    world.remove(data.draw(st.sampled_from(sorted(world.owner.sessions))))
                case "confirm":
                    _swap(world.table, FlowState.PROVISIONAL, FlowState.LIVE, data)
                case "supersede":
                    _swap(world.table, FlowState.LIVE, FlowState.SUPERSEDED, data)
        world.seconds += 0.2
    for _ in range(3):
        world.scan()
    left = {numbers[name] for name in world.owner.sessions}
    for number, record in enumerate(world.table.flows):
        assert world.table.kind(number) in (FlowState.FREE, FlowState.LIVE, FlowState.PROVISIONAL)
        assert int(record["session"]) in {0, *left}
    told = [event for event in events(outbox) if event[0] == "flow_bound"]
    assert len(told) == len(set(told))
    live = [number for number in range(RECORDS) if world.table.kind(number) == FlowState.LIVE]
    assert set(live) <= {number for _, _, number in told}


def _swap(table: Table, before: FlowState, after: FlowState, data: st.DataObject) -> None:
    """One of the records that are in a state goes to another, as XDP does it."""
    candidates = [number for number in range(RECORDS) if table.kind(number) == before]
    if candidates:
        number = data.draw(st.sampled_from(candidates))
        table.flows["state"][number] ^= np.uint32(before ^ after)


async def test_what_a_stream_is_told() -> None:
    world = World()
    outbox = world.streams.open(world.owner.number)
    a, b = world.add("a"), world.add("b")
    for number, session in ((5, a), (7, b), (9, b), (11, 999)):
        world.table.bind(number, session, world.now())
    world.scan()
    world.table.flows["state"][7] ^= np.uint32(FlowState.LIVE ^ FlowState.SUPERSEDED)
    world.scan()
    world.remove("a")
    world.scan()
    assert events(outbox) == [
        ("flow_bound", "a", 5),
        ("flow_bound", "b", 7),
        ("flow_bound", "b", 9),
        ("flow_ended", "b", 7),
        ("flow_ended", "a", 5),
    ]
    reasons = [message.flow_ended.reason for message, _ in outbox._messages][3:]
    assert reasons == [pb.FLOW_END_REASON_SUPERSEDED, pb.FLOW_END_REASON_SESSION_ENDED]


async def test_idle_flows_end_and_others_do_not() -> None:
    world = World()
    outbox = world.streams.open(world.owner.number)
    session = world.add("a")
    for number in (1, 2):
        world.table.bind(number, session, world.now())
    world.scan()
    world.seconds += 59
    world.table.flows["last_seen"][2] = world.now().ticks
    world.scan()
    assert [world.table.kind(number) for number in (1, 2)] == [FlowState.DEAD, FlowState.LIVE]
    assert events(outbox)[-1] == ("flow_ended", "a", 1)
    world.scan()
    assert world.table.kind(1) == FlowState.FREE


def flip(table: Table, before: FlowState, after: FlowState) -> None:
    table.flows["state"][[1, 2]] ^= np.uint32(before ^ after)


@pytest.mark.parametrize(
    ("bound_as", "then"),
    [
        (FlowState.PROVISIONAL, FlowState.LIVE),
        (FlowState.LIVE, FlowState.SUPERSEDED),
        (FlowState.PROVISIONAL, None),
        (FlowState.LIVE, None),
    ],
    ids=["confirmed", "superseded", "unconfirmed", "idle"],
)
def test_what_ends_between_two_steps_ends_once(
    monkeypatch: pytest.MonkeyPatch, bound_as: FlowState, then: FlowState | None
) -> None:
    monkeypatch.setattr(reaper, "PART", 1)
    world = World()
    session = world.add("a")
    for number in (1, 2):
        world.table.bind(number, session, world.now(), bound_as)
    world.scan()
    if then is None:
        world.seconds += 70
    else:
        flip(world.table, bound_as, then)
    steps = world.reaper.steps(world.now)
    next(steps)  # found both, and dealt with the first
    world.remove("a")
    for _ in steps:
        pass
    assert [world.table.kind(number) for number in (1, 2)] == [FlowState.DEAD] * 2
    for _ in range(2):
        world.scan()
    assert [world.table.kind(number) for number in (1, 2)] == [FlowState.FREE] * 2


def test_a_flow_that_is_confirmed_before_its_turn_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "PART", 1)
    world = World()
    session = world.add("a")
    for number in (1, 2):
        world.table.bind(number, session, world.now(), FlowState.PROVISIONAL)
    world.scan()
    world.seconds += 7
    steps = world.reaper.steps(world.now)
    next(steps)  # found both unconfirmed, and ended the first
    flip(world.table, FlowState.PROVISIONAL, FlowState.LIVE)
    for _ in steps:
        pass
    assert world.table.kind(2) == FlowState.LIVE


def test_flows_that_no_scan_has_seen_end_with_their_session_too() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.table.bind(1, a, world.now())
    world.scan()
    world.table.bind(2, a, world.now())
    world.table.bind(3, a, world.now(), FlowState.PROVISIONAL)
    world.table.bind(4, b, world.now())
    world.remove("a")
    kinds = [world.table.kind(number) for number in (1, 2, 3, 4)]
    assert kinds == [FlowState.DEAD, FlowState.DEAD, FlowState.DEAD, FlowState.LIVE]


def test_a_record_that_is_used_again_belongs_to_its_new_session_alone() -> None:
    world = World()
    a, b = world.add("a"), world.add("b")
    world.table.bind(1, a, world.now())
    world.scan()
    world.seconds += 70
    for _ in range(2):
        world.scan()  # idle, then free
    world.table.bind(1, b, world.now())
    world.scan()
    world.remove("a")
    assert world.table.kind(1) == FlowState.LIVE
    world.remove("b")
    assert world.table.kind(1) == FlowState.DEAD


async def test_a_flow_that_comes_back_before_its_turn_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "PART", 1)
    world = World()
    session = world.add("a")
    for number in (1, 2):
        world.table.bind(number, session, world.now())
    world.scan()
    world.seconds += 70
    steps = world.reaper.steps(world.now)
    next(steps)  # found both, and ended the first
    world.table.flows["last_seen"][2] = world.now().ticks
    for _ in steps:
        pass
    assert [world.table.kind(number) for number in (1, 2)] == [FlowState.DEAD, FlowState.LIVE]


async def test_flows_that_were_there_before_are_told_to_nobody_later() -> None:
    """As after a restart: no transceiver is back yet, and when it is, it is told of new flows alone."""
    world = World()
    session = world.add("a")
    world.table.bind(1, session, world.now())
    world.scan()
    outbox = world.streams.open(world.owner.number)
    world.table.bind(2, session, world.now())
    world.scan()
    assert events(outbox) == [("flow_bound", "a", 2)]


async def test_a_stream_that_does_not_read_holds_nobody_up() -> None:
    world = World()
    outbox = world.streams.open(world.owner.number)
    session = world.add("a")
    while outbox.has_room:
        outbox.offer(pb.AttachResponse())
    for number in range(RECORDS):
        world.table.bind(number, session, world.now())
    world.scan()
    assert world.streams.dropped_events == RECORDS
    assert len(outbox._messages) == MAX_EVENTS


words = st.integers(0, TICKS - 1)


@given(
    records=st.lists(st.tuples(words, words, st.booleans()), max_size=20),
    now=words,
    limit=st.integers(1, 1 << 20),
    before=st.integers(-5, 1 << 28),
)
def test_look_beside_a_look_at_one_record_after_the_other(
    records: list[tuple[int, int, bool]], now: int, limit: int, before: int
) -> None:
    table = np.zeros(len(records), abi.FLOW)
    table["state"] = [state for state, _, _ in records]
    table["last_seen"] = [seen for _, seen, _ in records]
    seen = np.array([state if same else state ^ 1 << 9 for state, _, same in records], np.uint32)
    kinds = [state % 16 for state, _, _ in records]
    found = look(table, seen, 0, Limits(now, limit, before))
    live = np.array([n for n, kind in enumerate(kinds) if kind == FlowState.LIVE], np.uint32)
    assert found.idle.tolist() == flows.idle(table, live, now, limit).tolist()
    assert found.superseded.tolist() == [n for n, kind in enumerate(kinds) if kind == FlowState.SUPERSEDED]
    assert found.unconfirmed.tolist() == [
        n
        for n, (state, _, _) in enumerate(records)
        if kinds[n] == FlowState.PROVISIONAL and state >> abi.FLOW_STATE_BITS < before
    ]
    assert found.appeared.tolist() == [
        n
        for n, (_, _, same) in enumerate(records)
        if kinds[n] in (FlowState.LIVE, FlowState.PROVISIONAL) and not same
    ]
    assert seen.tolist() == [state for state, _, _ in records]
