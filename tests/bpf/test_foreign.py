# SPDX-License-Identifier: Apache-2.0
"""Flows of the group's other relays: entered beside what packets bind, and forwarded by like any other."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from pyroute2 import netns

from bench import binding
from bench.driver import Driver, Stream
from bench.tables import BACKEND_PORT, CLIENT_PORTS, PLANS, SESSION, VIP_PORT, Shape, Table, addresses
from control import abi
from control.abi import FlowState, Reason
from control.addresses import Endpoint, to_bytes
from control.datapath import STATE_MASK
from control.libbpf import Array
from tests.bpf import world
from tests.bpf.case import from_backend, from_client, request, to_backend, to_client
from tests.bpf.entries import Entries
from tests.bpf.rig import Rig
from tests.bpf.world import ALICE, BACKENDS, BOB, CLIENTS, FAMILIES, V4, V6, Family

pytestmark = [pytest.mark.root, pytest.mark.netns]

# In no ring. IPv4's is at the second relay address, which is the higher one.
RECORDS = {V4: 50, V6: 30}
LONG_AGO = 5


def foreign(
    family: Family, *, session: int = world.ALICE_SESSION, second: int = LONG_AGO, record: int = 0
) -> Array:
    """The flow of the family's client, as another relay tells of it."""
    one = np.zeros(1, abi.FOREIGN)
    one["client_addr"] = np.void(to_bytes(family.client.address))
    one["client_port"], one["vip"] = family.client.port, family.vip_number
    one["number"] = record or RECORDS[family]
    one["session"] = session
    one["backend"] = family.backends.usual if session == world.ALICE_SESSION else family.backends.other
    one["second"] = second
    return one


def enter(rig: Rig, *flows: Array) -> list[Reason]:
    return [Reason(outcome) for outcome in rig.entering.enter(np.concatenate(flows)).tolist()]


def kind(rig: Rig, record: int) -> FlowState:
    return FlowState(int(rig.datapath.states()[record]))


