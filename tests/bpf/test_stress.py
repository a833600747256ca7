# SPDX-License-Identifier: Apache-2.0
"""Two CPUs bind at the same time, several hundred thousand requests in all, and the maps hold.

Each CPU runs the program as a driver does, packet after packet without being preempted, behind the bench's
driver program, which makes each packet another client's. Both begin with the same client and go on in
the same order, so that they race for each 5-tuple anew.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from pyroute2 import netns

from bench import binding
from bench.driver import Driver, Stream
from bench.tables import PWD, SESSION, UFRAG, Shape, Table
from control.abi import FlowState, Reason
from control.datapath import STATE_MASK
from control.libbpf import Array
from tests.bpf import stun
from tests.bpf.entries import Entries

pytestmark = [pytest.mark.root, pytest.mark.netns]

SHAPE = Shape(4, 1, 64_512)
CLIENTS = 30_000  # of one CPU: those of both fit
ROUNDS = 2
ATTEMPTS = 5
DEADLINE = 60.0
BOB, BOB_PWD, BOB_SESSION = b"bob00000", b"the-pwd-of-another-session", 8
CAROL, CAROL_SESSION = b"carol000", 9  # without a pwd

LONG = [(stun.SOFTWARE, bytes(range(256)) * 4)]
ALICE_ASKS = Stream(binding.GOOD, in_turn=True)
ALICE_ASKS_AT_LENGTH = Stream(stun.request(UFRAG + b":peer", PWD, after=LONG), in_turn=True, strange=True)
BOB_ASKS = Stream(binding.request(BOB, BOB_PWD), in_turn=True)
BOB_ASKS_AT_LENGTH = Stream(stun.request(BOB + b":peer", BOB_PWD, before=LONG), in_turn=True, strange=True)
CAROL_ASKS = Stream(binding.request(CAROL, b"unknown-to-the-relay"), in_turn=True)
FORGER_ASKS = Stream(stun.request(UFRAG + b":peer", b"guessed", after=LONG), in_turn=True)


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    with closing(Table(SHAPE)) as table, binding.host() as clients:
        table.let_bind(clients)
        table.put_session(BOB, BOB_PWD, BOB_SESSION)
        table.put_session(CAROL, None, CAROL_SESSION)
        with closing(Relay(table)) as made:
            yield made


class Relay:
    """The relay, and two CPUs that send to it."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def close(self) -> None:
        os.close(self._netns)

    def empty(self) -> None:
        self.table.empty()

    def send(self, *streams: Stream, count: int = CLIENTS, shape: Shape = SHAPE) -> Counter[Reason]:
        """Each stream on a CPU of its own, all at once; returns what was counted.

        shape: of the clients that the streams are drawn from.
        """
        cpus = sorted(os.sched_getaffinity(0))
        start = threading.Barrier(len(streams))
        failed: list[BaseException] = []
        before = self.table.datapath.reasons()["packets"]

        def run(driver: Driver, cpu: int) -> None:
            try:
                netns.setns(self._netns)
                os.sched_setaffinity(0, {cpu})  # this thread's
                start.wait(DEADLINE)
                driver.run(self.table.program_fd, count)
            except (OSError, RuntimeError, threading.BrokenBarrierError) as error:
                failed.append(error)

        drivers = [Driver(shape, stream) for stream in streams]
        threads = [
            threading.Thread(target=run, args=(driver, cpus[number % len(cpus)]))
            for number, driver in enumerate(drivers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        for driver in drivers:
            driver.close()
        assert not failed
        moved = self.table.datapath.reasons()["packets"] - before
        return Counter({Reason(number): int(moved[number]) for number in moved.nonzero()[0]})

    def send_anew(self, *streams: Stream, count: int = CLIENTS) -> Counter[Reason]:
        """As `send`, to a table that is empty.

        Once more where a CPU was interrupted in the middle of a request and the other one, which needed the
        same place, gave up: DROP_BUSY, upon which a client asks again.
        """
        for _ in range(ATTEMPTS):
            self.empty()
            counted = self.send(*streams, count=count)
            if Reason.DROP_BUSY not in counted:
                break
        return counted

    def check(self, *, all_entered: bool = True) -> Counter[FlowState]:
        """What must hold whenever nobody is at work; returns how many records are in which state.

        all_entered: no record is without an entry that is in use.
        """
        datapath = self.table.datapath
        records = SHAPE.records()
        flows = datapath.flows[records]
        states = flows["state"] & STATE_MASK
        counted = Counter({state: int((states == state).sum()) for state in FlowState})
        assert sum(counted.values()) == SHAPE.flows
        assert not counted[FlowState.BINDING]
        self._check_ring(records[states == FlowState.FREE])
        self._check_index(flows, records, all_entered=all_entered)
        return +counted

    def _check_ring(self, free: Array) -> None:
        """Every free record's number is in the ring, once, and no other's."""
        waiting = self.table.datapath.free.waiting(4).tolist()
        assert len(waiting) == len(set(waiting))
        assert set(waiting) == set(free.tolist())

    def _check_index(self, flows: Array, records: Array, *, all_entered: bool) -> None:
        """Every record that is in use is entered, once, and no other; no 5-tuple has two that are LIVE."""
        states = flows["state"] & STATE_MASK
        entered = Entries(self.table.datapath).read()
        assert len(entered) == len(set(entered))
        used = set(records[states != FlowState.FREE].tolist())
        without = used - set(entered)
        assert set(entered) <= used
        assert not (all_entered and without)
        assert (states[list(without)] == FlowState.SUPERSEDED).all()
        live = flows[states == FlowState.LIVE]
        keys = {(one["client_addr"].tobytes(), int(one["client_port"]), int(one["vip"])) for one in live}
        assert len(keys) == len(live)
        assert not Entries(self.table.datapath).locked()


@pytest.fixture(autouse=True)
def _empty(relay: Relay) -> None:
    relay.empty()


def test_test_runs_of_two_threads_overlap(relay: Relay) -> None:
    """What the others rely on: while a test run is in the kernel, another thread runs Python."""
    done = threading.Event()
    seen = []

    def watch() -> None:
        while not done.is_set():
            seen.append(int(relay.table.datapath.reasons()["packets"].sum()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    relay.send(FORGER_ASKS, count=CLIENTS)
    done.set()
    watcher.join(DEADLINE)
    assert len({number for number in seen if seen[0] < number < seen[-1]}) > 1


def test_the_same_requests(relay: Relay) -> None:
    """Each client gets one flow, whichever CPU was first; the other's record is free again."""
    for _ in range(ROUNDS):
        assert relay.send_anew(ALICE_ASKS, ALICE_ASKS) == {
            Reason.FORWARD_BOUND: CLIENTS,
            Reason.FORWARD_TO_TRANSCEIVER: CLIENTS,
        }
        assert relay.check() == {FlowState.LIVE: CLIENTS, FlowState.FREE: SHAPE.flows - CLIENTS}


def test_requests_of_different_clients(relay: Relay) -> None:
    """Messages of two lengths, by two secrets: read in another's scratch memory, none would hold."""
    for first, second in ((ALICE_ASKS, BOB_ASKS_AT_LENGTH), (BOB_ASKS, ALICE_ASKS_AT_LENGTH)):
        assert relay.send_anew(first, second) == {Reason.FORWARD_BOUND: 2 * CLIENTS}
        assert relay.check() == {FlowState.LIVE: 2 * CLIENTS, FlowState.FREE: SHAPE.flows - 2 * CLIENTS}
        flows = relay.table.datapath.flows[SHAPE.records()]
        live = flows[flows["state"] & STATE_MASK == FlowState.LIVE]
        assert (live["up_packets"] == 1).all()
        assert not live["down_packets"].any()
        sessions, counts = np.unique(live["session"], return_counts=True)
        assert (sessions.tolist(), counts.tolist()) == ([SESSION, BOB_SESSION], [CLIENTS, CLIENTS])


def test_good_and_forged_requests(relay: Relay) -> None:
    """Of the same clients: no good one is rejected, no forged one accepted."""
    for _ in range(ROUNDS):
        assert relay.send_anew(ALICE_ASKS, FORGER_ASKS) == {
            Reason.FORWARD_BOUND: CLIENTS,
            Reason.DROP_STUN_INTEGRITY: CLIENTS,
        }
        assert relay.check() == {FlowState.LIVE: CLIENTS, FlowState.FREE: SHAPE.flows - CLIENTS}


def test_two_sessions_of_the_same_clients(relay: Relay) -> None:
    """Either may have a client's flow at last; the other's record, if it had one, is not live."""
    for _ in range(ROUNDS):
        counted = relay.send_anew(ALICE_ASKS, BOB_ASKS)
        assert set(counted) <= {
            Reason.FORWARD_BOUND,
            Reason.FORWARD_REBOUND,
            Reason.FORWARD_TO_TRANSCEIVER,  # the other's record was published first
        }
        assert counted.total() == 2 * CLIENTS
        assert counted[Reason.FORWARD_BOUND] == CLIENTS
        states = relay.check()
        assert states[FlowState.LIVE] == CLIENTS
        assert states[FlowState.SUPERSEDED] == counted[Reason.FORWARD_REBOUND]
        assert states.total() == SHAPE.flows


def test_two_sessions_of_the_same_few_clients(relay: Relay) -> None:
    """Both CPUs draw from eight clients at random, so that they meet in the same instant now and then.

    They go by the lock of the client's bucket one after the other: each rebinding takes one flow's place.
    """
    few = Shape(4, 1, 8)
    counted = relay.send(replace(ALICE_ASKS, in_turn=False), replace(BOB_ASKS, in_turn=False), shape=few)
    assert set(counted) <= {
        Reason.FORWARD_BOUND,
        Reason.FORWARD_REBOUND,
        Reason.FORWARD_TO_TRANSCEIVER,
        Reason.DROP_INDEX_FULL,  # nobody ends what is superseded here
        Reason.DROP_BUSY,
    }
    assert counted.total() == 2 * CLIENTS
    assert counted[Reason.FORWARD_BOUND] == few.flows
    states = relay.check(all_entered=False)
    assert states[FlowState.LIVE] == few.flows
    assert states[FlowState.SUPERSEDED] == counted[Reason.FORWARD_REBOUND] + counted[Reason.DROP_INDEX_FULL]


def test_provisional_requests(relay: Relay) -> None:
    """Each client has one provisional record, and beside it one that is live."""
    assert relay.send_anew(CAROL_ASKS, CAROL_ASKS) == {Reason.FORWARD_PROVISIONAL: 2 * CLIENTS}
    assert relay.check() == {FlowState.PROVISIONAL: CLIENTS, FlowState.FREE: SHAPE.flows - CLIENTS}
    assert relay.send_anew(ALICE_ASKS, CAROL_ASKS) == {
        Reason.FORWARD_BOUND: CLIENTS,
        Reason.FORWARD_PROVISIONAL: CLIENTS,
    }
    assert relay.check() == {
        FlowState.LIVE: CLIENTS,
        FlowState.PROVISIONAL: CLIENTS,
        FlowState.FREE: SHAPE.flows - 2 * CLIENTS,
    }


def test_until_no_record_is_free(relay: Relay) -> None:
    """More clients than records: those that got one keep it."""
    counted = relay.send_anew(ALICE_ASKS, ALICE_ASKS_AT_LENGTH, count=SHAPE.flows // 2 + 5000)
    assert counted == {Reason.FORWARD_BOUND: SHAPE.flows, Reason.DROP_FLOWS_FULL: 10_000}
    assert relay.check() == {FlowState.LIVE: SHAPE.flows}
