# SPDX-License-Identifier: Apache-2.0
"""Ageing never ends a live call: the sweep over real maps, beside a model of each flow's last packet.

Hypothesis makes up packets, pauses of any length, daemons that are stopped between reading the clock and
looking at the flows, and daemons that start again. Packets are written into the records as XDP writes
them, so that time can be made up, too: it begins anywhere in the 52 days after which ticks wrap.

EARSHOT_AGEING_CASES asks for another number of cases, and EARSHOT_AGEING_SEED, a number, for other ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from control import abi, flow_index
from control.abi import FLOW_STATE_BITS, FLOW_TICK_SHIFT, FlowState
from control.addresses import Endpoint, to_bytes
from control.backends import Backend
from control.config import PortRange
from control.datapath import Datapath
from control.flows import Clock
from control.loader import open_datapath
from control.model import Session, UfragKey
from control.reaper import QUARANTINE_SECONDS, Reaper
from control.sessions import Registry
from control.streams import Streams
from tests.lab.netns import Lab
from tests.lab.topology import two_armed
from tests.netns.command import config_of

EVERYDAY_CASES = 300
CASES = int(os.environ.get("EARSHOT_AGEING_CASES", EVERYDAY_CASES))
SEED = int(os.environ.get("EARSHOT_AGEING_SEED", "1"))
pytestmark = [
    pytest.mark.root,
    pytest.mark.netns,
    pytest.mark.timeout(120 if CASES <= EVERYDAY_CASES else 0),
]

SECOND = 10**9
TICK = 1 << FLOW_TICK_SHIFT
HALF_OF_ALL_TICKS = TICK << 31
FLOWS = 6
IDLE_SECONDS = 60
SESSION, BACKEND = 7, 1

lengths = st.one_of(
    st.integers(0, SECOND),
    st.integers(0, 2 * IDLE_SECONDS * SECOND),
    # As near to the limit as can be told.
    st.integers(-2, 2).map(lambda ticks: IDLE_SECONDS * SECOND + ticks * TICK),
    st.integers(0, 30 * 86400 * SECOND),
)
# Longer than for 26 days nobody is stopped while he looks at the flows.
stops = lengths.filter(lambda length: length < HALF_OF_ALL_TICKS)
some_flows = st.sets(st.integers(0, FLOWS - 1), max_size=FLOWS)


@dataclass(frozen=True)
class Scan:
    """The daemon looks, after a pause; it is stopped for a while once it has read the clock."""

    pause: int
    packets: frozenset[int]  # flows that have one at the end of the pause
    stopped: int = 0
    meanwhile: frozenset[int] = field(default=frozenset())  # those that have one at its end
    restarted: bool = False


scans = st.builds(
    Scan,
    lengths,
    some_flows.map(frozenset),
    st.one_of(st.just(0), stops),
    some_flows.map(frozenset),
    st.booleans(),
)


@pytest.fixture(scope="module")
def datapath() -> Iterator[Datapath]:
    with Lab() as lab:
        site = two_armed(lab)
        config = replace(config_of(site), relay_ports=PortRange(10000, 10063))
        with site.relay.inside():
            loaded = open_datapath(config)
        yield loaded.datapath
        loaded.close()


def new_daemon(datapath: Datapath, now: Clock) -> Reaper:
    """As it starts: it takes up what is there."""
    registry = Registry(max_sessions=10, max_backends=10, grace_seconds=30)
    session = Session(SESSION, "s", 0, (UfragKey("ufrag000", b""),), (BACKEND, 0), 0, 0)
    backend = Backend(BACKEND, Endpoint(ip_address("10.20.0.10"), 4000))
    registry.restore([(0, "t")], [backend], [session], [], SESSION, now.seconds)
    reaper = Reaper(datapath, registry, Streams(), IDLE_SECONDS)
    reaper.adopt(lambda: now)
    return reaper


def bind(datapath: Datapath, number: int, now: int) -> None:
    record = np.zeros(1, abi.FLOW)
    record["client_addr"] = np.void(to_bytes(ip_address("198.51.100.1") + number))
    record["client_port"], record["backend"], record["session"] = 5000, BACKEND, SESSION
    record["last_seen"] = now // TICK % (1 << 32)
    record["state"] = FlowState.LIVE | (now // SECOND << FLOW_STATE_BITS) % (1 << 32)
    datapath.flows[number] = record[0]
    flow_index.enter(datapath.index, datapath.flows, np.array([number], np.uint32), datapath.layout)


@seed(SEED)
@settings(
    max_examples=CASES,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(1, 3 * HALF_OF_ALL_TICKS), st.lists(scans, min_size=1, max_size=12))
def test_live_flows_live_and_idle_ones_end(datapath: Datapath, begin: int, steps: list[Scan]) -> None:
    now = begin
    reaper = new_daemon(datapath, Clock.at(now))
    last_packet = dict.fromkeys(range(FLOWS), now)  # of flows that have not ended
    for number in range(FLOWS):
        bind(datapath, number, now)
    datapath.lay_out(datapath.layout)  # these are not free any more
    try:
        for step in steps:
            now += max(0, step.pause)
            _packets(datapath, step.packets, now, last_packet)
            if step.restarted:
                reaper = new_daemon(datapath, Clock.at(now))
            clock = Clock.at(now)
            looked_at = now
            now += max(0, step.stopped)
            _packets(datapath, step.meanwhile, now, last_packet)
            reaper.scan(clock)
            states = datapath.states()
            for number, seen in list(last_packet.items()):
                idle = looked_at // TICK - seen // TICK
                if idle < IDLE_SECONDS * SECOND // TICK:  # a packet after the clock was read, too
                    assert states[number] == FlowState.LIVE
                elif idle < 1 << 31:
                    assert states[number] == FlowState.DEAD
                if states[number] != FlowState.LIVE:
                    del last_packet[number]
    finally:
        _clear(datapath, now)


def _packets(datapath: Datapath, flows: frozenset[int], now: int, last_packet: dict[int, int]) -> None:
    for number in flows & last_packet.keys():
        datapath.flows["last_seen"][number] = now // TICK % (1 << 32)
        last_packet[number] = now


def _clear(datapath: Datapath, now: int) -> None:
    """All flows end and are freed, by a daemon that finds them so."""
    numbers = np.arange(FLOWS, dtype=np.uint32)
    datapath.end_flows(numbers[datapath.states()[:FLOWS] == FlowState.LIVE])
    new_daemon(datapath, Clock.at(now)).scan(Clock.at(now + int((QUARANTINE_SECONDS + 1) * SECOND)))
    assert not datapath.states().any()