@pytest.fixture(params=FAMILIES, ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    made: Family = request.param
    return made


def test_it_is_forwarded_by_both_ways(rig: Rig, family: Family) -> None:
    record = RECORDS[family]
    assert enter(rig, foreign(family)) == [Reason.FORWARD_BOUND]
    flow = rig.datapath.flows[record]
    assert flow["state"] == LONG_AGO << abi.FLOW_STATE_BITS | FlowState.LIVE
    assert rig.datapath.hops["ifindex"][flow["client_hop"]] == rig.ifindex[CLIENTS]
    up, down = from_client(family), from_backend(family, record=record)
    sent = rig.run(up.frame(), CLIENTS)
    assert (sent.reason, sent.frame) == (Reason.FORWARD_TO_TRANSCEIVER, to_backend(up, family, record))
    answered = rig.run(down.frame(), BACKENDS)
    assert (answered.reason, answered.frame) == (Reason.FORWARD_TO_CLIENT, to_client(down, family))
    # What the client asks again for its session is served by it. Nothing was taken from the rings.
    asked = request(family)
    served = rig.run(asked.frame(), CLIENTS)
    assert (served.reason, served.frame) == (
        Reason.FORWARD_TO_TRANSCEIVER,
        to_backend(asked, family, record),
    )
    assert rig.datapath.free.waiting(family.version).tolist() == list(family.free)


def test_what_is_there_already_stays_as_it_is(rig: Rig, family: Family) -> None:
    enter(rig, foreign(family))
    rig.run(from_client(family).frame(), CLIENTS)
    before = rig.snapshot()
    assert enter(rig, foreign(family, second=99)) == [Reason.FORWARD_TO_TRANSCEIVER]
    after = rig.snapshot()
    assert (after.flows == before.flows).all()
    assert after.index == before.index


@pytest.mark.parametrize("state", [FlowState.LIVE, FlowState.DEAD, FlowState.SUPERSEDED, FlowState.BINDING])
def test_a_record_that_is_not_free_is_left_alone(rig: Rig, state: FlowState) -> None:
    other = Endpoint(world.V4.distant.address, 1234)
    rig.put_flow(V4, RECORDS[V4], client=other, state=77 << abi.FLOW_STATE_BITS | state)
    before = rig.snapshot()
    assert enter(rig, foreign(V4)) == [Reason.DROP_FREE_LIST]
    assert (rig.snapshot().flows == before.flows).all()
    assert rig.snapshot().index == before.index


def test_a_later_binding_wins(rig: Rig, family: Family) -> None:
    """Whichever of the two comes to be known first."""
    record, own = RECORDS[family], family.free[0]
    now = int(time.monotonic())
    rig.run(request(family).frame(), CLIENTS)
    assert enter(rig, foreign(family, second=now - 10)) == [Reason.DROP_STALE_FLOW]
    assert (kind(rig, record), kind(rig, own)) == (FlowState.FREE, FlowState.LIVE)
    assert enter(rig, foreign(family, second=now + 10)) == [Reason.FORWARD_REBOUND]
    assert (kind(rig, record), kind(rig, own)) == (FlowState.LIVE, FlowState.SUPERSEDED)
    # A request for another session is the latest, always.
    assert rig.run(request(family, BOB).frame(), CLIENTS).reason == Reason.FORWARD_REBOUND
    assert kind(rig, record) == FlowState.SUPERSEDED


def test_bindings_at_the_same_time_end_alike_everywhere(rig: Rig) -> None:
    """Two relays have bound a client, and each enters the other's: in either order, the same is left."""
    low, high = foreign(V4, record=5), foreign(V4, record=55)
    for difference in range(-abi.FOREIGN_SECONDS, abi.FOREIGN_SECONDS + 1):
        for first, second in ((low, high), (high, low)):
            rig.reset()
            first["second"], second["second"] = 100, 100 + difference
            enter(rig, first, second)
            live = np.flatnonzero(rig.datapath.states() == FlowState.LIVE).tolist()
            assert live == [55], (difference, first["number"])
    for first, second in ((low, high), (high, low)):
        rig.reset()
        first["second"], second["second"] = 100, 101 + abi.FOREIGN_SECONDS
        enter(rig, first, second)
        assert np.flatnonzero(rig.datapath.states() == FlowState.LIVE).tolist() == second["number"].tolist()


def test_the_higher_of_two_addresses_is_the_higher_number(rig: Rig, family: Family) -> None:
    """Also where a CPU that reads the last byte first finds the other one higher."""
    ours = foreign(family)
    theirs = foreign(family, record=world.RELAYS.index(world.FOREIGN_RELAYS[family.version]) * world.SPAN)
    for first, second in ((ours, theirs), (theirs, ours)):
        rig.reset()
        enter(rig, first, second)
        live = np.flatnonzero(rig.datapath.states() == FlowState.LIVE).tolist()
        assert live == theirs["number"].tolist()


def test_a_list_longer_than_a_run(rig: Rig) -> None:
    """Some cannot be entered: each is told what became of it."""
    flows = np.concatenate([foreign(V4)] * (2 * abi.FOREIGN_MAX + 3))
    flows["client_port"] = 1000 + np.arange(len(flows))
    flows["number"] = 10 + np.arange(len(flows)) % 10
    flows["backend"][1] = world.ABSENT_BACKEND
    flows["vip"][2] = abi.VIP_MAX
    flows["second"][3] = 0
    flows["client_addr"][4] = np.void(to_bytes(V4.unreachable.address))
    flows["client_addr"][5] = np.void(to_bytes(V4.elsewhere.address))
    outcomes = [Reason(outcome) for outcome in rig.entering.enter(flows).tolist()]
    assert outcomes[:10] == [
        Reason.FORWARD_BOUND,
        *[Reason.ABORTED_BAD_NUMBER] * 3,
        *[Reason.DROP_UNROUTABLE] * 2,
        *[Reason.FORWARD_BOUND] * 4,
    ]
    # The others of the same records come when those are taken; what was refused left them free.
    assert Counter(outcomes[10:20]) == {Reason.FORWARD_BOUND: 5, Reason.DROP_FREE_LIST: 5}
    assert set(outcomes[20:]) == {Reason.DROP_FREE_LIST}
    assert len(rig.entries.read()) == 10


# ---- the lease --------------------------------------------------------------------------------


def test_without_a_lease_nothing_new_is_bound(rig: Rig, family: Family) -> None:
    """What is there goes on, and is entered; also what asks again, for its session."""
    rig.run(request(family).frame(), CLIENTS)
    rig.datapath.lease["until"] = time.monotonic_ns() - 1_000_000_000
    assert rig.run(from_client(family).frame(), CLIENTS).reason == Reason.FORWARD_TO_TRANSCEIVER
    assert rig.run(request(family, ALICE).frame(), CLIENTS).reason == Reason.FORWARD_TO_TRANSCEIVER
    before = rig.snapshot()
    assert rig.run(request(family, BOB).frame(), CLIENTS).reason == Reason.DROP_LEASE_EXPIRED
    after = rig.snapshot()
    assert (after.flows == before.flows).all()
    assert (after.free_flows, after.locked) == (before.free_flows, before.locked)
    bob = foreign(family, session=world.BOB_SESSION, second=int(time.monotonic()) + 10)
    assert enter(rig, bob) == [Reason.FORWARD_REBOUND]
    rig.datapath.lease["until"] = time.monotonic_ns() + 60_000_000_000
    assert rig.run(request(family, ALICE).frame(), CLIENTS).reason == Reason.FORWARD_REBOUND


# ---- against packets, on another CPU ------------------------------------------------------------

SHAPE = Shape(4, 2, 16_384)  # the second relay address is another relay's
RACED, STEP = 12_800, abi.FOREIGN_MAX
DEADLINE = 60.0


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    with closing(Table(SHAPE)) as made, binding.host() as clients:
        plan = PLANS[4]
        relays = {number: plan.relay + number for number in range(2)}
        made.datapath.set_addresses({0: Endpoint(plan.vip, VIP_PORT)}, relays, foreign=[1])
        made.let_bind(clients)
        yield made


def _of_clients(table: Table, second: int) -> Array:
    clients = np.arange(RACED, dtype=np.uint32)
    flows = np.zeros(RACED, abi.FOREIGN)
    flows["client_addr"] = addresses(PLANS[4].client, clients)
    flows["client_port"] = CLIENT_PORTS + (clients & 0x3FFF)
    flows["number"] = SHAPE.span + clients
    flows["session"], flows["backend"], flows["second"] = SESSION, 1, second
    assert table.datapath.backends["port"][1] == BACKEND_PORT
    return flows


@pytest.mark.parametrize("later", [-10, 0, 10])
def test_entering_races_with_binding(table: Table, later: int) -> None:
    """The same clients are bound by one CPU and entered by another. Each has one flow in the end."""
    table.empty()
    free = table.datapath.free.count(4)
    assert free == SHAPE.span
    flows = _of_clients(table, int(time.monotonic()) + later)
    ours, start = threading.Barrier(2), Driver(SHAPE, Stream(binding.GOOD, in_turn=True))
    failed: list[BaseException] = []
    with open("/proc/thread-self/ns/net", "rb") as home, closing(start) as driver:

        def bind() -> None:
            try:
                netns.setns(home.fileno())
                with driver.attached_to_lo():
                    for first in range(0, RACED, STEP):
                        ours.wait(DEADLINE)
                        driver.run(table.program_fd, STEP, first)
            except (OSError, RuntimeError, threading.BrokenBarrierError) as error:
                failed.append(error)
                ours.abort()

        before = table.datapath.reasons()["packets"]
        binder = threading.Thread(target=bind)
        binder.start()
        outcomes = Counter[Reason]()
        for first in range(0, RACED, STEP):
            ours.wait(DEADLINE)
            outcomes.update(_enter(table, flows[first : first + STEP]))
        binder.join(DEADLINE)
    assert not failed
    moved = table.datapath.reasons()["packets"] - before
    counted = Counter({Reason(number): int(moved[number]) for number in moved.nonzero()[0]})
    lost = Reason.DROP_STALE_FLOW if later < 0 else Reason.FORWARD_REBOUND
    assert set(outcomes) <= {Reason.FORWARD_BOUND, lost}
    # A CPU that is taken away while it has a lock keeps others waiting: these ask again, and so do we.
    assert set(counted) <= {Reason.FORWARD_BOUND, Reason.FORWARD_TO_TRANSCEIVER, Reason.DROP_BUSY}
    # Whoever was second has found the other's.
    assert counted[Reason.FORWARD_BOUND] == outcomes[lost]
    assert outcomes.total() == counted.total() == RACED
    _check(table, bound=counted[Reason.FORWARD_BOUND], entered=RACED - outcomes[Reason.DROP_STALE_FLOW])


def _enter(table: Table, flows: Array) -> list[Reason]:
    """What has become of each in the end."""
    outcomes = table.entering.enter(flows)
    for _ in range(100):
        busy = np.flatnonzero(outcomes == Reason.DROP_BUSY)
        if not len(busy):
            break
        outcomes[busy] = table.entering.enter(flows[busy])
    return [Reason(outcome) for outcome in outcomes.tolist()]


def _check(table: Table, *, bound: int, entered: int) -> None:
    flows = table.datapath.flows
    states = flows["state"] & STATE_MASK
    live = flows[states == FlowState.LIVE]
    assert len(live) == RACED
    assert len(np.unique(live["client_addr"])) == RACED
    used = np.flatnonzero(states != FlowState.FREE)
    assert (np.count_nonzero(used < SHAPE.span), np.count_nonzero(used >= SHAPE.span)) == (bound, entered)
    entries = Entries(table.datapath)
    assert sorted(entries.read()) == used.tolist()
    assert not entries.locked()
    assert table.datapath.free.count(4) == SHAPE.span - bound
