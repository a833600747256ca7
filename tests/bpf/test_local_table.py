# SPDX-License-Identifier: Apache-2.0
"""The program finds in the table of locals just what control/local_table.py put there."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from control import abi, local_table
from control.abi import Reason
from control.addresses import Endpoint, IPAddress
from tests.bpf import world
from tests.bpf.case import from_client
from tests.bpf.rig import Rig
from tests.bpf.world import V4, V6

pytestmark = [pytest.mark.root, pytest.mark.netns]

SETS = 12


def random_address(generator: random.Random) -> IPAddress:
    if generator.random() < 0.5:
        return IPv4Address(generator.getrandbits(32))
    return IPv6Address(0x20010DB8 << 96 | generator.getrandbits(96))


def reason_for(rig: Rig, address: IPAddress, port: int) -> Reason:
    """A packet of media to there, from a client without a flow: who takes it?"""
    good = from_client(V4 if address.version == 4 else V6)
    return rig.run(replace(good, dst=address, dport=port).frame()).reason


@pytest.mark.parametrize("seed", range(SETS))
def test_random_addresses(rig: Rig, seed: int) -> None:
    generator = random.Random(seed)
    vips = [
        Endpoint(random_address(generator), generator.randint(1, world.PORTS.first - 1))
        for _ in range(generator.randint(1, abi.VIP_MAX))
    ]
    relays = [random_address(generator) for _ in range(generator.randint(1, abi.RELAY_MAX))]
    if seed % 2:
        relays[0] = vips[0].address  # one address that is both
    ports = (world.PORTS.first, world.PORTS.last)
    rig.locals.put(0, local_table.build(dict(enumerate(vips)), dict(enumerate(relays))))
    for vip in vips:
        assert reason_for(rig, vip.address, vip.port) == Reason.DROP_NO_FLOW
        assert reason_for(rig, vip.address, vip.port + 1) == Reason.PASS_NOT_OURS
        if vip.address not in relays:
            assert reason_for(rig, vip.address, ports[0]) == Reason.PASS_NOT_OURS
    for number, relay in enumerate(relays):
        # Records end where the relay addresses that the maps were made for do.
        fits = number * world.SPAN < len(rig.datapath.flows)
        expected = Reason.DROP_NO_RELAY_FLOW if fits else Reason.ABORTED_BAD_NUMBER
        assert reason_for(rig, relay, generator.randint(*ports)) == expected
        assert reason_for(rig, relay, ports[0] - 1) == Reason.PASS_NOT_OURS
        assert reason_for(rig, relay + 1, ports[0]) == Reason.PASS_NOT_OURS
