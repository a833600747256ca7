# SPDX-License-Identifier: Apache-2.0
"""The daemon's sweep over flows that the program made."""

from __future__ import annotations

import numpy as np
import pytest

from control.abi import FLOW_STATE_BITS, BucketWord, FlowState, Reason
from control.backends import Backend
from control.flows import Clock
from control.model import Session, UfragKey
from control.reaper import UNCONFIRMED_SECONDS, Reaper
from control.sessions import Registry
from control.streams import Streams
from tests.bpf import world
from tests.bpf.case import from_client, request
from tests.bpf.rig import Rig
from tests.bpf.world import ALICE, CAROL, FAMILIES, V4, Family

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.fixture
def reaper(rig: Rig) -> Reaper:
    """Knows the sessions of Alice, and of Carol, whose transceiver keeps the pwd."""
    registry = Registry(max_sessions=10, max_backends=100, grace_seconds=30)
    used = [family.backends.usual for family in FAMILIES]
    sessions = [
        Session(
            number=world.SESSIONS[ufrag].number,
            session_id=ufrag.decode(),
            owner=0,
            keys=(UfragKey(ufrag.decode(), b""),),
            backends=(used[0], used[1]),
            ttl_seconds=0,
            expires=0,
        )
        for ufrag in (ALICE, CAROL)
    ]
    backends = [Backend(number, world.BACKEND_ENDPOINTS[number]) for number in used]
    registry.restore([(0, "transceiver")], backends, sessions, [], 100, 0.0)
    return Reaper(rig.datapath, registry, Streams(), idle_seconds=3600)


def scan(rig: Rig, reaper: Reaper) -> FlowState:
    """One look at the table; returns what became of Alice's record."""
    reaper.scan(Clock(0.0, int(rig.datapath.flows["last_seen"][V4.free[0]])))
    return FlowState(int(rig.datapath.states()[V4.free[0]]))


@pytest.fixture
def seen(rig: Rig, reaper: Reaper) -> None:
    """Alice's client is bound, and the reaper has seen it once."""
    assert rig.run(request(V4).frame()).reason == Reason.FORWARD_BOUND
    assert scan(rig, reaper) == FlowState.LIVE


@pytest.mark.usefixtures("seen")
def test_a_flow_that_its_client_leads_to_lives(rig: Rig, reaper: Reaper) -> None:
    assert [scan(rig, reaper) for _ in range(3)] == [FlowState.LIVE] * 3


@pytest.mark.usefixtures("seen")
def test_a_flow_that_is_ended_is_led_to_by_nothing(rig: Rig, reaper: Reaper) -> None:
    record = V4.free[0]
    assert rig.entries.read() == [record]
    rig.datapath.end_flows(np.array([record], np.uint32))
    assert rig.entries.read() == []
    assert rig.run(from_client(V4).frame()).reason == Reason.DROP_NO_FLOW


class Adopting:
    """A daemon that starts on what a former one has left, and scans at these seconds."""

    def __init__(self, rig: Rig, reaper: Reaper) -> None:
        self.rig = rig
        self.reaper = reaper
        reaper.adopt(lambda: Clock(100.0, 0))

    def scan(self, seconds: float) -> None:
        self.reaper.scan(Clock(seconds, 0))

    def waiting(self) -> list[int]:
        return sorted(self.rig.datapath.free.waiting(4).tolist())


def test_what_a_former_daemon_ended_is_brought_to_its_end(rig: Rig, reaper: Reaper) -> None:
    """It died before it had emptied the slot."""
    rig.put_flow(V4, state=FlowState.DEAD)
    assert rig.entries.read() == [V4.live]
    adopting = Adopting(rig, reaper)
    assert rig.entries.read() == []
    adopting.scan(100.9)
    assert V4.live not in adopting.waiting()
    adopting.scan(101.0)
    assert V4.live in adopting.waiting()
    assert rig.datapath.states()[V4.live] == FlowState.FREE


def test_a_number_that_a_former_daemon_lost_is_given_back(rig: Rig, reaper: Reaper) -> None:
    """It died between making the record free and giving back its number."""
    lost = set(rig.datapath.lost().tolist())
    assert V4.live in lost
    adopting = Adopting(rig, reaper)
    adopting.scan(100.9)
    assert V4.live not in adopting.waiting()
    adopting.scan(101.0)
    assert set(adopting.waiting()) == (lost | set(V4.free)) & set(_of_family(rig, 4))
    assert not len(rig.datapath.lost())


def test_a_number_that_had_just_been_taken_is_not_given_back(rig: Rig, reaper: Reaper) -> None:
    """A CPU has it between ring and record when the daemon starts."""
    adopting = Adopting(rig, reaper)
    rig.put_flow(V4)
    adopting.scan(101.0)
    assert V4.live not in adopting.waiting()


def test_counts_of_what_is_spilt_are_mended(rig: Rig, reaper: Reaper) -> None:
    """It died between emptying a slot and counting that."""
    rig.datapath.index[3, BucketWord.SPILT] = 4
    rig.datapath.index[3, BucketWord.REMOVED] = 2
    reaper.adopt(lambda: Clock(100.0, 0))
    assert rig.datapath.index[3, BucketWord.REMOVED] == 4


def _of_family(rig: Rig, version: int) -> list[int]:
    layout, relays = rig.datapath.layout, rig.datapath.relays
    return [
        number
        for number in range(layout.records)
        if relays[layout.relay_and_port(number)[0]].version == version
    ]


@pytest.mark.parametrize("family", FAMILIES, ids=["v4", "v6"])
def test_a_flow_that_its_transceiver_does_not_confirm_dies(rig: Rig, reaper: Reaper, family: Family) -> None:
    assert rig.run(request(family, CAROL).frame()).reason == Reason.FORWARD_PROVISIONAL
    record = family.free[0]
    bound = int(rig.datapath.flows["state"][record]) >> FLOW_STATE_BITS

    def after(seconds: float) -> FlowState:
        reaper.scan(Clock(bound + seconds, int(rig.datapath.flows["last_seen"][record])))
        return FlowState(int(rig.datapath.states()[record]))

    assert after(UNCONFIRMED_SECONDS) == FlowState.PROVISIONAL
    assert after(UNCONFIRMED_SECONDS + 1) == FlowState.DEAD
    assert rig.entries.read() == []
    assert after(UNCONFIRMED_SECONDS + 3) == FlowState.FREE
