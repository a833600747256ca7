# SPDX-License-Identifier: Apache-2.0
"""Why the last packet of a 5-tuple was dropped."""

from __future__ import annotations

import pytest

from control.addresses import Endpoint
from control.last_drop import last_drop, of_flow
from tests.bpf.case import from_backend, from_client, request
from tests.bpf.rig import Rig
from tests.bpf.world import BACKENDS, CLIENTS, FAMILIES, Family

pytestmark = [pytest.mark.root, pytest.mark.netns]


@pytest.fixture(params=FAMILIES, ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> Family:
    made: Family = request.param
    return made


def test_reason_count_and_age_of_a_client(rig: Rig, family: Family) -> None:
    client = Endpoint(family.client.address, 47000 + family.vip_number)
    vip = Endpoint(family.vip.address, family.vip.port)
    early = from_client(family, b"\x80early", client=client)
    assert last_drop(rig.datapath, client, vip) is None
    for _ in range(3):
        rig.send(early.frame(), CLIENTS)
    found = last_drop(rig.datapath, client, vip)
    assert found is not None
    assert (found.reason, found.packets) == ("drop_no_flow", 3)
    assert 0 <= found.age_s < 60
    # Another reason begins to be counted anew, and a packet that is forwarded changes nothing.
    rig.send(from_client(family, b"\xff", client=client).frame(), CLIENTS)
    rig.send(request(family, client=client).frame(), CLIENTS)
    found = last_drop(rig.datapath, client, vip)
    assert found is not None
    assert (found.reason, found.packets) == ("drop_not_rtc", 1)
    assert last_drop(rig.datapath, Endpoint(client.address, client.port + 1), vip) is None
    assert last_drop(rig.datapath, vip, client) is None


def test_a_transceivers_packets(rig: Rig, family: Family) -> None:
    datagram = from_backend(family, b"\x80media", record=family.free[1])
    rig.send(datagram.frame(), BACKENDS)
    backend, relay = Endpoint(datagram.src, datagram.sport), Endpoint(datagram.dst, datagram.dport)
    client = Endpoint(family.client.address, 47100 + family.vip_number)
    vip = Endpoint(family.vip.address, family.vip.port)
    found = of_flow(rig.datapath, client, vip, backend, relay)
    assert found is not None
    assert found.reason == "drop_no_relay_flow"


def test_nothing_is_kept_of_what_has_no_ports(rig: Rig, family: Family) -> None:
    before = rig.last_drops()
    frame = from_client(family, b"\x80media").frame()
    rig.send(frame[: 14 + (20 if family.client.address.version == 4 else 40) + 3], CLIENTS)
    assert rig.last_drops() == before
