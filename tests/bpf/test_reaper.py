# SPDX-License-Identifier: Apache-2.0
"""The daemon's sweep over flows that the program made."""

from __future__ import annotations

import numpy as np
import pytest

from control.abi import FLOW_STATE_BITS, FlowState, Reason
from control.backends import Backend
from control.flows import Clock
from control.model import Session, UfragKey
from control.reaper import UNCONFIRMED_SECONDS, Reaper
from control.sessions import Registry
from control.streams import Streams
from tests.bpf import world
from tests.bpf.case import request
from tests.bpf.rig import Rig, flow_key
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
    registry.restore([(0, "transceiver")], backends, sessions, 100, 0.0)
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
def test_a_flow_that_lost_its_client_to_another_ends(rig: Rig, reaper: Reaper) -> None:
    rig.put_index(flow_key(V4, V4.client), V4.live)
    assert scan(rig, reaper) == FlowState.DEAD
    assert rig.datapath.flow_index.get(flow_key(V4, V4.client)) == np.uint32(V4.live).tobytes()


@pytest.mark.usefixtures("seen")
def test_a_flow_that_nothing_leads_to_is_led_to_again(rig: Rig, reaper: Reaper) -> None:
    rig.datapath.flow_index.delete(flow_key(V4, V4.client))
    assert scan(rig, reaper) == FlowState.LIVE
    assert rig.datapath.flow_index.get(flow_key(V4, V4.client)) == np.uint32(V4.free[0]).tobytes()


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
    assert rig.datapath.flow_index.get(flow_key(family, family.client, provisional=True)) is None
    assert after(UNCONFIRMED_SECONDS + 3) == FlowState.FREE
